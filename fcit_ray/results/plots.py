"""A run in pictures: the accuracy matrix as a heat map, loss and accuracy as curves. Files only, no window."""

import math
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator

from fcit_ray.results.metrics import Matrix
from fcit_ray.storage import durable

# Okabe & Ito's palette: told apart by colour-blind readers, and without its yellow, which is faint on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#7F7F7F")
_STYLES = ("-", "--", ":")
_CMAP = colormaps["YlGnBu"].with_extremes(bad="#f2f2f2")
_SCALE = Normalize(0, 100)


def plot_accuracy_matrix(matrix: Matrix, tasks: Sequence[str], path: Path | str, title: str = "") -> None:
    """Heat map of the scores in percent, stages down, tasks across; cells not evaluated stay grey.

    Args:
        matrix: A, (S, T), nan where not evaluated.
        tasks: T names.
        path: ends in .png, .pdf or .svg; replaced if there.
        title: above the picture.
    """
    plot_comparison({title: matrix}, tasks, path)


def plot_comparison(matrices: Mapping[str, Matrix], tasks: Sequence[str], path: Path | str) -> None:
    """Heat maps of several runs over the same tasks, side by side on one colour scale from 0 to 100 percent.

    Args:
        matrices: A by label, (S, T) each, T the same for all.
        tasks: T names.
        path: ends in .png, .pdf or .svg; replaced if there.

    Raises:
        ValueError: no run, or a matrix of another number of tasks.
    """
    if not matrices:
        raise ValueError("nothing to plot: no run given")
    for label, matrix in matrices.items():
        if matrix.ndim != 2 or matrix.shape[1] != len(tasks):
            raise ValueError(f"{label!r}: matrix of shape {matrix.shape} for {len(tasks)} tasks")
    num_columns = min(len(matrices), 3)
    num_rows = math.ceil(len(matrices) / num_columns)
    cell_w, cell_h = 0.62, 0.42
    most_stages = max(len(matrix) for matrix in matrices.values())
    width = num_columns * (cell_w * len(tasks) + 0.9) + 1.0
    height = num_rows * (cell_h * most_stages + 1.5) + 0.3
    figure = _figure(max(width, 4.0), height)
    grid = figure.subplots(num_rows, num_columns, squeeze=False)
    axes = list(grid.flat)
    for index, (label, matrix) in enumerate(matrices.items()):
        _heat_map(axes[index], matrix, tasks, label)
        axes[index].set_ylabel("after stage" if index % num_columns == 0 else "")
    for axis in axes[len(matrices) :]:
        axis.set_axis_off()
    bar = figure.colorbar(ScalarMappable(_SCALE, _CMAP), ax=axes, fraction=0.03, pad=0.02, aspect=30)
    bar.set_label("score (%)")
    bar.outline.set_visible(False)
    _save(figure, path)


def plot_curves(runs: Mapping[str, Iterable[Mapping[str, Any]]], path: Path | str) -> None:
    """Above, training loss over rounds; below, mean score over the tasks seen, after each stage. One colour a run.

    Args:
        runs: records of metrics.jsonl by label. Of kind `round`: `stage`, `round`, `loss` (mean over the round's
            clients; null leaves a gap); of kind `evaluation`: `stage`, `scores`.
        path: ends in .png, .pdf or .svg; replaced if there.
    """
    histories = {label: list(records) for label, records in runs.items()}
    figure = _figure(8.0, 6.4)
    above, below = figure.subplots(2, 1)
    rounds = {label: [r for r in history if r.get("kind") == "round"] for label, history in histories.items()}
    # Runs of one comparison share a stream, so a round of any of them has the same place on the axis.
    most_rounds = max((record["round"] + 1 for history in rounds.values() for record in history), default=1)
    stages_seen = [record["stage"] + 1 for history in histories.values() for record in history if "stage" in record]
    most_stages = max([1, *stages_seen])
    highest = 0.0
    for index, (label, history) in enumerate(histories.items()):
        look: dict[str, Any] = {
            "color": _COLOURS[index % len(_COLOURS)],
            "linestyle": _STYLES[index // len(_COLOURS) % len(_STYLES)],
            "label": label,
        }
        places, losses = [], []
        for record in rounds[label]:
            place = record["stage"] * most_rounds + record["round"] + 1
            if record["round"] == 0:
                # A gap: the loss of another task does not continue this one's.
                places.append(place - 0.5)
                losses.append(math.nan)
            places.append(place)
            losses.append(_value(record.get("loss")))
        above.plot(places, losses, marker="o", markersize=2.5, **look)
        scores = {r["stage"]: _mean(r["scores"].values()) for r in history if r.get("kind") == "evaluation"}
        stages = sorted(stage for stage in scores if stage >= 0)
        highest = max([highest, *(scores[stage] for stage in stages if not math.isnan(scores[stage]))])
        below.plot([stage + 1 for stage in stages], [scores[stage] for stage in stages], marker="o", **look)
    for stage in range(1, most_stages):
        above.axvline(stage * most_rounds + 0.5, color="#bbbbbb", linewidth=0.8, zorder=0)
    for stage in range(most_stages):
        centre = (stage + 0.5) * most_rounds + 0.5
        above.annotate(
            f"stage {stage + 1}" if most_stages <= 8 else str(stage + 1),
            (centre, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 4), textcoords="offset points",
            ha="center", fontsize=8, color="#666666",
        )  # fmt: skip
    above.set(xlabel="round", ylabel="training loss", xlim=(0.5, most_stages * most_rounds + 0.5))
    below.set(xlabel="after stage", ylabel="mean score over tasks seen (%)", xlim=(0.7, most_stages + 0.3))
    above.set_ylim(bottom=0)
    below.set_ylim(0, max(100.0, 1.05 * highest))  # captions scored as released may pass 100
    above.xaxis.set_major_locator(MultipleLocator(most_rounds * math.ceil(most_stages / 12)))
    below.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for axis in (above, below):
        axis.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    if histories:
        handles, labels = below.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(histories), 5), frameon=False)
    _save(figure, path)


