"""Which processor a model has, and loading it without what only videos need."""

from pathlib import Path
from typing import Any, cast

from transformers import AutoConfig, AutoProcessor, LlavaProcessor, ProcessorMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING, processor_class_from_name

from fcit_ray.storage.files import read_json

_NAMED_IN = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")


def read_processor(folder: Path) -> Any:
    """A folder's processor; its image part always PIL-backed, so that pixels are the same on all machines.

    Raises:
        OSError, ValueError, ImportError: the folder has none, or one that cannot be built here.
    """
    loader: Any = AutoProcessor
    found = processor_class(folder)
    if found is not None and "video_processor" in found.get_attributes():
        loader = without_video(found)
    return loader.from_pretrained(folder, backend="pil", local_files_only=True)


def processor_class(folder: Path) -> type[Any] | None:
    """The class of a folder's processor, or None where nothing says it. Builds no processor.

    Raises:
        OSError, ValueError: its configuration does not load.
    """
    for name in _NAMED_IN:
        file = folder / name
        if file.is_file() and (named := read_json(file).get("processor_class")):
            return processor_class_from_name(named)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    found: type[Any] | None = cast(Any, PROCESSOR_MAPPING).get(type(config), None)
    return found


def without_video(kind: type[Any]) -> type[Any]:
    """The same processor class without its part for videos.

    Ours are pictures, and that part cannot even be built where torchvision is not installed.
    """

    class WithoutVideo(kind):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in kind.get_attributes() if name != "video_processor"]

        @classmethod
        def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Any:
            # Or the settings that were saved for the part would be handed over as if they were it.
            return super().from_args_and_dict(args, {**processor_dict, "video_processor": None}, **kwargs)

    WithoutVideo.__name__ = WithoutVideo.__qualname__ = kind.__name__  # saved as what it is
    return WithoutVideo


def pads_to_square(kind: type[ProcessorMixin] | None) -> bool:
    """Whether pictures become one square of bytes each, as LLaVA-1.5's do; every other processor runs whole."""
    return kind is not None and issubclass(kind, LlavaProcessor)
