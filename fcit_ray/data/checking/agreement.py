"""Whether a model's processor, tokenizer and config.json belong together, seen with one trial picture and no weights.

They come as separate files, are edited by hand and copied from other checkpoints; where they disagree, workers would
die once all data is prepared, or the model would see something else than it was trained to see.
"""

from collections.abc import Iterator
from itertools import chain
from math import prod
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fcit_ray.data.loading.samples import encode_pictures
from fcit_ray.data.loading.tokens import Sample
from fcit_ray.errors import ModelError
from fcit_ray.models.chat import render_chat
from fcit_ray.models.folder import check_weights, in_one_line, model_folder, read_header, weight_files
from fcit_ray.models.load import load_processor
from fcit_ray.models.processor import pads_to_square
from fcit_ray.models.prompt import Turn, render
from fcit_ray.models.structure import skeleton

_TRIAL = Image.new("RGB", (64, 48), (200, 60, 20))  # not square, so that what is cut or scaled is seen to be
_SAME = ("patch_size", "temporal_patch_size")
"""Settings that an image processor shares with its vision tower, of one name in both."""
_OF_ONE_SIZE = ("clip_vision_model", "siglip_vision_model")
"""Vision towers that take pictures of `image_size` and no others."""


def check_agreement(path: str, template: str) -> None:
    """Compare what a model's folder says in its several files. Costs some seconds for a 7B, reads no tensor.

    What is compared: that every file of weights is whole; how a text begins; the tokenizer's ids with the rows of the
    embeddings, those of padding, ends and pictures among them; the token that marks a picture; the size of pictures and
    patches; and how many places a picture gets among the tokens with how many features the vision tower makes of it,
    where that can be computed without weights.

    Args:
        path: as in `model.path`.
        template: as in `model.prompt`; `check_prompt` has passed.

    Raises:
        ModelError: names the folder, the file and its key, and what was expected.
    """
    folder = model_folder(path)
    check_weights(folder)
    processor = load_processor(path)
    try:
        model = skeleton(folder)
    except (OSError, ValueError) as error:
        raise _error(path, f"config.json makes no image-text model: {in_one_line(error)}") from error
    turns = [Turn("which colour?", "red")]
    text, _ = render_chat(turns, processor) if template == "chat" else _plain(turns, template, processor)
    try:
        sample, _ = encode_pictures(processor, text, [_TRIAL])
    except Exception as error:  # any line of a processor may trip over its settings
        kind = type(processor).__name__
        raise _error(path, f"its {kind} does not take a trial picture: {in_one_line(error)}") from error
    for complaint in chain(
        _of_the_beginning(processor, template),
        _of_rows(folder, model, processor, sample),
        _of_the_mark(model.config, processor, sample, text),
        _of_settings(model.config, processor),
        _of_places(model, processor, sample),
    ):
        raise _error(path, complaint)


def _of_the_beginning(processor: Any, template: str) -> Iterator[str]:
    """A tokenizer that begins no text; a chat template may begin it instead (`check_prompt`)."""
    tokenizer = processor.tokenizer
    if template != "chat" and tokenizer.bos_token_id is not None and tokenizer.bos_token_id not in tokenizer.in_front:
        yield (
            f"its tokenizer puts no {tokenizer.bos_token} in front of a text, with which prompts of LLaVA-1.5's "
            f"wording begin; expected add_bos_token to be true in tokenizer_config.json"
        )


def _of_rows(folder: Any, model: Any, processor: Any, sample: Sample) -> Iterator[str]:
    """Ids beyond the embeddings' rows. Special tokens that nothing writes may lie there: in some models they do."""
    tokenizer = processor.tokenizer
    rows = model.get_input_embeddings().weight.shape[0]
    for name in ("pad_token", "eos_token", "bos_token"):
        if (id := getattr(tokenizer, f"{name}_id")) is not None and id >= rows:
            yield _beyond(f"{name} {getattr(tokenizer, name)!r}", id, rows)
    written = set(sample["input_ids"].tolist())
    for piece, id in tokenizer.get_vocab().items():
        if id >= rows and (piece not in tokenizer.reserved or id in written):
            yield _beyond(f"token {piece!r}", id, rows)
    files = weight_files(folder)
    for name in files:
        if name.endswith("embed_tokens.weight"):
            there = read_header(folder / files[name])[name]["shape"]
            if there[0] != rows:
                yield f"{files[name]} has {there[0]} rows of embeddings, and config.json has vocab_size {rows}"


