"""Kinds of answers by their strict rules, against tables judged by hand."""

from decimal import Decimal

import pytest

from fcit_ray.config.datasets import KINDS, RELEASED, Answer, Dataset
from fcit_ray.data.checking.answer_formats import misfit, odd_answer
from fcit_ray.data.records.layout import Record
from fcit_ray.data.records.parsing import Place, parse_test
from fcit_ray.data.records.references import Captions, Votes
from fcit_ray.data.scoring.formats import answer_format, diagnose
from fcit_ray.data.scoring.rules import Rule, rule_of
from fcit_ray.data.scoring.scores import score
from fcit_ray.data.scoring.votes import normalised, soft_vote
from fcit_ray.data.scoring.words import read_number
from fcit_ray.errors import DataError
from fcit_ray.models.prompt import Turn
from fcit_ray.types import Prediction


def asked(answer: str, votes: tuple[str, ...] = (), name: str = "0") -> Record:
    return Record("Meters", name, ("a.png",), (Turn("a ?"),), answer, votes=votes)


def marked(prediction: str, answer: str, kind: str, **more) -> float:
    dataset = Dataset(answer=Answer(kind=kind, **more))
    record = asked(answer)
    return score(rule_of(dataset), [Prediction("0", prediction, answer)], [record]).per_sample[0]


@pytest.mark.parametrize(
    ("prediction", "answer", "tolerance", "right"),
    [
        ("3", "3", 0, 1),
        ("3.0", "3", 0, 1),  # value, not text
        ("03", "3", 0, 1),
        ("+3", "3", 0, 1),
        ("\u22123", "-3", 0, 1),  # a minus sign proper
        ("-3", "3", 0, 0),
        (".5", "0.5", 0, 1),
        ("5e-1", "0.5", 0, 1),
        ("4656", "4,656", 0, 1),
        ("1,234,567", "1234567", 0, 1),
        ("46,56", "4656", 0, 0),  # no comma between thousands: no number
        ("3,5", "3.5", 0, 0),  # nor is a decimal comma
        ("3.", "3", 0, 1),  # a final full stop
        ("three", "3", 0, 0),
        ("3 apples", "3", 0, 0),
        ("1/2", "0.5", 0, 0),
        ("", "3", 0, 0),
        ("nan", "3", 0, 0),
        ("inf", "3", 0, 0),
        ("\uff13", "3", 0, 0),  # a full-width digit
        ("9" * 200, "9" * 200, 0, 1),  # longer than a number may be: compared as text
        ("$45", "45", 0, 1),
        ("45", "$45", 0, 1),
        ("45 %", "45%", 0, 1),
        ("45", "45%", 0, 1),
        ("0.45", "45%", 0, 0),  # a percent sign is no hundredth
        ("$45", "45%", 0, 0),
        ("$45", "\u20ac45", 0, 0),
        ("-$5", "-5", 0, 1),
        ("2.9", "3", 0.1, 1),  # the edge belongs to it
        ("0.4", "0.3", 0.1, 1),  # in binary the distance would be a little more than a tenth
        ("2.89", "3", 0.1, 0),
        ("3", "2.5", 0, 0),
        ("unknown", "Unknown", 0, 1),  # an answer that is no number must be said whole
        ("3", "unknown", 9, 0),
    ],
)
def test_numbers_are_compared_by_value(prediction, answer, tolerance, right):
    assert marked(prediction, answer, "number", tolerance=tolerance) == right


def test_a_number_is_read_with_its_sign_of_currency_or_percent():
    assert read_number("-\u00a31,200.50") == (Decimal("-1200.50"), "\u00a3")
    assert read_number("7.5%.") == (Decimal("7.5"), "%")


