"""The rules of the neighbours' released code, against tricky answers worked out by hand from what the code does."""

import pytest

from fcit_ray.config.datasets import Dataset
from fcit_ray.data.records.layout import Record
from fcit_ray.data.scoring.rules import Rule
from fcit_ray.data.scoring.scores import score
from fcit_ray.models.prompt import Turn
from fcit_ray.types import Prediction


def marked(rule: str, prediction: str, answer: str, image: str = "a.png", question: str = "a ?") -> float:
    record = Record("D", "0", (image,), (Turn(question),), answer)
    return score(Rule(rule, Dataset()), [Prediction("0", prediction, answer)], [record]).per_sample[0]


@pytest.mark.parametrize(
    ("prediction", "answer", "coin", "hide"),
    [
        ("B", "B", 1, 1),
        ("b", "B", 1, 0),  # CoIN takes the first single letter, whatever its case
        ("B.", "B", 1, 0),
        ("(B)", "B", 1, 0),
        ("B. a fish", "B", 1, 1),
        ("B) a fish", "B", 1, 0),
        ("a fish, so B", "A", 1, 0),  # ... hence an article answers A
        ("a fish, so B", "B", 0, 0),
        ("The answer is B.", "B", 1, 1),
        ("The answer is B", "B", 1, 0),  # one character must follow
        ("The answer is B. The answer is C.", "B", 1, 0),  # twice is not once
        ("It's B", "B", 0, 0),  # the s of It's comes first
        ("3 of B", "B", 0, 0),  # a digit is a word character too
        ("F", "F", 1, 0),  # beyond E it is still the first single letter
        ("", "A", 0, 0),
    ],
)
def test_scienceqa_looks_for_a_letter(prediction, answer, coin, hide):
    assert marked("coin_scienceqa", prediction, answer) == coin
    assert marked("hide_scienceqa", prediction, answer) == hide


@pytest.mark.parametrize(
    ("rule", "prediction", "answer", "right"),
    [
        ("coin_imagenet", "goldfish", "goldfish", 1),
        ("coin_imagenet", "a goldfish or a shark", "goldfish", 1),
        ("coin_imagenet", "gold", "goldfish", 1),
        ("coin_imagenet", "", "goldfish", 1),  # nothing stands in everything
        ("coin_imagenet", "Goldfish", "goldfish", 0),  # case counts
        ("coin_gqa", "Yes.", "yes", 1),
        ("coin_gqa", "yes...", "yes", 1),
        ("coin_gqa", "yes!", "yes", 0),
        ("coin_gqa", "U.S.", "u.s.", 0),  # the answer keeps its full stop
        ("coin_gqa", "Yes", "Yes", 0),  # and its capitals
        ("coin_ocrvqa", "Cookbooks", "cookbooks", 1),
        ("coin_ocrvqa", "Unanswerable", "Unanswerable", 0),
        ("coin_ocrvqa", "unanswerable", "Unanswerable", 1),
        ("coin_ocrvqa", "a cookbook", "cookbook", 0),
    ],
)
def test_coin(rule, prediction, answer, right):
    assert marked(rule, prediction, answer) == right


def test_textvqa_takes_ten_answers_and_no_other_number():
    record = Record("T", "0", ("a.png",), (Turn("a ?"),), "x", votes=("x",) * 9, source="t.json", index=4)
    with pytest.raises(ValueError, match=r"t.json: record 4 \(id '0'\): 9 answers of people; .* takes ten"):
        score(Rule("coin_textvqa", Dataset()), [Prediction("0", "x", "x")], [record])


@pytest.mark.parametrize(
    ("prediction", "answer", "right"),
    [
        ("Yes", "yes", 1),
        ("yes, it is", "yes", 1),  # a comma behind it
        ("it is yes", "yes", 1),  # a space before it
        ("it is:yes", "yes", 0),  # nothing of that on either side
        ("yes/no maybe", "yes", 0),
        ("yes/no", "yes", 1),  # a prediction of one word: anywhere
        ("piano there", "no", 1),  # "no " stands in "piano there"
        ("piano", "no", 1),
        ("yes", "yes.", 1),  # an answer of one word loses its full stops
        ("the red car.", "red car", 1),
        ("car red", "red car", 0),
        ("the red car", "red car.", 0),  # one of several keeps them
        ("A, B, C, D of them", "C", 1),  # all options at once
        ("Unanswerable yes", "yes", 0),
        ("unanswerable yes", "yes", 1),  # the word counts with its capital only
        ("", "yes", 0),
    ],
)
def test_rs_and_ad(prediction, answer, right):
    assert marked("mllm_dcl_rs", prediction, answer) == right


@pytest.mark.parametrize(
    ("rule", "prediction", "answer", "right"),
    [
        ("mllm_dcl_med", "There is nothing abnormal", "no", 1),
        ("mllm_dcl_med", "no", "No", 1),
        ("mllm_dcl_med", "yes", "no", 0),
        ("mllm_dcl_med", "Unanswerable: no", "no", 0),
        ("mllm_dcl_fin", "A.", "A", 1),
        ("mllm_dcl_fin", " b . ", "B", 1),
        ("mllm_dcl_fin", "A. Rise", "arise", 1),  # what is left once spaces and full stops are gone
        ("mllm_dcl_fin", "AB", "A", 0),
        ("mllm_dcl_fin", "not sure", "not sure", 0),  # an answer with a space can never be given
        ("mllm_dcl_fin", "Unanswerable", "Unanswerable", 0),
    ],
)
def test_med_and_fin(rule, prediction, answer, right):
    assert marked(rule, prediction, answer) == right


@pytest.mark.parametrize(
    ("image", "question", "prediction", "answer", "right"),
    [
        ("images/AI2D_17.png", "a ?", "B", "b", 1),
        ("images/AI2D_17.png", "a ?", "B.", "b", 0),  # equal or wrong
        ("images/TQA_1.png", "a ?", "it is b", "b", 0),
        ("images/VQA_1_2.png", "a ?", "b", "b", 1),
        ("images/SciVerse_1.png", "a ?", "it is b", "b", 0),
        ("images/MapQA_1.png", "a ?", "it is b", "b", 1),  # contained
        ("AI2D/17.png", "a ?", "it is b", "b", 1),  # the file's name counts, not its folder
        ("images/MapQA_1.png", "Which states are red?", "Texas,Ohio", "ohio,texas", 1),
        ("images/MapQA_1.png", "Which states are red?", "Texas, Ohio", "Ohio,Texas", 0.5),  # " ohio" is not "ohio"
        ("images/MapQA_1.png", "Which states are red?", "Texas,Maine", "Ohio,Texas,Utah,Iowa", 0.25),
        ("images/MapQA_1.png", "Which states are red?", "Ohio,Texas,Maine,Iowa", "Ohio", 1),  # too many cost nothing
        ("images/AI2D_1.png", "Which states are red?", "Ohio,Texas", "Texas,Ohio", 0),
        ("images/MapQA_1.png", "Which states are red?", "Unanswerable", "Ohio", 0),
    ],
)
def test_sci_goes_by_the_name_of_the_picture(image, question, prediction, answer, right):
    assert marked("mllm_dcl_sci", prediction, answer, image, question) == right