def _of_the_mark(config: Any, processor: Any, sample: Sample, text: str) -> Iterator[str]:
    """Another token for the places of a picture than the model puts the picture in."""
    key = "image_token_index" if "image_token_index" in config.to_dict() else "image_token_id"
    expected, tokenizer = getattr(config, key, None), processor.tokenizer
    mark = getattr(processor, "image_token", None)
    written = tokenizer.convert_tokens_to_ids(mark) if mark else None
    if expected is None or expected == written:
        return
    # A mark may grow into places of another name, as Gemma 3's does; then a picture adds to what the text has.
    before = tokenizer(text, add_special_tokens=False)["input_ids"].count(expected)
    if (sample["input_ids"] == expected).sum() <= before:
        yield (
            f"config.json has {key} {expected} ({tokenizer.convert_ids_to_tokens(expected)!r}), and its "
            f"{type(processor).__name__} marks a picture with {mark!r}, token {written}; expected the same token"
        )


def _of_settings(config: Any, processor: Any) -> Iterator[str]:
    """Settings of pictures that stand in two files."""
    vision, images = getattr(config, "vision_config", None), processor.image_processor
    squares = pads_to_square(type(processor))
    pairs = [(name, getattr(processor if squares else images, name, None), name) for name in _SAME]
    pairs.append(("merge_size", getattr(images, "merge_size", None), "spatial_merge_size"))
    for name, found, other in pairs:
        expected = getattr(vision, other, None)
        if isinstance(found, int) and isinstance(expected, int) and found != expected:
            yield f"its processor has {name} {found}, and config.json has vision_config.{other} {expected}"
    name = "vision_feature_select_strategy"
    found, expected = getattr(processor, name, None), getattr(config, name, None)
    if found is not None and expected is not None and found != expected:
        yield f"its processor has {name} {found!r}, and config.json {expected!r}"
    tiles, scale = getattr(processor, "image_seq_len", None), getattr(config, "scale_factor", None)
    if tiles is not None and scale is not None and vision is not None:  # Idefics 3: patches, folded scale x scale
        expected = (vision.image_size // vision.patch_size) ** 2 // scale**2
        if tiles != expected:
            yield (
                f"its processor has image_seq_len {tiles}, and config.json makes {expected} of a tile "
                f"((vision_config.image_size / patch_size / scale_factor) squared)"
            )


def _of_places(model: Any, processor: Any, sample: Sample) -> Iterator[str]:
    """Pictures of another size than the tower takes, or more or fewer places for one than it makes features."""
    config = model.config
    vision = getattr(config, "vision_config", None)
    pictures = pictures_in(sample)
    size = getattr(vision, "image_size", None)
    if getattr(vision, "model_type", "") in _OF_ONE_SIZE and isinstance(size, int) and "pixel_values" in pictures:
        height, width = pictures["pixel_values"].shape[-2:]
        if (height, width) != (size, size):
            yield (
                f"its image processor makes pictures of {width} x {height} pixels, and config.json has "
                f"vision_config.image_size {size}"
            )
            return
    made = num_features(model, pictures)
    places = num_places(config, sample)
    if made is not None and made != places:
        yield (
            f"its {type(processor).__name__} gives a picture {places} places among the tokens, and the vision tower of "
            f"config.json makes {made} features of it"
        )


def pictures_in(sample: Sample) -> dict[str, Tensor]:
    """A sample's pictures under the names of the model's inputs; LLaVA-1.5's without their values."""
    away = ("input_ids", "labels", "feature", "pixels")
    pictures = {name: torch.from_numpy(value) for name, value in sample.items() if name not in away}
    if "pixels" in sample:
        count, height, width, channels = sample["pixels"].shape
        pictures["pixel_values"] = torch.empty(count, channels, height, width)
    return pictures


def num_places(config: Any, sample: Sample) -> int:
    """Places of pictures among a sample's tokens."""
    mark = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
    return int((sample["input_ids"] == mark).sum())


def num_features(model: Any, pictures: dict[str, Tensor]) -> int | None:
    """How many rows stand for the pictures in the language model's input; None if shapes alone do not tell.

    Computed on the device `meta`, on shapes without values, as far as an architecture looks at no value.
    """
    values = {
        name: value.to("meta") if value.is_floating_point() else value
        for name, value in pictures.items()
        if name not in ("mm_token_type_ids", "token_type_ids")
    }
    try:
        with torch.no_grad():
            features = model.get_image_features(**values)
    except (NotImplementedError, RuntimeError, TypeError, AttributeError):
        return None
    features = getattr(features, "pooler_output", features)
    parts = features if isinstance(features, list | tuple) else [features]
    return sum(prod(part.shape[:-1]) for part in parts) if all(isinstance(part, Tensor) for part in parts) else None


def _plain(turns: list[Turn], template: str, processor: Any) -> tuple[str, Any]:
    return render(turns, template, processor.tokenizer.eos_token)


def _beyond(what: str, id: int, rows: int) -> str:
    return f"its tokenizer has {what} as {id}, and config.json has {rows} rows of embeddings (vocab_size), from 0"


def _error(path: str, complaint: str) -> ModelError:
    return ModelError(f"model.path={path!r}: {complaint}")
