"""Who serves which run: workers go where most waits, are replaced when they die, sent away when others are wanted."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from fcit_ray.runtime.foreman import HELP, Dismissed, Engagement, Foreman
from fcit_ray.runtime.shape import Shape

TWO = Shape(num_workers=2, cpus=0.5, gpu=False)
ONE = Shape(num_workers=1, cpus=0.5, gpu=False)
LARGE = Shape(num_workers=1, cpus=2.0, gpu=False)


class StandInDriver:
    """What a driver's handle is asked, kept."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []
        for name in ("lost", "fail"):
            call = SimpleNamespace(remote=lambda *what, name=name: self.said.append((name, *what)))
            setattr(self, name, call)


def engaged(foreman: Foreman, shape: Shape, *sizes: float, base: str = "base") -> tuple[int, StandInDriver]:
    """A run that has pieces of these sizes waiting."""
    driver = StandInDriver()
    number = foreman.engage(shape, {}, driver, base=base)
    foreman.tell(number, [(1, size) for size in sorted(sizes, reverse=True)])
    return number, driver


def hired(foreman: Foreman) -> int:
    [(crew, _)] = foreman.wanted()
    return crew


def sent(foreman: Foreman, crew: int, rank: int = 0) -> int | None:
    """The run that a worker is sent to, which asks for the next piece."""
    engagement = foreman.next(crew, rank, 0)
    assert engagement is None or isinstance(engagement, Engagement)
    return engagement.number if engagement else None


def test_workers_go_to_the_largest_piece_of_all_runs_and_the_more_urgent_first() -> None:
    foreman = Foreman(most=1)
    small, _ = engaged(foreman, TWO, 30, 20)
    large, _ = engaged(foreman, TWO, 100, 25)
    asking, _ = engaged(foreman, TWO)
    foreman.tell(asking, [(0, 1000.0)])
    crew = hired(foreman)
    # 100, 30, 25, 20, and behind all rounds the questions of a finished stage
    assert [sent(foreman, crew, number % 2) for number in range(6)] == [large, small, large, small, asking, None]


def test_of_equal_pieces_the_earlier_run_s_goes_first() -> None:
    foreman = Foreman(most=1)
    first, _ = engaged(foreman, ONE, 10, 10)
    second, _ = engaged(foreman, ONE, 10)
    crew = hired(foreman)
    assert [sent(foreman, crew) for _ in range(3)] == [first, first, second]


def test_a_run_of_small_clients_is_not_passed_for_ever() -> None:
    foreman = Foreman(most=1)
    small, _ = engaged(foreman, TWO, 1)
    large, _ = engaged(foreman, TWO)
    crew = hired(foreman)
    sent(foreman, crew, 1)  # both workers are known, and `small` has nothing more
    foreman.tell(small, [(1, 1.0)])
    order = []
    for _ in range(20):
        foreman.tell(large, [(1, 100.0)])
        order.append(sent(foreman, crew))
    assert order.index(small) == 4 * 2  # four times past it for each worker


def test_the_next_run_takes_the_crew_over_and_one_that_is_over_gets_nobody() -> None:
    foreman = Foreman(most=2)
    first, _ = engaged(foreman, TWO, 5, 4)
    crew = hired(foreman)
    assert foreman.wanted() == []  # it is on its way
    assert sent(foreman, crew, 0) == first
    foreman.end(first)
    assert sent(foreman, crew, 1) is None
    foreman.tell(first, [(1, 9.0)])  # too late
    assert sent(foreman, crew, 1) is None
    second, _ = engaged(foreman, TWO, 3)
    assert foreman.wanted() == []
    assert sent(foreman, crew, 1) == second


def test_a_crew_more_is_hired_while_runs_ask_for_more_workers_and_as_many_as_are_allowed() -> None:
    foreman = Foreman(most=2)
    runs = [engaged(foreman, TWO, 5, 4, 3)[0] for _ in range(3)]
    crews = [crew for crew, _ in foreman.wanted()]
    assert len(crews) == 2
    assert foreman.wanted() == []
    assert sorted({sent(foreman, crew, rank) for crew in crews for rank in (0, 1)} - {None}) == runs


