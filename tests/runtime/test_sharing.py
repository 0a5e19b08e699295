"""Several workers on one client: the bits of one, whoever helps, is slow or is lost; and who helps whom."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from small import COLLATOR, MODEL, TRAIN, SmallPopulation, job_batches, shard, small_bank, small_setting

from fcit_ray.config.schema import Train
from fcit_ray.data.loading.shards import training_batches, training_piece
from fcit_ray.federated.aggregation import Aggregation
from fcit_ray.federated.algorithm import Algorithm
from fcit_ray.federated.client import run_client
from fcit_ray.federated.federation import Federation
from fcit_ray.federated.local_optim import FedProx, LocalRule, Plain, Scaffold
from fcit_ray.federated.method import Method
from fcit_ray.federated.micro_batch import OrderedSum, Part
from fcit_ray.federated.packing import Cut
from fcit_ray.federated.server_optim import FedAvg
from fcit_ray.federated.sharing import Step
from fcit_ray.methods.ewc import Ewc
from fcit_ray.methods.finetune import Finetune
from fcit_ray.methods.lwf import Lwf
from fcit_ray.methods.moelora import MoELoRA
from fcit_ray.models.bank import AdapterBank
from fcit_ray.params import params_sha256
from fcit_ray.runtime.foreman import HELP
from fcit_ray.runtime.helping import Helper
from fcit_ray.runtime.messages import DirectStore, TrainWork, ValueLost
from fcit_ray.runtime.partners import Partners
from fcit_ray.runtime.shared_steps import HelpWork, PartNote, TurnNote
from fcit_ray.runtime.sharing_queue import SharingQueue
from fcit_ray.types import ClientJob, ClientUpdate

LONG = TRAIN.model_copy(
    update={"batch_size": 4, "micro_batch_size": 1, "epochs": 2, "weight_decay": 0.1, "warmup_frac": 0.3}
)
RECORDS = 11  # steps of 4, 4 and 3 micro-batches, twice over
SETTING = small_setting(num_stages=2, num_rounds=1, clients=1)
COMPUTING = threading.Lock()
"""Threads share torch's generator, as processes do not: one computes at a time, the others wait for their turn."""


class Lost(BaseException):
    """Ends a worker without a word, as a kill would."""


class Line:
    """To a queue in this process; while it is asked others compute."""

    def __init__(self, queue: SharingQueue, before: Callable[[str], None] = lambda what: None):
        self._queue = queue
        self._before = before

    def ask(self, what: str, *args: Any) -> Any:
        self._before(what)
        COMPUTING.release()
        try:
            time.sleep(0.001)
            return getattr(self._queue, what)(*args)
        finally:
            COMPUTING.acquire()

    def later(self, what: str, *args: Any) -> Callable[[], Any]:
        answer = self.ask(what, *args)
        return lambda: answer


def bank_for(method: Method) -> AdapterBank:
    bank = small_bank(method.num_adapters(SETTING), seed=5, config=MODEL)
    method.install(bank, SETTING)
    return bank


def algorithm(method: Method, local: LocalRule) -> Algorithm:
    return Algorithm(method, local, FedAvg(), Aggregation())


def batches_of(job: ClientJob, train: Train) -> Any:
    records = shard(job.client.task, job.client.index, job.client.num_examples)
    return training_batches(records, COLLATOR, train.batch_size, job.seed, train.epochs, train.micro_batch_size)


def alone(job: ClientJob, method: Method, local: LocalRule, train: Train = LONG) -> ClientUpdate:
    return run_client(job, batches_of(job, train), bank_for(method), method, train, SETTING, local)


def second_job(method: Method, local: LocalRule) -> ClientJob:
    """Of the second stage: the method knows the first one, and the client's SCAFFOLD corrects every step."""
    federation = Federation(method, FedAvg(), SmallPopulation(((0,), (1,))), SETTING, local=local)
    state = federation.start(bank_for(method).params())
    [job] = federation.plan(state)
    update = run_client(job, job_batches(job), bank_for(method), method, TRAIN, SETTING, local)
    [job] = federation.plan(federation.close(state, [update]))
    return replace(job, client=replace(job.client, num_examples=RECORDS))


