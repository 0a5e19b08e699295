"""Soft votes: an answer is worth as much as there are people who gave it.

The accuracy of VQA and TextVQA: of the n answers that people gave to a question each is left out in turn; against the
others a prediction scores a third for every one that it is, at most 1; the mean over all n counts. Of ten people three
make 0.9, and four 1.
"""

import re
from collections.abc import Sequence

ENOUGH = 3
"""Others who must have said the same for a full score."""
OFFICIAL_VOTES = 10

_COUNTED = "zero one two three four five six seven eight nine ten"
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_COUNTED.split())}
_ARTICLES = ("a", "an", "the")
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_FULL_STOP = re.compile(r"\.(?!\d)")
_MOST_FULL_STOPS = 32  # a flag of the released code stands where the number of replacements belongs
_SHORTENED = """
    'ow's'at 'twas ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
    he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't
    needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
_APOSTROPHES = {
    f"{word[:place]}{word[place + 1 :]}": word
    for word in _SHORTENED.split()
    for place, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}
"""What a word becomes that lacks one apostrophe, and the one that loses its own, as in the official table."""


def soft_vote(text: str, votes: Sequence[str]) -> float:
    """The share of a full score, 0..1, that a prediction earns; what is the same must be so to the letter.

    Args:
        text: the prediction.
        votes: what people answered, n of them. Fewer than four cannot make a full score of three others: then all the
            others must have said the same, and a single one is simply right or wrong.

    Raises:
        ValueError: no votes.
    """
    if not votes:
        raise ValueError("no answers of people to hold a prediction against; expected at least one")
    same, all_of_them = votes.count(text), len(votes)
    if all_of_them == 1:
        return float(same)
    needed = min(ENOUGH, all_of_them - 1)
    when_one_of_them_is_out = min(1.0, (same - 1) / needed) if same else 0.0
    when_another_is_out = min(1.0, same / needed)
    return (same * when_one_of_them_is_out + (all_of_them - same) * when_another_is_out) / all_of_them


def folded(text: str) -> str:
    """Apart from case and from space, around words and between them."""
    return " ".join(text.casefold().split())


def normalised(text: str) -> str:
    """As the official evaluation of VQA compares answers: its form in TextVQA's evaluator, with its slips.

    Lower case; no commas and question marks; `'s` is a word of its own; other punctuation becomes space, or nothing
    where the text has a space on either side of such a mark; no full stops but before digits (32 of them at most);
    numbers up to ten as digits, `none` as 0; no articles; apostrophes where words of a table lack one (`dont`).
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    said = text
    for mark in _MARKS:
        beside_space = f"{mark} " in said or f" {mark}" in said
        text = text.replace(mark, "" if beside_space else " ")
    text = _FULL_STOP.sub("", text, count=_MOST_FULL_STOPS)
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_APOSTROPHES.get(word, word) for word in words if word not in _ARTICLES)
