"""Rules over words: what of an answer must be said, and what around it is forgiven.

Every rule here gets a prediction and an answer without space around them, and says whether the one is the other.
"""

import re
from decimal import Decimal, InvalidOperation

_LETTER = re.compile(r"(?:\(([a-z])\)|\[([a-z])\]|([a-z])\)?)\.?", re.ASCII | re.IGNORECASE)
_NUMBER = re.compile(
    r"([-+\u2212]?)([$\u20ac\u00a3\u00a5]?)\s?((?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?)(?<=\d)(?:e([-+]?\d{1,3}))?\s?(%?)\.?",
    re.ASCII | re.IGNORECASE,
)
MOST_DIGITS = 100
"""Characters of what may still be a number: no answer has more, and arithmetic on millions of digits takes for ever."""


def whole(text: str, answer: str) -> bool:
    """The whole answer, apart from case."""
    return text.casefold() == answer.casefold()


def part(text: str, answer: str) -> bool:
    """Any part of the answer, apart from case; nothing at all is a part of every answer."""
    return text.casefold() in answer.casefold()


def contains(text: str, answer: str) -> bool:
    """The answer stands in the prediction as whole words, apart from case, line breaks and its own final full stop.

    A hyphen or an apostrophe joins words, and a sign, a decimal point or a comma between digits joins numbers: `lion`
    does not stand in `sea-lion`, `3` in none of `13`, `-3`, `3.5` and `3,000`.
    """
    said = " ".join(text.casefold().split())
    wanted = " ".join(answer.casefold().split())
    wanted = wanted.removesuffix(".").rstrip() or wanted
    before = r"(?<!\w)(?<!\w[-'\u2019])(?<!\d[.,])" + (r"(?<![-+\u2212.])" if wanted[:1].isdigit() else "")
    after = r"(?!\w)(?![-'\u2019]\w)(?![.,]\d)"
    return re.search(f"{before}{re.escape(wanted)}{after}", said) is not None


def option_letter(text: str) -> str | None:
    """The capital letter that a text names alone: `B`, `b`, `B)`, `(B)`, `[B]`, each with a final full stop or none."""
    match = _LETTER.fullmatch(text)
    return next(filter(None, match.groups())).upper() if match else None


def choice(text: str, answer: str) -> bool:
    """The option's letter and nothing else (see `option_letter`); an answer that is no letter must be said whole."""
    letter = option_letter(answer)
    return whole(text, answer) if letter is None else option_letter(text) == letter


def read_number(text: str) -> tuple[Decimal, str] | None:
    """The number that a text is, and its sign of currency or percent; None if it is no number as a whole.

    A number is digits, with commas between thousands or without, with or without decimals behind a point, a sign before
    it and an exponent (`1.5e3`) behind it. One of $, euro, pound and yen may stand between sign and digits, a percent
    sign and one full stop behind them. No number: `three`, `1/2`, `3 apples`, `3,5`, `1,23`.
    """
    match = _NUMBER.fullmatch(text) if len(text) <= MOST_DIGITS else None
    if match is None:
        return None
    sign, currency, digits, exponent, percent = match.groups()
    try:
        value = Decimal(f"{sign.replace(chr(0x2212), '-')}{digits.replace(',', '')}e{exponent or 0}")
    except InvalidOperation:  # pragma: no cover - the pattern lets no other text through
        return None
    return value, currency + percent


def number(text: str, answer: str, tolerance: Decimal) -> bool:
    """Equal as numbers, give or take the tolerance, that itself included; exact where others would round.

    A sign of currency or percent may be left out or be too many, but not be another one: `45` is `45%`, `$45` is not,
    and neither is `0.45`. An answer that is no number must be said whole.
    """
    wanted = read_number(answer)
    if wanted is None:
        return whole(text, answer)
    said = read_number(text)
    if said is None or (said[1] and wanted[1] and said[1] != wanted[1]):
        return False
    return abs(said[0] - wanted[0]) <= tolerance
