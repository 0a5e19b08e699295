"""A sample of what was answered, chosen the same way every time: as many right as wrong ones, spread over the file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fcit_ray.errors import RunFolderError
from fcit_ray.report.blocks import Answer, Block, Card, Cards, Text, known
from fcit_ray.report.pictures import Pictures, TestData
from fcit_ray.report.reading import Told

PER_DATASET = 12
"""Questions shown of a dataset."""
RIGHT_FROM = 0.5
"""Score of an answer that counts as right: captions, votes and own scorers give parts of 1, everything else 0 or 1."""
_GATES_SHOWN = 3
_LONGEST = 2000
"""Letters of a text that are shown: a model that does not stop may write any number."""

NOTE = (
    f"Up to {PER_DATASET} questions of each dataset, after the last evaluation that asked them: right and wrong ones "
    "alike, spread over the test file, so their share says nothing about the score. Right: a score of at least "
    f"{RIGHT_FROM} (captions, votes and scorers of one's own give parts of 1)."
)


@dataclass(frozen=True)
class _Question:
    """One question and what each run answered, by the run's place in the list of runs."""

    source: TestData
    dataset: str
    question_id: str
    reference: str
    rows: Mapping[int, Mapping[str, Any]]

    @property
    def num_right(self) -> int:
        return sum(known(row["score"]) >= RIGHT_FROM for row in self.rows.values())


def sample_answers(runs: Sequence[Told], names: Sequence[str], pictures: Pictures) -> list[Block]:
    """The cards, and what is missing from them; nothing where no run has answered anything.

    Args:
        runs: whose answers stand beside each other.
        names: of the runs, as they are shown.
        pictures: where thumbnails come from, within a budget.
    """
    blocks: list[Block] = []
    asked: dict[tuple[TestData, str], dict[tuple[str, str], dict[int, Mapping[str, Any]]]] = {}
    stages: dict[tuple[int, str], int] = {}
    for index, run in enumerate(runs):
        source = TestData.of(run)
        for dataset, stage in _answered(run).items():
            stages[index, dataset] = stage
            try:
                rows = run.predictions(stage, dataset)
            except (RunFolderError, OSError) as error:
                blocks.append(Text(f"Answers left out: {error}", warns=True))
                continue
            questions = asked.setdefault((source, dataset), {})
            for row in rows:  # under `fedsa` a line a client's model: the first is shown
                key = (str(row["question_id"]), str(row["answer"]))
                questions.setdefault(key, {}).setdefault(index, row)
    chosen: list[list[_Question]] = []
    for (source, dataset), by_key in asked.items():
        questions_there = [
            _Question(source, dataset, question_id, reference, rows)
            for (question_id, reference), rows in by_key.items()
        ]
        chosen.append(choose(questions_there, len({index for rows in by_key.values() for index in rows})))
    cards = [
        [_card(question, names, stages, pictures) for question in questions]
        # One of every dataset in turn: for the eye, and so that the pictures' budget is not spent on the first ones.
        for questions in _in_turn(chosen)
    ]
    flat = [card for turn in cards for card in turn]
    if not flat:
        return blocks
    datasets = list(dict.fromkeys(dataset for _, dataset in asked))
    blocks += [Text(fault, warns=True) for fault in pictures.faults]
    used = {answer.run for card in flat for answer in card.answers}
    return [*blocks, Cards(flat, datasets, [name for name in names if name in used], NOTE)]


def choose(questions: Sequence[_Question], num_runs: int, count: int = PER_DATASET) -> list[_Question]:
    """So many of them, in their order: those that all runs, some and none had right in equal parts, evenly spaced.

    A group that is too small leaves its places to the others.
    """
    groups: list[list[int]] = [[], [], []]
    for place, question in enumerate(questions):
        right = question.num_right
        groups[0 if not right else 2 if right == len(question.rows) else 1].append(place)
    groups = sorted((group for group in groups if group), key=len)  # the small ones first: what they leave is shared
    picked: list[int] = []
    for left, group in zip(range(len(groups), 0, -1), groups, strict=True):
        quota = min(len(group), -(-(count - len(picked)) // left))
        picked += [group[int((step + 0.5) * len(group) / quota)] for step in range(quota)]
    return [questions[place] for place in sorted(picked)]


def _answered(run: Told) -> dict[str, int]:
    """The stage after which every dataset was last answered."""
    return {
        str(dataset): int(record["stage"]) for record in run.evaluations for dataset in record.get("datasets") or ()
    }  # fmt: skip


def _in_turn(groups: Sequence[Sequence[_Question]]) -> list[list[_Question]]:
    longest = max(map(len, groups), default=0)
    return [[group[place] for group in groups if place < len(group)] for place in range(longest)]


def _card(
    question: _Question, names: Sequence[str], stages: Mapping[tuple[int, str], int], pictures: Pictures
) -> Card:  # fmt: skip
    picture = pictures.of(question.source, question.dataset, question.question_id)
    after = sorted({stages[index, question.dataset] for index in question.rows})
    return Card(
        dataset=question.dataset,
        question_id=question.question_id,
        question=_shortened(picture.question),
        reference=_shortened(question.reference),
        answers=[_answer(names[index], row) for index, row in question.rows.items()],
        picture=picture.uri,
        size=picture.size,
        missing=picture.missing,
        more=picture.more,
        after=", ".join("zero-shot" if stage < 0 else f"stage {stage + 1}" for stage in after),
    )


def _answer(name: str, row: Mapping[str, Any]) -> Answer:
    score = known(row["score"])
    weights = [(str(index), known(weight)) for index, weight in enumerate(row.get("gate") or ())]
    gate = sorted((pair for pair in weights if abs(pair[1]) >= 0.005), key=lambda pair: -abs(pair[1]))
    return Answer(
        run=name,
        prediction=_shortened(str(row["prediction"])),
        score=score,
        right=score >= RIGHT_FROM,
        gate=gate[:_GATES_SHOWN],
        view=str(row.get("view", "")),
    )


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text):,} letters)"
