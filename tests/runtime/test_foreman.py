"""Who serves which run: crews are kept from run to run, replaced when they die, sent away when another is wanted."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from fcit_ray.runtime.foreman import Dismissed, Engagement, Foreman
from fcit_ray.runtime.shape import Shape

TWO = Shape(num_workers=2, cpus=0.5, gpu=False)
ONE = Shape(num_workers=1, cpus=0.5, gpu=False)


class StandInDriver:
    """What a driver's handle is asked, kept."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Any]] = []
        for name in ("lost", "fail"):
            call = SimpleNamespace(remote=lambda what, name=name: self.said.append((name, what)))
            setattr(self, name, call)


def serve(foreman: Foreman, crew: int, number: int, shape: Shape) -> None:
    """Every worker of a crew takes the engagement, and leaves it."""
    for rank in range(shape.num_workers):
        engagement = foreman.next(crew, rank, 0)
        assert isinstance(engagement, Engagement)
        assert engagement.number == number
        foreman.left(crew, rank, number)


def test_the_next_run_of_the_same_shape_takes_the_crew_over() -> None:
    foreman = Foreman(most=2)
    first = foreman.engage(TWO, {"folder": "a"}, StandInDriver(), 1)
    [(crew, shape)] = foreman.wanted()
    assert shape == TWO
    assert foreman.wanted() == []  # it is on its way
    assert not foreman.over(first, 0)
    serve(foreman, crew, first, TWO)
    assert foreman.over(first, 0)
    assert foreman.next(crew, 0, 0) is None
    second = foreman.engage(TWO, {"folder": "b"}, StandInDriver(), 1)
    assert foreman.wanted() == []
    engagement = foreman.next(crew, 1, 0)
    assert isinstance(engagement, Engagement)
    assert (engagement.number, engagement.context) == (second, {"folder": "b"})


def test_a_worker_that_was_replaced_is_handed_the_run_again_and_one_that_left_is_not() -> None:
    foreman, driver = Foreman(most=1), StandInDriver()
    number = foreman.engage(TWO, {}, driver, 1)
    [(crew, _)] = foreman.wanted()
    for rank in (0, 1):
        assert isinstance(foreman.next(crew, rank, 0), Engagement)
    foreman.lost(crew, [1])
    assert driver.said == [("lost", [1])]
    assert isinstance(foreman.next(crew, 1, 0), Engagement)
    foreman.left(crew, 0, number)
    assert foreman.next(crew, 0, 0) is None
    # once more than the run allows: it fails, and the next one counts from nothing
    foreman.lost(crew, [1])
    assert driver.said[1][0] == "fail"
    assert "died more than runtime.max_worker_failures=1 times, at last worker 1" in driver.said[1][1]
    foreman.left(crew, 1, number)
    other = StandInDriver()
    foreman.engage(TWO, {}, other, 1)
    foreman.lost(crew, [0])
    assert other.said == [("lost", [0])]


def test_a_crew_that_is_gone_fails_its_run_and_makes_room() -> None:
    foreman, driver = Foreman(most=1), StandInDriver()
    number = foreman.engage(ONE, {}, driver, 5)
    [(crew, _)] = foreman.wanted()
    foreman.gone(crew, "the workers could not run: no room")
    assert driver.said == [("fail", "the workers could not run: no room")]
    assert foreman.over(number, 0)
    assert isinstance(foreman.next(crew, 0, 0), Dismissed)
    foreman.engage(ONE, {}, StandInDriver(), 5)
    assert len(foreman.wanted()) == 1


def test_a_run_of_another_shape_has_an_idle_crew_sent_away_but_none_that_works() -> None:
    foreman = Foreman(most=1)
    number = foreman.engage(ONE, {}, StandInDriver(), 5)
    [(crew, _)] = foreman.wanted()
    foreman.engage(TWO, {}, StandInDriver(), 5)
    assert foreman.wanted() == []
    assert isinstance(foreman.next(crew, 0, 0), Engagement)
    foreman.left(crew, 0, number)
    assert foreman.wanted() == []
    assert isinstance(foreman.next(crew, 0, 0), Dismissed)
    foreman.gone(crew, "")
    assert [shape for _, shape in foreman.wanted()] == [TWO]


def test_at_most_so_many_crews_work_at_a_time_and_runs_take_turns() -> None:
    foreman = Foreman(most=2)
    numbers = [foreman.engage(ONE, {"run": run}, StandInDriver(), 5) for run in range(4)]
    crews = [crew for crew, _ in foreman.wanted()]
    assert len(crews) == 2
    assert foreman.wanted() == []
    for crew, number in zip([*crews, *crews], numbers, strict=True):
        serve(foreman, crew, number, ONE)
    assert all(foreman.over(number, 0) for number in numbers)


@pytest.mark.parametrize("what", ["run", "end"])
def test_who_waits_is_woken(what: str) -> None:
    foreman = Foreman(most=1)
    number = foreman.engage(ONE, {}, StandInDriver(), 5)
    [(crew, _)] = foreman.wanted()
    serve(foreman, crew, number, ONE)
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(foreman.next(crew, 0, 30)))
    thread.start()
    foreman.engage(ONE, {}, StandInDriver(), 5) if what == "run" else foreman.finish()
    thread.join(timeout=10)
    assert isinstance(got[0], Engagement if what == "run" else Dismissed)
