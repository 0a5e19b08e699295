"""The figures of finished runs, gathered into one table: methods down, figures and tasks across."""

import math
from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from fcit_ray.results.paired import paired_markdown, paired_sentences
from fcit_ray.results.rows import UNDEFINED, Row, markdown_line, mean_and_spread, merge_seeds
from fcit_ray.results.rows import row_from_results as row_from_results

_SHORT = {
    "ArxivQA": "Arxiv", "Flickr30k-cap": "Flick", "ImageNet-R": "IN-R", "OCRVQA": "OCR", "IconQA": "Icon",
    "CLEVR-Math": "CLEVR", "FigureQA": "Fig", "super-CLEVR": "sCLEVR", "AOKVQA": "AOK", "Grounding": "Ground",
    "DVQA": "DVQA", "TabMWP": "TabMWP", "General": "Gen.",
}  # fmt: skip


def comparison_table(rows: Iterable[Row], title: str | None = None) -> Table:
    """For the terminal; with eight tasks and a label of 15 letters 86 columns wide for one seed, 104 for several.

    The best figure of each column is bold. Last, Avg, Learned and Forgetting carry their spread over seeds; tasks only
    the mean. Under it is how far the best method is from the next. Where the terminal is narrower labels are folded,
    then columns cut off at the right; a number is never cut short.
    """
    rows = merge_seeds(rows)
    tasks, unseen = _tasks(rows), _unseen(rows)
    told = "\n".join([caption for caption in [_caption(rows)] if caption] + paired_sentences(rows))
    note = Text(told, no_wrap=False, overflow="fold") if told else None
    table = Table(title=title, caption=note, caption_justify="left", box=box.SIMPLE_HEAD, padding=0)
    table.add_column("Method", overflow="fold", min_width=8, max_width=24)
    columns: list[tuple[list[tuple[float, ...]], bool, bool]] = [
        ([row.last for row in rows], True, True),
        ([row.avg for row in rows], True, True),
        ([row.learned for row in rows], True, True),
        ([row.forgetting for row in rows], False, True),
        *(([row.score(task) for row in rows], True, False) for task in tasks),
    ]
    names = ["Last", "Avg", "Learn", "Forg.", *shorten(tasks)]
    if unseen:
        columns.append(([row.transfer for row in rows], True, True))
        columns += [([row.unseen_score(name) for row in rows], True, False) for name in unseen]
        names += ["Transfer", *shorten(unseen)]
    if any(row.iou for row in rows):
        columns.append(([row.iou for row in rows], True, False))
        names.append("IoU")
    for name, (cells, _, spread) in zip(names, columns, strict=True):
        widest = max(len(text) for text in (name, *(_cell(values, spread) for values in cells)))
        table.add_column(Text(name), justify="right", no_wrap=True, min_width=widest)
    best = [_best(cells, higher) for cells, higher, _ in columns]
    for index, row in enumerate(rows):
        texts = [
            Text(_cell(cells[index], spread), style="bold" if index in winners else "")
            for (cells, _, spread), winners in zip(columns, best, strict=True)
        ]
        table.add_row(Text(row.shown), *texts)
    return table


def markdown_table(rows: Iterable[Row]) -> str:
    """For a README: full task names, backward transfer and cost too, spread over seeds everywhere; what is tested."""
    rows = merge_seeds(rows)
    tasks, unseen = _tasks(rows), _unseen(rows)
    header = ["Method", "Last", "Avg", "Learned", "Forgetting", "BWT", "Seconds", "MB moved", *tasks]
    if unseen:
        header += ["Transfer", *(f"{name} (unseen)" for name in unseen)]
    with_iou = any(row.iou for row in rows)
    header += ["Grounding's mean IoU"] if with_iou else []
    lines = [markdown_line(header), "|---|" + "---:|" * (len(header) - 1)]
    for row in rows:
        means = (row.last, row.avg, row.learned, row.forgetting, row.bwt)
        figures = [_cell(values, spread=True) for values in means]
        megabytes = mean_and_spread(row.moved_bytes)[0] / 1e6
        cost = [f"{mean_and_spread(row.seconds)[0]:.0f}", f"{megabytes:.1f}"] if sum(row.seconds) else [UNDEFINED] * 2
        scores = [_cell(row.score(task), spread=True) for task in tasks]
        if unseen:
            scores += [_cell(values, spread=True) for values in (row.transfer, *map(row.unseen_score, unseen))]
        scores += [_cell(row.iou, spread=True)] if with_iou else []
        lines.append(markdown_line([row.shown, *figures, *cost, *scores]))
    if caption := _caption(rows):
        lines += ["", caption]
    return "\n".join(lines) + "\n" + paired_markdown(rows)


def shorten(tasks: Sequence[str]) -> list[str]:
    """Names of at most seven letters, all different; the full ones if that cannot be had."""
    short = [_SHORT.get(task, task if len(task) <= 7 else f"{task[:6]}…") for task in tasks]
    return short if len(set(short)) == len(tasks) else list(tasks)


def _tasks(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(task for row in rows for task in row.tasks))


def _unseen(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.unseen))


def _caption(rows: Sequence[Row]) -> str | None:
    counts = sorted({len(row.seeds) for row in rows})
    notes = []
    if counts and counts[-1] > 1:
        seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        notes.append(f"Mean ± sample standard deviation over {seeds} seeds.")
    if any(row.captions == "portable" for row in rows):
        notes.append("Captions: without METEOR, on words of our own; not the paper's number.")
    notes += [row.failed for row in rows if row.failed]
    return " ".join(notes) or None


def _cell(values: Sequence[float], spread: bool) -> str:
    mean, deviation = mean_and_spread(values)
    if math.isnan(mean):
        return UNDEFINED
    # Adding 0.0 after rounding turns -0.0 into 0.0.
    text = f"{round(mean, 1) + 0.0:.1f}"
    return f"{text}±{deviation:.1f}" if spread and math.isfinite(deviation) else text


def _best(cells: Sequence[Sequence[float]], higher: bool) -> set[int]:
    """Indices of the best mean as shown, ties included; none if there is nothing to compare."""
    means = [round(mean_and_spread(values)[0], 1) for values in cells]
    known = [mean for mean in means if not math.isnan(mean)]
    if len(known) < 2:
        return set()
    winner = max(known) if higher else min(known)
    return {index for index, mean in enumerate(means) if mean == winner}
