"""Files of a base: copied beside an adapter, or beside weights that were merged."""

import shutil
from pathlib import Path
from typing import Final

from fcit_ray.errors import FULL

_WEIGHTS: Final = ("*.safetensors", "*.safetensors.index.json")
_SETTINGS: Final = ("config.json", "generation_config.json")
_ASKING: Final = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("merges.txt", "*.model", "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"),
    *("chat_template.json", "chat_template.jinja"),
)
_TERMS: Final = ("LICENSE*", "NOTICE*", "USE_POLICY*")


def copy_base(base: Path, target: Path) -> None:
    """Copy all that loading a model reads, its licence too; links of the hub's cache are followed.

    Raises:
        OSError: the disk is full, or the like.
    """
    target.mkdir()
    _copy(base, target, (*_WEIGHTS, *_SETTINGS, *_ASKING, *_TERMS))


def copy_processor(base: Path, target: Path) -> None:
    """Copy what questions are asked with (tokenizer, processor, template, generation), not the model.

    Raises:
        OSError: the disk is full, or the like.
    """
    _copy(base, target, (*_ASKING, "generation_config.json", *_TERMS))


def _copy(base: Path, target: Path, patterns: tuple[str, ...]) -> None:
    for path in sorted(base.iterdir()):
        if path.is_file() and any(path.match(pattern) for pattern in patterns):
            try:
                shutil.copyfile(path, target / path.name)
            except OSError as error:
                if error.errno in FULL:  # of which Python names the file that is read
                    raise OSError(error.errno, error.strerror, str(target / path.name)) from error
                raise
