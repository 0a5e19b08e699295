"""What the answers of each dataset look like: an answer of another form is worth a look before a long run.

The table states what the datasets are asked for, not what their files were seen to hold (they cannot be fetched here).
An answer outside it is a warning, never a reason to leave a record out: it trains and is scored as it is.

| dataset | expected | why |
|---|---|---|
| ArxivQA | one option letter | multiple choice over figures of papers |
| Grounding | `[x1, y1, x2, y2]`, each 0..1 | unless the question holds the box and asks for words |
| CLEVR-Math | a whole number | every question counts |
| super-CLEVR | a whole number where it asks how many, otherwise at most 5 words | counts and attributes |
| FigureQA | yes or no | every question is binary |
| Flickr30k-cap | at least two words | captions |
| all others | at most 20 words | "a single word or phrase"; OCRVQA answers with whole titles |

In any dataset a question that asks for "the option's letter" expects one letter.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from fcit_ray.data.records.parsing import Record, parse_box

_LETTER = re.compile(r"[A-Za-z]")
_WHOLE_NUMBER = re.compile(r"-?\d+")
_HOW_MANY = re.compile(r"\bhow many\b|\bnumber of\b|\bcount\b", re.IGNORECASE)
_BY_LETTER = re.compile(r"option['\u2019]s letter", re.IGNORECASE)
_HAS_BOX = re.compile(r"\[\s*[\d.]+\s*(?:,\s*[\d.]+\s*){3}\]")


@dataclass(frozen=True)
class _Format:
    """What is expected, in words, and whether an answer to a question is that."""

    expected: str
    fits: Callable[[str, str], bool]


def _num_words(text: str) -> int:
    return len(re.findall(r"\w+", text))


def _box_or_words(question: str, answer: str) -> bool:
    if _HAS_BOX.search(question):
        return _num_words(answer) > 0
    box = parse_box(answer)
    return box is not None and all(0 <= side <= 1 for side in box)


_LETTER_FORMAT = _Format("one option letter", lambda question, answer: bool(_LETTER.fullmatch(answer.rstrip("."))))
_NUMBER_FORMAT = _Format("a whole number", lambda question, answer: bool(_WHOLE_NUMBER.fullmatch(answer.rstrip("."))))
_PHRASE_FORMAT = _Format("at most 20 words", lambda question, answer: _num_words(answer) <= 20)
_FEW_WORDS_FORMAT = _Format("a number or at most 5 words", lambda question, answer: _num_words(answer) <= 5)

_FORMATS = {
    "ArxivQA": _LETTER_FORMAT,
    "Grounding": _Format("[x1, y1, x2, y2], each 0..1", _box_or_words),
    "CLEVR-Math": _NUMBER_FORMAT,
    "super-CLEVR": _FEW_WORDS_FORMAT,
    "FigureQA": _Format("yes or no", lambda question, answer: answer.rstrip(".").casefold() in ("yes", "no")),
    "Flickr30k-cap": _Format("at least two words", lambda question, answer: _num_words(answer) >= 2),
}


def odd_answer(record: Record) -> str | None:
    """The first answer of a record that has another form than its dataset's, and what was expected; or None."""
    pairs = [(turn.question, record.answer if turn.answer is None else turn.answer) for turn in record.turns]
    for question, answer in pairs:
        if answer is None:
            continue
        form = _FORMATS.get(record.dataset, _PHRASE_FORMAT)
        if _BY_LETTER.search(question):
            form = _LETTER_FORMAT
        elif record.dataset == "super-CLEVR" and _HOW_MANY.search(question):
            form = _NUMBER_FORMAT
        if not form.fits(question, answer.strip()):
            return f"answer {answer!r:.60}; expected {form.expected}"
    return None
