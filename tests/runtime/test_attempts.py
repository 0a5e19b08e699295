"""Attempts that fail: tried elsewhere, behind what nobody has begun, then the end or a round without the client."""

from typing import Any

import pytest
from test_work_queue import Clock, Running, take

from fcit_ray.config.failures import Failures
from fcit_ray.errors import RunFailed, UpdateRefused
from fcit_ray.runtime.pieces import Failed
from fcit_ray.runtime.sharing_queue import SharingQueue
from fcit_ray.runtime.work_queue import WorkQueue


class Told:
    """A queue of a fake clock, and what it tells."""

    def __init__(self, kind: type[WorkQueue] = WorkQueue, **rule: Any):
        self.clock = Clock()
        self.failed: list[Failed] = []
        self.ended: list[int] = []
        self.rule = Failures(**rule)
        self.queue = kind(
            100.0,
            self.clock,
            failures=self.rule,
            place=lambda work: f"client {work}",
            told=self.failed.append,
            end=self.ended.append,
        )

    def running(self, works: Any, sizes: Any, admit: Any = None) -> Running:
        return Running(self.queue, works, sizes, admit, rule=self.rule)

    def fails(self, worker: int, why: str = "oops") -> None:
        lease = take(self.queue, worker)
        self.queue.failed(lease.token, f"client {lease.work}: {why}")


@pytest.fixture(params=[WorkQueue, SharingQueue], ids=["plain", "sharing"])
def kind(request: pytest.FixtureRequest) -> type[WorkQueue]:
    return request.param  # type: ignore[no-any-return]


def test_what_fails_once_is_done_by_another_worker_behind_what_nobody_has_begun(kind: type[WorkQueue]) -> None:
    told = Told(kind)
    told.queue.join(0, "10.0.0.1")
    told.queue.next(1, 0.0)  # both are there
    running = told.running(["large", "small"], [9, 1])
    told.fails(0)
    [failed] = told.failed
    assert failed.message == "client large: oops"
    assert (failed.attempts[-1].worker, failed.attempts[-1].node, failed.attempts[-1].reason) == (0, "10.0.0.1", "oops")
    small = take(told.queue, 1)
    assert small.work == "small", "the large one has failed, and waits behind it"
    assert told.queue.next(0, 0.0) is None, "it failed here, and another worker is there"
    told.queue.submit(small.token, "s")
    large = take(told.queue, 1)
    told.queue.submit(large.token, "l")
    running.join()
    assert running.results == ["l", "s"]
    assert told.ended == []


def test_where_there_is_no_other_worker_the_same_one_tries_again(kind: type[WorkQueue]) -> None:
    told = Told(kind)
    running = told.running(["a"], [1])
    told.fails(0)
    told.queue.submit(take(told.queue, 0).token, "done")
    running.join()
    assert running.results == ["done"]
    # So it is where the other was not heard of for long: free ones ask every few seconds.
    told.queue.next(1, 0.0)
    running = told.running(["b"], [1])
    told.fails(0)
    told.clock.now += 9.0
    assert told.queue.next(0, 0.0) is None
    told.clock.now += 2.0
    told.queue.submit(take(told.queue, 0).token, "done")
    running.join()


def test_what_fails_too_often_ends_the_run_and_says_where_it_was_tried(kind: type[WorkQueue]) -> None:
    told = Told(kind, retries=2)
    told.queue.join(0, "a")
    told.queue.join(1, "b")
    running = told.running(["x"], [1])
    told.fails(1, "first")
    told.fails(0, "second")  # the only one heard of since
    told.fails(0, "third")
    running.join()
    assert isinstance(running.error, RunFailed)
    assert str(running.error) == "client x: third (tried 3 times: by worker 1 on b, worker 0 on a, worker 0 on a)"
    assert [failed.verdict for failed in told.failed] == ["retry", "retry", "stop"]


def test_a_refused_update_is_a_failed_attempt_and_any_other_refusal_the_end() -> None:
    def admit(work: str, result: str) -> str:
        if result == "bad":
            raise UpdateRefused(f"client {work}: refused: no number. Do this", "refused: no number")
        if result == "full":
            raise RunFailed("the disk is full")
        return result

    told = Told(retries=1)
    running = told.running(["x"], [1], admit)
    assert not told.queue.submit(take(told.queue, 0).token, "bad")
    assert told.failed[0].attempts[0].reason == "refused: no number"
    assert told.queue.submit(take(told.queue, 0).token, "good")
    running.join()
    assert running.results == ["good"]
    running = told.running(["y"], [1], admit)
    told.queue.submit(take(told.queue, 0).token, "full")
    running.join()
    assert str(running.error) == "the disk is full"


def test_a_client_that_is_left_out_has_no_result_and_the_others_theirs(kind: type[WorkQueue]) -> None:
    told = Told(kind, retries=1, then="drop")
    running = told.running(["x", "y"], [2, 1])
    late = take(told.queue, 0)
    told.queue.failed(late.token, "client x: one")
    told.queue.submit(take(told.queue, 0).token, "Y")
    last = take(told.queue, 0)
    told.queue.failed(last.token, "client x: two")
    assert not told.queue.submit(last.token, "too late")
    running.join()
    assert running.results == [None, "Y"]
    assert [failed.verdict for failed in told.failed] == ["retry", "drop"]


