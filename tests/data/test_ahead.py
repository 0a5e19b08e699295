"""Batches read ahead: the same in the same order, errors where they are wanted, no thread left, waiting counted."""

import threading

import pytest
import torch

from fcit_ray.data.loading.ahead import AheadBatches
from fcit_ray.errors import DataError

LARGE = 2**18  # float32 entries: a mebibyte, from which batches at hand are worth a thread


def reading():
    return [thread for thread in threading.enumerate() if thread.name == "batches"]


def numbered(count, entries=1, before=lambda number: None):
    """Batches of their own numbers, `before` called when each is read."""

    def batches(piece_size=None, /):
        for number in range(count):
            before(number)
            yield {"input_ids": torch.full((1, entries), float(number + (piece_size or 0)))}

    return batches


@pytest.mark.parametrize(("at_hand", "entries"), [(True, 1), (True, LARGE), (False, 1)])
@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_a_pass_has_the_same_batches_in_the_same_order(at_hand, entries, count):
    with AheadBatches(numbered(count, entries), at_hand=at_hand) as ahead:
        for piece_size in (None, 100):  # a method's own pass, in pieces of its size
            got = [float(batch["input_ids"][0, -1]) for batch in ahead(piece_size)]
            assert got == [number + (piece_size or 0) for number in range(count)]
    assert not reading()


def test_only_small_batches_that_are_at_hand_are_read_by_the_trainer_itself():
    where = {}
    for at_hand, entries in [(True, 1), (True, LARGE), (False, 1)]:
        names = where[at_hand, entries] = []
        with AheadBatches(
            numbered(3, entries, lambda number, names=names: names.append(threading.current_thread().name)),
            at_hand=at_hand,
        ) as ahead:
            list(ahead())
    main = threading.current_thread().name
    assert where == {(True, 1): [main] * 3, (True, LARGE): [main, "batches", "batches"],
                     (False, 1): [main, "batches", "batches"]}  # fmt: skip


@pytest.mark.parametrize("broken", [0, 1, 3])
def test_an_error_is_raised_in_its_place_and_with_its_type(broken):
    def before(number):
        if number == broken:
            raise DataError("record 7: image a.png: cut off")

    got = []
    with AheadBatches(numbered(5, before=before), at_hand=False) as ahead:
        with pytest.raises(DataError, match=r"record 7: image a\.png: cut off"):  # noqa: PT012
            for batch in ahead():
                got.append(float(batch["input_ids"]))
        assert got == list(range(broken))
    assert not reading()


def test_a_trainer_that_fails_leaves_no_thread_though_its_frames_live_on():
    with pytest.raises(FloatingPointError) as caught, AheadBatches(numbered(50), at_hand=False) as ahead:  # noqa: PT012
        passes = ahead()
        next(passes)
        next(passes)
        raise FloatingPointError("loss is nan")
    assert not reading()
    assert caught.value.__traceback__ is not None  # which holds `passes`


def test_starved_seconds_are_those_in_which_a_batch_was_wanted_and_not_there():
    now = [0.0]
    wanted = threading.Event()

    def before(number):
        if number == 0:
            now[0] += 2.0  # the first is always waited for
        if number == 2:
            assert wanted.wait(5.0)
            now[0] += 7.0  # a slow shard

    with AheadBatches(numbered(4, before=before), at_hand=False, clock=lambda: now[0]) as ahead:
        batches = ahead()
        next(batches)
        now[0] += 100.0  # training
        next(batches)
        threading.Timer(0.2, wanted.set).start()
        next(batches)
        assert ahead.starved_s == 9.0


def test_batches_at_hand_count_what_it_takes_to_make_them():
    now = [0.0]

    def before(number):
        now[0] += 0.5

    with AheadBatches(numbered(4, before=before), at_hand=True, clock=lambda: now[0]) as ahead:
        for _ in ahead():
            now[0] += 3.0
    assert ahead.starved_s == 2.0
