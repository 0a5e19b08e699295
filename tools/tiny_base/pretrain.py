"""Pre-trains the tiny base model on lessons: first its eyes, patch by patch, then questions in foreign wordings.

The first part also teaches the projector to say what a patch shows in the language model's own words: the sum of the
words' embeddings. Real projectors get there from millions of captions; without it, most of the second part's time
goes into learning that the picture's red is the word's red.

Legend: B pictures, P = 16 patches, L tokens of a packed row, A answer tokens of a batch, D width.

A row packs one picture and several questions about it. Every question sees the picture and itself only, at the
positions that it would have on its own, so a row is worth as many examples as it has questions.
"""

import json
import random
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from tools.tiny_base.model import build_model, build_processor
from tools.tiny_base.packing import PackedRows, Packer, answer_logits
from tools.tiny_base.recipe import Recipe
from tools.tiny_base.steps import learning_rate, lessons, log, optimizer_of, pixels, take_step
from tools.tiny_base.vision import train_vision


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
        take_step(optimizer, loss, recipe.lr * learning_rate(step, recipe.steps, recipe.decay_frac))
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
