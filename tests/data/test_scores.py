"""The scorers against tables of answers judged by hand."""

import math

import pytest
from fcit_layout import FCIT

from fcit_ray.config.reading import with_overrides
from fcit_ray.config.schema import parse_config
from fcit_ray.data.records.layout import Record, parse_box
from fcit_ray.data.scoring.boxes import iou
from fcit_ray.data.scoring.rules import Rule, rule_of, scored_by
from fcit_ray.data.scoring.scores import majority_answer, majority_score, score
from fcit_ray.models.prompt import Turn
from fcit_ray.types import Prediction


def asked(name: str, answer: str, **more) -> Record:
    return Record("DVQA", name, ("a.png",), (Turn("a ?"),), answer, **more)


def ruled(name: str) -> Rule:
    return Rule(name, FCIT["Flickr30k-cap" if name.startswith("caption") else "Grounding" if "box" in name else "DVQA"])


def one(rule: str | Rule, prediction: str, record: Record):
    rule = ruled(rule) if isinstance(rule, str) else rule
    return score(rule, [Prediction(record.id, prediction, record.answer or "")], [record])


@pytest.mark.parametrize(
    ("prediction", "answer", "right"),
    [
        ("goldfish", "Goldfish", 1),
        (" goldfish\n", "goldfish", 1),
        ("GOLDFISH", "goldfish", 1),
        ("gold", "goldfish", 0),  # the released rule for DVQA and FigureQA counts a substring as right
        ("", "goldfish", 0),  # ... hence an empty answer too
        ("a goldfish", "goldfish", 0),
        ("goldfish.", "goldfish", 0),
        ("4656", "4,656", 0),
        ("yes", "no", 0),
    ],
)
def test_exact_means_the_whole_answer_apart_from_case(prediction, answer, right):
    result = one("exact", prediction, asked("0", answer))
    assert result.per_sample == (right,)
    assert result.percent == 100 * right


# Verdicts on DVQA, whose released rule is the substring. Where it is the whole string, released is strict.
@pytest.mark.parametrize(
    ("prediction", "answer", "strict", "released"),
    [
        ("yes", "Yes", 1, 1),  # case never counts
        ("\tYes \n", "yes", 1, 1),  # nor space around: generation ends on either
        ("new  york", "new york", 0, 0),  # space within does
        ("A", "A", 1, 1),
        ("A.", "A", 0, 0),  # a full stop is part of the answer: "A." is in no "A"
        ("A", "A.", 0, 1),  # ... but "A" is in "A."
        ("(A)", "A", 0, 0),
        ("A) 42", "A", 0, 0),
        ("B", "A", 0, 0),
        ("", "A", 0, 1),  # the flaw: nothing is found everywhere
        (" ", "A", 0, 1),  # ... since space is taken off first
        ("o", "no", 0, 1),  # one letter
        ("no", "not at all", 0, 1),  # a part, though it means another thing
        ("not at all", "no", 0, 0),  # the other way round nothing is found
        ("3", "13", 0, 1),  # digits are letters to it
        ("three", "3", 0, 0),
        ("3.0", "3", 0, 0),  # text, not value
        ("3", "3.0", 0, 1),
        ("03", "3", 0, 0),
        ("4656", "4,656", 0, 0),  # the thousands' comma
        ("4,656", "4,656", 1, 1),
        ("4", "4,656", 0, 1),
        ("50", "50%", 0, 1),  # a unit left out
        ("50%", "50", 0, 0),  # a unit too many
        ("5 cm", "5cm", 0, 0),
        ("Stra\u00dfe", "STRASSE", 1, 1),  # full case folding
        ("caf\u00e9", "cafe\u0301", 0, 0),  # composed and decomposed are two texts, in the released code too
        ("\u00c9cole", "\u00e9cole", 1, 1),
        ("\uff13", "3", 0, 0),  # a full-width digit
        ("x\u00a0", "x", 1, 1),  # a no-break space around is space
        ("\u2212 3", "-3", 0, 0),  # a minus sign is not a hyphen
    ],
)
def test_tricky_answers_under_both_scorings(prediction, answer, strict, released):
    record = asked("0", answer)
    assert one(rule_of(FCIT["DVQA"]), prediction, record).per_sample == (strict,)
    assert one(rule_of(FCIT["DVQA"], "released"), prediction, record).per_sample == (released,)
    assert one(rule_of(FCIT["ArxivQA"], "released"), prediction, record).per_sample == (
        strict,
    )  # the whole string there