def test_what_is_being_admitted_is_neither_given_up_nor_counted_as_missing() -> None:
    """It may be part of the mean already."""

    def admit(work: str, result: str) -> str:
        told.clock.now += 1000.0
        told.queue.next(1, 0.0)  # looks for what is late
        told.queue.join(0)  # its worker has died after it had sent it
        return result

    told = Told(retries=0, then="drop", deadline_s=1.0)
    running = told.running(["x"], [1], admit)
    assert told.queue.submit(take(told.queue, 0).token, "X")
    running.join()
    assert running.results == ["X"]
    assert told.failed == []


def test_deaths_leave_a_client_out_but_end_no_run() -> None:
    told = Told(retries=1, then="drop")
    running = told.running(["x", "y"], [2, 1])
    for _ in range(2):
        assert take(told.queue, 0).work == "x", "who died with it may have died by chance: it goes first"
        told.queue.join(0)
    told.queue.submit(take(told.queue, 0).token, "Y")
    running.join()
    assert running.results == [None, "Y"]
    told = Told(retries=0, then="stop")
    running = told.running(["x"], [1])
    for _ in range(10):  # runtime.max_worker_failures counts them
        take(told.queue, 0)
        told.queue.join(0)
    told.queue.submit(take(told.queue, 0).token, "X")
    running.join()
    assert running.results == ["X"]


def test_who_sleeps_for_ever_is_ended_and_the_run_with_a_sentence(kind: type[WorkQueue]) -> None:
    told = Told(kind, retries=1)
    told.queue.join(0, "a")
    running = told.running(["x"], [1])
    take(told.queue, 0)
    told.clock.now = 99.0
    assert told.queue.next(1, 0.0) is None
    told.clock.now = 100.0
    take(told.queue, 1)
    assert told.ended == [0]
    told.clock.now = 200.0
    running.join()
    assert told.ended == [0, 1]
    assert str(running.error) == (
        "client x: nothing was heard of it for 100 s (runtime.lease_s) (tried 2 times: by worker 0 on a, worker 1)"
    )


def test_a_helper_that_sleeps_is_ended_too_and_its_failure_is_the_leader_s() -> None:
    from test_sharing import helps, led, step

    told = Told(SharingQueue)
    told.queue.next(1, 0.0)
    told.queue.open(["x"], [10])
    token = led(told.queue, 0)
    told.queue.wants(token, 0)
    name = told.queue.post(token, 0, step(), None)
    helps(told.queue, 1)
    told.clock.now = 99.0
    told.queue.tell(token, 1, 2)
    told.clock.now = 100.0
    told.queue.next(2, 0.0)
    assert told.ended == [1]
    assert told.failed == [], "the client is in its leader's hands"
    assert told.queue.turn(name, None, 0.0).number is not None


@pytest.mark.parametrize(
    ("rule", "at", "said"),
    [
        ({"deadline_s": 30.0}, 30.0, "it was not done after 30 s (failures.deadline_s)"),
        # the others took 1 and 3 seconds for 10 records each: 0.1 and 0.3, the median 0.2; 5 x 0.2 x 20 records = 20 s
        (
            {"deadline_factor": 5.0},
            20.0,
            "it was not done after 20 s, 5 times as long as the round's median client takes for as many records "
            "(failures.deadline_factor)",
        ),
        ({"deadline_factor": 5.0, "deadline_s": 10.0}, 10.0, "it was not done after 10 s (failures.deadline_s)"),
    ],
    ids=["seconds", "factor", "both"],
)
def test_a_straggler_is_given_up_at_its_deadline_though_it_is_heard_of(rule: Any, at: float, said: str) -> None:
    told = Told(retries=0, then="drop", **rule)
    running = told.running(["slow", "a", "b"], [20, 10, 10])
    slow, first, second = (take(told.queue, worker) for worker in range(3))
    told.clock.now = 1.0
    told.queue.submit(first.token, "a")
    told.clock.now = 3.0
    told.queue.submit(second.token, "b")
    told.clock.now = at - 0.01
    told.queue.tell(slow.token, 1, 2)
    told.queue.next(9, 0.0)
    assert told.failed == []
    told.clock.now = at
    told.queue.next(9, 0.0)
    assert [failed.attempts[-1].reason for failed in told.failed] == [said]
    assert told.ended == [0]
    assert not told.queue.submit(slow.token, "late"), "never counted"
    running.join()
    assert running.results == [None, "a", "b"]


def test_the_median_is_not_asked_before_half_of_the_round_is_there() -> None:
    told = Told(deadline_factor=2.0)
    told.running(["slow", "a", "b", "c"], [4, 3, 2, 1])
    leases = [take(told.queue, worker) for worker in range(4)]
    told.clock.now = 1.0
    told.queue.submit(leases[3].token, "c")  # a second for a record: `slow` would be given up after eight
    told.clock.now = 50.0
    told.queue.next(9, 0.0)
    assert told.failed == []
    told.queue.finish()
