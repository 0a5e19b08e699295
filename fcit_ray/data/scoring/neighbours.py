"""The rules of the neighbours' released code: CoIN's tasks and MLLM-DCL's domains, each as its authors score it.

A rule gets a prediction without space around it and the record, and gives 0..1. They are for comparing with published
figures; what each rewards wrongly stands with it. Nothing here is what a dataset is scored by unless it asks for it.
"""

import posixpath
import re

from fcit_ray.data.records.layout import Record
from fcit_ray.data.scoring.votes import OFFICIAL_VOTES, normalised, soft_vote
from fcit_ray.data.scoring.words import option_letter

_OPTIONS = "ABCDE"
_EXACT_SOURCES = ("AI2D", "TQA", "VQA", "SciVerse")
_REFUSAL = "Unanswerable"


def coin_scienceqa(text: str, record: Record) -> float:
    """CoIN's ScienceQA (`eval_science_qa.py` of zackschen/CoIN): a letter is looked for in the prediction.

    It is the whole prediction, or what stands before `. ` at its start (A to E), or else the first word of one letter
    or digit anywhere, whatever its case: `a cat` answers A, and so does `It is a dog, hence B`.
    """
    letter = _leading_option(text)
    if letter is None:
        found = re.search(r"\b(\w)\b", text)
        letter = found[1].upper() if found else ""
    return float(letter == _right_option(record))


def hide_scienceqa(text: str, record: Record) -> float:
    """ScienceQA as in HiDe-LLaVA's and MCITlib's copy of CoIN's code: as `coin_scienceqa`, but for the last resort.

    That is a single `The answer is X` with any one character behind the X.
    """
    letter = _leading_option(text)
    if letter is None:
        found = re.findall(r"The answer is ([A-Z]).", text)
        letter = found[0] if len(found) == 1 else ""
    return float(letter == _right_option(record))


def coin_textvqa(text: str, record: Record) -> float:
    """CoIN's TextVQA (`m4c_evaluator.py`): the soft vote over exactly ten answers, compared as `votes.normalised` does.

    Raises:
        ValueError: the record has another number of answers.
    """
    if len(record.votes) != OFFICIAL_VOTES:
        raise ValueError(f"{record.where}: {len(record.votes)} answers of people; the released rule takes ten")
    return soft_vote(normalised(text), [normalised(vote) for vote in record.votes])


def coin_imagenet(text: str, record: Record) -> float:
    """CoIN's ImageNet (`eval_ImagetNet.py`): one stands in the other, letter by letter, case included.

    An empty prediction stands in every answer, hence is right; so are `a`, and a list of all thousand classes.
    """
    answer = _answer(record)
    return float(answer in text or text in answer)


def coin_gqa(text: str, record: Record) -> float:
    """CoIN's GQA (`convert_gqa_for_eval.py`, `eval_gqa.py`): the prediction in lower case without final full stops.

    The answer is taken as it is: one with a capital letter or a full stop at its end can never be given.
    """
    return float(text.rstrip(".").lower() == _answer(record))


def coin_ocrvqa(text: str, record: Record) -> float:
    """CoIN's OCRVQA (`eval_ocrvqa.py`): equal in lower case; a prediction with `Unanswerable` in it is wrong."""
    return float(_REFUSAL not in text and text.lower() == _answer(record).lower())


def mllm_dcl_rs(text: str, record: Record) -> float:
    """MLLM-DCL's RS and AD (`eval_ai2d.py` of MLLM-CL and MCITlib), in lower case: contained, by rough word borders.

    An answer of several words counts wherever it stands in the prediction. One of a single word loses its full stops;
    in a prediction of one word it counts wherever it stands, in a longer one with a space on either side of it, or a
    full stop or a comma behind it: `no` counts in `piano there`, and a prediction that lists all options is right.
    """
    if _REFUSAL in text:
        return 0.0
    said, answer = text.lower(), _answer(record).lower()
    if " " in answer:
        return float(answer in said)
    answer = answer.replace(".", "")
    if " " in said:
        return float(any(form in said for form in (f" {answer}", f"{answer} ", f"{answer}.", f"{answer},")))
    return float(answer in said)


def mllm_dcl_med(text: str, record: Record) -> float:
    """MLLM-DCL's Med (`eval_pvqa.py`): the answer stands anywhere in the prediction, in lower case.

    `no` counts in `there is nothing abnormal`.
    """
    return float(_REFUSAL not in text and _answer(record).lower() in text.lower())


def mllm_dcl_fin(text: str, record: Record) -> float:
    """MLLM-DCL's Fin (`eval_finvis.py`): equal in lower case once the prediction has lost its spaces and full stops.

    The answer keeps its own: one with a space or a full stop in it can never be given.
    """
    return float(_REFUSAL not in text and text.lower().replace(" ", "").replace(".", "") == _answer(record).lower())


def mllm_dcl_sci(text: str, record: Record) -> float:
    """MLLM-DCL's Sci (`eval_sci.py`), in lower case; which rule, the name of the picture's file says.

    Before its first underscore stands where the question is from. AI2D, TQA, VQA and SciVerse: equal. All others
    (maps): the answer stands anywhere in the prediction; a question with `Which states` scores the share of the states
    of the answer that the prediction lists between commas, spaces included: what is listed too much costs nothing.
    """
    if _REFUSAL in text:
        return 0.0
    said, answer = text.lower(), _answer(record).lower()
    if record.images and posixpath.basename(record.images[0]).split("_")[0] in _EXACT_SOURCES:
        return float(said == answer)
    if "Which states" in record.turns[0].question:
        states, listed = answer.split(","), said.split(",")
        return sum(state in listed for state in states) / len(states)
    return float(answer in said)


def _answer(record: Record) -> str:
    assert record.answer is not None, "test records carry their answer; load_test checks it"
    return record.answer.strip()


def _right_option(record: Record) -> str:
    """The letter of the answer, without the brackets that some files write."""
    return option_letter(_answer(record)) or _answer(record)


def _leading_option(text: str) -> str | None:
    if len(text) == 1 and text in _OPTIONS:
        return text
    return text[0] if len(text) >= 3 and text[0] in _OPTIONS and text[1:3] == ". " else None
