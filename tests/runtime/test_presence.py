"""Who of the workers is there: by the books of Ray, told once."""

from typing import Any

import pytest
import ray

from fcit_ray.runtime import presence
from fcit_ray.runtime.foreman import Dismissed
from fcit_ray.runtime.foreman_actor import RayForeman
from fcit_ray.runtime.presence import Presence, Seat
from fcit_ray.runtime.shape import Shape


class Books:
    """Of a cluster: who is dead, which nodes drain, what was told."""

    def __init__(self) -> None:
        self.dead: set[str] = set()
        self.draining: set[str] = set()
        self.now = 0.0
        self.told: list[Any] = []
        self.presence = Presence(
            lambda workers: self.told.append(("lost", list(workers))),
            lambda workers: self.told.append(("going", list(workers))),
            lambda seconds: self.told.append(("alone", seconds)),
            dead=self.dead.__contains__,
            draining=lambda: self.draining,
            clock=lambda: self.now,
        )

    def look(self) -> list[Any]:
        self.told.clear()
        self.presence.look()
        return list(self.told)


@pytest.fixture
def books() -> Books:
    books = Books()
    for worker, actor, node in ((0, "a", "x"), (1, "b", "y")):
        books.presence.come(worker, Seat(actor, node))
    return books


def test_who_has_come_is_known_after_his_death(books: Books) -> None:
    assert not books.presence.have_come([0, 2])
    books.presence.come(2, Seat("e", "z"))
    assert books.presence.num_there == 3
    books.dead |= {"a", "e"}
    books.look()
    assert books.presence.num_there == 1
    assert books.presence.have_come([0, 2])


def test_a_death_is_told_once_whoever_sees_it_first(books: Books) -> None:
    assert books.look() == []
    books.dead.add("a")
    assert books.look() == [("lost", [0])]
    assert books.look() == []
    assert not books.presence.leave(0), "Ray Train tells of the same death later"
    books.presence.come(0, Seat("c", "x"))
    assert books.look() == []
    assert books.presence.leave(0), "of the next one it tells first"
    books.dead.add("c")
    assert books.look() == []


def test_a_worker_that_has_been_replaced_is_not_lost(books: Books) -> None:
    books.dead.add("a")
    books.presence.come(0, Seat("c", "x"))
    assert books.look() == []


def test_a_draining_node_is_told_once_and_its_worker_is_going_until_another_takes_its_place(books: Books) -> None:
    books.draining.add("y")
    assert books.look() == [("going", [1])]
    assert books.look() == []
    assert (books.presence.is_going(0), books.presence.is_going(1)) == (False, True)
    books.presence.come(1, Seat("d", "z"))
    assert not books.presence.is_going(1)


def test_that_nobody_is_left_is_told_every_minute_and_not_before_the_first_has_come(books: Books) -> None:
    empty = Books()
    empty.now = 1000.0
    assert empty.look() == []
    books.dead |= {"a", "b"}
    assert books.look() == [("lost", [0, 1])]
    for now, told in ((59.0, []), (61.0, [("alone", 61.0)]), (119.0, []), (120.0, [("alone", 120.0)])):
        books.now = now
        assert books.look() == told
    books.presence.come(0, Seat("e", "x"))
    books.now = 500.0
    assert books.look() == []


def test_a_ray_that_keeps_its_books_elsewhere_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ray, "_private")
    assert not presence.is_dead("ab")
    assert presence.draining_nodes() == frozenset()


def test_a_crew_worker_on_a_draining_node_is_sent_to_no_run_but_goes_with_its_crew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Presence, "watch", lambda self: None)
    foreman = RayForeman(1)
    monkeypatch.setattr(foreman._presence, "_draining", lambda: {"x"})
    monkeypatch.setattr(foreman._presence, "_dead", lambda actor: False)
    shape = Shape(num_workers=2, cpus=1.0, gpu=False)
    number = foreman.engage(shape, {}, None, 0)
    [(crew, _)] = foreman.wanted()
    foreman.tell(number, [(0.0, 5.0), (0.0, 4.0)])
    foreman.come(crew, 0, "a", "x")
    foreman.come(crew, 1, "b", "y")
    foreman._presence.look()
    assert foreman.next(crew, 0, 0.0) is None
    assert foreman.next(crew, 1, 0.0).number == number  # type: ignore[union-attr]
    foreman.finish()
    assert isinstance(foreman.next(crew, 0, 0.0), Dismissed)
