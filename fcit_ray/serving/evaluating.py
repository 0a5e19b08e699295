"""A trained model scored again, on records of its owner's choice: what is answered, and what is made of the answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from fcit_ray.config.mistakes import nearest
from fcit_ray.config.reading import with_overrides
from fcit_ray.config.schema import Config
from fcit_ray.data.checking.several import check_pictures
from fcit_ray.data.checking.too_long import check_lengths
from fcit_ray.data.partition.stream import schedule_of
from fcit_ray.data.questions.pieces import RecordsPiece
from fcit_ray.data.records.images import Opener
from fcit_ray.data.records.layout import Record, check_images
from fcit_ray.data.scoring.rules import rule_for, scored_by
from fcit_ray.errors import ConfigError, DataError
from fcit_ray.experiment.opening import check_scoring, read_tests
from fcit_ray.results.figures import make_results
from fcit_ray.results.scored import score_answers, task_scores
from fcit_ray.serving.asking import question_encoder
from fcit_ray.serving.opening import views_of
from fcit_ray.serving.trained import Trained

FORMAT: Final = "fcit_ray evaluation"
RULES: Final = ("evaluation.scoring", "evaluation.captions", "benchmark.root")
"""Keys by which answers that are there already may be scored otherwise."""
KEYS: Final = (
    *RULES,
    "evaluation.batch_size",
    "evaluation.max_new_tokens",
    "benchmark.split",
    "benchmark.max_test_records",
    "benchmark.transfer",
)
"""Keys that say what is asked and how it is scored; every other one says what the model is."""


def check_keys(overrides: Sequence[str], allowed: Sequence[str] = KEYS) -> None:
    """Refuse overrides that would ask another model than the one that is there.

    Raises:
        ConfigError: names each of them.
    """
    faults = []
    for override in overrides:
        key = override.partition("=")[0]
        if key in allowed:
            continue
        if key in KEYS:
            why = "the predictions are there already, of the records that the run was asked"
        elif key == "benchmark.tasks":
            why = "says what the model was trained on; benchmark.transfer names other datasets to answer"
        elif key == "evaluation.every_stage":
            why = "there is one state to evaluate, the last"
        elif key.startswith("runtime."):
            why = "--workers and --gpu say where it is answered"
        elif _is_key(key):
            why = "says what the model is or how it was trained, which is done"
        else:
            why = f"no such key{nearest(key, KEYS)}"
        faults.append(f"{key}: {why}; expected {', '.join(allowed)}")
    if faults:
        raise ConfigError("\n".join(faults))


@dataclass(frozen=True)
class Exam:
    """What is asked of a trained model, read and checked.

    Attributes:
        trained: the model, its configuration with what was overridden.
        tasks: positions of the tasks that are scored: all that its whole run had seen.
        tests: the records by dataset, the unseen datasets last.
        views: names of the models that answer, each all of it.
    """

    trained: Trained
    tasks: tuple[int, ...]
    tests: dict[str, list[Record]]
    views: tuple[str, ...]

    @property
    def count(self) -> int:
        """Answers that are to be given."""
        return len(self.views) * sum(map(len, self.tests.values()))

    def pieces(self, size: int) -> list[tuple[str, str, RecordsPiece]]:
        """View, dataset and records of every block; a block is of one dataset."""
        return [
            (view, name, RecordsPiece(tuple(records[start : start + size])))
            for view in self.views
            for name, records in self.tests.items()
            for start in range(0, len(records), size)
        ]

    def results(
        self, lines: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]], seconds: Mapping[str, float]
    ) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
        """What evaluation.json holds, and the lines of predictions by dataset.

        Args:
            lines: as the model answered, by view and dataset, in the order of the records.
            seconds: that it took, by what.

        Raises:
            DataError: a record could not be asked.
        """
        config, state = self.trained.config, self.trained.state
        evaluation, benchmark = config.evaluation, config.benchmark
        rows: dict[str, list[dict[str, Any]]] = {}
        details: dict[str, dict[str, Any]] = {}
        for name, records in self.tests.items():
            rule = rule_for(config, name)
            answers = {view: [_answer(line) for line in lines[view, name]] for view in self.views}
            rows[name], details[name] = score_answers(rule, records, answers)
        transfer = {name: details[name]["percent"] for name in benchmark.transfer}
        record = {
            "kind": "evaluation",
            "stage": -1,
            "scores": task_scores(benchmark, self.tasks, details),
            **({"transfer": transfer} if transfer else {}),
            "datasets": details,
            "seconds": dict(seconds),
        }
        counts = {benchmark.tasks[task].name: benchmark.tasks[task].datasets for task in self.tasks}
        results = make_results(
            label=config.name,
            seed=config.seed,
            tasks=[task.name for task in benchmark.tasks],
            num_stages=0,
            records=[record],
            num_records={name: sum(len(self.tests[part]) for part in parts) for name, parts in counts.items()},
            num_unseen={name: len(self.tests[name]) for name in transfer},
            params=state.params,
            scored=scored_by(config, self.tests),
        )
        asked = {
            "root": benchmark.root,
            "split": benchmark.split,
            "max_test_records": benchmark.max_test_records,
            "transfer": list(benchmark.transfer),
        }
        said = {
            "format": FORMAT,
            "model": str(self.trained.source),
            "benchmark": asked,
            "evaluation": evaluation.model_dump(mode="json", exclude={"every_stage"}),
            "scores": record["scores"],
            "datasets": details,
        }
        return {**said, **results}, rows


def open_exam(trained: Trained, overrides: Sequence[str] = ()) -> Exam:
    """Read and check what is to be answered, before anything is loaded.

    Args:
        trained: made ready for this machine.
        overrides: of `KEYS`.

    Raises:
        ConfigError, DataError, ModelError: say what cannot be used.
    """
    check_keys(overrides)
    trained = replace(trained, config=with_overrides(trained.config, overrides))
    config = trained.config
    check_scoring(config)
    tasks = _tasks_of(trained)
    wanted = {name for task in tasks for name in config.benchmark.tasks[task].datasets} | {*config.benchmark.transfer}
    tests = {name: records for name, records in read_tests(config).items() if name in wanted}
    everything = [record for records in tests.values() for record in records]
    check_images(config.benchmark.root, everything, Opener(config.benchmark.follow_links_to))
    encoder = question_encoder(trained)
    check_lengths(encoder, everything)
    check_pictures(encoder, everything)
    return Exam(trained, tasks, tests, tuple(views_of(trained)))


def _is_key(key: str) -> bool:
    section, _, name = key.partition(".")
    field = Config.model_fields.get(section)
    inner = getattr(field.annotation, "model_fields", None) if field else None
    return field is not None and (inner is None or not name or name in inner)


def _tasks_of(trained: Trained) -> tuple[int, ...]:
    """Positions of the tasks that the whole run has seen, as its last evaluation has them."""
    config = trained.config
    if config.regime != "federated":
        return tuple(range(len(config.benchmark.tasks)))
    return tuple(sorted({task for row in schedule_of(config.benchmark) for task in row}))


def _answer(line: Mapping[str, Any]) -> tuple[str, Sequence[float]]:
    if "error" in line:
        raise DataError(f"{line['error']}; nothing is scored without it: mend it, or set it aside with "
                        "`fcit-ray prepare check --decode --quarantine`")  # fmt: skip
    return line["prediction"], line["gate"]
