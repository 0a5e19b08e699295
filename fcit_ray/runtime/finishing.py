"""The end of a run: its figures, gathered from its records."""

from collections.abc import Iterable, Mapping
from typing import Any

from fcit_ray.data.scoring.rules import scored_by
from fcit_ray.experiment.opening import Experiment
from fcit_ray.results.figures import make_results
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.types import ServerState


def finish(
    experiment: Experiment,
    folder: RunFolder,
    state: ServerState,
    spent: Mapping[str, float],
    attention: Iterable[str],
    features: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """Write the results of a run that is over; returns them.

    Args:
        experiment: what was run.
        folder: where its records are.
        state: after the last round.
        spent: what privacy it has cost.
        attention: kernels that the workers used.
        features: what identity features have cost, by half; empty if nothing.
    """
    config, tests = experiment.config, experiment.tests
    results = make_results(
        label=config.name,
        seed=config.seed,
        tasks=[task.name for task in config.benchmark.tasks],
        num_stages=experiment.setting.num_stages,
        records=folder.records(),
        num_records={task.name: sum(len(tests[name]) for name in task.datasets) for task in config.benchmark.tasks},
        num_unseen={name: len(tests[name]) for name in config.benchmark.transfer},
        params=state.params,
        spent=spent,
        scored=scored_by(config, tests),
        attention=attention,
    )
    results["quarantined"] = experiment.quarantined
    if features:
        results["features"] = dict(features)
    results["config"] = config.model_dump(mode="json")
    folder.write_results(results)
    return results
