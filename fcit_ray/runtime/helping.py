"""Helping another worker with its client: single micro-batches, each at the values that the leader shared."""

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

from fcit_ray.config.schema import Train
from fcit_ray.data.loading.collate import Collator
from fcit_ray.data.loading.shards import training_batches, training_piece
from fcit_ray.federated.algorithm import Algorithm
from fcit_ray.federated.local_run import LocalRun
from fcit_ray.federated.micro_batch import micro_batch_part, set_up
from fcit_ray.federated.sharing import take_over
from fcit_ray.models.bank import AdapterBank
from fcit_ray.runtime.messages import Store, TrainWork, ValueLost, job_of
from fcit_ray.runtime.partners import Partners
from fcit_ray.runtime.shared_steps import HelpWork, PartNote
from fcit_ray.types import ClientJob, Setting

_CLIENTS = 2
"""Whose jobs are kept, with their values, by who goes to and fro between them."""


@dataclass
class _Place:
    """Where the bank is.

    Attributes:
        lead: whose client.
        post: which step of it; 0 before any.
        run, extra: as `set_up` made them.
    """

    lead: int
    post: int
    run: LocalRun
    extra: Any


class Helper:
    """Computes micro-batches for others.

    Args:
        bank: of the worker; what it held before does not matter.
        algorithm: of the run.
        train: of the run.
        setting: of the run.
        collator: of the run.
        store: where values come from and gradients go.
    """

    def __init__(
        self, bank: AdapterBank, algorithm: Algorithm, train: Train, setting: Setting, collator: Collator, store: Store
    ):
        self._bank = bank
        self._algorithm = algorithm
        self._train = train
        self._setting = setting
        self._collator = collator
        self._store = store
        self._jobs: OrderedDict[int, tuple[ClientJob, TrainWork]] = OrderedDict()
        self._place: _Place | None = None

    def leave(self) -> None:
        """The bank is wanted for something else."""
        self._place = None
        self._jobs.clear()

    def help(self, work: HelpWork, partners: Partners) -> PartNote | None:
        """One micro-batch; None if the client is done, or what it takes was lost with its leader.

        Raises:
            FloatingPointError: the loss is not finite, as it would not be at the leader's.
        """
        try:
            job, its = self._job(work, partners)
            place = self._at(work, job, its)
        except ValueLost:
            self._place = None
            return None
        train, step = self._train, work.step.number
        batch = training_piece(
            its.shard, self._collator, train.batch_size, job.seed, train.micro_batch_size, step, work.number
        )
        method, local = self._algorithm.method, self._algorithm.local
        share = work.step.shares[work.number]
        part = micro_batch_part(place.run, method, local, place.extra, batch, share, step, work.number)
        return PartNote(part.loss, self._store.put(part.gradients))

    def _job(self, work: HelpWork, partners: Partners) -> tuple[ClientJob, TrainWork]:
        if work.lead not in self._jobs:
            its = partners.work_of(work.lead)
            if its is None:
                raise ValueLost("the client is done")
            self._jobs[work.lead] = (job_of(its, self._store), its)
            if len(self._jobs) > _CLIENTS:
                self._jobs.popitem(last=False)
        self._jobs.move_to_end(work.lead)
        return self._jobs[work.lead]

    def _at(self, work: HelpWork, job: ClientJob, its: TrainWork) -> _Place:
        """The bank where the leader's step begins."""
        local = self._algorithm.local
        place, self._place = self._place, None  # should anything fail on the way
        if place is None or place.lead != work.lead:
            train = self._train
            batches = training_batches(
                its.shard, self._collator, train.batch_size, job.seed, train.epochs, train.micro_batch_size
            )
            lora = self._algorithm.aggregation.lora
            place = _Place(work.lead, 0, *set_up(job, batches, self._bank, train, self._setting, local, lora))
        if place.post != work.post:
            [(values, counted)] = self._store.get([work.state])
            take_over(place.run, local, place.extra, values, counted)
            place = replace(place, post=work.post)
        self._place = place
        return place
