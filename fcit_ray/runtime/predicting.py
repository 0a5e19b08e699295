"""Answering with Ray Data: questions are read and encoded by tasks, answered by actors that hold the base once each.

Nothing is held beyond a few blocks: a block is a small value that says which questions it is of; a task reads and
encodes them, an actor answers, and what comes back are lines. A block is a row, so that however Ray joins or cuts its
own blocks, none is mixed with another.

An error comes back as data, as in `data.py`, and for the same reason.
"""

import json
import logging
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fcit_ray.importing import swift_imports

with swift_imports():  # tasks and actors begin with it
    import pyarrow as pa
    import ray
    import ray.data
    import torch

    from fcit_ray.data.loading.samples import SampleEncoder
    from fcit_ray.data.questions.pieces import piece_from_json, piece_to_json
    from fcit_ray.data.questions.question import Question
    from fcit_ray.data.records.layout import Record
    from fcit_ray.errors import ClusterLost, ConfigError, RunFailed, UserError
    from fcit_ray.runtime.blocks import CPUS_PER_TASK, from_table, quiet, to_table
    from fcit_ray.runtime.errors import MENDABLE, origin
    from fcit_ray.runtime.gpu_share import keep_to_share
    from fcit_ray.runtime.head import HeadWatch, watch_head
    from fcit_ray.runtime.room import Room
    from fcit_ray.runtime.shape import Shape
    from fcit_ray.runtime.store import RayStore, share_tensors
    from fcit_ray.serving.asking import Answerer, Asked, answer_lines, encode_all, question_encoder
    from fcit_ray.serving.opening import views_of
    from fcit_ray.serving.trained import Trained

Lines = list[dict[str, Any]]
"""What is said of the questions of a block, as `asking.line_of` does."""

_log = logging.getLogger("ray")

CPUS_PER_ACTOR = 0.5
"""Logical: an actor computes in one thread, as a run's workers do, or on its GPU."""


@dataclass(frozen=True)
class Block:
    """Questions that one model answers.

    Attributes:
        number: which comes back with their lines.
        piece: where they are read (`data.questions.pieces`).
        view: the model, as in `views_of`.
    """

    number: int
    piece: Any
    view: str = ""


def check_places(workers: int, gpu: bool, share: float = 1.0) -> None:
    """Refuse what could never be placed on this cluster, rather than wait for ever.

    Args:
        workers: actors that answer.
        gpu: whether each has a GPU, or a share of one.
        share: of a GPU.

    Raises:
        ConfigError: says what there is.
    """
    if (room := Room.here()) is None:
        return
    actors = Shape(workers, CPUS_PER_ACTOR, gpu, share)
    enough = workers * CPUS_PER_ACTOR + CPUS_PER_TASK <= room.cpus + 1e-9
    if not enough or room.places(actors) < workers:
        raise ConfigError(
            f"--workers {workers}: find no room at {actors.each} each, and {CPUS_PER_TASK:g} CPU to read with: {room}; "
            "give fewer"
        )


def answer_blocks(
    trained: Trained, blocks: Sequence[Block], workers: int
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Answer blocks of questions on the cluster that this process is connected to.

    An actor that dies is replaced, as often as `runtime.max_worker_failures` says; what was answered is kept.

    Args:
        trained: made ready for the cluster's machines (`on_this_machine`).
        blocks: those of one view follow each other, as an actor packs its adapters anew when the view changes.
        workers: actors, each with the base once.

    Yields:
        The number of a block and its lines (`line_of`), each block once, in the order of the blocks.

    Raises:
        UserError, RunFailed: what stopped it.
    """
    share_tensors()
    quiet()
    handle = RayStore().put(trained)
    left = {block.number: block for block in blocks}
    failures = trained.config.runtime.max_worker_failures
    with watch_head() as head:
        while left:
            try:
                for number, lines in _execute(trained, handle, list(left.values()), workers):
                    del left[number]
                    yield number, lines
            except ray.exceptions.RayError as error:
                _check_head(head)
                failures -= 1
                said = str(origin(error)).strip().splitlines() or [repr(error)]
                if failures < 0:
                    raise RunFailed(f"actors that answer die again and again (killed, or out of memory?): {said[-1]}") \
                        from None  # fmt: skip
                _log.warning("an actor that answers died, and the others start anew with it: %s", said[-1])


def _execute(trained: Trained, handle: Any, blocks: Sequence[Block], workers: int) -> Iterator[tuple[int, Lines]]:
    """One execution of Ray Data; `handle` is the model's."""
    answered = answering(trained, handle, blocks, workers)
    batches: Iterator[Any] = iter(answered.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))
    for table in batches:
        for row in table.to_pylist():
            _raise(row["failure"])
            yield row["block"], json.loads(row["lines"])