def test_who_dies_is_told_to_every_run_it_may_owe_a_result_and_counts_against_the_one_it_served() -> None:
    foreman = Foreman(most=1)
    first, owed = engaged(foreman, TWO, 9)
    second, served = engaged(foreman, TWO, 5, 5, 5)
    third, stranger = engaged(foreman, TWO)
    crew = hired(foreman)
    one = foreman.next(crew, 0, 0)
    assert isinstance(one, Engagement)
    assert one.number == first
    assert [sent(foreman, crew, 0), sent(foreman, crew, 1)] == [second, second]
    foreman.lost(crew, [0])
    assert owed.said == [("lost", [one.worker], [])]  # its result may have been on its way
    assert served.said == [("lost", [one.worker], [one.worker])]
    assert stranger.said == []
    # Who takes its place is another to the drivers.
    again = foreman.next(crew, 0, 0)
    assert isinstance(again, Engagement)
    assert (again.number, again.worker != one.worker) == (second, True)
    foreman.lost(crew, [0])
    assert served.said[1:] == [("lost", [again.worker], [again.worker])]
    assert len(owed.said) == 1
    foreman.end(second)
    foreman.tell(third, [(1, 2.0)])
    assert sent(foreman, crew, 0) == third


def test_a_crew_that_is_gone_fails_runs_that_have_no_other_and_makes_room() -> None:
    foreman = Foreman(most=1)
    number, driver = engaged(foreman, ONE, 5)
    crew = hired(foreman)
    foreman.gone(crew, "the workers could not run: no room")
    assert driver.said == [("fail", "the workers could not run: no room")]
    assert isinstance(foreman.next(crew, 0, 0), Dismissed)
    foreman.end(number)
    engaged(foreman, ONE, 5)
    assert len(foreman.wanted()) == 1


def test_a_crew_that_is_gone_costs_runs_its_workers_alone_where_there_is_another() -> None:
    foreman = Foreman(most=2)
    runs = [engaged(foreman, ONE, 5, 4) for _ in range(2)]
    (gone, _), (other, _) = foreman.wanted()
    engagement = foreman.next(gone, 0, 0)
    assert isinstance(engagement, Engagement)
    foreman.gone(gone, "the node is gone")
    assert runs[0][1].said == [("lost", [engagement.worker], [])]
    assert runs[1][1].said == []
    assert sent(foreman, other) in [number for number, _ in runs]


def test_a_run_of_another_kind_has_an_idle_crew_sent_away_but_none_that_may_be_asked() -> None:
    foreman = Foreman(most=1)
    number, _ = engaged(foreman, ONE, 5)
    crew = hired(foreman)
    engaged(foreman, LARGE, 5)
    assert foreman.wanted() == []
    assert sent(foreman, crew) == number
    assert sent(foreman, crew) is None  # its own run has nothing now, and the other is not for it
    foreman.end(number)
    assert foreman.wanted() == []
    assert isinstance(foreman.next(crew, 0, 0), Dismissed)
    foreman.gone(crew, "")
    assert [shape for _, shape in foreman.wanted()] == [LARGE]


def test_a_worker_keeps_to_its_base_and_one_goes_over_to_a_base_that_nobody_has() -> None:
    foreman = Foreman(most=1)
    first, _ = engaged(foreman, TWO, 5, 4, 3, base="7b")
    crew = hired(foreman)
    assert [sent(foreman, crew, 0), sent(foreman, crew, 1)] == [first, first]
    other, _ = engaged(foreman, TWO, 100, 90, base="13b")
    assert sent(foreman, crew, 0) == other
    assert sent(foreman, crew, 1) == first
    assert sent(foreman, crew, 1) is None  # 90 waits, for the one that has loaded 13b
    assert sent(foreman, crew, 0) == other
    foreman.end(first)
    foreman.tell(other, [(1, 80.0)])
    assert sent(foreman, crew, 1) == other


@pytest.mark.parametrize("what", ["work", "end"])
def test_who_waits_is_woken(what: str) -> None:
    foreman = Foreman(most=1)
    number, _ = engaged(foreman, ONE)
    crew = hired(foreman)
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(foreman.next(crew, 0, 30)))
    thread.start()
    foreman.tell(number, [(1, 1.0)]) if what == "work" else foreman.finish()
    thread.join(timeout=10)
    assert isinstance(got[0], Engagement if what == "work" else Dismissed)


def test_a_client_that_could_be_helped_comes_behind_all_else_and_keeps_nobody_waiting() -> None:
    foreman = Foreman(most=1)
    helped, _ = engaged(foreman, ONE)
    working, _ = engaged(foreman, ONE, *range(1, 9))
    foreman.tell(helped, [(HELP, 1e6)])
    crew = hired(foreman)
    assert [sent(foreman, crew) for _ in range(10)] == [*[working] * 8, helped, None]