@dataclass
class Group:
    """Workers in threads on one client.

    Attributes:
        method, local, train: what they do.
        lose: called by each worker with its rank and what it is about to do; raises `Lost`.
        store: between them.
        most: see `SharingQueue`.
    """

    method: Method
    local: LocalRule
    train: Train = LONG
    lose: Callable[[int, str], None] = lambda rank, what: None
    store: Any = None
    most: int | None = None

    def run(self, job: ClientJob, workers: int) -> ClientUpdate:
        self.queue = SharingQueue(lease_s=60.0, most=self.most)
        self.helped: list[int] = []
        self.failure: BaseException | None = None
        store = self.store or DirectStore()
        threads = [
            threading.Thread(target=self._serve, args=(rank, job, store), daemon=True) for rank in range(workers)
        ]
        for rank in range(workers):
            self.queue.join(rank)
            self.queue.next(rank, 0.0)  # all are there before the work is
        work = TrainWork(job, [job.params], job.knowledge, shard(job.client.task, job.client.index, RECORDS))
        batch = self.queue.open([work], [RECORDS])
        for thread in threads:
            thread.start()
        try:
            [update] = batch.wait()
        finally:
            self.queue.finish()
            for thread in threads:
                thread.join(timeout=20.0)
                assert not thread.is_alive(), "a worker waits for ever"
        return update

    def _serve(self, rank: int, job: ClientJob, store: Any) -> None:
        try:
            with COMPUTING:
                bank = bank_for(self.method)
                helper = Helper(bank, algorithm(self.method, self.local), self.train, SETTING, COLLATOR, store)
            while not self.queue.over:
                lease = self.queue.next(rank, 0.2)
                if lease is None:
                    continue
                with COMPUTING:
                    line = Line(self.queue, lambda what: self.lose(rank, what))
                    partners = Partners(line, lease.token, rank, store)
                    if isinstance(lease.work, HelpWork):
                        self.lose(rank, "help")
                        result: Any = helper.help(lease.work, partners)
                        self.helped.append(rank)
                    else:
                        helper.leave()
                        batches = batches_of(job, self.train)
                        result = run_client(
                            job, batches, bank, self.method, self.train, SETTING, self.local, team=partners
                        )
                self.queue.submit(lease.token, result)
        except Lost:
            self.queue.join(rank)  # the driver is told
        except BaseException as error:
            self.queue.fail(str(error))


def check_same(found: ClientUpdate, expected: ClientUpdate) -> None:
    assert params_sha256(found.delta) == params_sha256(expected.delta)
    for key in ("loss", "first_loss", "last_loss", "steps", "delta_norm"):
        assert found.metrics[key] == expected.metrics[key]


METHODS = [
    (Finetune(), Plain()),
    (Finetune(), FedProx(mu=0.5)),
    (Finetune(), Scaffold()),
    (Ewc(strength=10.0), Plain()),
    (Lwf(), Plain()),
    (MoELoRA(num_experts=2), Plain()),
]
NAMES = ["finetune", "fedprox", "scaffold", "ewc", "lwf", "moelora"]


@pytest.mark.parametrize(("method", "local"), METHODS, ids=NAMES)
@pytest.mark.parametrize("workers", [2, 4])
def test_one_client_by_several_workers_has_the_bits_of_one(method: Method, local: LocalRule, workers: int) -> None:
    assert MODEL.dropout > 0
    job = second_job(method, local)
    expected = alone(job, method, local)
    assert expected.metrics["steps"] == 6
    assert "shared" not in expected.metrics
    group = Group(method, local)
    found = group.run(job, workers)
    assert 0 < found.metrics["shared"] < 1
    assert found.metrics["exchange_s"] > 0
    assert len(set(group.helped)) >= 1
    check_same(found, expected)
    if isinstance(local, Scaffold):
        assert params_sha256(found.local["c"]) == params_sha256(expected.local["c"])
        assert params_sha256(found.memory["local"]["c"]) == params_sha256(expected.memory["local"]["c"])
    if isinstance(method, Ewc):
        assert params_sha256(found.report["fisher"]) == params_sha256(expected.report["fisher"])


