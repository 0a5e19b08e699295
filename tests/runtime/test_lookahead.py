"""What is made ahead of need, in which order and within which budget. No Ray; the blocks are words."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from fcit_ray.runtime.lookahead import Lookahead


@dataclass(frozen=True)
class Word:
    text: str
    failed: bool = False


@dataclass
class Kitchen:
    """Makes words, each of ten bytes, and remembers which, in windows; `broken` fail, `refused` are not made at all."""

    needs: list[str]
    windows: list[list[str]] = field(default_factory=list)
    gently: list[bool] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)
    hold: dict[str, threading.Event] = field(default_factory=dict)

    def make(self, pieces: Sequence[str], gently: bool) -> Iterator[Word]:
        made: list[str] = []
        self.windows.append(made)
        self.gently.append(gently)
        for piece in pieces:
            if event := self.hold.get(piece):
                assert event.wait(5.0)
            if piece in self.refused:
                raise OSError(f"no room for {piece}")
            made.append(piece)
            yield Word(piece.upper(), piece in self.broken)

    def open(self, budget: int) -> Lookahead:
        return Lookahead(
            budget, lambda: list(self.needs), lambda piece: 10, self.make, lambda block: self.failed.append(block.text)
        )


def settle(ahead: Lookahead) -> None:
    """Wait until there is nothing more to be made."""
    for _ in range(200):
        with ahead._changed:
            kept = list(ahead._kept)
        threading.Event().wait(0.01)
        with ahead._changed:
            if kept == list(ahead._kept) and not ahead._next_window():
                return
    raise AssertionError("it makes and makes")


def take(ahead: Lookahead, *pieces: str) -> list[str]:
    blocks = ahead.take(pieces, 5.0)
    assert blocks is not None, "not made within the time"
    return [block.text for block in blocks]


def test_what_is_needed_first_is_made_first_as_far_as_the_budget_goes() -> None:
    kitchen = Kitchen([*"abcadef"])
    ahead = kitchen.open(budget=45)
    ahead.look()
    settle(ahead)
    assert kitchen.windows == [[*"abcd"]]  # a, needed twice, is made once
    assert kitchen.gently == [True]
    assert ahead.there([*"ad"]) == [Word("A"), Word("D")]
    assert ahead.there([*"ae"]) is None
    assert take(ahead, "b") == ["B"]
    assert len(kitchen.windows) == 1
    ahead.close()


def test_it_is_refilled_once_half_is_used_up_and_what_is_past_makes_room() -> None:
    kitchen = Kitchen([*"abcdefgh"])
    ahead = kitchen.open(budget=40)
    ahead.look()
    settle(ahead)
    kitchen.needs = [*"bcdefgh"]
    ahead.look()
    settle(ahead)
    assert kitchen.windows == [[*"abcd"]], "three of four are ready: not yet"
    kitchen.needs = [*"defgh"]
    ahead.look()
    settle(ahead)
    assert kitchen.windows == [[*"abcd"], [*"efg"]]
    assert ahead.there(["a"]) is None
    assert ahead.there([*"defg"]) is not None
    ahead.close()


def test_what_is_needed_again_soon_stays_and_what_is_needed_latest_goes() -> None:
    kitchen = Kitchen([*"abc"])
    ahead = kitchen.open(budget=30)
    ahead.look()
    settle(ahead)
    kitchen.needs = [*"adbc"]  # room for three
    take(ahead, "d")
    assert ahead.there([*"abd"]) is not None
    assert ahead.there(["c"]) is None
    ahead.close()


def test_what_nobody_foresaw_goes_before_all_else_even_before_what_is_being_made() -> None:
    kitchen = Kitchen([*"abcdef"], hold={"b": threading.Event()})
    ahead = kitchen.open(budget=60)
    ahead.look()
    while not kitchen.windows or kitchen.windows[0] != ["a"]:
        threading.Event().wait(0.01)
    threading.Timer(0.2, kitchen.hold["b"].set).start()
    assert take(ahead, "x") == ["X"]
    settle(ahead)
    assert kitchen.windows[0] == [*"ab"], "b was under way"
    assert kitchen.windows[1][0] == "x"
    assert kitchen.gently[:2] == [True, False]
    assert sorted(piece for window in kitchen.windows for piece in window) == [*"abcdefx"]
    ahead.close()


def test_more_than_the_budget_is_made_if_it_is_asked_for_at_once_and_only_then() -> None:
    kitchen = Kitchen([*"abc"])
    ahead = kitchen.open(budget=20)
    assert take(ahead, *"wxyz") == [*"WXYZ"]
    settle(ahead)
    assert ahead.there([*"wxyz"]) is None, "they have made room"
    assert ahead.there([*"ab"]) is not None
    ahead.close()


def test_nothing_within_the_time_is_no_error() -> None:
    kitchen = Kitchen(["a"], hold={"a": threading.Event()})
    ahead = kitchen.open(budget=10)
    assert ahead.take(["a"], 0.05) is None
    kitchen.hold["a"].set()
    assert take(ahead, "a") == ["A"]
    ahead.close()


def test_what_fails_ahead_of_need_stops_nobody_else_is_told_of_and_tried_again_when_needed() -> None:
    kitchen = Kitchen([*"abc"], broken={"b"})
    ahead = kitchen.open(budget=30)
    ahead.look()
    settle(ahead)
    assert kitchen.failed == ["B"]
    assert ahead.there(["b"]) is None
    assert take(ahead, "a", "c") == ["A", "C"]
    [still] = ahead.take(["b"], 5.0) or []
    assert still.failed, "nobody has mended it"
    assert kitchen.windows == [[*"abc"], ["b"]]
    ahead.close()


def test_what_is_mended_before_it_is_needed_was_never_broken() -> None:
    kitchen = Kitchen([*"ab"], broken={"b"})
    ahead = kitchen.open(budget=30)
    ahead.look()
    settle(ahead)
    kitchen.broken.clear()
    assert ahead.take(["b"], 5.0) == [Word("B")]
    ahead.close()


def test_an_error_of_the_making_is_raised_where_it_is_needed_and_not_before() -> None:
    kitchen = Kitchen([*"abc"], refused={"b"})
    ahead = kitchen.open(budget=30)
    ahead.look()
    settle(ahead)
    assert take(ahead, "a") == ["A"]
    with pytest.raises(OSError, match="no room for b"):
        ahead.take(["b"], 5.0)
    assert take(ahead, "c") == ["C"], "c was not made because of b alone"
    ahead.close()


def test_the_end_lets_nobody_wait_and_leaves_no_thread() -> None:
    kitchen = Kitchen(["a"], hold={"a": threading.Event()})
    ahead = kitchen.open(budget=10)
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            ahead.take(["a"], 60.0)
        except RuntimeError as error:
            errors.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    threading.Timer(0.1, kitchen.hold["a"].set).start()
    while not kitchen.windows:
        threading.Event().wait(0.01)
    ahead.close()
    waiting.join(5.0)
    assert not waiting.is_alive()
    assert not [thread for thread in threading.enumerate() if thread.name == "lookahead"]
    assert not errors or "the run is over" in str(errors[0])
