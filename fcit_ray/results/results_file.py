"""results.json: the figures of a finished run, with a digest of their own and of the files that they were made of."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fcit_ray.errors import RunFolderError
from fcit_ray.results.cover import json_sha256
from fcit_ray.storage import durable
from fcit_ray.storage.strict_json import dump_json, finite

_SHA256, _BESIDE = "sha256", "beside"  # keys of results.json that vouch for it
_REMEDY: Final = "copy it back, or delete it: --resume then makes it again of metrics.jsonl and the last state"

_log = logging.getLogger(__name__)


def write_results(file: Path, results: Mapping[str, Any], beside: Mapping[str, Any]) -> None:
    """Write the results as a whole.

    Args:
        file: to write or replace.
        results: JSON values; non-finite floats become null.
        beside: what vouches for the files that they were made of.

    Raises:
        OSError: the disk is full, or the like.
    """
    document = {**finite(results), _BESIDE: beside}
    durable.write_text(file, dump_json({**document, _SHA256: json_sha256(document)}))


def read_results(file: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The results, and what they say of the files beside them (None where an older release wrote them).

    Raises:
        RunFolderError: the run is not finished, or the file was edited or damaged.
    """
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunFolderError(f"{file}: missing; the run is not finished, --resume goes on with it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"{file}: not the JSON that was written: {error}; {_REMEDY}") from None
    if not isinstance(results, dict):
        raise RunFolderError(f"{file}: not the JSON that was written; {_REMEDY}")
    proof = results.pop(_SHA256, None)
    if proof is None:
        _log.warning("%s: has no digest (of an older release?), so an edit would not show", file)
    elif proof != json_sha256(results):
        raise RunFolderError(f"{file}: edited since it was written (its SHA-256 is another); {_REMEDY}")
    return results, results.pop(_BESIDE, None)
