"""Several questions about one picture in one row, none of which sees another.

Legend: B pictures, P = 16 patches, L tokens of a packed row, A answer tokens of a batch, D width.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from fcit_ray.data.miniature.scenes import GRID
from tools.tiny_base.lessons import Lesson
from tools.tiny_base.model import BOS, IMAGE, PAD
from tools.tiny_base.questions import Question

NUM_PATCHES = GRID * GRID


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
