"""Answering in the plan, worked out by hand."""

import pytest

from fcit_ray.planning.answering import hidden_share
from fcit_ray.planning.plan import Round


def round_of(stage, records, makespan):
    """On two workers."""
    return Round(stage=stage, round=0, down=0, up=0, steps=(), records=records, makespan=makespan, alone=0, shortest=0)


def test_answers_hide_where_the_next_stage_leaves_workers_idle():
    # Stage 1 leaves 2 * 30 - 40 = 20 records' time, twice; stage 2 none. A record takes 3 s, an answer half a second.
    rounds = [round_of(0, (50,), 50), *[round_of(1, (30, 10), 30)] * 2, round_of(2, (20, 20), 20)]
    asked = {0: 300, 1: 100, 2: 100}
    # After stage 0: 120 of 150 s; after stage 1 none of 50, after stage 2 nothing runs.
    assert hidden_share(asked, rounds, 2, 3.0, 0.5) == pytest.approx(120 / 250)
    # Ten times as fast answers: all 15 of 25 s.
    assert hidden_share(asked, rounds, 2, 3.0, 0.05) == pytest.approx(15 / 25)
    assert hidden_share({}, [], 2, 3.0, 0.5) == 0.0
