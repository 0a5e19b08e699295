"""Pre-trains the tiny base model on lessons: first its eyes, patch by patch, then questions in foreign wordings.

The first part also teaches the projector to say what a patch shows in the language model's own words: the sum of the
words' embeddings. Real projectors get there from millions of captions; without it, most of the second part's time
goes into learning that the picture's red is the word's red.

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
from fcit_ray.data.miniature.scenes import COLORS, GRID
from tools.tiny_base.lessons import (
    MOST,
    PATCH_CLASSES,
    WHAT,
    WORDS,
    Lesson,
    Question,
    make_lesson,
    patch_labels,
)
from tools.tiny_base.model import BOS, IMAGE, PAD, WORD_SCALE, build_model, build_processor
from tools.tiny_base.recipe import Recipe

NUM_PATCHES = GRID * GRID
log = logging.getLogger(__name__)


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

    def __init__(self, tokenizer: PreTrainedTokenizerFast, num_questions: int, num_recitals: int = 1):
        self.tokenizer = tokenizer
        self.num_recitals = num_recitals
        self.num_questions = num_questions
        before, after = tokenizer(["USER:", "\n"], add_special_tokens=False)["input_ids"]
        space = tokenizer(" ", add_special_tokens=False)["input_ids"]
        self.prefix = [BOS, *before, *space, *[IMAGE] * NUM_PATCHES, *after]
        self.first_patch = self.prefix.index(IMAGE)

    def _choose(self, lesson: Lesson, rng: random.Random) -> list[Question]:
        asked = rng.sample(lesson.questions, min(self.num_questions, len(lesson.questions)))
        return [*rng.sample(lesson.recitals, min(self.num_recitals, len(lesson.recitals))), *asked]

    def pack(self, batch: Sequence[Lesson], rng: random.Random) -> PackedRows:
        """Pack each lesson's picture with one recital and some of its questions."""
        chosen = [self._choose(lesson, rng) for lesson in batch]
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


def learning_rate(step: int, steps: int, decay_frac: float, warmup: int = 100) -> float:
    """Share of the peak: a linear warm-up, level, then linear to zero."""
    return min(1.0, (step + 1) / warmup, (steps - step) / (steps * decay_frac))


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
        _step(optimizer, loss, recipe.vision_lr * learning_rate(step, recipe.vision_steps, 0.7))
        if step % 100 == 0 or step == recipe.vision_steps - 1:
            shown = {name: round(value, 2) for name, value in right.items()}
            log.info("vision %d loss %.3f right %s %.0f s", step, loss, shown, time.monotonic() - started)
    with torch.no_grad():
        _, right = losses(lessons(recipe.seed, "held out", 0, min(256, recipe.num_held_out)))
    return {f"patch {name}": round(value, 4) for name, value in right.items()}


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
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    checkpoint: Path,
    scores: dict[str, object],
    start: int = 0,
    state: dict[str, object] | None = None,
) -> None:
    """Second part: the whole model answers questions.

    Args:
        model: trained in place.
        tokenizer: its tokenizer.
        recipe: how.
        checkpoint: folder to save the model to on the way; beside it, `<name>.resume.pt`, to go on from.
        scores: saved with it.
        start: the first step, that of the checkpoint gone on from.
        state: that checkpoint's optimizer.
    """
    packer = Packer(tokenizer, recipe.num_questions)
    tower, table = list(model.model.vision_tower.parameters()), list(model.get_input_embeddings().parameters())
    apart = {id(p) for p in tower + table}
    rest = [p for p in model.parameters() if id(p) not in apart]
    groups = [(rest, 1.0), (tower, recipe.vision_lr_frac), (table, recipe.embedding_lr_frac)]
    optimizer = optimizer_of(groups, recipe.lr, recipe.weight_decay)
    if state is not None:
        optimizer.load_state_dict(state)
    batches = question_batches(recipe, packer, start)
    started = time.monotonic()
    for step in range(start, recipe.steps):
        if step % recipe.save_every == 0 and step > start:
            skills = skill_scores(model, tokenizer, recipe, 256)
            log.info("held out %d: mean %.3f %s", step, np.mean(list(skills.values())), json.dumps(skills))
            save(model, checkpoint, {**scores, "recipe": asdict(recipe), "step": step})
            resume = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "scores": scores}
            torch.save(resume, checkpoint.with_name(f"{checkpoint.name}.resume.pt"))
        picture, packed = next(batches)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
            logits = answer_logits(model, picture, packed, packer.first_patch).float()
        loss = (F.cross_entropy(logits, packed.targets, reduction="none") * packed.weights).sum()
        loss = loss / packed.weights.sum()
        _step(optimizer, loss, recipe.lr * learning_rate(step, recipe.steps, recipe.decay_frac))
        if step % 50 == 0:
            log.info("questions %d loss %.3f %.0f s", step, loss, time.monotonic() - started)


@torch.no_grad()
def skill_scores(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, count: int
) -> dict[str, float]:
    """Share of held-out answers that are right token by token, given the right tokens before, by skill."""
    packer = Packer(tokenizer, 4)
    hits: dict[str, list[bool]] = defaultdict(list)
    for start in range(0, count, 64):
        batch = lessons(recipe.seed, "held out", start, min(64, count - start))
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


def pretrain(recipe: Recipe, folder: Path, work: Path | None = None, resume: Path | None = None) -> dict[str, object]:
    """Pre-train and save into `folder`; returns the scores saved with it.

    Args:
        recipe: how.
        folder: the finished model; a previous one is replaced.
        work: checkpoints on the way; by default beside `folder`.
        resume: the `.resume.pt` of such a checkpoint, to go on from. Seconds then count from there.
    """
    started = time.monotonic()
    tokenizer = build_processor().tokenizer
    model = build_model(tokenizer, recipe.seed)
    model.train()
    start, state = 0, None
    scores: dict[str, object] = {}
    work = work or folder.with_name(f".{folder.name}.work")
    if resume is None:
        scores["patches"] = train_vision(model, tokenizer, recipe)
        log.info("held-out patches: %s", json.dumps(scores["patches"]))
    else:
        saved = torch.load(resume, weights_only=True)
        model.load_state_dict(saved["model"])
        start, state, scores = saved["step"], saved["optimizer"], saved["scores"]
    train_questions(model, tokenizer, recipe, work, scores, start, state)
    model.eval()
    skills = skill_scores(model, tokenizer, recipe, recipe.num_held_out)
    seconds = round(time.monotonic() - started)
    scores = {"recipe": asdict(recipe), "seconds": seconds, **scores, "skills": skills}
    save(model, folder, scores)
    if work.name.startswith("."):
        shutil.rmtree(work, ignore_errors=True)
        work.with_name(f"{work.name}.resume.pt").unlink(missing_ok=True)
    return scores
