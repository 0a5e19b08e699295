"""What kind of answers a data set asks for, told from the answers themselves, with the counts that speak for it."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from fcit_ray.data.records.parsing import holds_box, parse_box
from fcit_ray.data.scoring.words import option_letter, read_number

_RULE = 0.95
"""The share of the answers that must be of a form to be taken for it: some files hold a few odd ones."""
_WHOLE = re.compile(r"[-+]?\d+\.?")
_COUNTING = re.compile(
    r"\bhow many\b|\bnumber of\b|\bcount\b|\badd(ed)?\b|\bsubtract(ed)?\b|\bsum\b|\bremove\b|\bleft\b", re.IGNORECASE
)
_SENTENCE_WORDS = 5
_FEW_WORDS = 5
_MOST_LETTERS = 11
"""Single letters that are options are few, and None of an odd answer."""


@dataclass(frozen=True)
class AnswerGuess:
    """What the answers were taken for.

    Attributes:
        kind: as `benchmark.datasets.<name>.answer.kind`; None if it cannot be told.
        counts: whether its numbers are counts.
        why: what spoke for it, with counts and examples.
    """

    kind: str | None
    counts: bool
    why: str


def guess_kind(pairs: Sequence[tuple[str, str]], references: str | None = None) -> AnswerGuess:
    """Tell the kind of some answers.

    Args:
        pairs: questions, each with its answer; at least one.
        references: a file of reference captions that was found beside them.
    """
    answers = [answer for _, answer in pairs]
    total = len(answers)
    common = Counter(answers)
    boxes, letters, numbers = (
        sum(found is not None for found in map(read, answers)) for read in (parse_box, option_letter, read_number)
    )
    if boxes >= _RULE * total:
        return AnswerGuess("box", False, f"{boxes} of {total} answers are boxes, as {_examples(common)}")
    if letters >= _RULE * total and len({option_letter(answer) for answer in answers}) <= _MOST_LETTERS:
        return AnswerGuess(
            "choice", False, f"{letters} of {total} answers are a single letter: {_most_frequent(common)}"
        )
    if numbers >= _RULE * total:
        whole = sum(_WHOLE.fullmatch(answer) is not None for answer in answers)
        counting = sum(_COUNTING.search(question) is not None for question, _ in pairs)
        counts = whole == numbers and counting >= total / 2
        asked = f"; {counting} of {total} questions ask how many" if counts else ""
        return AnswerGuess("number", counts, f"{numbers} of {total} answers are numbers, as {_examples(common)}{asked}")
    words = [len(answer.split()) for answer in answers]
    middle = median(words)
    if references:
        return AnswerGuess("caption", False, f"reference captions lie beside it, in {references}")
    if middle >= _SENTENCE_WORDS and len(common) > total / 2:
        return AnswerGuess(
            "caption",
            False,
            f"sentences: half of the {total} answers have {middle:g} words or more, {len(common)} are different, as "
            f"{_examples(common)}",
        )
    boxed = sum(map(holds_box, answers))
    if boxed > total / 10:
        return AnswerGuess(
            None, False, f"{boxed} of {total} answers hold a box, the others words, as {_examples(common)}"
        )
    few = sum(count <= _FEW_WORDS for count in words)
    return AnswerGuess(
        "exact",
        False,
        f"{few} of {total} answers have at most {_FEW_WORDS} words; {len(common)} are different: "
        f"{_most_frequent(common)}",
    )


def _most_frequent(common: Counter[str]) -> str:
    shown = [f"{answer:.30} ({count})" for answer, count in common.most_common(4)]
    return ", ".join(shown) + (" ..." if len(common) > 4 else "")


def _examples(common: Counter[str]) -> str:
    return " and ".join(f"{answer!r:.60}" for answer, _ in common.most_common(2))