@pytest.mark.parametrize(
    ("prediction", "answer", "right"),
    [
        *((said, "B", 1) for said in ("B", "b", "B.", "B)", "B).", "(B)", "(b).", "[B]")),
        *((said, "B", 0) for said in ("A", "", "B. 42", "B 42", "BB", "(B", "B:", "option B", "8", "\uff22")),
        ("B", "(b)", 1),  # the answer may be written so too
        ("four", "Four", 1),  # an answer that is no letter must be said whole
        ("4", "four", 0),
        ("\u212a", "K", 0),  # the Kelvin sign folds to k, but is no letter of an option
    ],
)
def test_an_option_is_its_letter_alone(prediction, answer, right):
    assert marked(prediction, answer, "choice") == right


@pytest.mark.parametrize(
    ("prediction", "answer", "right"),
    [
        ("It is a dog.", "dog", 1),
        ("DOG", "dog", 1),
        ("dogs", "dog", 0),
        ("hotdog", "dog", 0),
        ("hot-dog", "dog", 0),  # a hyphen joins
        ("the dog's", "dog", 0),  # and so does an apostrophe
        ("(dog)", "dog", 1),
        ("New\nYork  City", "new york", 1),
        ("York, New", "new york", 0),
        ("the answer is 3.", "3", 1),
        ("13", "3", 0),
        ("3.5", "3", 0),
        ("0.3", "3", 0),
        (".3", "3", 0),
        ("3,000", "3", 0),
        ("-3", "3", 0),
        ("3, 4 and 5", "4", 1),
        ("there is nothing abnormal", "no", 0),  # as the released rule of Med would have it
        ("yes and no", "no", 1),  # what is left of its weakness: all answers at once
        ("a b", "b.", 1),  # the answer's own full stop
        ("50% of it", "50%", 1),
        ("c++", "c++", 1),
        ("", "dog", 0),
    ],
)
def test_contained_are_whole_words(prediction, answer, right):
    assert marked(prediction, answer, "contains") == right


# Of n people m gave the answer, and others are held against the remaining n - 1: with m of ten,
# m/10 * min(1, (m-1)/3) + (10-m)/10 * min(1, m/3).
@pytest.mark.parametrize(
    ("same", "of", "worth"),
    [
        (0, 10, 0.0),
        (1, 10, 0.3),  # nine times 1/3
        (2, 10, 0.6),  # twice 1/3, eight times 2/3
        (3, 10, 0.9),  # three times 2/3, seven times 1
        (4, 10, 1.0),
        (10, 10, 1.0),
        (1, 1, 1.0),  # nobody else to ask
        (1, 2, 0.5),  # half the time the other one differs
        (2, 2, 1.0),
        (3, 3, 1.0),
        (1, 4, 0.25),  # three times 1/3
    ],
)
def test_a_soft_vote_is_the_mean_over_leaving_each_out(same, of, worth):
    votes = ["red"] * same + [f"other {n}" for n in range(of - same)]
    assert soft_vote("red", votes) == pytest.approx(worth)


def test_strict_votes_forgive_case_and_space_alone():
    record = asked("2", ("Two cats",) * 3 + ("2",) * 3 + ("the cat",) * 4)
    dataset = Dataset(answer=Answer(kind="soft_vote"))

    def marks(said: str, rule: str) -> float:
        return score(Rule(rule, dataset), [Prediction("0", said, "2")], [record]).per_sample[0]

    assert marks(" two  CATS ", "soft_vote") == pytest.approx(0.9)
    assert (marks("two", "soft_vote"), marks("cat", "soft_vote"), marks("two cats.", "soft_vote")) == (0, 0, 0)
    # As the official evaluation compares: "two" is 2, "the" is nothing, a full stop neither.
    assert marks("two", "coin_textvqa") == pytest.approx(0.9)
    assert marks("cat", "coin_textvqa") == marks("a cat!", "coin_textvqa") == 1
    assert marks("2 cats", "coin_textvqa") == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Dog", "dog"),
        ("none", "0"),
        ("Ten dogs", "10 dogs"),
        ("eleven", "eleven"),
        ("1,000", "1000"),
        ("a.b.", "ab"),
        ("3.5", "3.5"),
        ("3. 5", "3 5"),
        ("left-hand", "left hand"),
        ("left -hand", "left hand"),  # beside a space the mark is nothing
        ("a/b", "b"),  # "a b", and a is an article
        ("dont", "don't"),
        ("dog's", "dog 's"),
        ("what?", "what"),
        ("somebody'd", "somebodyd"),  # the official table has it so
        ("Ive", "ive"),  # its capital entries are never met
        ("", ""),
    ],
)
def test_the_official_normalisation(text, expected):
    assert normalised(text) == expected