def test_the_released_rules_differ_on_four_datasets():
    assert {
        name: released.name
        for name, each in FCIT.items()
        if (released := rule_of(each, "released")) != rule_of(each)
    } == {
        "Flickr30k-cap": "caption_released", "FigureQA": "substring", "DVQA": "substring", "Grounding": "box_released"
    }  # fmt: skip
    assert rule_of(FCIT["Flickr30k-cap"], "strict", "full").name == "caption_full"
    strict = parse_config({"benchmark": {"tasks": ["DVQA", "Flickr30k-cap"]}})
    released = with_overrides(strict, ["evaluation.scoring=released"])
    assert scored_by(released, ["DVQA"]) == {"scoring": "released"}
    assert scored_by(strict, ["DVQA", "Flickr30k-cap"]) == {"scoring": "strict", "captions": "portable"}
    assert scored_by(released, ["Flickr30k-cap"]) == {"scoring": "released", "captions": "full"}


def test_percent_is_the_mean_and_blank_answers_are_counted():
    records = [asked(str(n), "yes") for n in range(4)]
    predictions = [Prediction("2", "yes", "yes"), *(Prediction(n, " ", "yes") for n in "013")]  # in any order
    result = score(ruled("exact"), predictions, records)
    assert result.per_sample == (0, 0, 1, 0)
    assert result.percent == 25
    assert result.parts == {"blank_frac": 0.75, "near_frac": 0.0}


# The answer is the box from (0.2, 0.2) to (0.6, 0.6), of area 0.16.
@pytest.mark.parametrize(
    ("prediction", "right", "overlap"),
    [
        ("[0.2,0.2,0.6,0.6]", 1, 1.0),
        (" [0.20, 0.20, 0.60, 0.60]. ", 1, 1.0),
        ("[0.2,0.2,0.6,0.5]", 1, 0.75),  # 0.12 of 0.16
        ("[0.2,0.2,0.6,0.4]", 0, 0.5),  # exactly half is not more than half
        ("[0.3,0.3,0.7,0.7]", 0, 0.09 / 0.23),  # 0.3 * 0.3 over 2 * 0.16 - 0.09
        ("[0.0,0.0,1.0,1.0]", 0, 0.16),
        ("[0.7,0.7,0.9,0.9]", 0, 0.0),
        ("[0.6,0.6,0.2,0.2]", 0, 0.0),  # corners the wrong way round
        ("[0.2,0.2,0.6]", 0, 0.0),
        ("[.2, .2, 6e-1, +0.6]", 1, 1.0),  # other ways to write the numbers
        ("[0.2,0.2,0.6,0.6", 0, 0.0),  # cut short: the last number may be too
        ("0.2,0.2,0.6,0.6", 0, 0.0),
        ("(0.2,0.2,0.6,0.6)", 0, 0.0),
        ("[[0.2,0.2,0.6,0.6]]", 0, 0.0),
        ("[0.2 0.2 0.6 0.6]", 0, 0.0),
        ("[0,2,0,2,0,6,0,6]", 0, 0.0),  # decimal commas make eight numbers
        ("[0.2,0.2,0.6,0.6][0.2,0.2,0.6,0.6]", 0, 0.0),  # one box was asked for
        ("[0.2,0.2,nan,0.6]", 0, 0.0),
        ("[0.2,0.2,1e999,0.6]", 0, 0.0),  # infinite
        ("[0.6,0.2,0.2,0.6]", 0, 0.0),  # left and right swapped
        ("[20,20,60,60]", 0, 0.0),  # pixels or percent: a box far from the picture
        ("the box is [0.2,0.2,0.6,0.6]", 0, 0.0),
        ("", 0, 0.0),
    ],
)
def test_a_box_is_right_above_half_overlap(prediction, right, overlap):
    record = Record(
        "Grounding", "0", ("a.png",), (Turn("a ?"),), "[0.2,0.2,0.6,0.6]", box=(0.2, 0.2, 0.6, 0.6), size=(10, 5)
    )
    result = one("box", prediction, record)
    assert result.per_sample == (right,)
    assert result.parts["mean_iou"] == pytest.approx(overlap)
    assert result.parts["unparsed_frac"] == (parse_box(prediction) is None)


