"""The reference row that needs no model: always giving the most frequent training answer."""

from typing import Any

from fcit_ray.config.schema import Config
from fcit_ray.data.partition.stream import training_data
from fcit_ray.data.records.collection import Collection
from fcit_ray.data.records.layout import load_test
from fcit_ray.data.scoring.rules import rule_for, scored_by
from fcit_ray.data.scoring.scores import majority_score
from fcit_ray.results.figures import make_results


def majority_results(config: Config, label: str = "Majority answer") -> dict[str, Any]:
    """What each dataset's majority answer scores on the run's test records, in the shape of a results.json.

    Raises:
        DataError: a file or record cannot be used.
    """
    benchmark = config.benchmark
    collection = Collection.of(benchmark, config.seed)
    percents: dict[str, float] = {}
    counts: dict[str, int] = {}
    details: dict[str, dict[str, float]] = {}
    for task, records in zip(benchmark.tasks, training_data(benchmark, config.seed)[0], strict=True):
        scores = []
        counts[task.name] = 0
        for name in task.datasets:
            tests = load_test(collection, name, benchmark.split, benchmark.max_test_records)
            rule = rule_for(config, name)
            scored = majority_score(rule, [record for record in records if record.dataset == name], tests)
            scores.append(scored.percent)
            details[name] = {"percent": scored.percent, **scored.parts}
            counts[task.name] += len(tests)
        percents[task.name] = sum(scores) / len(scores)
    return make_results(
        label=label,
        seed=config.seed,
        tasks=[task.name for task in benchmark.tasks],
        num_stages=0,
        records=[{"kind": "evaluation", "stage": -1, "scores": percents, "datasets": details}],
        num_records=counts,
        params={},
        scored=scored_by(config, details),
    )
