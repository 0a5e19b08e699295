"""What the answers of each dataset look like: an answer of another form is worth a look before a long run.

By the kind of answers that a dataset declares:

| kind | expected |
|---|---|
| `number` | a number, as the rule reads one |
| `choice` | one option letter |
| `box` | `[x1, y1, x2, y2]`, each 0..1, unless the question holds the box and asks for words |
| `caption` | at least two words |
| `soft_vote` | the answers of ten people |
| `contains`, one's own | anything |
| `exact` | at most 20 words: "a single word or phrase"; OCRVQA answers with whole titles |

Of these datasets of the known benchmarks, by what they are asked for and not by what their files were seen to hold
(they cannot be fetched here):

| dataset | expected | why |
|---|---|---|
| ArxivQA | one option letter | multiple choice over figures of papers |
| CLEVR-Math | a whole number | every question counts |
| super-CLEVR | a whole number where it asks how many, otherwise at most 5 words | counts and attributes |
| FigureQA | yes or no | every question is binary |

Where answers are exact, a question that asks for "the option's letter" expects one letter. An answer outside all this
is a warning, never a reason to leave a record out: it trains and is scored as it is.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fcit_ray.config.datasets import Dataset
from fcit_ray.data.records.parsing import Record, parse_box
from fcit_ray.data.scoring.votes import OFFICIAL_VOTES
from fcit_ray.data.scoring.words import option_letter, read_number

NUM_EXAMPLES = 3
"""Answers that a warning spells out."""

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


_LETTER_FORMAT = _Format("one option letter", lambda question, answer: option_letter(answer) is not None)
_WHOLE_FORMAT = _Format("a whole number", lambda question, answer: bool(_WHOLE_NUMBER.fullmatch(answer.rstrip("."))))
_NUMBER_FORMAT = _Format("a number", lambda question, answer: read_number(answer) is not None)
_BOX_FORMAT = _Format("[x1, y1, x2, y2], each 0..1", _box_or_words)
_CAPTION_FORMAT = _Format("at least two words", lambda question, answer: _num_words(answer) >= 2)
_PHRASE_FORMAT = _Format("at most 20 words", lambda question, answer: _num_words(answer) <= 20)
_FEW_WORDS_FORMAT = _Format("a number or at most 5 words", lambda question, answer: _num_words(answer) <= 5)
_YES_NO_FORMAT = _Format("yes or no", lambda question, answer: answer.rstrip(".").casefold() in ("yes", "no"))

_BY_KIND = {"number": _NUMBER_FORMAT, "choice": _LETTER_FORMAT, "box": _BOX_FORMAT, "caption": _CAPTION_FORMAT}
_BY_NAME = {
    "ArxivQA": _LETTER_FORMAT,
    "CLEVR-Math": _WHOLE_FORMAT,
    "super-CLEVR": _FEW_WORDS_FORMAT,
    "FigureQA": _YES_NO_FORMAT,
}


def odd_answer(record: Record, dataset: Dataset | None) -> str | None:
    """The first answer of a record that has another form than its dataset's, and what was expected; or None.

    Args:
        record: of training or test.
        dataset: as it is declared; None is that of a partition, of whose answers nothing is known.
    """
    pairs = [(turn.question, record.answer if turn.answer is None else turn.answer) for turn in record.turns]
    for question, answer in pairs:
        if answer is None or (form := _format_of(record, dataset, question)) is None:
            continue
        if not form.fits(question, answer.strip()):
            return f"answer {answer!r:.60}; expected {form.expected}"
    if record.votes and len(record.votes) != OFFICIAL_VOTES:
        return f"{len(record.votes)} answers of people; expected {OFFICIAL_VOTES}"
    return None


def _format_of(record: Record, dataset: Dataset | None, question: str) -> _Format | None:
    kind = "" if dataset is None else dataset.answer.kind
    if kind != "exact":
        return _BY_KIND.get(kind)
    if _BY_LETTER.search(question):
        return _LETTER_FORMAT
    if record.dataset == "super-CLEVR" and _HOW_MANY.search(question):
        return _WHOLE_FORMAT
    return _BY_NAME.get(record.dataset, _PHRASE_FORMAT)


def misfit(name: str, dataset: Dataset, records: Sequence[Record]) -> str | None:
    """A warning if a dataset's answers are not of the kind that it declares, with their share and examples; or None.

    Args:
        name: of the dataset.
        dataset: as it is declared; of answers that are exact, and of rules of one's own, nothing is expected.
        records: that are to be answered.
    """
    if dataset.answer.kind not in (*_BY_KIND, "soft_vote"):
        return None
    odd = [said for record in records if (said := odd_answer(record, dataset))]
    if not odd:
        return None
    share = f"{len(odd)} of {len(records)} records ({100 * len(odd) / len(records):.0f} %)"
    return (
        f"{name}: {share} do not fit the kind of answers that is declared, {dataset.answer.kind!r}: "
        f"{'; '.join(odd[:NUM_EXAMPLES])}{' and others' if len(odd) > NUM_EXAMPLES else ''}. "
        f"They are scored all the same; if the kind is wrong, change benchmark.datasets.{name}.answer"
    )
