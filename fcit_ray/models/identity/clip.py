"""CLIP's two towers as encoders of identity tokens, as the paper has them: CLIP ViT-L/14-336 in float32.

Source: Guo et al., ICCV 2025 (arXiv 2503.12897), section 3: an instruction's feature is the pooled output of CLIP's
text encoder before projection, 768 floats. The ablation by pictures takes the vision encoder's, 1024 floats.

LLaVA-1.5's own vision tower is the picture half of that same CLIP; its text half is in no LLaVA checkpoint, so the
CLIP model has to be named beside the base. Only the tower that is needed is read: the text half takes 0.5 GB, the
vision half 1.2 GB and about five seconds of one CPU a picture.

Legend: B texts, D features.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoProcessor, PreTrainedTokenizerBase

from fcit_ray.errors import ModelError
from fcit_ray.models.folder import check_weights, in_one_line, model_folder, weight_files, why_not_read
from fcit_ray.models.identity.encoder import Identity, VisionTowerEncoder
from fcit_ray.models.load import load_tower
from fcit_ray.models.plain_text import SpelledError, keep_plain

_KEY = "model.identity_encoder"
_REMEMBERED = 4096  # texts; the benchmark's data sets ask the same question of many pictures

ROWS: Final = {"cpu": 4, "cuda": 32}
"""Texts that are encoded together, by kind of device: always so many, whatever there is to encode.

