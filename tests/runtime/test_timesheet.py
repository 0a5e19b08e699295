"""Where the workers' time goes: a constructed round, worked out by hand, and what holds of any."""

import random

import pytest

from fcit_ray.runtime.messages import AnswerWork, TrainWork
from fcit_ray.runtime.pieces import Lease
from fcit_ray.runtime.shared_steps import HelpWork
from fcit_ray.runtime.timesheet import CAUSES, Timesheet


def train(token: int) -> Lease:
    return Lease(token, object.__new__(TrainWork))  # only what it is counts


def helps(token: int) -> Lease:
    return Lease(token, object.__new__(HelpWork))


def answer(token: int) -> Lease:
    return Lease(token, object.__new__(AnswerWork))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_round_of_two_workers_is_told_by_cause() -> None:
    clock = Clock()
    sheet = Timesheet(2, clock)
    sheet.open_round()
    clock.now = 3.0  # planned
    sheet.mark()
    sheet.begins(0, train(11))
    clock.now = 4.0  # the second worker starts late
    sheet.is_free(1)
    sheet.begins(1, train(12))
    clock.now = 10.0  # its client is a short one; it answers what is left of the stage before
    sheet.told(12, {"compute_s": 4.0, "starved_s": 1.5, "loss": 0.1})
    sheet.is_free(1)
    clock.now = 11.0
    sheet.begins(1, answer(13))
    clock.now = 23.0
    sheet.told(11, {"compute_s": 19.0, "starved_s": 0.25})
    sheet.is_free(0)
    sheet.mark()
    clock.now = 25.0  # the answers are done while the server aggregates
    sheet.told(13, {})
    sheet.is_free(1)
    clock.now = 30.0
    assert sheet.close_round() == [
        {"worker": 0, "compute_s": 19.0, "starved_s": 0.25, "other_s": 0.75, "answer_s": 0.0, "idle_s": 0.0,
         "server_s": 10.0, "help_s": 0.0, "exchange_s": 0.0},
        {"worker": 1, "compute_s": 4.0, "starved_s": 1.5, "other_s": 0.5, "answer_s": 14.0, "idle_s": 2.0,
         "server_s": 8.0, "help_s": 0.0, "exchange_s": 0.0},
    ]  # fmt: skip


def test_a_lost_worker_s_client_is_other_time_and_the_one_who_trains_it_again_tells_of_it() -> None:
    clock = Clock()
    sheet = Timesheet(2, clock)
    sheet.open_round()
    sheet.mark()
    sheet.begins(0, train(1))
    clock.now = 6.0
    sheet.is_free(0)  # lost, and another in its place
    sheet.begins(1, train(2))
    clock.now = 10.0
    sheet.told(2, {"compute_s": 4.0, "starved_s": 0.0})
    sheet.told(2, {"compute_s": 4.0, "starved_s": 0.0})  # a twin of the message
    sheet.is_free(1)
    sheet.mark()
    first, second = sheet.close_round()
    assert (first["other_s"], first["compute_s"], first["idle_s"]) == (6.0, 0.0, 4.0)
    assert (second["other_s"], second["compute_s"], second["idle_s"]) == (0.0, 4.0, 6.0)


def test_who_helps_and_what_is_spent_on_it_are_told_apart() -> None:
    clock = Clock()
    sheet = Timesheet(2, clock)
    sheet.open_round()
    sheet.mark()
    sheet.begins(0, train(1))
    sheet.begins(1, helps(-1))
    clock.now = 4.0
    sheet.told(-1, {})
    sheet.is_free(1)
    clock.now = 6.0
    sheet.told(1, {"compute_s": 4.5, "exchange_s": 1.0, "starved_s": 0.5})
    sheet.is_free(0)
    sheet.mark()
    leader, helper = sheet.close_round()
    assert (leader["compute_s"], leader["exchange_s"], leader["starved_s"], leader["other_s"]) == (4.5, 1.0, 0.5, 0.0)
    assert (helper["help_s"], helper["idle_s"]) == (4.0, 2.0)


@pytest.mark.parametrize("seed", range(5))
def test_the_causes_add_up_to_the_time_of_every_worker_from_round_to_round(seed: int) -> None:
    draw = random.Random(seed)
    clock = Clock()
    sheet = Timesheet(3, clock)
    ends = [0.0]
    for _ in range(4):
        sheet.open_round()
        for phase in ("plan", "train", "aggregate"):
            for token in range(draw.randrange(8)):
                clock.now += draw.random()
                worker = draw.randrange(3)
                if draw.random() < 0.4:
                    sheet.is_free(worker)
                else:
                    sheet.begins(worker, draw.choice([train, helps, answer])(token))
                    sheet.told(token, {"compute_s": draw.random(), "starved_s": draw.random()})
            if phase != "aggregate":
                sheet.mark()
        workers = sheet.close_round()
        ends.append(clock.now)
        assert [worker["worker"] for worker in workers] == [0, 1, 2]
        for worker in workers:
            assert sum(worker[cause] for cause in CAUSES) == pytest.approx(ends[-1] - ends[-2])
