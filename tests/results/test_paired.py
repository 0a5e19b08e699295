"""The paired test against numbers of printed t tables, and what it says where there is nothing to test."""

import math
from typing import Any

import pytest

from fcit_ray.results.paired import differences_to_best, paired_markdown, paired_sentences
from fcit_ray.results.rows import Row, row_from_results
from fcit_ray.results.tables import markdown_table


def make_row(label: str, lasts: dict[int, float], **values: Any) -> Row:
    nothing = tuple(0.0 for _ in lasts)
    return Row(
        label=label, tasks=("t",), seeds=tuple(lasts), scores=tuple((last,) for last in lasts.values()),
        last=tuple(lasts.values()), avg=nothing, learned=nothing, forgetting=nothing, bwt=nothing, seconds=nothing,
        moved_bytes=nothing, **values,
    )  # fmt: skip


DISCO = make_row("DISCO", {0: 81.0, 1: 82.0, 2: 83.0})
OLORA = make_row("O-LoRA", {0: 70.0, 1: 70.0, 2: 70.0})


def test_mean_interval_effect_and_p_are_those_of_the_t_table() -> None:
    # differences 11, 12, 13: mean 12, deviation 1, standard error 1 / sqrt 3; t = 12 sqrt 3 = 20.785 with 2 degrees.
    # t table: t(0.975, 2) = 4.303, half width 4.303 / sqrt 3 = 2.484.
    # For 2 degrees P(|T| > t) = 1 - t / sqrt(2 + t^2) = 1 - 20.785 / sqrt(434) = 0.0023.
    found = differences_to_best([OLORA, DISCO])[0][0]
    assert (found.best.label, found.other.label, found.seeds) == ("DISCO", "O-LoRA", (0, 1, 2))
    assert found.mean == pytest.approx(12)
    assert (found.low, found.high) == (pytest.approx(12 - 2.484, abs=1e-3), pytest.approx(12 + 2.484, abs=1e-3))
    assert found.d_z == pytest.approx(12)
    assert found.p == pytest.approx(1 - 12 * math.sqrt(3) / math.sqrt(434))
    assert found.p_holm == found.p, "one comparison needs no correction"
    assert paired_sentences([OLORA, DISCO]) == [
        "DISCO − O-LoRA: +12.0 points of Last [9.5, 14.5], 3 paired seeds, p=0.002, d_z=12.0"  # noqa: RUF001
    ]


def test_seeds_pair_whatever_order_they_came_in() -> None:
    shuffled = make_row("DISCO", {2: 83.0, 0: 81.0, 1: 82.0})
    assert paired_sentences([shuffled, OLORA]) == paired_sentences([DISCO, OLORA])


def test_only_common_seeds_pair_and_it_says_how_many() -> None:
    # seeds 1 and 2 in common: differences 12 and 14, mean 13, standard error 1; t table: t(0.975, 1) = 12.706;
    # p = 2 arctan(1 / 13) / pi = 0.049 (Cauchy)
    partial = make_row("O-LoRA", {1: 70.0, 2: 69.0, 5: 10.0, 6: math.nan})
    assert paired_sentences([DISCO, partial]) == [
        "DISCO − O-LoRA: +13.0 points of Last [0.3, 25.7], 2 paired seeds (DISCO has 3, O-LoRA has 3), p=0.049, "  # noqa: RUF001
        "d_z=9.2"
    ]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({0: 61.0, 1: 62.0, 2: 63.0}, ": +20.0 points of Last on each of 3 paired seeds: without spread there is no"),
        ({0: 80.7, 1: 81.7, 2: 82.7}, ": +0.3 points of Last on each of 3 paired seeds"),  # equal but for rounding
        ({0: 81.0, 1: 82.0, 2: 83.0}, ": +0.0 points of Last on each of 3 paired seeds"),
        ({1: 70.0}, ", 1 seed in common (DISCO has 3, other has 1): no test can be made of fewer than 2"),
        ({7: 70.0}, ": no seed in common (DISCO has 3, other has 1), so no test can be made"),
    ],
)
def test_where_there_is_nothing_to_test_it_says_so(other: dict[int, float], said: str) -> None:
    rows = [DISCO, make_row("other", other)]
    found = paired_sentences(rows)[0]
    assert said in found
    assert "nan" not in found + paired_markdown(rows)
    assert "p=" not in found


