"""How far one attacker among five clients moves what each rule over clients makes of their deltas.

    python benchmarks/attacker.py
    python benchmarks/attacker.py --factor 100 --draws 20

Honest deltas lie around one common direction of length one, each half that length away from it. The fifth client sends
its own honest delta times the factor (inflated), or times minus the factor (flipped). Printed is the distance from the
mean of the four others, in lengths of that mean: averages over draws. No Ray, no model; a second.
"""

import argparse
import statistics

import torch
from rich.table import Table

from fcit_ray.cli.common import console
from fcit_ray.federated.robust import ClippedMean, Krum, Mean, Median, MultiKrum, Rule, TrimmedMean
from fcit_ray.params import Params, norm, weighted_mean

CLIENTS, ENTRIES, SPREAD = 5, 1000, 0.5
RULES: tuple[Rule, ...] = (Mean(), Median(), TrimmedMean(), Krum(), MultiKrum(), ClippedMean())


def deltas(seed: int) -> list[Params]:
    """Of honest clients, one entry a coordinate: (ENTRIES,) each."""
    draw = torch.Generator().manual_seed(seed)
    direction = torch.full((ENTRIES,), ENTRIES**-0.5)
    return [
        {"delta": direction + SPREAD * ENTRIES**-0.5 * torch.randn(ENTRIES, generator=draw)} for _ in range(CLIENTS)
    ]


def moved(rule: Rule, factor: float, seed: int) -> float:
    """Distance of the rule's result from the mean of the others, in lengths of that mean."""
    *others, attacker = deltas(seed)
    result = rule.combine([*others, {"delta": factor * attacker["delta"]}], [1.0] * CLIENTS)
    target = weighted_mean(others, [1.0] * len(others))
    return norm({"delta": result["delta"] - target["delta"]}) / norm(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--factor", type=float, default=100.0, help="what the attacker multiplies its delta by")
    parser.add_argument("--draws", type=int, default=20)
    args = parser.parse_args()
    table = Table("Rule", "Honest", "Inflated", "Flipped")
    for rule in RULES:
        means = [
            statistics.fmean(moved(rule, factor, seed) for seed in range(args.draws))
            for factor in (1.0, args.factor, -args.factor)
        ]
        table.add_row(type(rule).__name__, *(f"{mean:.2f}" for mean in means))
    console.print(table)


if __name__ == "__main__":
    main()
