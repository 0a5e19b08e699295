"""Pre-trains the tiny base model on lessons: first its eyes, patch by patch, then questions in foreign wordings.

Legend: B pictures, P = 16 patches, L tokens of a packed row, A answer tokens of a batch, D width.

A row packs one picture and several questions about it. Every question sees the picture and itself only, at the
positions that it would have on its own, so a row is worth as many examples as it has questions.
"""

import json
import logging
import random
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from fcit_ray.data.miniature.drawing import draw
from fcit_ray.data.miniature.lessons import PATCH_CLASSES, Lesson, make_lesson, patch_labels
from fcit_ray.data.miniature.scenes import GRID
from fcit_ray.models.tiny import BOS, IMAGE, PAD, build_model, build_processor

NUM_PATCHES = GRID * GRID
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the base is pre-trained; saved with its scores.

    Attributes:
        seed: of weights and lessons; benchmark pictures come from other seeds altogether.
        vision_steps: steps of the first part, on patch labels.
        vision_batch: pictures a step there.
        vision_lr: peak learning rate there.
        steps: steps of the second part, on questions.
        batch: pictures a step there.
        num_questions: at most so many questions are packed with a picture.
        lr: peak learning rate there.
        vision_lr_frac: the vision tower's share of `lr`.
        embedding_lr_frac: the input embeddings' share of `lr`; small, as the identity tokens live on their rows
            being nearly orthogonal.
        weight_decay: of matrices.
        bfloat16: matrix products of the second part in bfloat16 (twice as fast where the CPU has it); weights and
            optimizer stay in float32.
        save_every: steps between checkpoints.
    """

    seed: int = 0
    vision_steps: int = 2000
    vision_batch: int = 64
    vision_lr: float = 2e-3
    steps: int = 2600
    batch: int = 32
    num_questions: int = 6
    lr: float = 2e-3
    vision_lr_frac: float = 0.2
    embedding_lr_frac: float = 0.2
    weight_decay: float = 0.01
    bfloat16: bool = True
    save_every: int = 300


def pixels(lessons: Sequence[Lesson]) -> Tensor:
    """What the processor makes of the drawings, without its detours: (B, 3, 64, 64), from -1 to 1."""
    raw = np.stack([np.asarray(draw(lesson.scene)) for lesson in lessons])  # (B, 64, 64, 3)
    return torch.from_numpy(raw).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def lessons(seed: int, part: str, start: int, count: int) -> list[Lesson]:
    """Lessons number `start` to `start + count` of a part ("vision", "questions" or "held out")."""
    return [make_lesson(random.Random(f"lesson {seed} {part} {number}")) for number in range(start, start + count)]


@dataclass
class PackedRows:
    """A batch of packed rows.

    Attributes:
        tokens: (B, L) input tokens.
        positions: (B, L) each question counts on from the picture.
        mask: (B, 1, L, L) True where a token may look.
        rows: (A,) row of each token before an answer token.
        places: (A,) its place in the row.
        targets: (A,) the answer token.
        weights: (A,) 1 / sqrt(length of the answer), so that boxes do not outweigh words.
        skills: of each question.
        question: (A,) the question it belongs to.
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    rows: Tensor
    places: Tensor
    targets: Tensor
    weights: Tensor
    skills: list[str]
    question: Tensor


