"""Loading the frozen base, its processor and its encoders from a folder, without touching the network.

`tiny` is the model shipped with the package. Anything else is a local folder, or the name of a hub repository that is
already in the local Hugging Face cache: workers of a cluster must not each start a download.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from fcit_ray.errors import ModelError, UserError
from fcit_ray.models.attention import choose_attention
from fcit_ray.models.folder import check_weights, model_folder, read_header, weight_files, why_not_read
from fcit_ray.models.identity.encoder import TextEncoder, TokenEmbeddingEncoder, VisionTowerEncoder
from fcit_ray.models.plain_text import keep_plain
from fcit_ray.models.processor import pads_to_square, processor_class, read_processor
from fcit_ray.models.quantize import check_quantize_device, check_quantized, quantize_options
from fcit_ray.storage.files import read_json

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

_VISION = re.compile(r"(?:^|\.)vision_tower\.(?:vision_model\.)?(.+)")
_INNER = re.compile(r"^(?:vision|text)_model\.")  # some versions of transformers wrap the tower once more than others


def load_processor(path: str) -> Any:
    """Load tokenizer and image processor; the latter always PIL-backed, so that pixels are the same on all machines.

    Raises:
        ModelError: no such model, or a processor that the pipeline cannot use.
    """
    folder = model_folder(path)
    try:
        processor = read_processor(folder)
    except Exception as error:  # its settings reach every part of transformers and tokenizers
        raise ModelError(f"model.path={path!r}: its processor does not load: {why_not_read(folder, error)}") from error
    kind = type(processor)
    counted = ("patch_size", "vision_feature_select_strategy") if pads_to_square(kind) else ()
    for part in ("image_processor", "tokenizer", *counted):
        if getattr(processor, part, None) is None:
            where = " in processor_config.json" if part in counted else ""
            raise ModelError(f"model.path={path!r}: its {kind.__name__} has no {part}; expected one{where}")
    if not processor.tokenizer.is_fast:
        raise ModelError(f"model.path={path!r}: its tokenizer gives no character offsets; expected a tokenizer.json")
    if processor.tokenizer.eos_token is None:
        raise ModelError(f"model.path={path!r}: its tokenizer has no eos_token; expected one, to end an answer")
    try:
        keep_plain(processor.tokenizer, getattr(processor, "chat_template", None))
    except ValueError as error:
        raise ModelError(f"model.path={path!r}: its tokenizer {error}") from error
    _check_surroundings(path, processor.tokenizer)
    return processor


def _check_surroundings(path: str, tokenizer: Any) -> None:
    """Refuse a tokenizer that would end every prompt in its middle, or begin it twice."""
    before, behind = tokenizer.in_front, tokenizer.behind
    where = "add_eos_token or add_bos_token in tokenizer_config.json, or the post_processor of tokenizer.json"
    if behind:
        raise ModelError(
            f"model.path={path!r}: its tokenizer puts {_words(tokenizer, behind)} behind every text, which would stand "
            f"in the middle of every prompt; an end belongs behind answers alone, where it is written ({where})"
        )
    if before.count(tokenizer.bos_token_id) > 1:
        raise ModelError(
            f"model.path={path!r}: its tokenizer puts {_words(tokenizer, before)} in front of every text; expected one "
            f"beginning ({where})"
        )


def _words(tokenizer: Any, ids: list[int]) -> str:
    return " ".join(map(str, tokenizer.convert_ids_to_tokens(ids)))


def takes_squares(path: str) -> bool:
    """Whether a model's pictures become one square of bytes each, as LLaVA-1.5's do. Loads no processor.

    Raises:
        ModelError: no such model, or its configuration does not load.
    """
    folder = model_folder(path)
    try:
        return pads_to_square(processor_class(folder))
    except Exception as error:  # as above
        raise ModelError(f"model.path={path!r}: its processor does not load: {why_not_read(folder, error)}") from error


def load_base(
    path: str, dtype: str = "float32", attention: str = "auto", quantize: str = "none", gpu: bool = False
) -> PreTrainedModel:
    """Load an image-text model, frozen and in evaluation mode, on the CPU (in four bits: on the GPU).

    Of its generation configuration only the ids of special tokens are kept: answers are greedy, and a checkpoint's
    repetition penalty or beams would change them without a word.

    Args:
        path: `tiny`, a folder, or a hub name found in the local cache.
        dtype: `float32` or `bfloat16`.
        attention: as in `model.attention`.
        quantize: as in `model.quantize`.
        gpu: whether it will be moved to this process's GPU.

    Raises:
        ModelError: no such model, not an image-text model, or not all of its weights are there.
        ConfigError: the attention kernel or four bits cannot work here, with the reason.
    """
    folder = model_folder(path)
    if dtype not in DTYPES:
        raise ModelError(f"model.dtype={dtype!r}: expected {' or '.join(DTYPES)}")
    check_weights(folder)
    options: dict[str, Any] = {"dtype": DTYPES[dtype], "local_files_only": True, "use_safetensors": True}
    # Tensors of a wrong shape are let through here, to be refused by name below.
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    if quantize != "none":
        check_quantize_device()
    try:
        if kernel := choose_attention(attention, dtype, gpu, folder):
            options["attn_implementation"] = kernel
        if quantize != "none":
            options |= quantize_options(folder)
        loaded: Any = AutoModelForImageTextToText.from_pretrained(folder, **options)
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"model.path={path!r}: does not load: {error}") from error
    model, found = loaded
    _check_complete(path, found)
    if quantize != "none":
        check_quantized(model)
    own = model.generation_config
    model.generation_config = GenerationConfig(
        bos_token_id=own.bos_token_id, eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id
    )
    frozen: PreTrainedModel = model.requires_grad_(False).eval()
    return frozen


def _check_complete(path: str, found: Mapping[str, Any]) -> None:
    """Refuse a model that transformers filled up with random numbers, which are others in every process.

    Args:
        path: of the model, for errors.
        found: the loading information: `missing_keys` (a head tied to the embeddings is none) and `mismatched_keys`.
    """
    lacks = [f"{name} is missing" for name in sorted(found["missing_keys"])]
    lacks += [
        f"{name} is {tuple(there)} where config.json says {tuple(expected)}"
        for name, there, expected in sorted(found["mismatched_keys"])
    ]
    if lacks:
        more = f" and {len(lacks) - 3} more" if len(lacks) > 3 else ""
        raise ModelError(f"model.path={path!r}: its weights are not whole: {', '.join(lacks[:3])}{more}")


def load_text_encoder(path: str) -> TextEncoder:
    """Load the frozen encoder of instruction texts: the mean of the language model's token embeddings.

    Only that one tensor is read, so that data workers need not hold the model.

    Raises:
        ModelError: no such model, or no embeddings in its safetensors files.
    """
    return TokenEmbeddingEncoder(load_processor(path).tokenizer, _embeddings(model_folder(path)))


def load_image_encoder(path: str) -> VisionTowerEncoder:
    """Load the frozen encoder of pictures: the model's vision tower, in float32 whatever `model.dtype` says.

    Only the tower's tensors are read. LLaVA-1.5's take 1.2 GB, and about five seconds of one CPU a picture.

    Raises:
        ModelError: no such model, or no whole vision tower in it.
    """
    names = find_vision_tower(path)
    folder = model_folder(path)
    config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
    return VisionTowerEncoder(load_tower(folder, config.vision_config, names, f"model.path={path!r}: its vision tower"))


def load_tower(folder: Path, config: PreTrainedConfig, names: Mapping[str, str], what: str) -> nn.Module:
    """Load one tower of a model, frozen and in float32, reading its tensors alone.

    Args:
        folder: the model's.
        config: the tower's.
        names: names within the tower to names in the checkpoint.
        what: the tower, for errors.

    Raises:
        ModelError: a tensor is missing or of another shape, or a file does not open.
    """
    with torch.random.fork_rng(devices=[]):  # the values drawn here are all replaced
        tower = AutoModel.from_config(config, dtype=torch.float32)
    wanted = {_INNER.sub("", name): name for name in tower.state_dict()}
    if missing := wanted.keys() - names.keys():
        raise ModelError(f"{what} lacks {len(missing)} tensors, one is {min(missing)}")
    files = weight_files(folder)
    weights = {}
    for file in sorted({files[names[name]] for name in wanted}):
        with _tensors(folder / file) as tensors:
            weights.update({wanted[n]: tensors.get_tensor(names[n]) for n in wanted if files[names[n]] == file})
    try:
        tower.load_state_dict(weights)
    except RuntimeError as error:  # of another shape than config.json says
        raise ModelError(f"{what} does not load: {error}") from error
    frozen: nn.Module = tower.requires_grad_(False).eval()
    return frozen


def find_vision_tower(path: str) -> dict[str, str]:
    """Where a model's vision tower is: names within the tower to names in the checkpoint. Reads no tensor.

    Raises:
        ModelError: no such model, or none with a vision tower.
    """
    folder = model_folder(path)
    if not takes_squares(path):
        raise ModelError(
            f"model.path={path!r}: its processor cuts or scales pictures in a way of its own, so there is no one "
            f"picture for model.identity=image or both; expected model.identity=text"
        )
    found = {match[1]: name for name in weight_files(folder) if (match := _VISION.search(name))}
    if not found or "vision_config" not in read_json(folder / "config.json"):
        raise ModelError(
            f"model.path={path!r}: no vision tower (`vision_config` in config.json and tensors of vision_tower.*); "
            f"expected one for model.identity=image or both, or else model.identity=text"
        )
    return found


def _embeddings(folder: Path) -> Tensor:
    """The language model's input embeddings, (V, D)."""
    files = weight_files(folder)
    names = [name for name in files if name.endswith("embed_tokens.weight")]
    if len(names) != 1:
        raise ModelError(f"{folder}: {len(names)} tensors end in embed_tokens.weight {names}; expected one")
    with _tensors(folder / files[names[0]]) as weights:
        return weights.get_tensor(names[0])


@contextmanager
def _tensors(file: Path) -> Iterator[Any]:
    """A safetensors file, opened for single tensors."""
    read_header(file)  # which says in plainer words what is wrong with it
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file}: does not load: {error}; expected a whole safetensors file") from error
