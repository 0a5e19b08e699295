"""Records that are trained on and asked, told before a run."""

from fcit_ray.data.checking.shared import shared_records
from fcit_ray.data.records.parsing import Record
from fcit_ray.models.prompt import Turn


def trained(dataset: str, image: str, *turns: tuple[str, str]) -> Record:
    return Record(dataset, "t", (image,), tuple(Turn(*turn) for turn in turns), source="train.json", index=0)


def asked(dataset: str, image: str, question: str, answer: str, index: int) -> Record:
    return Record(dataset, f"q{index}", (image,), (Turn(question),), answer, source="test.json", index=index)


def test_only_the_same_question_picture_and_answer_of_the_same_dataset_is_shared():
    stream = [trained("Signs", "a.png", ("<image>\nWhich  colour?", "red"), ("And the shape?", "square"))]
    tests = {
        "Signs": [
            asked("Signs", "a.png", "which colour?", "red", 0),  # case, space and the mark do not count
            asked("Signs", "a.png", "And the shape?", "square", 1),  # a later turn is trained on too
            asked("Signs", "b.png", "which colour?", "red", 2),
            asked("Signs", "a.png", "which colour?", "blue", 3),
            asked("Signs", "a.png", "which size?", "red", 4),
        ],
        "Roads": [asked("Roads", "a.png", "which colour?", "red", 0)],
    }
    assert list(shared_records(stream, tests)) == [
        "Signs: 2 of 5 records that are asked are trained on too, with the same question, pictures and answer: "
        "test.json: record 0 (id 'q0'), test.json: record 1 (id 'q1'); their score says what was memorised"
    ]
