"""Tables say what was measured: means and spreads by hand, nothing cut short, nothing invented where a figure lacks."""

import math
from typing import Any

import pytest
import torch
from rich.console import Console

from fcit_ray.params import params_sha256
from fcit_ray.results.figures import (
    failures_from,
    last_details,
    learned_from_results,
    make_results,
    matrix_from_results,
)
from fcit_ray.results.rows import UNDEFINED, Row, mean_and_spread, merge_seeds, row_from_results
from fcit_ray.results.tables import comparison_table, markdown_table, shorten

TASKS = ["ArxivQA", "Flickr30k-cap", "ImageNet-R", "OCRVQA", "IconQA", "CLEVR-Math", "FigureQA", "super-CLEVR"]


def make_run(label: str, seed: int, level: float, num_stages: int = 8, tasks: list[str] = TASKS) -> dict[str, Any]:
    records: list[dict[str, Any]] = [{"kind": "evaluation", "stage": -1, "scores": dict.fromkeys(tasks, level)}]
    records += [
        {"kind": "evaluation", "stage": stage, "scores": dict.fromkeys(tasks[: stage + 1], level - stage)}
        | {"seconds": {"answer": 0.5, "score": 0.25}}
        for stage in range(num_stages)
    ]
    records += [{"kind": "round", "stage": 0, "round": 0, "seconds": {"train": 2.0}, "bytes_down": 3, "bytes_up": 4}]
    return make_results(
        label=label, seed=seed, tasks=tasks, num_stages=num_stages, records=records,
        num_records=dict.fromkeys(tasks, 40), params={"w": torch.ones(2)},
    )  # fmt: skip


def test_results_hold_the_figures_and_null_where_there_is_none() -> None:
    results = make_run("disco", 1, 80.0, num_stages=2, tasks=["a", "b"])
    # after stage 0: a 80; after stage 1: a 79, b 79
    assert results == {
        "label": "disco", "seed": 1, "tasks": ["a", "b"], "matrix": [[80.0, None], [79.0, 79.0]],
        "last": 79.0, "avg": 79.5, "forgetting": 1.0, "bwt": -1.0,
        "learned": {"mean": 79.5, "scores": {"a": 80.0, "b": 79.0}},
        "num_records": {"a": 40, "b": 40}, "adapters_sha256": params_sha256({"w": torch.ones(2)}),
        "scoring": "strict", "diagnostics": {},
        "seconds": 3.5, "moved_bytes": 7,  # a round of 2 s and two evaluations of 0.5 + 0.25 s; 3 + 4 bytes
    }  # fmt: skip
    assert math.isnan(matrix_from_results(results)[0, 1])


def test_zero_shot_has_last_and_nothing_else() -> None:
    results = make_run("zero-shot", 0, 29.0, num_stages=0)
    assert (results["last"], results["avg"], results["forgetting"], results["bwt"]) == (29.0, None, None, None)
    row = row_from_results(results)
    assert row.score("IconQA") == (29.0,)
    assert row.score("DVQA") == ()
    assert results["learned"] is None
    assert markdown_table([row]).splitlines()[2].split(" | ")[2:6] == [UNDEFINED] * 4


def test_what_was_learned_is_made_of_the_matrix_where_an_older_release_did_not_say_it() -> None:
    results = make_run("disco", 1, 80.0, num_stages=2, tasks=["a", "b"])
    del results["learned"]
    assert learned_from_results(results) == {"mean": 79.5, "scores": {"a": 80.0, "b": 79.0}}
    header, _, line = markdown_table([row_from_results(results)]).splitlines()
    assert dict(zip(header.split(" | "), line.split(" | "), strict=True))["Learned"] == "79.5"


def test_one_stage_has_nothing_between_learning_and_the_end() -> None:
    assert make_run("centralised", 0, 80.0, num_stages=1, tasks=["a"])["learned"] is None


def test_results_of_another_release_are_named() -> None:
    results = make_run("disco", 1, 80.0)
    del results["avg"]
    with pytest.raises(ValueError, match="lacks avg"):
        row_from_results(results)


def test_mean_and_sample_standard_deviation() -> None:
    # mean 4; squared distances 4 + 0 + 4 = 8 over n - 1 = 2
    assert mean_and_spread([2.0, 4.0, 6.0]) == (4.0, 2.0)
    assert mean_and_spread([5.0])[0] == 5.0
    assert math.isnan(mean_and_spread([5.0])[1])
    assert all(map(math.isnan, mean_and_spread([])))


def test_seeds_merge_into_one_row_in_order_of_labels() -> None:
    rows = [row_from_results(make_run(label, seed, 80 + 2.0 * seed)) for seed in range(3) for label in ("b", "a")]
    merged = merge_seeds(rows)
    assert [(row.label, row.seeds) for row in merged] == [("b", (0, 1, 2)), ("a", (0, 1, 2))]
    assert merge_seeds(merged) == merged
    # after the last of 8 stages: 73, 75, 77
    assert "| b | 75.0±2.0 |" in markdown_table(rows)


