"""Figures worked out by hand on one small matrix, and the settings where two of them must agree."""

import numpy as np
import pytest

from fcit_ray.results import metrics

NAN = float("nan")
A = np.array(
    [
        [80.0, NAN, NAN],
        [60.0, 90.0, NAN],
        [70.0, 50.0, 40.0],
    ]
)


def test_last_is_the_mean_of_the_last_row() -> None:
    assert metrics.last(A) == pytest.approx((70 + 50 + 40) / 3)


def test_average_weighs_every_stage_alike() -> None:
    # stages: 80; (60 + 90) / 2 = 75; 160 / 3 = 53.33
    assert metrics.average(A) == pytest.approx((80 + 75 + 160 / 3) / 3)


def test_backward_transfer_compares_with_the_day_it_was_learned() -> None:
    # task 0: 70 - 80 = -10; task 1: 50 - 90 = -40; task 2 was learned last and does not count
    assert metrics.backward_transfer(A) == pytest.approx(-25)


def test_forgetting_compares_with_the_best_day() -> None:
    # task 0: max(80, 60) - 70 = 10; task 1: 90 - 50 = 40
    assert metrics.forgetting(A) == pytest.approx(25)
    better_later = A.copy()
    better_later[1, 0] = 95  # task 0 fell from 95 now, though it learned 80
    assert metrics.forgetting(better_later) == pytest.approx((25 + 40) / 2)
    assert metrics.backward_transfer(better_later) == pytest.approx(-25)


def test_learned_is_each_tasks_score_on_the_day_it_was_learned() -> None:
    np.testing.assert_array_equal(metrics.learned_scores(A), [80, 90, 40])
    assert metrics.learned(A) == pytest.approx((80 + 90 + 40) / 3)


def test_backward_transfer_is_last_less_learned_over_the_tasks_before_the_last() -> None:
    # by hand: the last row has 70 and 50 of them, mean 60; the diagonal 80 and 90, mean 85
    assert metrics.backward_transfer(A) == pytest.approx(60 - 85)
    rng = np.random.default_rng(1)
    for _ in range(20):
        stages = int(rng.integers(2, 7))
        scores = rng.uniform(0, 100, (stages, stages))
        scores[np.triu_indices(stages, 1)] = NAN
        difference = np.mean(scores[-1, :-1]) - np.mean(metrics.learned_scores(scores)[:-1])
        assert metrics.backward_transfer(scores) == pytest.approx(difference)


def test_a_task_that_two_stages_teach_counts_as_learned_by_the_first() -> None:
    # stage 0 teaches tasks 0 and 2, stage 1 tasks 1 and 2
    het = np.array([[50.0, NAN, 30.0], [40.0, 60.0, 50.0]])
    np.testing.assert_array_equal(metrics.learned_scores(het), [50, 60, 30])


def test_what_was_learned_is_not_known_where_a_stage_was_not_evaluated() -> None:
    for late in ([[NAN, NAN], [30.0, 50.0]], [[70.0, NAN, NAN], [NAN] * 3, [30.0, 50.0, 60.0]]):
        assert np.isnan(metrics.learned_scores(np.array(late))).all()
        assert np.isnan(metrics.learned(np.array(late)))


def test_forgetting_is_minus_backward_transfer_where_nothing_ever_improves() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        stages = int(rng.integers(2, 7))
        falling = np.sort(rng.uniform(0, 100, (stages, stages)), axis=0)[::-1].copy()
        falling[np.triu_indices(stages, 1)] = NAN
        assert metrics.forgetting(falling) == pytest.approx(-metrics.backward_transfer(falling))
        assert metrics.forgetting(falling) >= 0


def test_a_heterogeneous_stream_counts_a_task_from_its_first_evaluation() -> None:
    # Two stages, tasks 0 and 2 first, all three after the second: tasks 0 and 2 are old.
    het = np.array([[50.0, NAN, 30.0], [40.0, 60.0, 50.0]])
    assert metrics.average(het) == pytest.approx((40 + 50) / 2)
    assert metrics.backward_transfer(het) == pytest.approx((-10 + 20) / 2)
    assert metrics.forgetting(het) == pytest.approx((10 - 20) / 2)


def test_evaluated_at_the_end_alone_there_is_last_and_nothing_else() -> None:
    late = np.array([[NAN, NAN], [30.0, 50.0]])
    assert metrics.last(late) == 40
    assert all(map(np.isnan, (metrics.average(late), metrics.backward_transfer(late), metrics.forgetting(late))))


def test_a_score_that_is_missing_is_not_averaged_away() -> None:
    holes = A.copy()
    holes[2, 0] = NAN
    figures = (metrics.last(holes), metrics.average(holes), metrics.backward_transfer(holes), metrics.forgetting(holes))
    assert all(map(np.isnan, figures))


def test_one_stage_has_nothing_to_forget() -> None:
    one = np.array([[10.0, 20.0]])
    assert (metrics.last(one), metrics.average(one)) == (15, 15)
    assert np.isnan(metrics.forgetting(one))
    assert np.isnan(metrics.backward_transfer(one))


def test_the_matrix_is_read_from_evaluation_records() -> None:
    records = [
        {"kind": "evaluation", "stage": -1, "scores": {"a": 1.0, "b": 2.0}},
        {"kind": "round", "stage": 0, "round": 0, "loss": 1.0},
        {"kind": "evaluation", "stage": 0, "scores": {"a": 80.0}},
        {"kind": "evaluation", "stage": 1, "scores": {"b": None, "a": 60.0}},
    ]
    matrix = metrics.accuracy_matrix(records, ["a", "b"], 2)
    np.testing.assert_array_equal(matrix, [[80, NAN], [60, NAN]])
    np.testing.assert_array_equal(metrics.accuracy_matrix(records[:1], ["a", "b"], 0), [[1, 2]])


def test_strangers_in_the_records_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown task 'c'; known: .*'a'"):
        metrics.accuracy_matrix([{"kind": "evaluation", "stage": 0, "scores": {"c": 1.0}}], ["a"], 1)
    with pytest.raises(ValueError, match="stage 1: the run has 1"):
        metrics.accuracy_matrix([{"kind": "evaluation", "stage": 1, "scores": {"a": 1.0}}], ["a"], 1)
