"""Evaluation after a stage: every model's answers from the workers, their scores, and the record of them."""

from collections.abc import Sequence
from typing import Any

from fcit_ray.data.loading.shards import ShardSource
from fcit_ray.data.scoring.rules import rule_for
from fcit_ray.experiment.opening import Experiment
from fcit_ray.federated.answering import Answer
from fcit_ray.federated.lora.base import LoraRule
from fcit_ray.results.cover import predictions_label
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.results.scored import check_same_scorers, score_answers, task_scores
from fcit_ray.runtime.messages import AnswerWork, Store
from fcit_ray.runtime.standing import Standing
from fcit_ray.runtime.stopwatch import Stopwatch
from fcit_ray.runtime.work_queue import WorkQueue
from fcit_ray.types import Params, ServerState


class Evaluation:
    """Answers and scores the test sets of a run.

    Args:
        experiment: what is run.
        lora: which models there are to evaluate.
        folder: where predictions and records go.
        shards: where test records come from.
        store: shared memory for what the workers fetch.
        queue: the workers' work.
        standing: told of scores and times.

    Attributes:
        view: of the models being evaluated, the one that answers now.
        num_views: how many there are.
    """

    def __init__(
        self,
        experiment: Experiment,
        lora: LoraRule,
        folder: RunFolder,
        shards: ShardSource,
        store: Store,
        queue: WorkQueue,
        standing: Standing,
    ):
        self._experiment = experiment
        self._config = experiment.config
        self._lora = lora
        self._folder = folder
        self._shards = shards
        self._store = store
        self._queue = queue
        self._standing = standing
        self._versions = 0
        self.view, self.num_views = 0, 1

    def evaluate(self, state: ServerState, stage: int) -> None:
        """Answer, score, and write down what came of it; `state` is that after the stage, -1 is zero-shot."""
        clock = Stopwatch()
        tasks = self._config.benchmark.tasks
        seen = self._experiment.stream.evaluated[stage] if stage >= 0 else range(len(tasks))
        unseen = self._config.benchmark.transfer if self._experiment.is_last(stage) else ()
        self._shards.prepare(stage)
        clock.lap("prepare")
        datasets = self._experiment.evaluated(stage)
        views = self._lora.views(state.params, state.memories)
        self.num_views = len(views)
        knowledge = self._store.put(state.knowledge)
        answers = {}
        for index, (view, params) in enumerate(views.items()):
            self.view = index
            answers[view] = self._answers(params, knowledge, datasets, stage)
        self.view, self.num_views = 0, 1
        clock.lap("answer")
        label = predictions_label(stage)
        details: dict[str, Any] = {}
        for name in datasets:
            rule = rule_for(self._config, name)
            by_view = {view: answers[view][name] for view in views}
            rows, details[name] = score_answers(rule, self._experiment.tests[name], by_view)
            self._folder.write_predictions(label, name, rows)
        check_same_scorers(self._folder.records(), details)
        clock.lap("score")
        count = sum(len(self._experiment.tests[name]) for name in datasets)
        self._standing.took("record", sum(clock.laps.values()), count)
        scores = task_scores(self._config.benchmark, list(seen), details)
        transfer = {name: details[name]["percent"] for name in unseen}
        self._folder.log(
            {
                "kind": "evaluation",
                "stage": stage,
                "scores": scores,
                **({"transfer": transfer} if unseen else {}),
                "datasets": details,
                "num_records": count,
                "seconds": clock.laps,
            }
        )
        self._folder.cover_records()
        self._standing.scores(stage, scores, transfer)

    def _answers(self, model: Params, knowledge: Any, datasets: Sequence[str], stage: int) -> dict[str, list[Answer]]:
        """Every record's answer of one model, by dataset; `knowledge` is a handle."""
        self._versions += 1
        params = [self._store.put(model)]
        size = self._config.evaluation.batch_size
        pieces = [
            (name, start, min(start + size, len(self._experiment.tests[name])))
            for name in datasets
            for start in range(0, len(self._experiment.tests[name]), size)
        ]
        works = [
            AnswerWork(self._versions, params, knowledge, name, self._shards.test_shard(name, start, stop), stage)
            for name, start, stop in pieces
        ]
        results: list[list[Answer]] = self._queue.run(works, [stop - start for _, start, stop in pieces])
        answers: dict[str, list[Answer]] = {name: [] for name in datasets}
        for (name, _, _), result in zip(pieces, results, strict=True):
            answers[name] += result
        return answers