class Packer:
    """Packs lessons into rows; caches the tokens of texts."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, num_questions: int):
        self.tokenizer = tokenizer
        self.num_questions = num_questions
        before, after = tokenizer(["USER:", "\n"], add_special_tokens=False)["input_ids"]
        space = tokenizer(" ", add_special_tokens=False)["input_ids"]
        self.prefix = [BOS, *before, *space, *[IMAGE] * NUM_PATCHES, *after]
        self.first_patch = self.prefix.index(IMAGE)

    def pack(self, batch: Sequence[Lesson], rng: random.Random) -> PackedRows:
        """Pack each lesson's picture with some of its questions."""
        chosen = [rng.sample(x.questions, min(self.num_questions, len(x.questions))) for x in batch]
        flat = [question for questions in chosen for question in questions]
        asked = self.tokenizer([f"{q.text} ASSISTANT:" for q in flat], add_special_tokens=False)["input_ids"]
        eos = self.tokenizer.eos_token
        answers = self.tokenizer([f" {q.answer}{eos}" for q in flat], add_special_tokens=False)["input_ids"]
        start = len(self.prefix)
        num = iter(range(len(flat)))
        rows, segments, positions = [], [], []
        found: dict[str, list[float]] = {"rows": [], "places": [], "targets": [], "weights": [], "question": []}
        for row, questions in enumerate(chosen):
            tokens, segment, position = list(self.prefix), [0] * start, list(range(start))
            for index in range(len(questions)):
                q = next(num)
                for offset, target in enumerate(answers[q]):
                    found["rows"].append(row)
                    found["places"].append(len(tokens) + len(asked[q]) + offset - 1)
                    found["targets"].append(target)
                    found["weights"].append(len(answers[q]) ** -0.5)
                    found["question"].append(q)
                text = asked[q] + answers[q][:-1]
                tokens += text
                segment += [index + 1] * len(text)
                position += range(start, start + len(text))
            rows.append(tokens)
            segments.append(segment)
            positions.append(position)
        length = max(map(len, rows))
        part = torch.tensor([s + [-1] * (length - len(s)) for s in segments])  # (B, L)
        same = (part[:, :, None] == part[:, None, :]) | (part[:, None, :] == 0)
        return PackedRows(
            tokens=torch.tensor([t + [PAD] * (length - len(t)) for t in rows]),
            positions=torch.tensor([p + [0] * (length - len(p)) for p in positions]),
            mask=(same & torch.ones(length, length, dtype=torch.bool).tril())[:, None],
            rows=torch.tensor(found["rows"]),
            places=torch.tensor(found["places"]),
            targets=torch.tensor(found["targets"]),
            weights=torch.tensor(found["weights"]),
            skills=[question.skill for question in flat],
            question=torch.tensor(found["question"]),
        )


def answer_logits(model: LlavaForConditionalGeneration, picture: Tensor, packed: PackedRows, first: int) -> Tensor:
    """Scores of the tokens at the answers' places only, (A, vocabulary): the rest is never asked for.

    Args:
        model: the tiny LLaVA.
        picture: (B, 3, 64, 64).
        packed: the rows.
        first: place of the picture's first patch.
    """
    seen = model.model.vision_tower(picture).last_hidden_state[:, 1:]  # (B, P, D of the tower)
    projected = model.model.multi_modal_projector(seen)  # (B, P, D)
    embedded = model.get_input_embeddings()(packed.tokens)  # (B, L, D)
    embedded = torch.cat([embedded[:, :first], projected, embedded[:, first + NUM_PATCHES :]], dim=1)
    hidden = model.model.language_model(
        inputs_embeds=embedded, attention_mask=packed.mask, position_ids=packed.positions, use_cache=False
    ).last_hidden_state
    return model.lm_head(hidden[packed.rows, packed.places])