def test_a_repeated_seed_would_understate_the_spread() -> None:
    row = row_from_results(make_run("a", 0, 80))
    with pytest.raises(ValueError, match="'a': seeds"):
        merge_seeds([row, row])
    other = row_from_results(make_run("a", 1, 80, num_stages=1, tasks=["x"]))
    with pytest.raises(ValueError, match="different tasks"):
        merge_seeds([row, other])


@pytest.mark.parametrize(("num_seeds", "width"), [(1, 86), (3, 104)])
def test_eight_tasks_fit_the_terminal(num_seeds: int, width: int) -> None:
    rows = [
        row_from_results(make_run(label, seed, 99.9 - 3 * seed))
        for label in ("moelora-fedadam", "disco") for seed in range(num_seeds)
    ]  # fmt: skip
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(comparison_table(rows, title="Homogeneous"))
    text = console.export_text()
    assert "…" not in text
    assert "moelora-fedadam" in text
    assert all(name in text for name in ("Last", "Avg", "Learn", "Forg.", *shorten(TASKS)))
    assert max(map(len, text.splitlines())) <= width
    assert ("sample standard deviation over 3 seeds" in text) == (num_seeds == 3)


def test_the_best_of_a_column_is_bold_and_forgetting_is_best_low() -> None:
    def row(label: str, last: float, forgetting: float) -> Row:
        return Row(
            label=label, tasks=("t",), seeds=(0,), scores=((last,),), last=(last,), avg=(math.nan,),
            learned=(100 - forgetting,), forgetting=(forgetting,), bwt=(0.0,), seconds=(1.0,), moved_bytes=(0.0,),
        )  # fmt: skip

    table = comparison_table([row("a", 50.0, 3.0), row("b", 60.01, 9.0), row("c", 60.04, math.nan)])
    bold = {
        str(column.header): [str(cell.style) == "bold" for cell in column.cells]  # type: ignore[union-attr]
        for column in table.columns[1:]
    }
    # 60.01 and 60.04 are shown alike, hence a tie
    assert bold == {
        "Last": [False, True, True],
        "Avg": [False] * 3,
        "Learn": [True, False, False],
        "Forg.": [True, False, False],
        "t": [False, True, True],
    }


def test_tables_say_by_which_rules_was_scored_unless_by_the_default_ones() -> None:
    strict = make_run("disco", 0, 80)
    released = make_run("disco", 1, 80) | {"scoring": "released", "captions": "full"}
    full = make_run("disco", 2, 80) | {"captions": "full"}
    portable = make_run("disco", 3, 80) | {"captions": "portable"}

    def first_cell(results: dict[str, Any]) -> str:
        return markdown_table([row_from_results(results)]).splitlines()[2].split(" | ")[0]

    assert first_cell(strict) == first_cell(portable) == "| disco"
    assert first_cell(released) == "| disco (released scoring)"
    assert first_cell(full) == "| disco (full captions)"
    assert "without METEOR" in markdown_table([row_from_results(portable)])
    assert "METEOR" not in markdown_table([row_from_results(full)])
    rows = merge_seeds(map(row_from_results, (strict, released)))
    assert [row.seeds for row in rows] == [(0,), (1,)], "scores by other rules are no second sample of the same"


def test_the_mean_overlap_stands_beside_the_scores() -> None:
    # 0.25 and 0.75 of two seeds: 50 in percent
    runs = [
        make_run("disco", seed, 80) | {"diagnostics": {"Grounding": {"percent": 40.0, "mean_iou": iou}}}
        for seed, iou in enumerate((0.25, 0.75))
    ]
    row = merge_seeds(map(row_from_results, runs))[0]
    assert row.iou == (25.0, 75.0)
    lines = markdown_table([row]).splitlines()
    assert lines[0].endswith("| Grounding's mean IoU |")
    assert lines[2].endswith("| 50.0±35.4 |")
    assert str(comparison_table([row]).columns[-1].header) == "IoU"
    assert str(comparison_table([row_from_results(make_run("a", 0, 80))]).columns[-1].header) == "sCLEVR"


def test_diagnostics_are_those_of_the_last_evaluation_of_each_dataset() -> None:
    def evaluated(stage: int, **datasets: Any) -> dict[str, Any]:
        return {"kind": "evaluation", "stage": stage, "scores": {}, "datasets": datasets}

    records = [
        evaluated(1, DVQA={"percent": 2.0, "blank_frac": 0.5, "mean_gate": [1.0], "views": {"0": 1.0}}),
        evaluated(0, DVQA={"percent": 1.0, "blank_frac": 0.0}, OCRVQA={"percent": 3.0, "blank_frac": 0.25}),
        {"kind": "round", "stage": 1},
    ]
    assert last_details(records) == {
        "DVQA": {"percent": 2.0, "blank_frac": 0.5},
        "OCRVQA": {"percent": 3.0, "blank_frac": 0.25},
    }


def test_labels_are_text_not_markup() -> None:
    row = row_from_results(make_run("[red]x|y", 0, 80))
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(comparison_table([row]))
    assert "[red]x|y" in console.export_text()
    assert r"[red]x\|y" in markdown_table([row])