# Read as released: brackets go, then the first and the last character; what is left is split at commas.
@pytest.mark.parametrize(
    ("prediction", "right", "parsed"),
    [
        ("[0.2, 0.2, 0.6, 0.6]", 0, True),  # .2, 0.2, 0.6, 0. : no height
        ("[0.20, 0.20, 0.60, 0.60]", 1, True),  # .20 to 0.6
        ("[0.20,0.20,0.60,0.59]", 1, True),  # 0.5: 0.4 * 0.3 of 0.16
        ("[0.2,0.2,0.6,0.49]", 0, True),  # 0.4: exactly half is not more than half
        ("[0.20,0.20,0.60,0.60].", 1, True),  # the full stop is what is cut
        ("(0.2,0.2,0.6,0.6)", 1, True),  # other brackets are what is cut
        ("[[0.20,0.20,0.60,0.60]]", 1, True),
        ("0.20,0.20,0.60,0.60", 1, True),
        ("[0.20,0.20,0.60]", 0, False),
        ("[0.20,0.20,nan,0.60]", 0, False),
        ("[0.20,0.20,inf,0.60]", 0, False),
        ("the box is [0.20,0.20,0.60,0.60]", 0, False),
        ("", 0, False),
    ],
)
def test_grounding_as_released_loses_digits(prediction, right, parsed):
    record = Record(
        "Grounding", "0", ("a.png",), (Turn("a ?"),), "[0.2,0.2,0.6,0.6]", box=(0.2, 0.2, 0.6, 0.6), size=(10, 5)
    )
    result = one(rule_of(FCIT["Grounding"], "released"), prediction, record)
    assert result.per_sample == (right,)
    assert result.parts["unparsed_frac"] == (not parsed)


def test_boxes_are_squares_of_the_longer_side():
    # Scaling both sides by one number leaves the overlap as it is: 1/7 for unit squares half a side apart both ways
    # (0.25 over 1 + 1 - 0.25).
    assert iou((0, 0, 1, 1), (0.5, 0.5, 1.5, 1.5)) == pytest.approx(1 / 7)
    assert iou((0, 0, 8, 8), (4, 4, 12, 12)) == pytest.approx(1 / 7)


def captioned(name: str, *references: str) -> Record:
    return Record("Flickr30k-cap", name, ("a.png",), (Turn("a ?"),), references[0], references=references)


def test_a_short_caption_by_hand():
    # "a red dog" against "a red dog runs": every n-gram up to 3 is right, brevity exp(1 - 4/3); no 4-gram at all,
    # where the scorer takes (1e-15 / 1e-9) ** (1/4) instead of 0. ROUGE-L: P = 1, R = 3/4, beta = 1.2.
    # CIDEr of a single record is 0: the logarithm of one document.
    result = one("caption", "a red dog", captioned("0", "A red dog runs."))
    brevity = math.exp(1 - 4 / 3)
    expected = {
        "blank_frac": 0.0,
        **{f"BLEU-{n}": brevity for n in (1, 2, 3)},
        "BLEU-4": 1e-6**0.25 * brevity,
        "ROUGE-L": (1 + 1.44) * 0.75 / (0.75 + 1.44),
        "CIDEr": 0.0,
    }
    assert result.parts == pytest.approx(expected, abs=1e-6)
    assert result.percent == pytest.approx(100 * sum(expected.values()) / 6, abs=1e-4)
    assert result.per_sample[0] == pytest.approx(result.percent / 100, abs=1e-6)


