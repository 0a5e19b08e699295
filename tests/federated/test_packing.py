"""How a round is laid over the workers: by hand, and beside the shortest schedule there is."""

import random
import runpy

import pytest
from repository import ROOT

from fcit_ray.federated.packing import Cut, Rest, Started, alone, makespan, shortest, whom_to_help

optimum = runpy.run_path(str(ROOT / "benchmarks" / "optimum.py"))["optimum"]


def test_one_worker_a_client_takes_the_longest_first():
    # On two workers: 7; 5, then 4 (at 5) against 7: 5 + 4 = 9; then 3 at 7: 10; then 2 at 9: 11.
    assert alone([2, 3, 4, 5, 7], 2) == 11
    assert alone([2, 3, 4, 5, 7], 1) == 21
    assert alone([2, 3, 4, 5, 7], 9) == 7
    # Cut into micro-batches that nobody shares it is the same.
    assert makespan((2, 3, 4, 5, 7), 2, Cut(4, 1), 1) == 11


def test_a_client_by_itself_takes_its_steps_in_waves():
    # 10 records in steps of 4, 4 and 2 micro-batches of one: on three workers two waves, two waves and one.
    assert makespan((10,), 3, Cut(4, 1)) == 5
    assert makespan((10,), 4, Cut(4, 1)) == 3
    assert makespan((10,), 4, Cut(4, 1), most=2) == 2 + 2 + 1
    assert makespan((10,), 9, Cut(4, 1, epochs=2)) == 6
    # Micro-batches of 3 and 1: a step is as long as the larger.
    assert makespan((8,), 2, Cut(4, 3)) == 6
    # A step of one micro-batch cannot be shared.
    assert makespan((8,), 2, Cut(4, 4)) == 8


def test_who_has_done_their_part_share_the_tail():
    # Two workers, steps of two: 8 and 2. After two units the second helps with 6 left in whole steps: three more.
    assert makespan((8, 2), 2, Cut(2, 1)) == 5
    assert alone((8, 2), 2) == 8


def test_the_bound_is_even_shares_or_the_longest_client_by_itself():
    assert shortest([10, 2], 3, Cut(4, 1)) == 5  # waves of the first, as above; shared evenly 4
    assert shortest([10, 8], 3, Cut(4, 1)) == 6
    assert shortest([10], 4, Cut(4, 1, epochs=3)) == 9


def test_a_free_worker_helps_whoever_would_take_longest_even_so():
    a, b, closed = Started(30, 2, True, 8), Started(21, 1, True, 8), Started(99, 1, False, 8)
    rest = Rest(150, 3, False, 3)
    assert whom_to_help([a, b, closed], rest) == 1  # 30 / 3 against 21 / 2
    assert whom_to_help([a, b], rest, most=1) is None
    assert whom_to_help([a, b], rest, most=2) == 1
    assert whom_to_help([closed], rest) is None
    assert whom_to_help([a, Started(20, 1, True, 8)], rest) == 0  # of equals the first


def test_a_client_that_holds_up_its_round_is_helped_before_the_next_begins():
    # It would take 50 with one more; half an even share of 450 over four workers is 56.25, of 350 it is 43.75.
    long = Started(100, 1, True, 8)
    assert whom_to_help([long], Rest(350, 3, True, 4)) == 0
    assert whom_to_help([long], Rest(450, 3, True, 4)) is None
    assert whom_to_help([long], Rest(450, 3, False, 4)) == 0
    assert whom_to_help([long], Rest(350, 4, True, 4)) is None, "no worker is to spare"


def test_who_is_needed_for_the_next_step_of_the_longest_stays():
    # Five workers. The long client takes 100 / 4 with four of them, the other 20 on the fifth: its leader.
    long, other = Started(100, 3, False, 4), Started(20, 1, True, 4)
    assert whom_to_help([long, other], Rest(120, 2, False, 5)) is None
    assert whom_to_help([long, Started(30, 1, True, 4)], Rest(130, 2, False, 5)) == 1, "30 on the fifth take longer"
    assert whom_to_help([long, other], Rest(120, 2, False, 6)) == 1, "one is to spare"
    assert whom_to_help([long, other], Rest(120, 2, False, 4)) == 1, "none was ever free of it"


def test_the_exact_optimum_of_rounds_worked_out_by_hand():
    assert optimum([[2, 2], [1]], 2) == 3  # 5 of work on two
    assert optimum([[1, 1, 1, 1], [1]], 3) == 4  # a chain of four
    assert optimum([[3], [1, 1]], 2) == 3
    assert optimum([[3, 3]], 2) == 4  # two waves a step


def test_random_rounds_are_near_the_optimum_and_never_above_graham_s_bound():
    """Graham 1966: whoever never idles while something can be done is at most work / W + (1 - 1/W) * chain."""
    draw = random.Random(0)
    ratios = []
    for _ in range(150):
        workers, step = draw.randint(2, 4), draw.randint(1, 5)
        clients = tuple(draw.randint(1, 9) for _ in range(draw.randint(1, 4)))
        cut = Cut(step, 1)
        found = makespan(clients, workers, cut)
        best = optimum([[len(pieces) for pieces in cut.steps(records)] for records in clients], workers)
        chain = max(-(-records // step) for records in clients)
        assert shortest(clients, workers, cut) <= best <= found
        assert found <= sum(clients) / workers + (1 - 1 / workers) * chain + 1e-9
        ratios.append(found / best)
    assert sum(ratios) / len(ratios) < 1.03
    assert sum(ratio == 1 for ratio in ratios) > 0.85 * len(ratios)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_no_record_is_lost_on_the_way(workers):
    assert makespan((5, 3, 9), workers, Cut(4, 2)) >= 17 / workers
    assert makespan((5, 3, 9), 1, Cut(4, 2)) == 17
    assert makespan((), workers, Cut(4, 2)) == 0
