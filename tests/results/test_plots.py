"""Pictures are looked at, not tested; tested is that every run there can be gives one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from fcit_ray.results.plots import plot_accuracy_matrix, plot_comparison, plot_curves

TASKS = ["ArxivQA", "Flickr30k-cap", "ImageNet-R", "OCRVQA", "IconQA", "CLEVR-Math", "FigureQA", "super-CLEVR"]


def colours(path: Path) -> int:
    """How many different colours a picture has: a blank one has one."""
    with Image.open(path) as image:
        found = image.convert("RGB").getcolors(maxcolors=1 << 24)
    return len(found or ())


def triangle(seed: int, size: int = 8) -> np.ndarray[Any, np.dtype[np.float64]]:
    matrix = np.random.default_rng(seed).uniform(0, 100, (size, size))
    matrix[np.triu_indices(size, 1)] = np.nan
    return matrix


def test_a_matrix_with_gaps_and_extremes_gives_a_picture(tmp_path: Path) -> None:
    matrix = triangle(0)
    matrix[0, 0], matrix[1, 0] = 0, 100
    plot_accuracy_matrix(matrix, TASKS, tmp_path / "m.png", "DISCO")
    assert colours(tmp_path / "m.png") > 50
    plot_accuracy_matrix(np.full((1, 1), np.nan), ["a"], str(tmp_path / "n.svg"))
    assert (tmp_path / "n.svg").stat().st_size > 0


@pytest.mark.parametrize("num_runs", [1, 2, 4])
def test_runs_side_by_side(tmp_path: Path, num_runs: int) -> None:
    plot_comparison({f"run {i}": triangle(i, 3) for i in range(num_runs)}, TASKS[:3], tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as image:
        assert image.width > 300 * min(num_runs, 3)


def test_a_matrix_of_other_tasks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'x': matrix of shape \(8, 8\) for 1 tasks"):
        plot_comparison({"x": triangle(0)}, ["a"], tmp_path / "c.png")
    with pytest.raises(ValueError, match="no run"):
        plot_comparison({}, ["a"], tmp_path / "c.png")
    assert not list(tmp_path.iterdir())


def history(num_stages: int, num_rounds: int) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = [{"kind": "evaluation", "stage": -1, "scores": {"a": 1.0}}]
    for stage in range(num_stages):
        records += [
            {"kind": "round", "stage": stage, "round": round, "loss": None if round == 1 else 1.0 / (round + 1)}
            for round in range(num_rounds)
        ]
        records.append({"kind": "evaluation", "stage": stage, "scores": {"a": 50.0, "b": None if stage else 30.0}})
    return records


@pytest.mark.parametrize(
    "runs",
    [
        {},
        {"zero-shot": history(0, 0)},
        {"just begun": []},
        {"finetune": history(8, 10), "disco": history(8, 10)},
        {"long": history(12, 3), "short": history(1, 1)},
        {f"run {i}": history(2, 2) for i in range(10)},
    ],
    ids=["none", "zero-shot", "empty", "two", "unlike", "ten"],
)
def test_curves_of_any_runs_give_a_picture(tmp_path: Path, runs: dict[str, Any]) -> None:
    plot_curves(runs, tmp_path / "c.png")
    assert colours(tmp_path / "c.png") > 2


@pytest.mark.parametrize(("score", "top"), [(60.0, 100.0), (240.0, 252.0)])
def test_a_score_above_100_is_not_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: float, top: float
) -> None:
    """Captions scored as the released code scores them may pass it; 5 % of room are left above."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: figures.append(self))
    records = [{"kind": "evaluation", "stage": 0, "scores": {"a": score}}]
    unknown = [{"kind": "evaluation", "stage": 0, "scores": {"a": None}}]
    plot_curves({"disco": records, "other": unknown}, tmp_path / "c.png")
    assert figures[0].axes[1].get_ylim() == pytest.approx((0.0, top))