@pytest.mark.parametrize("at", [1, 3])
def test_a_helper_that_is_lost_in_the_middle_changes_nothing(at: int) -> None:
    job = second_job(Finetune(), Scaffold())
    taken: list[int] = []

    def lose(rank: int, what: str) -> None:
        if what == "help":
            taken.append(rank)
            if len(taken) == at:
                raise Lost

    group = Group(Finetune(), Scaffold(), lose=lose)
    check_same(group.run(job, 3), alone(job, Finetune(), Scaffold()))
    assert len(taken) > at, "nobody helped any more"


@pytest.mark.parametrize("workers", [2, 3])
def test_a_leader_that_is_lost_in_a_shared_step_changes_nothing(workers: int) -> None:
    job = second_job(Finetune(), Scaffold())
    turns: list[int] = []

    def lose(rank: int, what: str) -> None:
        if what == "turn":
            turns.append(rank)
            if len(turns) == 6:
                raise Lost

    check_same(Group(Finetune(), Scaffold(), lose=lose).run(job, workers), alone(job, Finetune(), Scaffold()))
    assert len(turns) >= 6
    if workers > 2:
        assert len({*turns}) == 2, "another leads now, and is helped"


def test_gradients_that_went_with_their_helper_are_computed_again() -> None:
    """A helper may die after its message has arrived and before its gradients are fetched."""
    job = second_job(Finetune(), Plain())
    gone: list[str] = []

    class Leaky(DirectStore):
        def get(self, handles: Any) -> list[Any]:
            if len(handles) == 1 and isinstance(handles[0], dict) and len(gone) < 3:
                gone.append("gradients")
                raise ValueLost("gone")
            return super().get(handles)

    check_same(Group(Finetune(), Plain(), store=Leaky()).run(job, 2), alone(job, Finetune(), Plain()))
    assert len(gone) == 3


def test_a_rule_that_counts_and_cannot_say_what_is_not_shared(caplog: pytest.LogCaptureFixture) -> None:
    """A helper would compute its penalty with other counts: silently another result."""

    @dataclass(frozen=True, kw_only=True)
    class Counting(LocalRule):
        def after_step(self, run: Any, extra: Any, rates: Any) -> None:
            """Counts."""

    job = second_job(Finetune(), Plain())
    group = Group(Finetune(), Counting())
    check_same(group.run(job, 2), alone(job, Finetune(), Plain()))
    assert group.helped == []
    assert "Counting counts over its steps and has no `pause`: no worker helps another" in caplog.text


def test_one_worker_a_client_shares_nothing() -> None:
    job = second_job(Finetune(), Plain())
    group = Group(Finetune(), Plain(), most=1)
    assert "shared" not in group.run(job, 3).metrics
    assert group.helped == []


@pytest.mark.parametrize(("batch_size", "micro", "count"), [(4, 1, 11), (64, 16, 150), (40, 16, 75), (128, None, 130)])
def test_a_single_micro_batch_is_the_one_that_the_whole_pass_gives(batch_size: int, micro: int, count: int) -> None:
    records = shard(0, 0, count)
    whole = list(training_batches(records, COLLATOR, batch_size, 3, 2, micro)())
    pieces = [
        training_piece(records, COLLATOR, batch_size, 3, micro, step, number)
        for step, sizes in enumerate(Cut(batch_size, micro or batch_size, 2).steps(count))
        for number in range(len(sizes))
    ]
    assert len(pieces) == len(whole)
    for piece, expected in zip(pieces, whole, strict=True):
        assert piece.keys() == expected.keys()
        assert all(torch.equal(piece[key], value) for key, value in expected.items())


