"""How answers are scored: one function a rule. Which dataset goes by which rule its declaration says."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

import numpy as np

from fcit_ray.config.datasets import is_function
from fcit_ray.data.records.layout import Box, Record, parse_box
from fcit_ray.data.scoring import neighbours, words
from fcit_ray.data.scoring.boxes import box_scores, released_box
from fcit_ray.data.scoring.captions import CaptionMetrics, full_metrics, portable_metrics, split_words
from fcit_ray.data.scoring.formats import diagnose
from fcit_ray.data.scoring.own import score_by_own
from fcit_ray.data.scoring.rules import Rule
from fcit_ray.data.scoring.votes import folded, soft_vote
from fcit_ray.types import Prediction


@dataclass(frozen=True)
class Scores:
    """How well a task was answered.

    Attributes:
        percent: the task's score, 0..100; above it only where `caption_released` counts CIDEr in full.
        per_sample: every record's own score, 0..1, in the records' order; 0 or 1 unless captions, votes, lists of
            states or a rule of one's own. Under `caption_released` up to 16/7.
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
    - `number`: equal as numbers, give or take the dataset's `tolerance`; `words.number` says what a number is.
    - `choice`: the option's letter alone, apart from case, brackets and a full stop; see `words.choice`.
    - `contains`: the answer stands in the prediction as whole words; see `words.contains`. It rewards saying much.
    - `soft_vote`: what people answered, apart from case and space; a third for each of them, see `votes.soft_vote`.
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
    - `coin_...`, `hide_...`, `mllm_dcl_...` (released): those of `neighbours`, by name.
    - `module:function`, `file.py:function`: one's own, see `own`.

    Args:
        rule: as `rules.rule_of` gives it.
        predictions: one for every record, in any order.
        records: test records of one dataset.

    Raises:
        ValueError: unknown rule, no records, predictions that are not one a record, or records without what the rule
            needs.
        ConfigError: a rule of one's own cannot be imported.
        RunFailed: it failed on a record, or returned what is no score.
        JavaError: Java is not there or fails, under the rules that need it.
    """
    if rule.name not in _RULES and not is_function(rule.name):
        raise ValueError(f"rule {rule.name!r}: expected {', '.join(_RULES)}, or module:function")
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
    percent, per_sample, parts = _RULES.get(rule.name, _own)(texts, records, rule)
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
_Apply = Callable[[Sequence[str], Sequence[Record], Rule], _Result]


def _by_answer(right: Callable[[str, str], bool]) -> _Apply:
    """A rule that needs no more of a record than its answer."""
    return _by_record(lambda text, record: float(right(text, str(record.answer).strip())))


def _by_record(value: Callable[[str, Record], float]) -> _Apply:
    def apply(texts: Sequence[str], records: Sequence[Record], rule: Rule) -> _Result:
        marks = [value(text, record) for text, record in zip(texts, records, strict=True)]
        return 100 * float(np.mean(marks)), marks, {}

    return apply


def _number(texts: Sequence[str], records: Sequence[Record], rule: Rule) -> _Result:
    tolerance = Decimal(repr(rule.dataset.answer.tolerance))
    return _by_answer(lambda text, answer: words.number(text, answer, tolerance))(texts, records, rule)


def _votes(text: str, record: Record) -> float:
    return soft_vote(folded(text), [folded(vote) for vote in record.votes])


def _box(texts: Sequence[str], records: Sequence[Record], rule: Rule, parse: Callable[[str], Box | None]) -> _Result:
    right, parts = box_scores(texts, records, parse)
    return 100 * float(np.mean(right)), right, parts


def _caption(
    texts: Sequence[str],
    records: Sequence[Record],
    rule: Rule,
    measure: Callable[[Sequence[str], Sequence[Sequence[str]]], CaptionMetrics],
    cap: float,
) -> _Result:
    for record in records:
        if not any(map(split_words, record.references)):
            raise ValueError(f"{record.where}: no reference caption has a word in it; expected at least one")
    metrics = measure(texts, [record.references for record in records])
    percent = 100 * float(np.mean([min(value, cap) for value in metrics.corpus.values()]))
    return percent, np.minimum(metrics.captions, cap).mean(0).tolist(), metrics.corpus


def _own(texts: Sequence[str], records: Sequence[Record], rule: Rule) -> _Result:
    marks = score_by_own(rule.name, texts, records)
    return 100 * float(np.mean(marks)), marks, {}


_RULES: dict[str, _Apply] = {
    "exact": _by_answer(words.whole),
    "number": _number,
    "choice": _by_answer(words.choice),
    "contains": _by_answer(words.contains),
    "soft_vote": _by_record(_votes),
    "box": partial(_box, parse=parse_box),
    "caption": partial(_caption, measure=portable_metrics, cap=1.0),
    "caption_full": partial(_caption, measure=full_metrics, cap=1.0),
    "caption_released": partial(_caption, measure=full_metrics, cap=np.inf),
    "substring": _by_answer(words.part),
    "box_released": partial(_box, parse=released_box),
    "coin_scienceqa": _by_record(neighbours.coin_scienceqa),
    "hide_scienceqa": _by_record(neighbours.hide_scienceqa),
    "coin_textvqa": _by_record(neighbours.coin_textvqa),
    "coin_imagenet": _by_record(neighbours.coin_imagenet),
    "coin_gqa": _by_record(neighbours.coin_gqa),
    "coin_ocrvqa": _by_record(neighbours.coin_ocrvqa),
    "mllm_dcl_rs": _by_record(neighbours.mllm_dcl_rs),
    "mllm_dcl_med": _by_record(neighbours.mllm_dcl_med),
    "mllm_dcl_sci": _by_record(neighbours.mllm_dcl_sci),
    "mllm_dcl_fin": _by_record(neighbours.mllm_dcl_fin),
}