def answering(trained: Trained, handle: Any, blocks: Sequence[Block], workers: int) -> ray.data.Dataset:
    """The dataset of answers, a row a block; nothing of it is executed yet."""
    runtime = trained.config.runtime
    gpu = runtime.gpu
    # On CPUs Ray joins both maps in the actors; where these have GPUs, tasks encode what is answered next.
    items = [{"block": b.number, "view": b.view, "piece": piece_to_json(b.piece)} for b in blocks]
    encoded = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _Encode(question_encoder(trained)),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=CPUS_PER_TASK,
        compute=ray.data.TaskPoolStrategy(size=workers),
    )
    return encoded.map_batches(
        _Answer,
        fn_constructor_args=(handle, trained.config.evaluation.batch_size),
        batch_size=1 if gpu else None,  # a row is a block of questions; with GPUs Ray wants a number
        batch_format="pyarrow",
        num_cpus=CPUS_PER_ACTOR,
        num_gpus=runtime.gpus_per_worker if gpu else None,
        compute=ray.data.ActorPoolStrategy(size=workers),
        max_restarts=0,  # `answer_blocks` starts anew; Ray's core warns of restarts whatever keeps the arguments
    )


def _check_head(head: HeadWatch) -> None:
    try:
        head.check_now()
    except ClusterLost:
        raise ClusterLost(
            "the Ray cluster's head does not answer any more (stopped, or its machine lost); what was answered is "
            "kept: once a cluster is there, --resume goes on"
        ) from None


@dataclass(frozen=True)
class _Encode:
    """The map of the tasks: a block's piece to its encoded questions."""

    encoder: SampleEncoder

    def __call__(self, batch: pa.Table) -> pa.Table:
        torch.set_num_threads(1)  # the bits of an image's feature must not depend on how many there are
        rows = [self._row(row) for row in batch.to_pylist()]
        return pa.table(
            {
                "block": pa.array([row["block"] for row in rows], pa.int64()),
                "view": pa.array([row["view"] for row in rows], pa.string()),
                "places": pa.array([row["places"] for row in rows], pa.string()),
                "samples": pa.array([row["samples"] for row in rows], pa.large_binary()),
                "failure": pa.array([row["failure"] for row in rows], pa.string()),
            }
        )

    def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        made = {"block": row["block"], "view": row["view"], "places": "[]", "samples": b"", "failure": ""}
        try:
            asked = encode_all(piece_from_json(row["piece"]).read(), self.encoder)
            return {**made, "places": json.dumps([_place(each) for each in asked]), "samples": _to_bytes(asked)}
        except Exception as error:
            return {**made, "failure": _failure(error)}


class _Answer:
    """The actor's map: encoded questions to their lines.

    Args:
        trained: handle of the model.
        batch_size: questions generated together.
    """

    def __init__(self, trained: Any, batch_size: int):
        self._batch_size = batch_size
        self._failed = ""
        torch.set_num_threads(1)  # as the workers of a run, so that the bits are theirs
        try:
            [model] = RayStore().get([trained])
            if model.config.runtime.gpu:
                keep_to_share(model.config.runtime.gpus_per_worker)
            self._answerer = Answerer(model, view=next(iter(views_of(model))))
        except Exception as error:
            self._failed = _failure(error)  # raised, it would have the actor started anew

    def __call__(self, batch: pa.Table) -> pa.Table:
        numbers, lines, failures = [], [], []
        for row in batch.to_pylist():
            failure, made = self._failed or row["failure"], "[]"
            if not failure:
                try:
                    self._answerer.use(row["view"])
                    asked = _from_bytes(json.loads(row["places"]), row["samples"])
                    made = json.dumps(answer_lines(asked, self._answerer, self._batch_size))
                except Exception as error:
                    failure = _failure(error)
            numbers.append(row["block"])
            lines.append(made)
            failures.append(failure)
        return pa.table(
            {
                "block": pa.array(numbers, pa.int64()),
                "lines": pa.array(lines, pa.large_string()),
                "failure": pa.array(failures, pa.string()),
            }
        )


def _place(asked: Asked) -> list[Any]:
    """What a line says of a question, why it was not encoded (empty if it was), and how long it is."""
    record = asked.question.record
    return [record.id, record.source, record.index, record.images, asked.fault, asked.length]


def _to_bytes(asked: Sequence[Asked]) -> bytes:
    samples = [each.sample for each in asked if each.sample is not None]
    if not samples:
        return b""
    table = to_table(samples)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


def _from_bytes(places: Sequence[Sequence[Any]], content: bytes) -> list[Asked]:
    samples = iter(from_table(pa.ipc.open_stream(content).read_all()) if content else ())
    asked = []
    for name, source, index, images, fault, (pictures, characters) in places:
        question = Question(Record("", name, tuple(images), (), source=source, index=index))
        asked.append(Asked(question, None if fault else next(samples), fault, (pictures, characters)))
    return asked


def _failure(error: Exception) -> str:
    kind = type(error).__name__ if isinstance(error, UserError) else ""
    said = str(error) if kind else "".join(traceback.format_exception(error)).strip()
    return json.dumps([kind, said])


def _raise(failure: str) -> None:
    """Raise what a task or an actor could not do, as the user should read it."""
    if not failure:
        return
    kind, said = json.loads(failure)
    if kind:
        raise {error.__name__: error for error in MENDABLE}.get(kind, UserError)(said)
    raise RunFailed(f"answering: {said.splitlines()[-1]}", said)
