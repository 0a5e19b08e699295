"""What is odd about predictions beside being wrong: blank, of another form than the answers, or off by a little.

None of it changes a score. It tells a model that does not know from one that answers in another form, which is most
of what is behind a figure that cannot be reproduced.
"""

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial

from fcit_ray.config.datasets import Dataset
from fcit_ray.data.records.layout import Record, parse_box
from fcit_ray.data.scoring import words
from fcit_ray.data.scoring.votes import folded

MAX_CLOSED = 256
"""Distinct answers that may still be a closed set, such as the 200 classes of ImageNet-R."""
MIN_REPEATS = 10
"""Times that each answer of a closed set must occur on average: in few records any answers would look like one."""

_INTEGER = re.compile(r"[-+]?(?:\d+|\d{1,3}(?:,\d{3})+)")
_NUMBER = re.compile(r"[-+]?(?:\d+|\d{1,3}(?:,\d{3})+)?(?:\.\d+)?(?<=\d)")
_LETTER = re.compile(r"[A-Z]")
_UNITS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty"""
_WORDS = {word: str(number) for number, word in enumerate(_UNITS.split())}
_OPTION = re.compile(r"\(?([a-z])(?:[).:]+(?:\s.*)?)?", re.DOTALL)


def diagnose(texts: Sequence[str], records: Sequence[Record], dataset: Dataset) -> dict[str, float]:
    """Shares of the predictions, 0..1.

    - `blank_frac`: empty.
    - `format_frac`: of the form that all answers of these records have (see `answer_format`); absent if they have
      none in common.
    - `near_frac`: wrong by the strict rule of the kind, but the same as the answer (of soft votes, as any of them) once
      these are set aside: a leading article, a final full stop, commas between thousands, signs of currency and
      percent, small numbers as words, and, where the answers are option letters, what stands around the letter (`(B)`,
      `B. 42`). Absent for boxes, captions and rules of one's own.
    - `off_by_one_frac`: of the records whose answer is an integer, those whose prediction is it plus or minus one;
      for datasets that count only, absent if no answer is an integer.

    Which of them there are depends on the records only.

    Args:
        texts: predictions, stripped.
        records: the test records they answer, of one dataset.
        dataset: as it is declared.
    """
    parts = {"blank_frac": sum(not text for text in texts) / len(texts)}
    fits = answer_format(records, dataset)
    if fits is not None:
        parts["format_frac"] = sum(map(fits, texts)) / len(texts)
    right = _strictly_right(dataset)
    if right is None:
        return parts
    answers = [str(record.answer).strip() for record in records]
    letters = all(map(_LETTER.fullmatch, answers))
    pairs = list(zip(texts, answers, strict=True))
    all_wanted = [record.votes or (answer,) for record, answer in zip(records, answers, strict=True)]
    near = [
        not any(right(text, each) for each in wanted) and _loose(text, letters) in {_loose(a, letters) for a in wanted}
        for text, wanted in zip(texts, all_wanted, strict=True)
    ]
    parts["near_frac"] = sum(near) / len(texts)
    if dataset.counts:
        counted = [(_integer(text), number) for text, answer in pairs if (number := _integer(answer)) is not None]
        if counted:
            off = [found is not None and abs(found - number) == 1 for found, number in counted]
            parts["off_by_one_frac"] = sum(off) / len(counted)
    return parts


def answer_format(records: Sequence[Record], dataset: Dataset) -> Callable[[str], bool] | None:
    """Whether a prediction has the form of these records' answers, by what all of the answers have in common.

    In this order: a box; one of two answers (yes and no, 1 and 0); an integer; a number; one of the single capital
    letters seen; one of a closed set of answers (class names). A closed set, of two too, has at most `MAX_CLOSED`
    answers that occur `MIN_REPEATS` times each on average. Case does not count, as it does not for the score: every
    right answer has the form. Of numbers any number has it, of options any letter that is an answer, alone or with what
    its rule forgives. None for captions, votes, what an answer need only contain, and mixed answers.
    """
    kind = dataset.answer.kind
    if kind == "box":
        return lambda text: parse_box(text) is not None
    if kind in ("caption", "soft_vote", "contains"):
        return None
    answers = [str(record.answer).strip() for record in records]
    if kind == "number":
        return _is_number if all(map(_is_number, answers)) else None
    if kind == "choice":
        options = {words.option_letter(answer) for answer in answers}
        return None if None in options else lambda text: words.option_letter(text) in options
    seen = {answer.casefold() for answer in answers}
    closed = len(seen) <= MAX_CLOSED and len(answers) >= MIN_REPEATS * len(seen)
    if not (closed and len(seen) <= 2):
        for form in (_INTEGER, _NUMBER):
            if all(map(form.fullmatch, answers)):
                return partial(_has, form)
    if closed or all(map(_LETTER.fullmatch, answers)):
        return lambda text: text.casefold() in seen
    return None


def _strictly_right(dataset: Dataset) -> Callable[[str, str], bool] | None:
    """Whether a prediction is an answer by the strict rule of its kind; None where that says nothing of form."""
    tolerance = Decimal(repr(dataset.answer.tolerance))
    rules: dict[str, Callable[[str, str], bool]] = {
        "exact": words.whole,
        "number": lambda text, answer: words.number(text, answer, tolerance),
        "choice": words.choice,
        "contains": words.contains,
        "soft_vote": lambda text, answer: folded(text) == folded(answer),
    }
    return rules.get(dataset.answer.kind)


def _is_number(text: str) -> bool:
    return words.read_number(text) is not None


def _has(form: re.Pattern[str], text: str) -> bool:
    return form.fullmatch(text) is not None


def _loose(text: str, letters: bool) -> str:
    """What is left of an answer once its form is set aside; an empty text stays apart from every other."""
    rest = text.casefold().strip()
    if letters and (match := _OPTION.fullmatch(rest)):
        return match.group(1)
    rest = re.sub(r"[$€£%]", "", rest.removesuffix(".")).strip()
    rest = re.sub(r"^(?:a|an|the)\s+", "", rest)
    rest = re.sub(r"(?<=\d),(?=\d{3}(?:\D|$))", "", rest)
    return _WORDS.get(rest, rest) or text


def _integer(text: str) -> int | None:
    # No count has a hundred digits, and Python converts no more than some thousands.
    return int(text.replace(",", "")) if len(text) <= 100 and _INTEGER.fullmatch(text) else None