def test_ordered_sums_are_what_one_process_accumulates() -> None:
    """Not the sum of another order: in float32 (a + b) + c differs from a + (b + c)."""
    draw = torch.Generator().manual_seed(0)
    rows = [{"w": torch.randn(1000, generator=draw) * 10.0**k} for k in (0, 3, -2, 2)]
    parameter = torch.nn.Parameter(torch.zeros(1000))
    for row in rows:
        (parameter * row["w"]).sum().backward()
    sums = OrderedSum((0, 1, 2, 3), torch.device("cpu"))
    for number in (3, 1, 0, 2):
        assert not sums.complete
        assert sums.add(number, Part(float(number), {"w": rows[number]["w"].clone()}))
    assert not sums.add(1, Part(1.0, rows[1])), "twice"
    assert sums.complete
    assert torch.equal(sums.total["w"], parameter.grad)
    assert not torch.equal(sums.total["w"], rows[3]["w"] + rows[1]["w"] + rows[0]["w"] + rows[2]["w"])


# Who helps whom, and when: the queue by itself, its clock in the test's hand.


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def step(micro_batches: int = 4, number: int = 0, total: int = 2) -> Step:
    each = 1 / total / micro_batches
    return Step(number, {}, {}, (1 / micro_batches,) * micro_batches, tuple(range(micro_batches)), 0.5, each)


def led(queue: SharingQueue, worker: int) -> int:
    """A worker takes a client; the token of its lease."""
    lease = queue.next(worker, 0.0)
    assert lease is not None
    assert lease.token >= 0
    return lease.token


def helps(queue: SharingQueue, worker: int) -> HelpWork:
    lease = queue.next(worker, 0.0)
    assert lease is not None
    assert isinstance(lease.work, HelpWork)
    return lease.work


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> SharingQueue:
    return SharingQueue(lease_s=1000.0, clock=clock)


def test_a_leader_shares_when_somebody_has_nothing_else_to_do(queue: SharingQueue, clock: Clock) -> None:
    queue.open(["a", "b"], [10, 10])
    first, second = led(queue, 0), led(queue, 1)
    assert not queue.wants(first, 0), "both lead a client"
    assert queue.next(2, 0.0) is None
    assert queue.wants(first, 0)
    assert queue.wants(second, 1)
    clock.now = 11.0
    assert not queue.wants(first, 0), "the third has not been heard of for long"


def test_a_client_that_holds_up_its_round_is_helped_before_others_begin(queue: SharingQueue, clock: Clock) -> None:
    # Four workers, 100 records and two times 10: an even share is 30, and with one more worker it would take 50.
    for worker in range(4):
        assert queue.next(worker, 0.0) is None
    queue.open(["long", "a", "b"], [100, 10, 10])
    lease = led(queue, 0)
    assert queue.next(1, 0.0) is None, "the long one's leader is about to share its first step"
    assert queue.wants(lease, 0)
    assert queue.post(lease, 0, step(2), None) is not None
    assert [helps(queue, worker).lead for worker in (1, 2)] == [lease, lease]
    begun = queue.next(3, 0.0)
    assert begun is not None
    assert begun.work == "a", "of the long one nothing is open now"


def test_nobody_waits_for_ever_for_a_long_client_to_be_shared(queue: SharingQueue, clock: Clock) -> None:
    for worker in range(4):
        queue.next(worker, 0.0)
    queue.open(["long", "a", "b"], [100, 10, 10])
    led(queue, 0)
    assert queue.next(1, 0.0) is None
    clock.now = 1.0
    led(queue, 1)


def test_where_no_worker_is_to_spare_all_clients_are_begun_first(queue: SharingQueue) -> None:
    for worker in range(2):
        queue.next(worker, 0.0)
    queue.open(["long", "a"], [100, 10])
    lease = led(queue, 0)
    assert not queue.wants(lease, 0)
    queue.post(lease, 0, step(), None)
    led(queue, 1)


def test_the_client_that_would_take_longest_is_helped_and_the_next_when_that_one_is_taken(queue: SharingQueue) -> None:
    queue.open(["a", "b"], [40, 30])
    first, second = led(queue, 0), led(queue, 1)
    for token, leader in ((first, 0), (second, 1)):
        assert queue.post(token, leader, step(), None) is not None
    # 40 / 2 against 30 / 2; then 40 / 3 against 30 / 2.
    assert [helps(queue, worker).lead for worker in (2, 3)] == [first, second]


