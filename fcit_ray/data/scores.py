"""How answers are scored: one rule a kind of dataset (section 2 of the benchmark's description).

Captions are scored by pycocoevalcap's metrics that need no Java: BLEU-1..4, ROUGE-L and CIDEr. METEOR and the Penn
Treebank tokenizer do; METEOR is left out, and words are split by a rule of our own (lower case, no punctuation). A
caption percentage from here is therefore *not* the number the paper reports for Flickr30k, though it ranks alike.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from fcit_ray.data.layout import Box, Record, parse_box
from fcit_ray.types import Prediction


@dataclass(frozen=True)
class Scores:
    """How well a task was answered.

    Attributes:
        percent: the task's score, 0..100.
        per_sample: every record's own score, 0..1, in the records' order; 0 or 1 unless captions.
        parts: what else there is to know, by name: `blank_frac`, the share of empty answers, for every kind.
    """

    percent: float
    per_sample: tuple[float, ...]
    parts: dict[str, float]


def score(kind: str, predictions: Sequence[Prediction], records: Sequence[Record]) -> Scores:
    """Score predictions against the records they answer, matched by id.

    - `exact`: the whole answer, apart from case and surrounding space. DVQA and FigureQA too: the released code
      accepts any prediction that is a substring of the answer, hence an empty one.
    - `box`: IoU > 0.5, both boxes scaled by the image's longer side. What does not parse as one box is wrong. Parts
      add `mean_iou` and `unparsed_frac`.
    - `caption`: mean of BLEU-1..4, ROUGE-L and CIDEr over the corpus. CIDEr reaches 10; in the mean it counts as at
      most 1, so that a perfect caption scores 100 as a perfect answer does elsewhere. Parts hold all of them, CIDEr
      uncapped. With a single record CIDEr is 0 by its definition: no word is rarer than another.

    Args:
        kind: `exact`, `box` or `caption`, as in the catalog.
        predictions: one for every record, in any order.
        records: test records.

    Raises:
        ValueError: unknown kind, no records, or predictions that are not one a record.
    """
    if kind not in _KINDS:
        raise ValueError(f"kind {kind!r}: expected {', '.join(_KINDS)}")
    if not records:
        raise ValueError("no records to score; expected at least one")
    answers = {prediction.question_id: prediction.prediction.strip() for prediction in predictions}
    wanted = [record.id for record in records]
    if len(answers) != len(predictions) or len(set(wanted)) != len(wanted) or set(answers) != set(wanted):
        odd = sorted(set(answers) ^ set(wanted))[:5]
        raise ValueError(
            f"{len(predictions)} predictions for {len(records)} records, unmatched ids {odd}; expected one a record"
        )
    texts = [answers[name] for name in wanted]
    percent, per_sample, parts = _KINDS[kind](texts, records)
    blank = sum(not text for text in texts) / len(texts)
    return Scores(float(percent), tuple(map(float, per_sample)), {"blank_frac": blank, **parts})


def majority_answer(records: Sequence[Record]) -> str:
    """The most frequent answer of the training records, apart from case; of equally frequent ones, the first seen.

    Raises:
        ValueError: no answers.
    """
    answers = [turn.answer.strip() for record in records for turn in record.turns if turn.answer is not None]
    if not answers:
        raise ValueError("no training answers to take a majority of")
    counts = Counter(answer.casefold() for answer in answers)
    best = counts.most_common(1)[0][0]
    return next(answer for answer in answers if answer.casefold() == best)


def majority_score(kind: str, train: Sequence[Record], test: Sequence[Record]) -> Scores:
    """What always giving the majority answer scores: the floor below which a model has learned nothing."""
    answer = majority_answer(train)
    return score(kind, [Prediction(record.id, answer, record.answer or "") for record in test], test)


_Result = tuple[float, Sequence[float], dict[str, float]]


def _exact(texts: Sequence[str], records: Sequence[Record]) -> _Result:
    right = []
    for text, record in zip(texts, records, strict=True):
        assert record.answer is not None, "test records carry their answer; load_test checks it"
        right.append(float(text.casefold() == record.answer.strip().casefold()))
    return 100 * float(np.mean(right)), right, {}


def _box(texts: Sequence[str], records: Sequence[Record]) -> _Result:
    boxes = [parse_box(text) for text in texts]
    overlaps = []
    for box, record in zip(boxes, records, strict=True):
        assert record.box is not None, "Grounding's test records carry it; load_test checks it"
        assert record.size is not None, "Grounding's test records carry it; load_test checks it"
        side = max(record.size)
        overlaps.append(iou(_scaled(box, side), _scaled(record.box, side)) if box else 0.0)
    right = [float(overlap > 0.5) for overlap in overlaps]
    parts = {"mean_iou": float(np.mean(overlaps)), "unparsed_frac": sum(box is None for box in boxes) / len(boxes)}
    return 100 * float(np.mean(right)), right, parts


def _scaled(box: Box, side: int) -> Box:
    left, top, right, bottom = box
    return left * side, top * side, right * side, bottom * side


def iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes; 0 if either has no area (a corner on the wrong side included)."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / (sum(areas) - width * height)


def _caption(texts: Sequence[str], records: Sequence[Record]) -> _Result:
    said = {index: [_words(text)] for index, text in enumerate(texts)}
    wanted = {}
    for index, record in enumerate(records):
        references = [words for words in map(_words, record.references) if words]
        if not references:
            raise ValueError(f"{record.where}: no reference caption has a word in it; expected at least one")
        wanted[index] = references
    bleus, bleu_lists = Bleu(4).compute_score(wanted, said, verbose=0)
    rouge, rouge_list = Rouge().compute_score(wanted, said)
    cider, cider_list = Cider().compute_score(wanted, said)
    parts = {f"BLEU-{n}": float(bleu) for n, bleu in enumerate(bleus, 1)}
    parts |= {"ROUGE-L": float(rouge), "CIDEr": float(cider)}
    table = np.array([*bleu_lists, rouge_list, cider_list])  # (6, B)
    percent = 100 * float(np.mean([min(part, 1.0) for part in parts.values()]))
    return percent, np.minimum(table, 1.0).mean(0).tolist(), parts


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+(?:[-'\u2019]\w+)*", text.lower()))


_KINDS: dict[str, Callable[[Sequence[str], Sequence[Record]], _Result]] = {
    "exact": _exact,
    "box": _box,
    "caption": _caption,
}
