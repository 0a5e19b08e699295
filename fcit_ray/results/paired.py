"""How far the best method is from the others, seed by seed: a paired t test with its effect and its interval.

Runs of one seed share the partition, the selection of clients and the initial parameters, so that their difference has
less spread than their scores: rows are compared over the seeds that both have. With three seeds that is little: the
interval is wide, and p falls below 0.05 only from |d_z| = 2.48 on.

Rows compete if they are methods of a federation on the same benchmark and base, scored by the same rules. The majority
answer, zero-shot and the centralised upper bound are references: they are shown, and never tested against.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fcit_ray.results.rows import UNDEFINED, Row, markdown_line, merge_seeds

LEVEL = 0.95
"""Of the intervals."""
_SAME = 1e-9  # percentage points: what rounding leaves of equal differences


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Last of one row minus Last of another, over the seeds that both have, in percentage points.

    Attributes:
        best: the row with the higher mean.
        other: the row it is compared with.
        seeds: those that both have a Last of, n of them.
        mean: of the differences; nan for no seed.
        low: lower end of the two-sided 95 % interval of the mean, by Student's t with n - 1 degrees of freedom; nan
            for fewer than two seeds, and where all differences are the same, as are the following.
        high: its upper end.
        d_z: Cohen's d of paired samples, mean / sample standard deviation of the differences (Cohen 1988).
        p: of the two-sided paired t test of a mean of 0.
        p_holm: p after Holm's correction (1979) for all rows that are tested against the best.
    """

    best: Row
    other: Row
    seeds: tuple[int, ...]
    mean: float
    low: float = math.nan
    high: float = math.nan
    d_z: float = math.nan
    p: float = math.nan
    p_holm: float = math.nan

    @property
    def tested(self) -> bool:
        """Whether there is an interval and a p."""
        return math.isfinite(self.p)


def differences_to_best(rows: Iterable[Row]) -> list[list[Difference]]:
    """The best row by mean Last against every other, the runner-up first; one list for each set of rows that compete.

    Args:
        rows: of a table; rows of one label are merged.

    Returns:
        Sets in order of first appearance; a set of a single row has no list. Rows without a Last are left out.
    """
    contests: dict[tuple[object, ...], list[Row]] = {}
    for row in merge_seeds(rows):
        if row.competes and _lasts(row):
            contests.setdefault((row.contest, row.tasks, row.scoring, row.captions), []).append(row)
    found = []
    for contest in contests.values():
        best, *others = sorted(contest, key=lambda row: -_mean(_lasts(row).values()))  # stable: of equals the first
        if others:
            found.append(_holm([difference(best, other) for other in others]))
    return found


def difference(best: Row, other: Row) -> Difference:
    """Last of one row minus that of another, over their common seeds; without Holm's correction."""
    ours, theirs = _lasts(best), _lasts(other)
    seeds = tuple(seed for seed in ours if seed in theirs)
    values = np.array([ours[seed] - theirs[seed] for seed in seeds])
    if not seeds:
        return Difference(best=best, other=other, seeds=(), mean=math.nan)
    mean = float(values.mean())
    if len(seeds) < 2 or float(np.ptp(values)) <= _SAME:
        return Difference(best=best, other=other, seeds=seeds, mean=mean)
    from scipy import stats  # half a second, and most tables test nothing

    test = stats.ttest_1samp(values, 0.0)
    interval = test.confidence_interval(LEVEL)
    return Difference(
        best=best,
        other=other,
        seeds=seeds,
        mean=mean,
        low=float(interval.low),
        high=float(interval.high),
        d_z=mean / float(values.std(ddof=1)),
        p=float(test.pvalue),
    )


