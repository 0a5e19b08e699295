"""The vision tower's own training, on dense labels of every patch."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from fcit_ray.data.miniature.scenes import COLORS, GRID
from tools.tiny_base.lessons import Lesson
from tools.tiny_base.model import WORD_SCALE
from tools.tiny_base.patches import MOST, PATCH_CLASSES, WHAT, WORDS, patch_labels
from tools.tiny_base.recipe import Recipe
from tools.tiny_base.steps import learning_rate, lessons, log, optimizer_of, pixels, take_step


def patch_words(tokenizer: PreTrainedTokenizerFast, table: Tensor, seed: int) -> dict[str, Tensor]:
    """What a patch's labels are in the language model's space, (classes, D) by attribute of `PATCH_CLASSES`.

    Things and colours are their words. Counts, partners and whole words are their words too, each sort turned by a
    rotation of its own, so that reading one is one linear map whatever the word. A bar's height also grows along a
    direction. Parts, ranks and lines, which have no words, and "row" and "col", (4, D), are directions of their own.
    """
    draw = torch.Generator().manual_seed(seed)
    width = table.shape[1]

    def direction(count: int) -> Tensor:
        return F.normalize(torch.randn(count, width, generator=draw), dim=1)

    def spoken(words: Sequence[str]) -> Tensor:
        ids = tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
        assert all(len(i) == 1 for i in ids), "every label is one token; see tiny.words"
        return F.normalize(table.detach()[torch.tensor(ids)[:, 0]], dim=1)

    def turned(words: Sequence[str]) -> Tensor:
        rotation = torch.linalg.qr(torch.randn(width, width, generator=draw))[0]
        return spoken(words) @ rotation

    counts = [str(number) for number in range(MOST + 1)]
    heights = torch.arange(1.0, 9.0)[:, None]
    tall = 0.6 * turned(counts[1:9]) + 0.5 * (heights - 4.5) / 3.5 * direction(1)
    codes = {
        "what": spoken(WHAT[1:]),
        "color": spoken(COLORS),
        "part": 0.5 * direction(PATCH_CLASSES["part"] - 1),
        "extent": torch.cat([0.5 * direction(2), tall]),
        **{name: 0.5 * turned(counts) for name in ("same name", "same color", "other name", "other color", "all")},
        "rank": 0.7 * direction(3),
        "partner": 0.7 * turned(WHAT[1:]),
        "word": 0.7 * turned(WORDS[1:]),
        "line": 0.5 * direction(2),
        **{name: 0.4 * turned(counts[: GRID + 1]) for name in ("left", "top", "right", "bottom")},
    }
    none = torch.zeros(1, width)
    codes = {name: torch.cat([none, code]) for name, code in codes.items()}
    assert {name: len(code) for name, code in codes.items()} == PATCH_CLASSES
    return {
        name: WORD_SCALE * code
        for name, code in (codes | {"row": 0.6 * direction(4), "col": 0.6 * direction(4)}).items()
    }


def train_vision(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, recipe: Recipe
) -> dict[str, float]:
    """First part: every patch says what it shows, to heads that are thrown away and in words through the projector.

    Returns:
        The heads' held-out accuracy on cells that show something, and the share of the words' variance that the
        projector says.
    """
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    torch.manual_seed(recipe.seed)
    head = nn.Linear(tower.config.hidden_size, sum(PATCH_CLASSES.values()))
    learning = [*tower.parameters(), *projector.parameters(), *head.parameters()]
    optimizer = optimizer_of([(learning, 1.0)], recipe.vision_lr, recipe.weight_decay)
    words = patch_words(tokenizer, model.model.language_model.embed_tokens.weight, recipe.seed)
    place = (words["row"][:, None] + words["col"][None]).flatten(0, 1)  # (P, D)
    started = time.monotonic()

    def losses(batch: list[Lesson]) -> tuple[Tensor, dict[str, float]]:
        cells = [patch_labels(lesson.scene) for lesson in batch]
        labels = {
            n: torch.tensor([[x.get(n, 0) for x in patches] for patches in cells]) for n in PATCH_CLASSES
        }  # (B, P)
        seen = tower(pixels(batch)).last_hidden_state[:, 1:]
        logits = dict(zip(PATCH_CLASSES, head(seen).split(list(PATCH_CLASSES.values()), dim=-1), strict=True))
        loss = torch.stack([F.cross_entropy(logits[n].flatten(0, 1), labels[n].flatten()) for n in PATCH_CLASSES])
        said = place + sum((words[n][labels[n]] for n in PATCH_CLASSES), torch.zeros(()))  # (B, P, D)
        missed = (projector(seen) - said).square().sum() / said.square().sum()
        # only cells where there is something to tell: an empty one is easy
        right = {n: float((logits[n].argmax(-1) == labels[n])[labels[n] > 0].float().mean()) for n in PATCH_CLASSES}
        return loss.sum() + 5 * missed, {**right, "said in words": 1 - float(missed.detach())}

    for step in range(recipe.vision_steps):
        batch = lessons(recipe.seed, "vision", step * recipe.vision_batch, recipe.vision_batch)
        loss, right = losses(batch)
        take_step(optimizer, loss, recipe.vision_lr * learning_rate(step, recipe.vision_steps, 0.7))
        if step % 100 == 0 or step == recipe.vision_steps - 1:
            shown = {name: round(value, 2) for name, value in right.items()}
            log.info("vision %d loss %.3f right %s %.0f s", step, loss, shown, time.monotonic() - started)
    with torch.no_grad():
        _, right = losses(lessons(recipe.seed, "held out", 0, min(256, recipe.num_held_out)))
    return {f"patch {name}": round(value, 4) for name, value in right.items()}
