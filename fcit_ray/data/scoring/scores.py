"""How answers are scored: one function a rule. Which dataset goes by which rule its declaration says."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from fcit_ray.data.records.layout import Box, Record, parse_box
from fcit_ray.data.scoring.captions import CaptionMetrics, full_metrics, portable_metrics, split_words
from fcit_ray.data.scoring.formats import diagnose
from fcit_ray.data.scoring.rules import Rule
from fcit_ray.types import Prediction


@dataclass(frozen=True)
class Scores:
    """How well a task was answered.

    Attributes:
        percent: the task's score, 0..100; above it only where `caption_released` counts CIDEr in full.
        per_sample: every record's own score, 0..1, in the records' order; 0 or 1 unless captions. Under
            `caption_released` up to 16/7.
        parts: what else there is to know, by name: the diagnostics of `formats.diagnose`, and what the rule adds.
            Which names there are depends on the rule and the records only, never on the predictions.
    """

    percent: float
    per_sample: tuple[float, ...]
    parts: dict[str, float]


def score(rule: Rule, predictions: Sequence[Prediction], records: Sequence[Record]) -> Scores:
    """Score predictions against the records they answer, matched by id.

    Space around predictions and answers never counts.

    - `exact`: the whole answer, apart from case. Nothing else is forgiven, as in the released code: `A.` is not `A`,
      `4656` not `4,656`, `three` not `3`. A looser rule would have to know what a full stop or a comma means in each
      dataset (`3.` for `3`, `Washington D.C.`); `near_frac` says how much there would be to gain by one.
    - `substring` (released, for DVQA and FigureQA): the prediction is found in the answer, apart from case. An empty
      prediction is found everywhere, hence right.
    - `box`: IoU > 0.5, both boxes scaled by the image's longer side. What does not parse as one box is wrong. Parts
      add `mean_iou` and `unparsed_frac`.
    - `box_released`: the same, but predictions are read as the released code reads them: brackets are removed, and
      then the first and the last character once more. A box in brackets loses the first digit of its first number and
      the last of its last one, so that `[0.1, 0.2, 0.5, 0.5]` scores 0 against itself, `[0.12, 0.20, 0.50, 0.50]` 1.
    - `caption`: mean of BLEU-1..4, ROUGE-L and CIDEr over the corpus, over words of our own. CIDEr reaches 10; in the
      mean it counts as at most 1, so that a perfect caption scores 100 as a perfect answer does elsewhere. Parts hold
      all metrics, CIDEr uncapped. With a single record CIDEr is 0 by its definition: no word is rarer than another.
      Not the number the paper reports for Flickr30k, though it ranks alike.
    - `caption_full`: the same with METEOR too, and over Penn Treebank words. Needs Java.
    - `caption_released`: the mean of the seven metrics of `caption_full`, CIDEr in full. Needs Java.

    Args:
        rule: as `rules.rule_of` gives it.
        predictions: one for every record, in any order.
        records: test records of one dataset.

    Raises:
        ValueError: unknown rule, no records, or predictions that are not one a record.
        JavaError: Java is not there or fails, under the rules that need it.
    """
    if rule.name not in _RULES:
        raise ValueError(f"rule {rule.name!r}: expected {', '.join(_RULES)}")
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
    percent, per_sample, parts = _RULES[rule.name](texts, records)
    said = diagnose(texts, records, rule.dataset)
    return Scores(float(percent), tuple(map(float, per_sample)), {**said, **parts})


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


def majority_score(rule: Rule, train: Sequence[Record], test: Sequence[Record]) -> Scores:
    """What always giving the majority answer scores: the floor below which a model has learned nothing."""
    answer = majority_answer(train)
    return score(rule, [Prediction(record.id, answer, record.answer or "") for record in test], test)


_Result = tuple[float, Sequence[float], dict[str, float]]


def _words(texts: Sequence[str], records: Sequence[Record], right: Callable[[str, str], bool]) -> _Result:
    marks = []
    for text, record in zip(texts, records, strict=True):
        assert record.answer is not None, "test records carry their answer; load_test checks it"
        marks.append(float(right(text.casefold(), record.answer.strip().casefold())))
    return 100 * float(np.mean(marks)), marks, {}


def _released_box(text: str) -> Box | None:
    numbers = text.replace("[", "").replace("]", "")[1:-1].split(",")
    try:
        left, top, right, bottom = map(float, numbers)
    except ValueError:  # no number, or not four of them
        return None
    # Python's float takes "nan" and "inf" too. Neither overlaps anything by half; here they count as no box at all.
    return (left, top, right, bottom) if all(map(math.isfinite, (left, top, right, bottom))) else None


def _box(texts: Sequence[str], records: Sequence[Record], parse: Callable[[str], Box | None]) -> _Result:
    boxes = [parse(text) for text in texts]
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


def _caption(
    texts: Sequence[str],
    records: Sequence[Record],
    measure: Callable[[Sequence[str], Sequence[Sequence[str]]], CaptionMetrics],
    cap: float,
) -> _Result:
    for record in records:
        if not any(map(split_words, record.references)):
            raise ValueError(f"{record.where}: no reference caption has a word in it; expected at least one")
    metrics = measure(texts, [record.references for record in records])
    percent = 100 * float(np.mean([min(value, cap) for value in metrics.corpus.values()]))
    return percent, np.minimum(metrics.captions, cap).mean(0).tolist(), metrics.corpus


_RULES: dict[str, Callable[[Sequence[str], Sequence[Record]], _Result]] = {
    "exact": partial(_words, right=str.__eq__),
    "substring": partial(_words, right=lambda text, answer: text in answer),
    "box": partial(_box, parse=parse_box),
    "box_released": partial(_box, parse=_released_box),
    "caption": partial(_caption, measure=portable_metrics, cap=1.0),
    "caption_full": partial(_caption, measure=full_metrics, cap=1.0),
    "caption_released": partial(_caption, measure=full_metrics, cap=np.inf),
}