def test_no_more_than_32_full_stops_go():
    assert normalised("." * 40) == "." * 8


def test_votes_come_from_the_record_or_a_file_by_question():
    own = {"question_id": 7, "image": "a.png", "text": "a ?", "answers": ["Yes", {"answer": "yes "}, 3, ""]}
    dataset = Answer(kind="soft_vote")
    [record], [] = parse_test(Place("V"), "t.json", [(0, own)], dataset, None)
    assert record.votes == ("Yes", "yes", "3", "")
    assert record.answer == "Yes"  # what most answered, as the first wrote it
    file = Votes("v.json", {"data": [{"question_id": "7", "answers": ["no"] * 10}]})
    [record], [] = parse_test(Place("V"), "t.json", [(0, own | {"answer": "no"})], dataset, file)
    assert record.votes == ("no",) * 10
    assert record.answer == "no"
    [], [fault] = parse_test(Place("V"), "t.json", [(0, own | {"question_id": 8})], dataset, file)
    assert fault.reason == "v.json has no answers to it; expected question_id '8'"
    bare = {key: value for key, value in own.items() if key != "answers"}
    [], [fault] = parse_test(Place("V"), "t.json", [(0, bare)], dataset, None)
    assert fault.reason.startswith("has no 'answers'; expected a list of what several people answered")
    [], [fault] = parse_test(Place("V"), "t.json", [(0, own | {"answers": "yes"})], dataset, None)
    assert fault.reason == "'answers' is 'yes'; expected a list of what several people answered"
    [], [fault] = parse_test(Place("V"), "t.json", [(0, own | {"answers": [["yes"]]})], dataset, None)
    assert fault.reason == "'answers' holds ['yes']; expected texts, or objects with a text 'answer'"
    with pytest.raises(DataError, match=r"v.json: no list of questions"):
        Votes("v.json", {"questions": []})
    with pytest.raises(DataError, match="question 0: has no question_id"):
        Votes("v.json", [{"answers": ["no"]}])


def test_a_caption_without_a_file_holds_its_references_itself():
    item = {"question_id": 7, "image": "a.png", "text": "a ?", "answer": "a red dog"}
    [record], [] = parse_test(Place("C"), "t.json", [(0, item)], Answer(kind="caption"), None)
    assert record.references == ("a red dog",)
    several = item | {"answers": ["a red dog", "one dog"]}
    [record], [] = parse_test(Place("C"), "t.json", [(0, several)], Answer(kind="caption"), None)
    assert record.references == ("a red dog", "one dog")


def test_captions_by_order_alone_are_refused_with_what_to_do():
    # The released code pairs by position, from 1; ids from 0 would find their neighbour's captions, all but the first.
    items = [(n, {"question_id": n, "image": f"{n}.png", "text": "a ?", "answer": "a dog"}) for n in range(3)]
    data = {"annotations": [{"image_id": n, "caption": f"dog {n}"} for n in (1, 2, 3)]}
    _, [fault] = parse_test(Place("C"), "t.json", items, Answer(kind="caption"), Captions("c.json", data))
    assert fault.index == 0
    assert "c.json has no caption for it; expected image id '0'. Its ids are 1 to 3" in fault.reason
    named = data | {"images": [{"id": n + 1, "file_name": f"{n}.png"} for n in range(3)]}
    records, [] = parse_test(Place("C"), "t.json", items, Answer(kind="caption"), Captions("c.json", named))
    assert [record.answer for record in records] == ["dog 1", "dog 2", "dog 3"]