Of CLIP ViT-L's text half a CPU takes 52, 37, 30, 25, 24 ms for a text of 13 tokens in batches of 1, 2, 4, 8, 16; what
more than four would gain a small set of texts loses by rows that are there to fill a batch.
"""


class ClipTextEncoder:
    """CLIP's text encoder: the pooled output at the end-of-text token, before projection.

    CLIP reads 77 tokens. A longer instruction is cut there by CLIP's own tokenizer, which keeps the end-of-text token:
    the one place where this package cuts a text, since the paper does and a feature of the whole is not to be had.
    Nothing that a model is trained on or asked is cut. `count_cut` says how many.

    Texts of one number of tokens are encoded together, unpadded, in batches of `ROWS`, the last one filled with
    repeats: so the shapes of the computation follow from the text alone, and with them its bits, whatever its
    neighbours are.

    Args:
        tokenizer: CLIP's.
        tower: a CLIPTextModel in evaluation mode, on the device where it computes.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tower: nn.Module):
        self.tokenizer = keep_plain(tokenizer)
        self.tower = tower
        self.limit = text_limit(tokenizer, tower.config)
        self._remembered: dict[str, Tensor] = {}

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Features of instruction texts, float32 (B, D), on the CPU.

        Raises:
            SpelledError: a text spells CLIP's special tokens in a way that is not seen before it is cut.
        """
        wanted = dict.fromkeys(texts)
        new = [text for text in wanted if text not in self._remembered]
        known = {text: self._remembered[text] for text in wanted if text in self._remembered} | self._encode(new)
        self._remembered |= known
        while len(self._remembered) > _REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        return torch.stack([known[text] for text in texts])

    @torch.inference_mode()
    def _encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        by_length: dict[int, list[tuple[str, list[int]]]] = {}
        for text in texts:
            ids = self.tokenizer(self.tokenizer.hide(text), truncation=True, max_length=self.limit)["input_ids"]
            by_length.setdefault(len(ids), []).append((text, ids))
        device = next(self.tower.parameters()).device
        rows = ROWS[device.type]
        features: dict[str, Tensor] = {}
        for group in by_length.values():
            for start in range(0, len(group), rows):
                part = group[start : start + rows]
                filled = [ids for _, ids in part] + [part[-1][1]] * (rows - len(part))
                output: Any = self.tower(input_ids=torch.tensor(filled, device=device))
                pooled = output.pooler_output.float().cpu()  # (rows, D)
                features |= {text: pooled[row].clone() for row, (text, _) in enumerate(part)}
        return features


def text_limit(tokenizer: PreTrainedTokenizerBase, config: Any) -> int:
    """Tokens of a text that a CLIP text encoder reads at most, begin and end included: 77."""
    return int(min(tokenizer.model_max_length, config.max_position_embeddings))


def count_cut(path: str, texts: Sequence[str]) -> int:
    """How many of these texts CLIP's tokenizer cuts. Repeated texts are tokenised once and counted each time.

    Raises:
        ModelError: not a CLIP model, or one whose tokenizer cannot take a text that spells its special tokens.
    """
    folder, config = _open(path)
    tokenizer = keep_plain(_processor(folder, path, config).tokenizer)
    limit = text_limit(tokenizer, config.text_config)
    different = sorted(set(texts))
    hidden = [tokenizer.hide(text) for text in different]
    try:
        lengths = map(len, tokenizer(hidden)["input_ids"]) if hidden else ()
    except SpelledError as error:
        raise ModelError(f"{_KEY}={path!r}: an instruction {error}") from error
    cut = {text for text, length in zip(different, lengths, strict=True) if length > limit}
    return sum(text in cut for text in texts)


def check_clip(path: str, identity: Identity) -> None:
    """See that a CLIP model has what an identity needs, reading no tensor.

    Raises:
        ModelError: no such model, not a CLIP model, or a part is missing.
    """
    folder, config = _open(path)
    check_weights(folder)
    for half in {"text": ["text"], "image": ["vision"], "both": ["text", "vision"]}[identity]:
        _names(folder, half, path)
    _processor(folder, path, config)


def clip_widths(path: str) -> dict[str, int]:
    """Entries of a text's and of a picture's feature: 768 and 1024 for ViT-L/14-336.

    Raises:
        ModelError: no such model, or not a CLIP model.
    """
    _, config = _open(path)
    return {"text": config.text_config.hidden_size, "image": config.vision_config.hidden_size}


def load_clip_text_encoder(path: str) -> ClipTextEncoder:
    """Load CLIP's text half, frozen, in float32, with its tokenizer.

    Raises:
        ModelError: no such model, not a CLIP model, or a part is missing.
    """
    folder, config = _open(path)
    names = _names(folder, "text", path)
    tower = load_tower(folder, config.text_config, names, f"{_KEY}={path!r}: its text encoder")
    return ClipTextEncoder(_processor(folder, path, config).tokenizer, tower)


def load_clip_image_encoder(path: str) -> VisionTowerEncoder:
    """Load CLIP's vision half, frozen, in float32.

    Raises:
        ModelError: no such model, not a CLIP model, or a part is missing.
    """
    folder, config = _open(path)
    names = _names(folder, "vision", path)
    return VisionTowerEncoder(load_tower(folder, config.vision_config, names, f"{_KEY}={path!r}: its vision encoder"))


def load_clip_processor(path: str) -> Any:
    """CLIP's tokenizer and image processor, the latter PIL-backed. CLIP's pictures need not be of the base's size.

    Raises:
        ModelError: no such model, not a CLIP model, or a part is missing.
    """
    folder, config = _open(path)
    return _processor(folder, path, config)


def clip_parts(path: str, half: Literal["text", "vision"]) -> tuple[Path, list[str]]:
    """What one of CLIP's encoders is loaded from: the folder, and its tensors' names in the checkpoint.

    Raises:
        ModelError: no such model, not a CLIP model, or a part is missing.
    """
    folder, _ = _open(path)
    return folder, [*_names(folder, half, path).values()]


def _open(path: str) -> tuple[Path, Any]:
    folder = model_folder(path, _KEY)
    try:
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # any line of transformers may trip over a setting
        raise ModelError(f"{_KEY}={path!r}: its config.json does not load: {in_one_line(error)}") from error
    if config.model_type != "clip":
        raise ModelError(
            f"{_KEY}={path!r}: a model of type {config.model_type!r}; expected 'base' or a whole CLIP model ('clip')"
        )
    return folder, config


def _names(folder: Path, half: str, path: str) -> dict[str, str]:
    """One half's tensors: names within it to names in the checkpoint."""
    prefix = f"{half}_model."
    found = {name.removeprefix(prefix): name for name in weight_files(folder) if name.startswith(prefix)}
    if not found:
        raise ModelError(f"{_KEY}={path!r}: no tensors of {prefix}*; expected a whole CLIP model")
    return found


def _processor(folder: Path, path: str, config: Any) -> Any:
    try:
        processor: Any = AutoProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    except Exception as error:  # the same
        raise ModelError(f"{_KEY}={path!r}: its processor does not load: {why_not_read(folder, error)}") from error
    for part in ("tokenizer", "image_processor"):
        if getattr(processor, part, None) is None:
            raise ModelError(f"{_KEY}={path!r}: its {type(processor).__name__} has no {part}; expected CLIP's")
    expected = config.text_config.vocab_size
    if len(processor.tokenizer) != expected:
        raise ModelError(f"{_KEY}={path!r}: its tokenizer has {len(processor.tokenizer)} tokens; expected {expected}")
    return processor
