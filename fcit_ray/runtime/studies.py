"""What Ray Tune is to try next, study by study, and which trials are to end at a stage's end.

A sweep has several studies (a method in a setting), each with points and comparisons of its own, and Tune has one
searcher and one scheduler: these two hand on what belongs to which.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from fcit_ray.config.space import Space
from fcit_ray.config.sweep import Search, StopEarly
from fcit_ray.config.trials import Point, Study, Trial
from fcit_ray.errors import ConfigError
from fcit_ray.results.records import append_record, read_records
from fcit_ray.seeds import derive_seed

SCORE = "mean_score"
"""Metric of a trial after a stage: mean score over the tasks seen so far, in percent."""
STAGES = "stages"
"""How many stages a trial has done."""
_PROPOSALS = 50


class Studies(Searcher):
    """Tune's searcher: the next trial of the study that has had fewest.

    Args:
        studies: of the sweep.
        search: how points are drawn; None takes the studies' own.
        file: where what Optuna proposes is written down before it is tried, so that a sweep that was killed tries the
            same again, and what came of it counts.
        stopped: trials that an earlier session has stopped, by folder, with the stage after which it did.
        told: called with each trial as it is handed to Tune.
        append: writes a record down; on return it is safe.
    """

    def __init__(
        self,
        studies: Sequence[Study],
        search: Search | None,
        file: Path,
        stopped: Mapping[str, int],
        told: Callable[[Trial], None],
        append: Callable[[Path, Mapping[str, Any]], None] = append_record,
    ):
        super().__init__(metric=SCORE, mode="max")
        self._studies = {study.name: study for study in studies}
        self._file = file
        self._stopped = stopped
        self._told = told
        self._append = append
        self._begun = dict.fromkeys(self._studies, 0)
        self._optuna: dict[str, Any] = {}
        self._asked: dict[str, str] = {}  # what Optuna knows a trial by
        self._live: dict[str, tuple[str, Point, bool]] = {}
        self._proposed: dict[str, list[Point]] = {name: [] for name in self._studies}
        if search is not None and search.by == "optuna":
            for name, study in self._studies.items():
                self._optuna[name] = optuna_search(study.space, derive_seed(search.seed, "search", name) % 2**32)
            for record in read_records(file):
                if known := self._studies.get(record["study"]):
                    if record["number"] or not known.defaults_first:
                        _check_known(record["point"], known, file)
                    self._proposed[known.name].append(record["point"])

    def suggest(self, trial_id: str) -> Any:
        """The configuration of the next trial, as a mapping that Tune hands to the trial function."""
        due = [name for name, study in self._studies.items() if self._begun[name] < study.num_trials]
        if not due:
            return Searcher.FINISHED
        name = min(due, key=lambda name: self._begun[name])
        study, number = self._studies[name], self._begun[name]
        point, fresh = self._point(study, number, trial_id)
        self._begun[name] += 1
        self._live[trial_id] = (name, point, fresh)
        trial = study.trial(point)
        self._told(trial)
        return {
            "trial": {
                "folder": trial.folder,
                "study": trial.study,
                "config": trial.config.model_dump(mode="json"),
                "stopped_after": self._stopped.get(trial.folder),
            }
        }

    def _point(self, study: Study, number: int, trial_id: str) -> tuple[Point, bool]:
        """What to try, and whether Optuna has just proposed it and waits for what comes of it."""
        if study.name not in self._optuna:
            return study.point(number), False
        if number < len(self._proposed[study.name]):
            return self._proposed[study.name][number], False
        if not number and study.defaults_first:
            self._write(study, number, study.point(number))
            return study.point(number), False
        point = self._propose(study, trial_id)
        self._write(study, number, point)
        return point, True

    def _write(self, study: Study, number: int, point: Point) -> None:
        self._proposed[study.name].append(point)
        self._append(self._file, {"study": study.name, "number": number, "point": point})

    def _propose(self, study: Study, trial_id: str) -> Point:
        """A point of Optuna's that has not been tried; it repeats itself where few are left."""
        search, tried = self._optuna[study.name], self._proposed[study.name]
        for again in range(_PROPOSALS):
            asked = f"{trial_id}-{again}"
            point = as_tried(search.suggest(asked), study.space)
            if point not in tried:
                self._asked[trial_id] = asked
                return point
            search.on_trial_complete(asked, error=True)
        raise ConfigError(
            f"search: {study.name}: {len(tried)} points tried, and Optuna proposes no other; expected fewer "
            "search.trials, or a larger search.space"
        )

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        name, _, fresh = self._live[trial_id]
        if fresh:
            self._optuna[name].on_trial_result(self._asked[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        name, point, fresh = self._live.pop(trial_id)
        if name not in self._optuna:
            return
        over = bool(result and result.get("finished"))
        if fresh:
            # A trial that was stopped has the mean over fewer tasks: no score to be compared with a finished one's.
            self._optuna[name].on_trial_complete(self._asked[trial_id], result if over else None, error)
        elif result and not error and _within(point, self._studies[name].space):
            space = self._studies[name].space
            self._optuna[name].add_evaluated_point(
                {key: _as_asked(value, space[key]) for key, value in point.items()},
                result[SCORE], pruned=not over, intermediate_values=[result[SCORE]] if not over else None,
            )  # fmt: skip

    def save(self, checkpoint_path: str) -> None:
        """Tune's own snapshot of a searcher; there is nothing in it, as a sweep goes on from its file and folders."""
        Path(checkpoint_path).write_bytes(b"")

    def restore(self, checkpoint_path: str) -> None:
        """Never called: a sweep goes on from its file and folders."""


class Halving(FIFOScheduler):
    """Tune's scheduler: ASHA within each study.

    Args:
        rule: when trials end.
        studies: of the sweep.
        num_stages: of each study's runs, by name.
        file: where a trial that ends early is written down.
        append: writes a record down; on return it is safe.
    """

    def __init__(
        self,
        rule: StopEarly,
        studies: Sequence[Study],
        num_stages: Mapping[str, int],
        file: Path,
        append: Callable[[Path, Mapping[str, Any]], None] = append_record,
    ):
        super().__init__()
        self._metric = SCORE
        self._file = file
        self._append = append
        self._asha = {
            study.name: ASHAScheduler(
                time_attr=STAGES,
                metric=SCORE,
                mode="max",
                grace_period=rule.grace_stages,
                max_t=max(num_stages[study.name], rule.grace_stages),
                reduction_factor=rule.reduction_factor,
            )
            for study in studies
        }
        self._ended: set[str] = set()

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        folder = trial.config["trial"]["folder"]
        action: str = self._of(trial).on_trial_result(tune_controller, trial, result)
        if result["over"]:  # it is finished, or was stopped by an earlier session: nothing is left to decide
            return str(TrialScheduler.CONTINUE)
        if action == TrialScheduler.STOP and folder not in self._ended:
            self._ended.add(folder)
            self._append(self._file, {"folder": folder, "stage": result[STAGES] - 1, "score": result[SCORE]})
        return action

    def on_trial_complete(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> None:
        self._of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: TuneTrial) -> None:
        self._of(trial).on_trial_remove(tune_controller, trial)

    def _of(self, trial: TuneTrial) -> ASHAScheduler:
        return self._asha[trial.config["trial"]["study"]]


def optuna_search(space: Mapping[str, Space], seed: int) -> Any:
    """Ray Tune's search by Optuna over a space.

    Raises:
        ConfigError: Optuna is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise ConfigError("search.by: optuna is not installed; pip install 'fcit_ray[search]'") from None
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return OptunaSearch(
        {key: _distribution(values) for key, values in space.items()}, metric=SCORE, mode="max", seed=seed
    )


def as_tried(params: Mapping[str, Any], space: Mapping[str, Space]) -> Point:
    """Optuna's parameters as values of the keys."""
    return {
        key: values.choice[params[key]] if values.choice is not None else values.rounded(params[key])
        for key, values in space.items()
    }


def _distribution(values: Space) -> Any:
    """Choices go by their number: Optuna takes plain values alone, and a choice may be a list or a section."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if values.choice is not None:
        return CategoricalDistribution(range(len(values.choice)))
    if values.randint is not None:
        return IntDistribution(values.randint[0], values.randint[1] - 1)
    if values.loguniform is not None:
        return FloatDistribution(*values.loguniform, log=True)
    assert values.uniform is not None
    return FloatDistribution(*values.uniform)


def _as_asked(value: Any, values: Space) -> Any:
    return values.choice.index(value) if values.choice is not None else value


def _check_known(point: Point, study: Study, file: Path) -> None:
    """Refuse to go on from proposals of another search space."""
    if not _within(point, study.space):
        raise ConfigError(
            f"{file}: {study.name}: {dict(point)} was proposed for another search space than the one of now; give "
            "another folder (--out), or the sweep file as it was"
        )


def _within(point: Point, space: Mapping[str, Space]) -> bool:
    return point.keys() == space.keys() and all(_holds(space[key], value) for key, value in point.items())


def _holds(values: Space, value: Any) -> bool:
    if values.choice is not None:
        return value in values.choice
    low, high = values.ends
    return isinstance(value, int | float) and bool(low <= value <= high)