def test_perfect_captions_score_a_hundred_though_cider_goes_to_ten():
    # Two records without a word in common: every n-gram is in one of two documents, so each cosine is 1, times 10.
    references = ["a red dog runs fast", "two birds sit over there"]
    records = [captioned(str(n), text) for n, text in enumerate(references)]
    result = score(ruled("caption"), [Prediction(str(n), text, text) for n, text in enumerate(references)], records)
    assert result.parts["CIDEr"] == pytest.approx(10)
    assert result.percent == pytest.approx(100, abs=1e-4)
    assert result.per_sample == pytest.approx((1, 1), abs=1e-6)


def test_captions_are_compared_without_case_and_punctuation():
    result = one("caption", "A RED, dog!", captioned("0", "a red dog."))
    assert result.parts["BLEU-3"] == pytest.approx(1, abs=1e-6)


def test_an_empty_caption_scores_nothing_and_breaks_nothing():
    records = [captioned("0", "a red dog runs"), captioned("1", "...", "a blue cat sits")]
    result = score(ruled("caption"), [Prediction("0", "", ""), Prediction("1", "?!", "")], records)
    assert result.percent == pytest.approx(0, abs=1e-4)
    assert result.parts["blank_frac"] == 0.5


def test_any_reference_may_match():
    result = one("caption", "two cats here now", captioned("0", "a red dog runs", "two cats here now"))
    assert result.parts["BLEU-4"] == pytest.approx(1, abs=1e-6)
    assert result.parts["ROUGE-L"] == pytest.approx(1)


def test_references_without_words_are_refused():
    with pytest.raises(ValueError, match="no reference caption has a word in it"):
        one("caption", "a dog", captioned("0", "..."))


def test_predictions_must_be_one_a_record():
    records = [asked("0", "yes"), asked("1", "no")]
    with pytest.raises(ValueError, match=r"1 predictions for 2 records, unmatched ids \['1'\]"):
        score(ruled("exact"), [Prediction("0", "yes", "yes")], records)
    with pytest.raises(ValueError, match=r"3 predictions for 2 records"):
        score(ruled("exact"), [Prediction(n, "yes", "yes") for n in "011"], records)
    with pytest.raises(ValueError, match=r"unmatched ids \['1', '2'\]"):
        score(ruled("exact"), [Prediction(n, "yes", "yes") for n in "02"], records)
    with pytest.raises(ValueError, match="no records"):
        score(ruled("exact"), [], [])
    with pytest.raises(ValueError, match="rule 'anls': expected exact, number, choice"):
        score(ruled("anls"), [], records)


def trained(*answers: str) -> Record:
    return Record("DVQA", "t", ("a.png",), tuple(Turn("a ?", answer) for answer in answers))


def test_the_majority_counts_all_turns_and_forgets_case():
    # yes twice (as "Yes" and "yes"), no twice, blue once: the tie goes to the first seen.
    assert majority_answer([trained("blue", "Yes"), trained("no", "yes"), trained("no")]) == "Yes"
    with pytest.raises(ValueError, match="no training answers"):
        majority_answer([])


def test_the_majority_score_is_what_that_answer_gets():
    test = [asked("0", "no"), asked("1", "yes"), asked("2", "no"), asked("3", "no")]
    assert majority_score(ruled("exact"), [trained("no", "no", "yes")], test).percent == 75