def sentence(found: Difference) -> str:
    """The difference in words, on one line; where no test can be made it says why."""
    pair = f"{found.best.shown} − {found.other.shown}"  # noqa: RUF001 (a minus)
    few = _who_has_how_many(found)
    if not found.seeds:
        return f"{pair}: no seed in common{few}, so no test can be made"
    points = f"{pair}: {_signed(found.mean)} points of Last"
    if len(found.seeds) == 1:
        return f"{points}, 1 seed in common{few}: no test can be made of fewer than 2"
    if not found.tested:
        return f"{points} on each of {len(found.seeds)} paired seeds{few}: without spread there is no test"
    return (
        f"{points} [{found.low:.1f}, {found.high:.1f}], {len(found.seeds)} paired seeds{few}, {_p(found.p)}, "
        f"d_z={found.d_z:.1f}"
    )


def paired_sentences(rows: Iterable[Row]) -> list[str]:
    """Under a table: the best row against the runner-up, a line for each set of rows that compete."""
    return [sentence(contest[0]) for contest in differences_to_best(rows)]


def paired_markdown(rows: Iterable[Row]) -> str:
    """For a report: the sentences, and where there are two seeds every row's difference to the best; or nothing."""
    contests = differences_to_best(rows)
    if not contests:
        return ""
    lines = ["", "## Differences over seeds"]
    for contest in contests:
        lines += ["", sentence(contest[0])]
        if any(len(found.seeds) > 1 for found in contest):
            header = [f"{contest[0].best.shown} minus", "Last", "95 % interval", "d_z", "p", "p (Holm)", "Seeds"]
            lines += ["", markdown_line(header), "|---|" + "---:|" * (len(header) - 1), *map(_line, contest)]
    sizes = sorted({len(found.seeds) for contest in contests for found in contest if found.tested})
    if sizes:
        needed = ", ".join(f"{size} seeds {_least_effect(size):.1f}" for size in sizes)
        lines += [
            "",
            "Percentage points, paired by seed; two-sided t test, d_z = mean / standard deviation of the differences. "
            f"p is below 0.05 where |d_z| is above: {needed}. Holm's correction is for the rows of a table.",
        ]
    return "\n".join(lines) + "\n"


def _line(found: Difference) -> str:
    interval = f"[{found.low:.1f}, {found.high:.1f}]" if found.tested else UNDEFINED
    tested = [f"{found.d_z:.1f}", _p(found.p)[1:].lstrip("="), _p(found.p_holm)[1:].lstrip("=")]
    cells = [interval, *(tested if found.tested else [UNDEFINED] * 3)]
    mean = _signed(found.mean) if found.seeds else UNDEFINED
    return markdown_line([found.other.shown, mean, *cells, str(len(found.seeds))])


def _least_effect(num_seeds: int) -> float:
    """The |d_z| at which p is 0.05: t = d_z sqrt(n)."""
    from scipy import stats

    return float(stats.t.ppf(0.975, num_seeds - 1)) / math.sqrt(num_seeds)


def _holm(found: Sequence[Difference]) -> list[Difference]:
    """With `p_holm`: the k-th smallest of m values (from 0) times m - k, never below the one before, at most 1."""
    order = sorted((index for index, each in enumerate(found) if each.tested), key=lambda index: found[index].p)
    corrected = [each.p for each in found]
    before = 0.0
    for rank, index in enumerate(order):
        before = max(before, min(1.0, (len(order) - rank) * found[index].p))
        corrected[index] = before
    return [dataclasses.replace(each, p_holm=value) for each, value in zip(found, corrected, strict=True)]


def _lasts(row: Row) -> dict[int, float]:
    """Last by seed, where there is one."""
    return {seed: last for seed, last in zip(row.seeds, row.last, strict=True) if math.isfinite(last)}


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return math.fsum(known) / len(known)


def _who_has_how_many(found: Difference) -> str:
    """Said where not all seeds pair, as after a partial sweep."""
    counts = {row.shown: len(_lasts(row)) for row in (found.best, found.other)}
    if set(counts.values()) == {len(found.seeds)}:
        return ""
    return f" ({', '.join(f'{label} has {count}' for label, count in counts.items())})"


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}"


def _p(value: float) -> str:
    return "p<0.001" if value < 0.001 else f"p={value:.3f}"
