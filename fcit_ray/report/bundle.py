"""The script that draws a page's charts: Vega, bundled once per release of it and kept, as that takes seconds."""

import hashlib
import logging
import os
from importlib.metadata import version
from pathlib import Path

from fcit_ray.storage.durable import write_text

_log = logging.getLogger(__name__)


def javascript_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed; from `$XDG_CACHE_HOME/fcit_ray` (or `~/.cache/fcit_ray`) if it is there whole.

    The digest of what is kept stands in the name of its file: one that was cut short or changed is made anew.
    """
    stem = f"vega-{version('vl-convert-python')}-"
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fcit_ray"
        for file in sorted(folder.glob(f"{stem}*.js")):
            kept = file.read_bytes()
            if file.name == f"{stem}{hashlib.sha256(kept).hexdigest()}.js":
                return kept.decode()
    except (OSError, RuntimeError) as error:  # a home that is none, or may not be read
        _log.info("no script is kept: %s", error)
        return _bundled()
    script = _bundled()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / f"{stem}{hashlib.sha256(script.encode()).hexdigest()}.js", script)
    except OSError as error:
        _log.info("the script is not kept: %s", error)
    return script


def _bundled() -> str:
    import vl_convert

    script: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub asks for a snippet
    return script