def test_references_do_not_compete() -> None:
    best = make_row("Centralised", {0: 99.0, 1: 99.0, 2: 98.0}, competes=False)
    assert paired_sentences([best, DISCO]) == []
    assert paired_markdown([best, DISCO]) == ""
    assert paired_sentences([best, DISCO, OLORA]) == paired_sentences([DISCO, OLORA])


def make_results(regime: str | None, num_stages: int, tasks: tuple[str, ...] = ("a",)) -> dict[str, Any]:
    config = (
        {} if regime is None else {"config": {"regime": regime, "benchmark": {"beta": 1.0}, "model": {"path": "x"}}}
    )
    figures = dict.fromkeys(("last", "avg", "forgetting", "bwt"), 1.0)
    return {
        "label": "x", "seed": 0, "tasks": list(tasks), "matrix": [[1.0] * len(tasks)] * num_stages,
        "seconds": 1.0, "moved_bytes": 1, **figures, **config,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("regime", "num_stages", "competes"),
    [("federated", 1, True), ("centralised", 1, False), ("zero_shot", 1, False), (None, 2, True), (None, 1, False)],
)
def test_a_method_of_a_federation_competes(regime: str | None, num_stages: int, competes: bool) -> None:
    assert row_from_results(make_results(regime, num_stages)).competes is competes


def test_what_may_be_opened_makes_no_other_benchmark() -> None:
    """Of runs of two releases, or on two machines, one may lack such a key."""
    other = make_results("federated", 2)
    other["config"]["benchmark"] |= {"max_table_mb": 1, "follow_links_to": ["/mnt"]}
    assert row_from_results(other).contest == row_from_results(make_results("federated", 2)).contest
    other["config"]["benchmark"]["beta"] = 5.0
    assert row_from_results(other).contest != row_from_results(make_results("federated", 2)).contest


def test_rows_of_other_benchmarks_and_rules_do_not_compete_with_each_other() -> None:
    rows = [
        make_row(f"{method} {contest}", {0: 50.0 + level, 1: 51.0 + 2 * level}, **values)
        for contest, values in {
            "b=1": {"contest": "1"},
            "b=2": {"contest": "2"},
            "old": {"scoring": "released"},
        }.items()
        for method, level in (("EWC", 1.0), ("DISCO", 2.0))
    ]
    assert [line.split(":")[0] for line in paired_sentences(rows)] == [
        "DISCO b=1 − EWC b=1",  # noqa: RUF001
        "DISCO b=2 − EWC b=2",  # noqa: RUF001
        "DISCO old (released scoring) − EWC old (released scoring)",  # noqa: RUF001
    ]


def test_a_report_has_every_row_against_the_best_with_holms_correction() -> None:
    # p of the three by the closed form for 2 degrees: d 12±1 -> 0.0023; 24±2 -> the same t; 2±2 -> t = sqrt 3: 0.2254.
    # Holm: the smallest times 3, the next times 2 but not below, the last times 1.
    rows = [
        OLORA,
        DISCO,
        make_row("EWC", {0: 59.0, 1: 58.0, 2: 57.0}),
        make_row("HiDe", {0: 81.0, 1: 80.0, 2: 79.0}),
        make_row("Lost", {0: 10.0}),
    ]
    found = {each.other.label: each for each in differences_to_best(rows)[0]}
    assert list(found) == ["HiDe", "O-LoRA", "EWC", "Lost"], "the runner-up first"
    p = 1 - 12 * math.sqrt(3) / math.sqrt(434)
    assert found["HiDe"].p_holm == pytest.approx(1 - math.sqrt(3 / 5))
    assert found["O-LoRA"].p_holm == found["EWC"].p_holm == pytest.approx(3 * p)
    assert math.isnan(found["Lost"].p_holm)
    text = markdown_table(rows)
    assert "| HiDe | +2.0 | [-3.0, 7.0] | 1.0 | 0.225 | 0.225 | 3 |" in text
    assert "| O-LoRA | +12.0 | [9.5, 14.5] | 12.0 | 0.002 | 0.007 | 3 |" in text
    assert "| Lost | +71.0 | – | – | – | – | 1 |" in text  # noqa: RUF001
    assert "3 seeds 2.5" in text  # 4.303 / sqrt 3


def test_one_row_or_one_seed_makes_no_table() -> None:
    assert paired_markdown([DISCO]) == ""
    assert "|" not in paired_markdown([make_row("a", {0: 2.0}), make_row("b", {0: 1.0})])
