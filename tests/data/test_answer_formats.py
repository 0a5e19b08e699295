"""Answers of a form that their dataset does not have."""

import pytest
from fcit_layout import FCIT

from fcit_ray.data.checking.answer_formats import odd_answer
from fcit_ray.data.records.parsing import Record
from fcit_ray.models.prompt import Turn


@pytest.mark.parametrize(
    ("dataset", "question", "answer", "expected"),
    [
        ("ArxivQA", "which curve ?", "C", None),
        ("ArxivQA", "which curve ?", "b.", None),
        ("ArxivQA", "which curve ?", "the red one", "one option letter"),
        ("IconQA", "Answer with the option's letter from the given choices directly.", "4", "one option letter"),
        ("IconQA", "Answer the question using a single word or phrase.", "4", None),
        ("CLEVR-Math", "Subtract all cubes. What is left?", "10", None),
        ("CLEVR-Math", "Subtract all cubes. What is left?", "ten", "a whole number"),
        ("super-CLEVR", "How many buses are there?", "red", "a whole number"),
        ("super-CLEVR", "What colour is the bus?", "red", None),
        ("FigureQA", "Is red above blue?", "Yes", None),
        ("FigureQA", "Is red above blue?", "1", "yes or no"),
        ("Grounding", "Where is the dog?", "[0.1, 0.2, 0.3, 0.4]", None),
        ("Grounding", "Where is the dog?", "[10, 20, 30, 40]", "each 0..1"),
        ("Grounding", "Where is the dog?", "on the left", "each 0..1"),
        ("Grounding", "What is in [0.1,0.2,0.3,0.4]?", "a dog", None),
        ("Flickr30k-cap", "Describe it.", "dog", "at least two words"),
    ],
)
def test_an_answer_is_odd_if_its_dataset_does_not_ask_for_such(dataset, question, answer, expected):
    for record in (
        Record(dataset, "0", ("a.png",), (Turn(question, answer),)),
        Record(dataset, "0", ("a.png",), (Turn(question),), answer),
    ):
        odd = odd_answer(record, FCIT[dataset])
        assert odd is None if expected is None else odd is not None and odd.endswith(expected)


def test_every_answer_of_a_conversation_is_looked_at():
    turns = (Turn("Where is the dog?", "[0.1,0.2,0.3,0.4]"), Turn("and the cat?", "[0.1,0.2,0.3"))
    odd = odd_answer(Record("Grounding", "0", ("a.png",), turns), FCIT["Grounding"])
    assert odd is not None
    assert odd.startswith("answer '[0.1,0.2,0.3'; expected [x1, y1, x2, y2]")
