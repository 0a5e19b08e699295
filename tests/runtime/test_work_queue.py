"""The queue between the server's loop and the workers: no lost work, no work counted twice, nobody left waiting."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from fcit_ray.config.failures import Failures
from fcit_ray.errors import RunFailed
from fcit_ray.runtime.pieces import Lease
from fcit_ray.runtime.work_queue import WorkQueue


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Running:
    """`WorkQueue.run` in a thread of its own."""

    def __init__(
        self, queue: WorkQueue, works: Sequence[Any], sizes: Sequence[float], admit: Any = None, rule: Any = None
    ):
        self.results: list[Any] | None = None
        self.error: BaseException | None = None

        def target() -> None:
            try:
                self.results = queue.run(works, sizes, admit, rule)
            except BaseException as error:
                self.error = error

        before = queue.progress()
        self._thread = threading.Thread(target=target, daemon=True)
        self._thread.start()
        wait_until(lambda: queue.progress() != before or not self._thread.is_alive())

    def join(self) -> None:
        self._thread.join(timeout=10.0)
        assert not self._thread.is_alive(), "run() waits for ever"


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> WorkQueue:
    return WorkQueue(lease_s=100.0, clock=clock)


def take(queue: WorkQueue, worker: int) -> Lease:
    lease = queue.next(worker, 0.0)
    assert lease is not None, "nothing to do"
    return lease


def test_longest_first_and_results_in_the_order_of_the_works(queue: WorkQueue) -> None:
    running = Running(queue, ["a", "b", "c", "d"], [1, 3, 2, 3])
    leases = [take(queue, 0) for _ in range(4)]
    assert [lease.work for lease in leases] == ["b", "d", "c", "a"]  # of equals the earlier one first
    for lease in leases:
        assert queue.submit(lease.token, lease.work.upper())
    running.join()
    assert running.results == ["A", "B", "C", "D"]


def test_work_in_hand_is_not_handed_out_twice(queue: WorkQueue) -> None:
    Running(queue, ["a"], [1])
    take(queue, 0)
    assert queue.next(1, 0.0) is None


def test_a_lost_worker_s_work_is_handed_out_at_once(queue: WorkQueue) -> None:
    running = Running(queue, ["a", "b"], [2, 1])
    first, second = take(queue, 0), take(queue, 1)
    queue.join(0)  # it was lost, or has started anew
    again = take(queue, 1)
    assert again.work == first.work
    assert queue.next(0, 0.0) is None, "the other worker's work stays in its hands"
    queue.submit(again.token, "A")
    queue.submit(second.token, "B")
    running.join()
    assert running.results == ["A", "B"]


def test_an_unanswered_lease_runs_out(queue: WorkQueue, clock: Clock) -> None:
    running = Running(queue, ["a"], [1])
    late = take(queue, 0)
    clock.now = 99.0
    assert queue.next(1, 0.0) is None
    clock.now = 100.0
    twin = take(queue, 1)
    assert twin.work == "a"
    assert queue.submit(twin.token, "first")
    running.join()
    assert not queue.submit(late.token, "second"), "a late twin is dropped"
    assert running.results == ["first"]


def test_what_comes_after_its_attempt_was_given_up_is_ignored(queue: WorkQueue, clock: Clock) -> None:
    running = Running(queue, ["a"], [1])
    slow = take(queue, 0)
    clock.now = 100.0
    twin = take(queue, 1)
    assert twin.token != slow.token, "an attempt has a name of its own"
    assert not queue.submit(slow.token, "slow")
    queue.failed(slow.token, "nor does its failure count against the other")
    queue.tell(slow.token, 1, 2)
    assert queue.submit(twin.token, "fast")
    running.join()
    assert running.results == ["fast"]


def test_an_answer_of_an_earlier_batch_does_not_count_in_the_next(queue: WorkQueue, clock: Clock) -> None:
    first = Running(queue, ["a"], [1])
    late = take(queue, 0)
    clock.now = 100.0
    queue.submit(take(queue, 1).token, "a")
    first.join()
    second = Running(queue, ["b"], [1])
    assert not queue.submit(late.token, "stale")
    queue.submit(take(queue, 0).token, "b")
    second.join()
    assert second.results == ["b"]


def test_a_failure_wakes_everybody(queue: WorkQueue) -> None:
    running = Running(queue, ["a"], [1])
    lease = take(queue, 0)
    woken: list[Any] = []
    waiting = threading.Thread(target=lambda: woken.append(queue.next(1, 1000.0)), daemon=True)
    waiting.start()
    queue.fail("the first reason")
    queue.fail("its consequence")
    running.join()
    waiting.join(timeout=10.0)
    assert woken == [None]
    assert queue.over
    assert isinstance(running.error, RunFailed)
    assert str(running.error) == "the first reason"
    queue.submit(lease.token, "late")  # does no harm
    with pytest.raises(RunFailed, match="the first reason"):
        queue.run(["b"], [1])


def test_the_end_wakes_waiting_workers(queue: WorkQueue) -> None:
    woken: list[Any] = []
    waiting = threading.Thread(target=lambda: woken.append(queue.next(0, 1000.0)), daemon=True)
    waiting.start()
    assert not queue.over
    queue.finish()
    waiting.join(timeout=10.0)
    assert woken == [None]
    assert queue.over


def test_a_waiting_worker_gets_work_as_soon_as_there_is_some() -> None:
    queue = WorkQueue(lease_s=100.0)
    got: list[Any] = []
    waiting = threading.Thread(target=lambda: got.append(queue.next(0, 30.0)), daemon=True)
    waiting.start()
    running = Running(queue, ["a"], [1])
    waiting.join(timeout=5.0)
    assert got[0].work == "a"
    queue.submit(got[0].token, "A")
    running.join()


def test_nothing_to_do_is_an_empty_answer(queue: WorkQueue) -> None:
    assert queue.run([], []) == []


def test_progress_counts_what_is_done(queue: WorkQueue) -> None:
    running = Running(queue, ["a", "b"], [1, 1])
    assert (queue.progress().pieces, queue.progress().num_pieces) == (0, 2)
    queue.submit(take(queue, 0).token, "A")
    assert (queue.progress().pieces, queue.progress().num_pieces) == (1, 2)
    queue.submit(take(queue, 0).token, "B")
    running.join()


def test_many_unreliable_workers_do_all_the_work_once() -> None:
    """Workers vanish with work in hand at random, return under the same rank, and answer late."""
    queue = WorkQueue(lease_s=0.02, failures=Failures(retries=10**6))
    works = list(range(200))
    stop = threading.Event()

    def unreliable(rank: int) -> None:
        late: list[Lease] = []
        while not stop.is_set():
            lease = queue.next(rank, 0.01)
            if lease is None:
                continue
            if lease.work % 7 == rank:
                late.append(lease)  # lost: nobody hears of it but by the lease, or by join
                if lease.work % 2:
                    queue.join(rank)
                continue
            queue.submit(lease.token, lease.work)
            if late:
                queue.submit(late[0].token, late.pop(0).work)

    threads = [threading.Thread(target=unreliable, args=(rank,), daemon=True) for rank in range(3)]
    for thread in threads:
        thread.start()
    running = Running(queue, works, [1.0] * len(works))
    running.join()
    stop.set()
    assert running.results == works


def test_progress_counts_the_part_of_what_is_in_hand(queue: WorkQueue) -> None:
    running = Running(queue, ["a", "b"], [6, 2])
    first, second = take(queue, 0), take(queue, 1)
    queue.tell(first.token, 3, 4)
    queue.submit(second.token, "B")
    progress = queue.progress()
    # Three quarters of one and all of the other; two of eight in size.
    assert (progress.pieces, progress.num_pieces, progress.size, progress.total_size) == (1.75, 2, 2, 8)
    assert progress.part == (0, 0), "of one alone"
    queue.submit(first.token, "A")
    running.join()
    alone = Running(queue, ["c"], [1])
    lease = take(queue, 0)
    queue.tell(first.token, 1, 4)  # of a batch that is closed
    queue.tell(lease.token, 2, 5)
    assert queue.progress().part == (2, 5)
    queue.submit(lease.token, "C")
    alone.join()


def test_a_worker_that_tells_of_its_steps_keeps_its_lease(queue: WorkQueue, clock: Clock) -> None:
    """A centralised run is one piece of work, and longer than any lease."""
    Running(queue, ["a"], [1])
    lease = take(queue, 0)
    clock.now = 99.0
    queue.tell(lease.token, 1, 2)
    clock.now = 198.0
    assert queue.next(1, 0.0) is None
    clock.now = 199.0
    assert queue.next(1, 0.0) is not None


def test_a_result_that_is_not_admitted_ends_the_run(queue: WorkQueue) -> None:
    def admit(work: str, result: str) -> None:
        if result != work.upper():
            raise RunFailed(f"{result} for {work}", "details")

    works = ["a", "b"]
    running = Running(queue, works, [2, 1], admit)
    assert queue.submit(take(queue, 0).token, "A")
    assert not queue.submit(take(queue, 1).token, "x")
    running.join()
    assert isinstance(running.error, RunFailed)
    assert (str(running.error), running.error.details) == ("x for b", "details")


def test_a_more_urgent_batch_goes_first_and_each_waits_for_its_own(queue: WorkQueue) -> None:
    behind = queue.open(["questions"], [100.0])
    rounds = queue.open(["a", "b"], [1.0, 2.0], urgency=1)
    leases = [take(queue, worker) for worker in range(3)]
    assert [lease.work for lease in leases] == ["b", "a", "questions"]  # however large the less urgent one is
    for lease in leases[:2]:
        queue.submit(lease.token, lease.work.upper())
    assert rounds.wait() == ["A", "B"]
    assert not behind.is_done()
    assert not queue.submit(leases[0].token, "late"), "a twin of a batch that is closed"
    queue.submit(leases[2].token, "answers")
    assert behind.wait() == ["answers"]


def test_what_admission_returns_is_kept(queue: WorkQueue) -> None:
    batch = queue.open(["work"], [1.0], lambda work, result: f"{work}: {result}")
    queue.submit(take(queue, 0).token, "result")
    assert batch.wait() == ["work: result"]


def test_rounds_go_before_questions_and_are_counted_apart(queue: WorkQueue) -> None:
    questions = queue.open(["long question"], [9.0], urgency=-1)
    round = queue.open(["client"], [1.0])
    assert (queue.progress().num_pieces, queue.progress(urgency=-1).size) == (1, 0)
    given = [queue.next(0, 0.0), queue.next(0, 0.0)]
    assert [lease.work for lease in given if lease] == ["client", "long question"]
    assert given[1] is not None
    queue.submit(given[1].token, "answer")
    assert questions.wait() == ["answer"]
    assert not round.is_done()


def test_whoever_waits_is_let_go_when_the_queue_is_finished(queue: WorkQueue) -> None:
    running = Running(queue, ["a"], [1.0])
    queue.finish()
    running.join()
    assert isinstance(running.error, RunFailed)


def test_what_waits_is_told_largest_first_and_a_change_is_waited_for() -> None:
    clock = Clock()
    queue = WorkQueue(lease_s=10.0, clock=clock)
    assert queue.waiting([], 0.0) == []
    running = Running(queue, ["a", "b", "c"], [5, 30, 20])
    told = queue.waiting([], 0.0)
    assert [size for _, size in told] == [30, 20, 5]
    lease = queue.next(0, 0.0)
    assert isinstance(lease, Lease)
    assert [size for _, size in queue.waiting(told, 10.0)] == [20, 5]  # returns at once, being another answer
    clock.now = 11.0  # the one who had it was not heard of
    assert queue.waiting([], 0.0) == told
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(queue.waiting(told, 30.0)))
    thread.start()
    queue.fail("over")
    thread.join(timeout=10.0)
    running.join()
    assert got == [told]  # nobody need wait any longer
