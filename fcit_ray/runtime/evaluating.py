"""Evaluation after a stage: every model's answers from the workers, their scores, and the record of them.

It is opened and finished apart: between the two the next stage's rounds may run, whose work goes first. The state that
answers is fixed when it is opened, so the answers do not depend on when they are given.
"""

from collections.abc import Callable, Mapping
from typing import Any

from fcit_ray.data.loading.shards import ShardSource
from fcit_ray.experiment.opening import Experiment
from fcit_ray.federated.answering import Effort
from fcit_ray.federated.lora.base import LoraRule
from fcit_ray.results.cover import predictions_label
from fcit_ray.results.run_folder import RunFolder
from fcit_ray.results.scored import check_same_scorers, task_scores
from fcit_ray.runtime.messages import Store
from fcit_ray.runtime.questions import Questions
from fcit_ray.runtime.standing import Standing
from fcit_ray.runtime.stopwatch import Stopwatch
from fcit_ray.runtime.work_queue import WorkQueue
from fcit_ray.types import ServerState


class Evaluation:
    """Answers and scores the test sets of a run, one stage's at a time. All but `progress` is called from one thread.

    Args:
        experiment: what is run.
        lora: which models there are to evaluate.
        folder: where predictions and records go.
        shards: where test records come from.
        store: shared memory for what the workers fetch.
        queue: the workers' work.
        standing: told of scores and times.
        seconds_left: of the run.
        log: takes the record of an evaluation; by default the folder's own.

    Attributes:
        stage: after which the open evaluation is, -1 for zero-shot; None if none is open.
        behind: whether rounds run meanwhile.
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
        seconds_left: Callable[[], float | None] = lambda: None,
        log: Callable[[Mapping[str, Any]], None] | None = None,
    ):
        self._experiment = experiment
        self._config = experiment.config
        self._lora = lora
        self._folder = folder
        self._shards = shards
        self._store = store
        self._queue = queue
        self._standing = standing
        self._seconds_left = seconds_left
        self._log = log or folder.log
        self._on_record: set[int] = set()
        self._versions = 0
        self._questions: Questions | None = None
        self._prepare_s = 0.0
        self.stage: int | None = None
        self.behind = False

    def begin(self) -> None:
        """Learn which evaluations are on record, once nothing else will be dropped from it."""
        self._on_record = {record["stage"] for record in self._folder.records() if record["kind"] == "evaluation"}

    def between_rounds(self, state: ServerState, over: bool) -> None:
        """Finish an evaluation that is over or has to be, and begin what is due.

        One that is answered behind the next stage's rounds is finished before that stage's own begins. Where a run that
        was ended goes on, an earlier stage's may be due as well; its state is then in the checkpoint before its next
        stage's first round, which is kept for that (`run_folder.save_checkpoint`).

        Args:
            state: the server's.
            over: whether no round follows.
        """
        if self.stage is not None and (state.round == 0 or self.is_ready()):
            self._finish_and_show()
        for stage in self._due(state, over):
            own = (stage + 1, 0) == (state.stage, state.round) or stage < 0
            after = state if own else self._folder.checkpoint_of(stage + 1, 0)
            behind = self._may_wait and not over and stage == state.stage - 1
            if not behind:
                self._standing.show(self._seconds_left(), phase="evaluating", stage=stage, task="", loss=None)
            self.open(after, stage, behind)
            if not behind:
                self._finish_and_show()

    def _due(self, state: ServerState, over: bool) -> list[int]:
        """The stages that are to be evaluated now, neither on record nor under way; -1 is zero-shot."""
        if not (over or self._config.evaluation.every_stage):
            return []
        last = state.stage - 1
        stages = range(last + 1) if self._config.evaluation.every_stage else [last]
        if over and last < 0:
            stages = [-1]
        return [stage for stage in stages if stage not in self._on_record and stage != self.stage]

    @property
    def _may_wait(self) -> bool:
        """Whether rounds may run before the questions of an earlier stage are answered; one worker is never idle."""
        return self._config.runtime.answer_behind and self._config.runtime.num_workers > 1

    def left(self) -> tuple[dict[str, float], float]:
        """Questions that the run has still to answer, `behind` rounds or with nothing else to do (`record`); and how
        many of the latter are answered of those that are being asked."""
        tests, num_stages = self._experiment.tests, self._experiment.setting.num_stages
        stages = range(num_stages) or range(-1, 0)  # nothing trained: the one evaluation before
        left = {"record": 0.0, "behind": 0.0}
        for stage in stages if self._config.evaluation.every_stage else stages[-1:]:
            if stage not in self._on_record:
                kind = "behind" if self._may_wait and stage != stages[-1] else "record"
                left[kind] += sum(len(tests[name]) for name in self._experiment.evaluated(stage))
        questions, answered = self._questions, 0.0
        if questions is not None and not self.behind:
            answered = questions.num_records * questions.num_given / max(questions.num_answers, 1)
            left["record"] = max(0.0, left["record"] - answered)
        return left, answered

    def _finish_and_show(self) -> None:
        if not self.is_ready():
            self._standing.show(phase="evaluating", stage=self.stage, task="", loss=None)
        self._on_record.add(self.finish())
        self._folder.drop_checkpoints(self._config.runtime.keep_checkpoints)  # also what was held for it

    def open(self, state: ServerState, stage: int, behind: bool) -> None:
        """Hand in the questions; returns at once.

        Args:
            state: that after the stage.
            stage: -1 is zero-shot.
            behind: whether rounds run before it is finished.
        """
        assert self.stage is None, "one evaluation at a time"
        clock = Stopwatch()
        self._shards.prepare(stage)
        pieces = {
            name: [(places, self._shards.test_shard(name, places)) for places in self._experiment.batches[name]]
            for name in self._experiment.evaluated(stage)
        }
        clock.lap("prepare")
        self._prepare_s = clock.laps["prepare"]
        views = self._lora.views(state.params, state.memories)
        self._questions = Questions(
            self._experiment, stage, views, state.knowledge, pieces, self._store, self._queue, self._versions
        )
        self._versions += len(views)
        self.stage, self.behind = stage, behind
        if behind:
            self._standing.behind(stage, self._questions.num_records)

    def progress(self) -> tuple[int, int]:
        """Answers given and to be given, by all models together; (0, 0) if no evaluation is open."""
        questions = self._questions
        return (questions.num_given, questions.num_answers) if questions is not None else (0, 0)

    @property
    def held(self) -> tuple[int, int] | None:
        """Position of the checkpoint that an open evaluation would be begun again from."""
        return (self.stage + 1, 0) if self.stage is not None else None

    def told(self) -> dict[str, Any]:
        """What a status says of questions that are answered behind rounds."""
        stage = self.stage if self.behind else None
        return {"answering": stage, "answered": self.progress() if stage is not None else (0, 0)}

    def is_ready(self) -> bool:
        """Whether `finish` need not wait."""
        return self._questions is not None and self._questions.is_over()

    def finish(self) -> int:
        """Wait for answers and scores, and write down what came of them; returns the stage.

        Raises:
            RunFailed: a worker's error, or a rule of one's own is another by now.
            JavaError: captions cannot be scored.
        """
        questions, stage, behind = self._questions, self.stage, self.behind
        assert questions is not None, "open one first"
        assert stage is not None, "open one first"
        clock = Stopwatch()
        questions.wait()
        clock.lap("answer")
        rows, details = questions.result()
        for name, lines in rows.items():
            self._folder.write_predictions(predictions_label(stage), name, lines)
        check_same_scorers(self._folder.records(), details)
        clock.lap("score")
        benchmark, count = self._config.benchmark, questions.num_records
        seen = self._experiment.stream.evaluated[stage] if stage >= 0 else range(len(benchmark.tasks))
        unseen = benchmark.transfer if self._experiment.is_last(stage) else ()
        scores = task_scores(benchmark, list(seen), details)
        transfer = {name: details[name]["percent"] for name in unseen}
        seconds = {"prepare": self._prepare_s, **clock.laps}
        self._log(
            {
                "kind": "evaluation",
                "stage": stage,
                "scores": scores,
                **({"transfer": transfer} if unseen else {}),
                "datasets": details,
                "num_records": count,
                "behind": behind,
                **_costs(questions.effort, questions.num_answers),
                "seconds": seconds,
            }
        )
        self._folder.cover_records()
        self._standing.took("behind" if behind else "record", sum(seconds.values()), count)
        if behind:  # what the last evaluation will take, which nothing runs before
            self._standing.took("record", questions.effort.seconds / self._config.runtime.num_workers, count)
        self._standing.scores(stage, scores, transfer)
        self._questions, self.stage = None, None
        return stage


def _costs(effort: Effort, num_answers: int) -> dict[str, Any]:
    """What the record of an evaluation says of its answers; rates are those of one worker while it answers."""
    seconds = effort.seconds
    return {
        "answer_tokens": effort.tokens,
        "padding_frac": effort.padding / max(effort.positions, 1),
        "answer_s": seconds,
        "questions_per_s": num_answers / seconds if seconds else None,
        "tokens_per_s": effort.tokens / seconds if seconds else None,
    }
