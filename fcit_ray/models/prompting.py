"""Embeddings put behind every sample's first token, and which positions of a batch are labelled.

Legend: B samples, L tokens, P embeddings of a prompt.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

UNLABELLED = -100
"""What the language model's loss leaves out."""


def make_room(
    batch: Mapping[str, Tensor], prompts: Tensor | None, config: Any, device: torch.device
) -> tuple[dict[str, Tensor], Tensor | None]:
    """What the model takes of a batch, with room for the prompts; and which prompt embedding is where, -1 none.

    Args:
        batch: as the collator makes it; its `features` are the method's, not the model's.
        prompts: (B, P, width), or None, which needs no room.
        config: of the model, which names the token that stands for a picture.
        device: of the model.

    Returns:
        The inputs, and (B, L + P) places, or None where there are no prompts.
    """
    # From page-locked memory, which only a worker on a GPU uses, the copy goes on while the next kernels are launched.
    inputs = {name: value.to(device, non_blocking=True) for name, value in batch.items() if name != "features"}
    if prompts is None:
        return inputs, None
    shape, count = inputs["input_ids"].shape, prompts.shape[1]
    first = inputs["attention_mask"].argmax(dim=1, keepdim=True)  # (B, 1): not 0 where padding is on the left
    position = torch.arange(shape[1] + count, device=first.device).expand(shape[0], -1)  # (B, L + P)
    within = (position > first) & (position <= first + count)
    source = torch.where(position > first, position - count, position).clamp(min=0)
    fill = {"attention_mask": 1, "labels": UNLABELLED, "input_ids": _filler(config)}
    for name, value in inputs.items():
        if value.shape == shape:
            inputs[name] = value.gather(1, source).masked_fill(within, fill.get(name, 0))
    return inputs, torch.where(within, position - first - 1, -1)


def _filler(config: Any) -> int:
    """A token id that stands where a prompt will; any will do that is not the image's."""
    image = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
    return 1 if image == 0 else 0


@contextmanager
def prompted(language: nn.Module, prompts: Tensor | None, places: Tensor | None) -> Iterator[None]:
    """While it lasts, the language model sees the prompts in the room that `make_room` made."""
    if prompts is None or places is None:
        yield
        return

    def put(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        embeddings = kwargs["inputs_embeds"]
        if embeddings.shape[1] > 1:  # a single one is a step of generation, behind the prompts
            ours = prompts.to(embeddings.device, embeddings.dtype)
            # Without a cache each step of generation comes with all that was written so far.
            written = embeddings.shape[1] - places.shape[1]
            place = nn.functional.pad(places, (0, written), value=-1)[:, :, None]  # (B, L + P + written, 1)
            chosen = ours.gather(1, place.clamp(min=0).expand(-1, -1, ours.shape[2]))
            kwargs["inputs_embeds"] = torch.where(place < 0, embeddings, chosen)
        return args, kwargs

    handle = language.register_forward_pre_hook(put, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def labelled_span(labels: Tensor) -> int:
    """Positions from the first that is labelled in any sample to the last of all, of (B, L): 1 to L - 1.

    The first token of all has no position before it that could predict it; its label counts for nothing.
    """
    labelled = (labels[:, 1:] != UNLABELLED).any(dim=0)  # (L - 1,)
    return len(labelled) - int(labelled.to(torch.uint8).argmax())


def answer_logits(batch: Mapping[str, Tensor], output: Any) -> Tensor:
    """Logits at the positions that predict a batch's answer tokens, (N, V) float32; N as in `output.loss`'s mean.

    A token is predicted one position before its own, as in the language model's loss; what stands in front of the
    labelled ones, prompts or questions, need not have logits.
    """
    span = labelled_span(batch["labels"])
    labels = batch["labels"][:, -span:].to(output.logits.device)  # (B, span)
    logits: Tensor = output.logits[:, -span - 1 : -1]
    return logits[labels != UNLABELLED].float()