def test_short_names_differ() -> None:
    assert shorten(["General", "Chart", "Math", "CLEVR-Math"]) == ["Gen.", "Chart", "Math", "CLEVR"]
    assert shorten(["a-long-name-1", "a-long-name-2"]) == ["a-long-name-1", "a-long-name-2"]


def test_the_digest_of_parameters_sees_names_shapes_dtypes_and_bytes_but_not_order() -> None:
    one, two = torch.arange(4.0), torch.ones(2)
    digest = params_sha256({"a": one, "b": two})
    assert digest == params_sha256({"b": two, "a": one})
    assert params_sha256({"a": one.view(2, 2).t()}) == params_sha256({"a": one.view(2, 2).t().contiguous()})
    negative_zero = one.clone()
    negative_zero[0] = -0.0
    others = [
        {"a": one}, {"a": one, "c": two}, {"a": one.view(2, 2), "b": two}, {"a": negative_zero, "b": two},
        {"a": one.view(torch.int32), "b": two}, {"a": two, "b": one}, {},
    ]  # fmt: skip
    assert len({digest, *map(params_sha256, others)}) == len(others) + 1
    params_sha256({"empty": torch.ones(0), "scalar": torch.tensor(1.0), "half": torch.ones(2, dtype=torch.bfloat16)})


def make_transfer(label: str, seed: int, scores: dict[str, float]) -> dict[str, Any]:
    records = [
        {"kind": "evaluation", "stage": 0, "scores": {"a": 50.0}},
        {"kind": "evaluation", "stage": 1, "scores": {"a": 50.0, "b": 60.0}, "transfer": scores},
    ]
    return make_results(
        label=label, seed=seed, tasks=["a", "b"], num_stages=2, records=records, num_records={"a": 4, "b": 4},
        params={}, num_unseen=dict.fromkeys(scores, 9),
    )  # fmt: skip


def test_transfer_is_reported_apart_from_the_tasks() -> None:
    results = make_transfer("disco", 0, {"DVQA": 30.0, "TabMWP": 36.0})
    # Last is of a and b alone; (30 + 36) / 2 = 33
    assert results["last"] == 55.0
    assert results["transfer"] == {
        "mean": 33.0, "scores": {"DVQA": 30.0, "TabMWP": 36.0}, "num_records": {"DVQA": 9, "TabMWP": 9},
    }  # fmt: skip
    other = make_transfer("disco", 1, {"DVQA": 32.0, "TabMWP": 38.0})
    plain = make_run("finetune", 0, 50.0, num_stages=2, tasks=["a", "b"])
    assert "transfer" not in plain
    rows = [row_from_results(run) for run in (results, other, plain)]
    lines = markdown_table(rows).splitlines()
    assert lines[0].endswith("| a | b | Transfer | DVQA (unseen) | TabMWP (unseen) |")
    # 33 and 35: mean 34, deviation sqrt(2) = 1.4
    assert lines[2].endswith("| 34.0±1.4 | 31.0±1.4 | 37.0±1.4 |")
    assert lines[3].endswith(f"| {UNDEFINED} | {UNDEFINED} | {UNDEFINED} |")
    assert [str(column.header) for column in comparison_table(rows).columns][-3:] == ["Transfer", "DVQA", "TabMWP"]
    assert "Transfer" not in markdown_table([rows[2]])
    assert "Transfer" not in [str(column.header) for column in comparison_table([rows[2]]).columns]
    with pytest.raises(ValueError, match=r"'disco': runs of different benchmark\.transfer"):
        merge_seeds([rows[0], row_from_results(make_transfer("disco", 2, {"DVQA": 30.0}))])


def test_a_table_says_how_many_updates_are_missing_or_came_late() -> None:
    whole, failed = make_run("whole", 0, 80), make_run("holes", 0, 80)
    failed["failures"] = {"updates": 40, "missing": 3, "retried": 2}
    late = make_run("holes", 1, 80) | {"failures": {"updates": 40, "missing": 0, "retried": 1}}
    said = "holes: 3 of 40 updates missing, 2 tried again."
    rows = [row_from_results(results) for results in (whole, failed)]
    assert f"\n\n{said}\n" in markdown_table(rows)
    assert said in str(comparison_table(rows).caption)
    assert "updates" not in markdown_table(rows[:1])
    both = markdown_table([row_from_results(results) for results in (failed, late)])
    assert "holes (seed 0): 3 of 40 updates missing, 2 tried again. holes (seed 1): 1 tried again." in both


def test_what_failed_is_counted_over_all_rounds() -> None:
    failed = [{"client": 1, "dropped": True}, {"client": 2, "dropped": False}]
    records = [
        {"kind": "round", "clients": [{}] * 4, "failures": failed},
        {"kind": "round", "clients": [{}] * 5},
        {"kind": "evaluation"},
    ]
    assert failures_from(records) == {"updates": 10, "missing": 1, "retried": 1}
    assert failures_from(records[1:]) == {}