def test_every_micro_batch_is_taken_once_in_order(queue: SharingQueue) -> None:
    queue.open(["a"], [40])
    post = queue.post(led(queue, 0), 0, step(), None)
    assert queue.turn(post, None, 0.0).number == 0
    assert [helps(queue, worker).number for worker in (1, 2, 3)] == [1, 2, 3]
    assert queue.next(4, 0.0) is None
    assert queue.turn(post, 0, 0.0) == TurnNote(None, {})


def test_no_more_help_than_is_allowed() -> None:
    queue = SharingQueue(lease_s=1000.0, most=2)
    queue.open(["a"], [40])
    queue.post(led(queue, 0), 0, step(), None)
    helps(queue, 1)
    assert queue.next(2, 0.0) is None


def test_questions_of_the_stage_before_are_answered_when_no_client_can_use_help(queue: SharingQueue) -> None:
    queue.open(["client"], [40])
    queue.open(["question"], [1000], urgency=-1)
    post = queue.post(led(queue, 0), 0, step(2), None)
    assert queue.turn(post, None, 0.0).number == 0
    assert helps(queue, 1).number == 1
    lease = queue.next(2, 0.0)
    assert lease is not None
    assert lease.work == "question"
    queue.open(["urgent"], [1], urgency=1)
    post = queue.post(0, 0, step(), None)
    lease = queue.next(3, 0.0)
    assert lease is not None
    assert lease.work == "urgent", "before a client that is less urgent is helped"


def test_a_slow_helper_s_micro_batch_is_computed_by_the_leader_and_its_own_comes_too_late(
    queue: SharingQueue, clock: Clock
) -> None:
    queue.open(["a"], [40])
    post = queue.post(led(queue, 0), 0, step(2), None)
    assert queue.turn(post, None, 0.0).number == 0
    lease = queue.next(1, 0.0)
    assert lease is not None
    clock.now = 2.0
    assert queue.turn(post, 0, 0.0).number is None  # the leader took two seconds, so six are not too many
    clock.now = 6.5
    assert queue.turn(post, None, 0.0).number == 1
    assert queue.turn(post, 1, 0.0) == TurnNote(None, {})
    queue.submit(lease.token, PartNote(1.0, "late"))
    assert queue.turn(post, None, 0.0).parts == {}


def test_what_a_helper_could_not_compute_is_the_leader_s(queue: SharingQueue) -> None:
    queue.open(["a"], [40])
    post = queue.post(led(queue, 0), 0, step(3), None)
    assert queue.turn(post, None, 0.0).number == 0
    lease = queue.next(1, 0.0)
    assert lease is not None
    queue.submit(lease.token, None)
    assert queue.turn(post, 0, 0.0).number == 1
    assert helps(queue, 1).number == 2


def test_a_lost_helper_s_micro_batch_is_open_again_and_a_lost_leader_s_step_is_over(queue: SharingQueue) -> None:
    queue.open(["a"], [40])
    post = queue.post(led(queue, 0), 0, step(), None)
    assert [helps(queue, worker).number for worker in (1, 2)] == [0, 1]
    queue.join(1)
    assert helps(queue, 3).number == 0
    queue.join(0)
    assert queue.turn(post, None, 0.0).over
    lease = queue.next(1, 0.0)
    assert lease is not None
    assert lease.work == "a", "its client is handed out again, and nobody helps the lost one"


def test_who_sends_workers_hears_of_a_client_that_could_be_helped_once_nothing_waits(queue: SharingQueue) -> None:
    queue.open(["round"], [40.0])
    queue.open(["questions"], [8.0], urgency=-1)
    assert queue.waiting([], 0.0) == [(0, 40.0), (-1, 8.0)]
    led(queue, 0)
    assert queue.waiting([], 0.0) == [(-1, 8.0)]
    led(queue, 1)
    assert queue.waiting([], 0.0) == [(HELP, 40.0)], "of the round's alone: questions are not shared"