def plot_counts(counts: Mapping[str, Any], path: Path) -> None:
    """The picture of what `partition_counts` says of a stream."""
    rows = {
        name if [name] == list(task["datasets"]) else f"{task['name']}: {name}": held
        for task in counts["tasks"]
        for name, held in task["datasets"].items()
    }
    plot_partition(rows, path)


def plot_partition(counts: Mapping[str, Sequence[int]], path: Path | str) -> None:
    """Who holds how much of what: above, all records of each client; below, a row a dataset, its clients across.

    Each row is coloured on a scale of its own, from no record to its largest share, which is written beside it: next
    to one of 100,000 records the differences within a dataset of 20,000 would not be seen.

    Args:
        counts: records of each client, (K,), by dataset.
        path: ends in .png, .pdf or .svg; replaced if there.
    """
    held = np.array(list(counts.values()), dtype=np.float64)  # (datasets, K)
    num_rows, num_clients = held.shape
    figure = _figure(max(5.0, 0.18 * num_clients + 3.0), 0.32 * num_rows + 2.6)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1.3, max(1.0, 0.32 * num_rows)))
    above.bar(range(num_clients), held.sum(axis=0), color=_COLOURS[0])
    above.set_ylabel("records")
    above.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    above.set_axisbelow(True)
    above.spines[["top", "right"]].set_visible(False)
    below.imshow(held / np.maximum(held.max(axis=1, keepdims=True), 1), cmap=_CMAP, vmin=0, vmax=1, aspect="auto")
    below.set_yticks(range(num_rows), list(counts), fontsize=8)
    for row, shares in enumerate(held):
        note = f"{shares.min():,.0f} to {shares.max():,.0f} of {shares.sum():,.0f}"
        below.annotate(
            note, (1.0, row), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=7, color="#444444", annotation_clip=False,
        )  # fmt: skip
    below.set_xlabel("client")
    below.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    below.set_xlim(-0.5, num_clients - 0.5)
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    # Not through pyplot: that keeps every figure alive, and its choice of backend is the whole process's business.
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path | str) -> None:
    """As a whole: pictures are replaced while somebody looks at them."""
    path, content = Path(path), BytesIO()
    figure.savefig(content, format=path.suffix.removeprefix("."))
    temporary = durable.partial(path)
    temporary.write_bytes(content.getvalue())
    durable.sync(temporary)
    durable.rename(temporary, path)


def _heat_map(axis: Axes, matrix: Matrix, tasks: Sequence[str], title: str) -> None:
    axis.imshow(np.ma.masked_invalid(matrix), cmap=_CMAP, norm=_SCALE, aspect="auto")
    for (stage, task), score in np.ndenumerate(matrix):
        if not math.isnan(score):
            # White on dark: the perceived brightness of the cell decides (ITU-R BT.601 weights).
            red, green, blue, _ = _CMAP(_SCALE(score))
            bright = 0.299 * red + 0.587 * green + 0.114 * blue > 0.55
            axis.text(
                task, stage, f"{score:.1f}", ha="center", va="center", fontsize=8, color="black" if bright else "white"
            )
    axis.set_xticks(range(len(tasks)), tasks, rotation=35, ha="right", rotation_mode="anchor", fontsize=8)
    axis.set_yticks(range(len(matrix)), [str(stage + 1) for stage in range(len(matrix))], fontsize=8)
    if title:
        axis.set_title(title, fontsize=11, pad=8)
    # White lines between the cells.
    axis.set_xticks(np.arange(len(tasks) + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(len(matrix) + 1) - 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=1.5)
    axis.tick_params(which="both", length=0)
    axis.spines[:].set_visible(False)


def _value(value: float | None) -> float:
    return math.nan if value is None else value


def _mean(values: Iterable[float | None]) -> float:
    known = [_value(value) for value in values]
    return sum(known) / len(known) if known else math.nan
