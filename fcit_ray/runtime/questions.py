"""The questions of a stage on their way: a thread has one model after another answer them, and scores the answers."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fcit_ray.data.loading.shards import Shard
from fcit_ray.data.scoring.rules import rule_for
from fcit_ray.experiment.opening import Experiment
from fcit_ray.federated.answering import Answer, Answered, Effort
from fcit_ray.results.scored import score_answers
from fcit_ray.runtime.messages import AnswerWork, Store
from fcit_ray.runtime.pieces import Batch
from fcit_ray.runtime.work_queue import WorkQueue
from fcit_ray.types import Params, Tree

URGENCY: Final = -1
"""Of questions, below that of rounds."""

Pieces = Mapping[str, Sequence[tuple[Sequence[int], Shard]]]
"""By dataset the questions that are answered together: their positions in its file, and their samples."""
Rows = dict[str, list[dict[str, Any]]]


class Questions:
    """All that is asked after one stage. Handed in when it is made; the state that answers does not change any more.

    Args:
        experiment: whose rules score.
        stage: after which, for messages; -1 is zero-shot.
        views: the models that answer, by name.
        knowledge: of the method.
        pieces: what is asked.
        store: shared memory for what the workers fetch.
        queue: the workers' work.
        version: names the state of the first model to the workers, and the numbers after it those of the others.
    """

    def __init__(
        self,
        experiment: Experiment,
        stage: int,
        views: Mapping[str, Params],
        knowledge: Tree,
        pieces: Pieces,
        store: Store,
        queue: WorkQueue,
        version: int,
    ):
        self._experiment = experiment
        self._stage = stage
        self._views = views
        self._knowledge = knowledge
        self._pieces = pieces
        self._store = store
        self._queue = queue
        self._version = version
        self._batch: Batch | None = None
        self._done = 0
        self._answered = threading.Event()
        self._rows: Rows = {}
        self._details: dict[str, dict[str, Any]] = {}
        self._error: Exception | None = None
        self.effort = Effort()
        self._thread = threading.Thread(target=self._run, name=f"questions after stage {stage}", daemon=True)
        self._thread.start()

    @property
    def num_records(self) -> int:
        """Questions, whoever answers them."""
        return sum(len(places) for pieces in self._pieces.values() for places, _ in pieces)

    @property
    def num_answers(self) -> int:
        """Answers that are to be given."""
        return len(self._views) * self.num_records

    @property
    def num_given(self) -> int:
        """Answers given so far."""
        batch = self._batch
        return self._done + (int(batch.progress().size) if batch is not None else 0)

    def is_over(self) -> bool:
        """Whether answers and scores are there, or what stopped them."""
        return not self._thread.is_alive()

    def wait(self) -> None:
        """Until the answers are there, or what stopped them."""
        self._answered.wait()

    def result(self) -> tuple[Rows, dict[str, dict[str, Any]]]:
        """The lines of predictions and what the evaluation says, by dataset, once all is there.

        Raises:
            RunFailed: a worker's error; JavaError, or whatever a rule of one's own raises.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._rows, self._details

    def _run(self) -> None:
        try:
            answers = self._answers()
            self._answered.set()
            for name in self._pieces:
                rule, records = rule_for(self._experiment.config, name), self._experiment.tests[name]
                by_view = {view: answers[view][name] for view in self._views}
                self._rows[name], self._details[name] = score_answers(rule, records, by_view)
        except Exception as error:  # told to whoever asks for the result
            self._error = error
        finally:
            self._answered.set()

    def _answers(self) -> dict[str, dict[str, list[Answer]]]:
        """By model and dataset every record's answer, in file order."""
        knowledge = self._store.put(self._knowledge)
        asked = [(name, places, shard) for name, pieces in self._pieces.items() for places, shard in pieces]
        sizes = [len(places) for _, places, _ in asked]
        answers: dict[str, dict[str, list[Answer]]] = {}
        for version, (view, model) in enumerate(self._views.items(), self._version):
            params = [self._store.put(model)]
            works = [AnswerWork(version, params, knowledge, name, shard, self._stage) for name, _, shard in asked]
            self._batch = self._queue.open(works, sizes, urgency=URGENCY)
            results: list[Answered] = self._batch.wait()
            self._done, self._batch = self._done + self.num_records, None
            given: dict[str, dict[int, Answer]] = {name: {} for name in self._pieces}
            for (name, places, _), result in zip(asked, results, strict=True):
                given[name].update(zip(places, result.answers, strict=True))
                self.effort += result.effort
            answers[view] = {name: [found[place] for place in range(len(found))] for name, found in given.items()}
        return answers