def learning_rate(step: int, steps: int, warmup: int = 100) -> float:
    """Linear warm-up, then a cosine to zero, as a share of the peak."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + np.cos(np.pi * (step - warmup) / max(1, steps - warmup)))


def optimizer_of(groups: list[tuple[list[nn.Parameter], float]], lr: float, decay: float) -> torch.optim.AdamW:
    """AdamW that decays matrices only, each group at its share of the learning rate."""
    settings = []
    for parameters, share in groups:
        for matrices in (True, False):
            some = [p for p in parameters if (p.dim() >= 2) == matrices and p.requires_grad]
            settings.append({"params": some, "share": share, "weight_decay": decay if matrices else 0.0})
    return torch.optim.AdamW(settings, lr=lr, betas=(0.9, 0.98), eps=1e-6)


def _step(optimizer: torch.optim.AdamW, loss: Tensor, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["share"]
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
    optimizer.step()


def train_vision(model: LlavaForConditionalGeneration, recipe: Recipe) -> dict[str, float]:
    """First part: every patch says what it shows. The heads are thrown away; returns their held-out accuracy."""
    tower = model.model.vision_tower
    torch.manual_seed(recipe.seed)
    head = nn.Linear(tower.config.hidden_size, sum(PATCH_CLASSES))
    optimizer = optimizer_of(
        [([*tower.parameters(), *head.parameters()], 1.0)], recipe.vision_lr, recipe.weight_decay
    )
    started = time.monotonic()

    def losses(batch: list[Lesson]) -> tuple[Tensor, list[float]]:
        labels = torch.tensor([patch_labels(lesson.scene) for lesson in batch])  # (B, P, 4)
        logits = head(tower(pixels(batch)).last_hidden_state[:, 1:]).split(PATCH_CLASSES, dim=-1)
        loss = torch.stack([F.cross_entropy(x.flatten(0, 1), labels[..., i].flatten()) for i, x in enumerate(logits)])
        # only cells that show something: an empty one is easy
        shown = labels[..., 0] > 0
        right = [float((x.argmax(-1) == labels[..., i])[shown].float().mean()) for i, x in enumerate(logits)]
        return loss.sum(), right

    for step in range(recipe.vision_steps):
        batch = lessons(recipe.seed, "vision", step * recipe.vision_batch, recipe.vision_batch)
        loss, right = losses(batch)
        _step(optimizer, loss, recipe.vision_lr * learning_rate(step, recipe.vision_steps))
        if step % 100 == 0 or step == recipe.vision_steps - 1:
            log.info("vision %d loss %.3f right %s %.0f s", step, loss, right, time.monotonic() - started)
    with torch.no_grad():
        _, right = losses(lessons(recipe.seed, "held out", 0, 256))
    return dict(zip(("patch what", "patch color", "patch part", "patch extent"), right, strict=True))


def question_batches(recipe: Recipe, packer: Packer, start: int) -> Iterator[tuple[Tensor, PackedRows]]:
    """Endless batches; sorted by length within eight, as padding is wasted work."""
    pool = 8
    block = start // pool
    while True:
        rng = random.Random(f"pack {recipe.seed} {block}")
        many = lessons(recipe.seed, "questions", block * pool * recipe.batch, pool * recipe.batch)
        many.sort(key=lambda lesson: min(len(lesson.questions), packer.num_questions))
        groups = [many[i : i + recipe.batch] for i in range(0, len(many), recipe.batch)]
        rng.shuffle(groups)
        for group in groups:
            yield pixels(group), packer.pack(group, rng)
        block += 1


def train_questions(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, checkpoint: Path | None
) -> None:
    """Second part: the whole model answers questions."""
    packer = Packer(tokenizer, recipe.num_questions)
    tower, table = list(model.model.vision_tower.parameters()), list(model.get_input_embeddings().parameters())
    apart = {id(p) for p in tower + table}
    rest = [p for p in model.parameters() if id(p) not in apart]
    groups = [(rest, 1.0), (tower, recipe.vision_lr_frac), (table, recipe.embedding_lr_frac)]
    optimizer = optimizer_of(groups, recipe.lr, recipe.weight_decay)
    batches = question_batches(recipe, packer, 0)
    started = time.monotonic()
    for step in range(recipe.steps):
        picture, packed = next(batches)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
            logits = answer_logits(model, picture, packed, packer.first_patch).float()
        loss = (F.cross_entropy(logits, packed.targets, reduction="none") * packed.weights).sum()
        loss = loss / packed.weights.sum()
        _step(optimizer, loss, recipe.lr * learning_rate(step, recipe.steps))
        if step % 50 == 0:
            log.info("questions %d loss %.3f %.0f s", step, loss, time.monotonic() - started)
        if checkpoint is not None and step and step % recipe.save_every == 0:
            log.info("held out: %s", json.dumps(skill_scores(model, tokenizer, recipe, 256)))
            save(model, checkpoint, {"recipe": asdict(recipe), "step": step})


@torch.no_grad()
def skill_scores(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, count: int = 1500
) -> dict[str, float]:
    """Share of held-out answers that are right token by token, given the right tokens before, by skill."""
    packer = Packer(tokenizer, 100)
    hits: dict[str, list[bool]] = defaultdict(list)
    for start in range(0, count, 64):
        batch = lessons(recipe.seed, "held out", start, 64)
        packed = packer.pack(batch, random.Random(start))
        right = answer_logits(model, pixels(batch), packed, packer.first_patch).argmax(-1) == packed.targets
        wrong = set(packed.question[~right].tolist())
        for index, skill in enumerate(packed.skills):
            hits[skill].append(index not in wrong)
    return {skill: round(float(np.mean(hits[skill])), 3) for skill in sorted(hits)}


def save(model: LlavaForConditionalGeneration, folder: Path, scores: dict[str, object]) -> None:
    """Write model, processor and scores; the folder is swapped in whole, so a reader never sees half of one."""
    partial, old = folder.with_name(f".{folder.name}.partial"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    model.save_pretrained(partial)
    build_processor().save_pretrained(partial)
    (partial / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def pretrain(recipe: Recipe, folder: Path) -> dict[str, object]:
    """Pre-train from nothing and save into `folder` (checkpoints too); returns the scores saved with it."""
    started = time.monotonic()
    tokenizer = build_processor().tokenizer
    model = build_model(len(tokenizer), recipe.seed)
    model.train()
    eyes = train_vision(model, recipe)
    log.info("held-out patches: %s", eyes)
    train_questions(model, tokenizer, recipe, folder)
    model.eval()
    scores: dict[str, object] = {
        "recipe": asdict(recipe),
        "seconds": round(time.monotonic() - started),
        "patches": eyes,
        "skills": skill_scores(model, tokenizer, recipe),
    }
    save(model, folder, scores)
    return scores
