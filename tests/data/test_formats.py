"""What is odd about predictions, against cases judged by hand."""

import pytest
from fcit_layout import FCIT

from fcit_ray.data.records.layout import Record
from fcit_ray.data.scoring import formats
from fcit_ray.models.prompt import Turn


def asked(*answers: str, dataset: str = "OCRVQA") -> list[Record]:
    return [Record(dataset, str(n), "a.png", (Turn("a ?"),), answer) for n, answer in enumerate(answers)]


def diagnose(texts: list[str], records: list[Record]) -> dict[str, float]:
    return formats.diagnose(texts, records, FCIT[records[0].dataset])


def answer_format(records: list[Record]):
    return formats.answer_format(records, FCIT[records[0].dataset])


@pytest.mark.parametrize(
    ("answers", "inside", "outside"),
    [
        (["3", "17", "-2", "1,200"], ["5", "1000", "1,000", "+4"], ["", "5.0", "five", "5 apples", "1,00", "5."]),
        (["3", "0.25", "-1.5"], ["3", ".5", "2,000.75"], ["", "3.", "1/2", "half", "-", "."]),
        (["A", "B", "D"], ["A", "d"], ["", "C", "A.", "(A)", "AB"]),  # of the letters seen; case as in the score
        (["Yes", "no"] * 10, ["yes", "No"], ["", "1", "yes.", "maybe"]),
        (["1", "0"] * 10, ["0"], ["2", "yes"]),  # two answers are a set, though they are integers too
        (["goldfish", "tree frog", "ant"] * 10, ["Tree Frog"], ["frog", "a goldfish"]),  # class names
    ],
)
def test_the_form_of_predictions_is_that_of_the_answers(answers, inside, outside):
    fits = answer_format(asked(*answers))
    assert fits is not None
    assert all(map(fits, inside))
    assert not any(map(fits, outside))
    assert all(map(fits, answers)), "a right answer has the form"


@pytest.mark.parametrize(
    "answers",
    [
        ["3", "blue", "shortage"],
        ["goldfish", "tree frog", "ant"] * 9,  # 9 times each: too few to call it a closed set
        [f"title {n}" for n in range(257) for _ in range(10)],  # too many answers for one
    ],
)
def test_mixed_answers_have_no_form_and_no_rate(answers):
    records = asked(*answers)
    assert answer_format(records) is None
    assert diagnose(["x"] * len(records), records).keys() == {"blank_frac", "near_frac"}


def test_a_box_has_the_form_of_one_and_captions_have_none():
    boxes = asked("[0.1,0.1,0.2,0.2]", "[0.1,0.1,0.2,0.2]", dataset="Grounding")
    assert diagnose(["[0.5,0.5,0.6,0.6]", "there"], boxes) == {"blank_frac": 0.0, "format_frac": 0.5}
    assert diagnose(["", "a dog"], asked("a cat", "a dog", dataset="Flickr30k-cap")) == {"blank_frac": 0.5}


@pytest.mark.parametrize(
    ("prediction", "answer", "near"),
    [
        ("A.", "A", True),
        ("(b)", "B", True),
        ("C: 42", "C", True),
        ("A.", "B", False),
        ("A dog", "A", False),  # an article, not an option
        ("a", "A", False),  # right, hence not a near miss
        ("", "A", False),
    ],
)
def test_option_letters_come_near_with_what_stands_around_them(prediction, answer, near):
    assert diagnose([prediction] * 2, asked(answer, "C"))["near_frac"] == near / 2 + (prediction == "C: 42") * 0.5


@pytest.mark.parametrize(
    ("prediction", "answer", "near"),
    [
        ("goldfish.", "goldfish", True),
        ("A goldfish", "goldfish", True),
        ("Three", "3", True),
        ("4656", "4,656", True),
        ("$5", "5", True),
        ("50%", "50", True),
        ("5", "50", False),
        ("1,23", "123", False),  # no comma between thousands
        ("gold", "goldfish", False),
        ("%", ".", False),  # nothing is left of either: not the same for that
        ("goldfish", "Goldfish", False),  # right
        ("no", "yes", False),
    ],
)
def test_near_misses_differ_in_form_only(prediction, answer, near):
    assert diagnose([prediction], asked(answer))["near_frac"] == near


def test_counting_tasks_count_what_misses_by_one():
    # Integer answers: 3, 5, 1,000 and 7; missed by one are 4 for 3 and 999 for 1,000. 2.5 has no neighbour.
    records = asked("3", "5", "1,000", "7", "2.5", dataset="TabMWP")
    assert diagnose(["4", "5", "999", "five", "3.5"], records)["off_by_one_frac"] == 0.5
    assert "off_by_one_frac" not in diagnose(["4"], asked("3"))  # OCRVQA: a number there is a year or part of a title
    assert "off_by_one_frac" not in diagnose(["4"], asked("linear", dataset="TabMWP"))
    assert {name for name, spec in FCIT.items() if spec.counts} == {"CLEVR-Math", "super-CLEVR", "TabMWP"}


def test_which_rates_there_are_depends_on_the_records_only():
    # The driver averages the parts of several models over the same records, name by name.
    records = asked("3", "5", "11", dataset="CLEVR-Math")
    assert diagnose([""] * 3, records).keys() == diagnose(["3", "x", "?"], records).keys()