@pytest.mark.parametrize(
    ("kind", "answer", "odd"),
    [
        ("number", "4,656", None),
        ("number", "three", "answer 'three'; expected a number"),
        ("choice", "(b)", None),
        ("choice", "the red one", "answer 'the red one'; expected one option letter"),
        ("contains", "anything that one may say about it", None),
        ("scorer:score", "anything", None),
        ("exact", "word " * 21, "expected at most 20 words"),
        ("caption", "dog", "answer 'dog'; expected at least two words"),
    ],
)
def test_an_answer_is_odd_by_the_kind_that_is_declared(kind, answer, odd):
    said = odd_answer(asked(answer), Dataset(answer=Answer(kind=kind)))
    assert said is None if odd is None else said is not None and said.endswith(odd)


def test_a_kind_that_does_not_fit_is_told_with_share_and_examples():
    records = [asked(answer, name=str(n)) for n, answer in enumerate(["3", "red", "blue", "4", "green", "no"])]
    assert misfit("Meters", Dataset(answer="number"), records) == (
        "Meters: 4 of 6 records (67 %) do not fit the kind of answers that is declared, 'number': answer 'red'; "
        "expected a number; answer 'blue'; expected a number; answer 'green'; expected a number and others. They are "
        "scored all the same; if the kind is wrong, change benchmark.datasets.Meters.answer"
    )
    assert misfit("Meters", Dataset(answer="exact"), records) is None
    assert misfit("Meters", Dataset(answer="number"), records[:1]) is None
    few = [asked("a", ("a", "b"))]
    said = misfit("Meters", Dataset(answer="soft_vote"), few)
    assert said is not None
    assert "2 answers of people; expected 10" in said


def test_diagnostics_go_by_the_kind():
    numbers = [asked("3", name="0"), asked("1,200", name="1"), asked("7", name="2")]
    dataset = Dataset(answer="number", counts=True)
    # 1200 is right, "seven" is 7 in another form; 4 misses 3 by one.
    found = diagnose(["4", "1200", "seven"], numbers, dataset)
    assert found == {"blank_frac": 0, "format_frac": 2 / 3, "near_frac": 1 / 3, "off_by_one_frac": 1 / 3}
    options = [asked("A", name="0"), asked("C", name="1")]
    found = diagnose(["(a)", "C: 42"], options, Dataset(answer="choice"))
    assert found == {"blank_frac": 0, "format_frac": 0.5, "near_frac": 0.5}  # (a) is right, C: 42 is not
    fits = answer_format(options, Dataset(answer="choice"))
    assert fits is not None
    assert not fits("B"), "no answer of these"
    votes = [asked("cat", ("cat", "a cat"))]
    assert diagnose(["the cat"], votes, Dataset(answer="soft_vote")) == {"blank_frac": 0, "near_frac": 1}
    assert diagnose(["x"], votes, Dataset(answer="mine:score")).keys() == {"blank_frac"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "numbers"}, "did you mean 'number'"),
        ({"kind": "exact", "tolerance": 1}, "has no meaning for kind 'exact'"),
        ({"kind": "number", "tolerance": -1}, "greater than or equal to 0"),
        ({"kind": "number", "references": "a.json"}, "it is for caption and soft_vote"),
        ({"kind": "exact", "released": "coin_gpa"}, "did you mean 'coin_gqa'"),
        ({"kind": "exact", "released": "box_released"}, "'box_released' cannot score kind 'exact'; it is for box"),
        ({"kind": "caption", "released": "substring"}, "it is for others than captions"),
        ({"kind": "exact", "released": "coin_textvqa"}, "it is for soft_vote"),
    ],
)
def test_declarations_that_contradict_themselves(values, message):
    with pytest.raises(ValueError, match=message):
        Answer(**values)


def test_every_rule_that_can_be_declared_is_there():
    with pytest.raises(ValueError, match="rule 'anls': expected ") as caught:
        score(Rule("anls", Dataset()), [], [])
    known = set(str(caught.value).partition("expected ")[2].removesuffix(", or module:function").split(", "))
    assert known == {*KINDS, *RELEASED, "caption_full", "caption_released"}
