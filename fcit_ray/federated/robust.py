"""Rules over clients: from their deltas to one. The weighted mean trusts everybody; the others do not.

Sources: Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
ICML 2018, arXiv 1803.01498 (median: Definition 1, trimmed mean: Definition 2); Blanchard, El Mhamdi, Guerraoui,
Stainer, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS 2017, arXiv 1703.02757 (Krum
and Multi-Krum); Sun, Kairouz, Suresh, McMahan, "Can You Really Backdoor Federated Learning?", 2019, arXiv 1911.07963
(norm clipping).

Every rule works on each name over those who sent it, so that it crosses with methods whose clients train different
subspaces. There, the clients of one subspace are few, and so are the attackers that a rule bears among them.

What no rule here does: look at what clients report beside their deltas (identity tokens, Fisher diagonals, control
variates); that is summed as ever. Nor do median, trimmed mean, Krum and Multi-Krum look at the clients' weights, which
are the clients' own claims: whoever said that it has a million samples would be believed. With them the configuration's
`weights` does not matter.

Legend: n senders of a name, f attackers among them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

import torch
from pydantic import Field
from torch import Tensor

from fcit_ray.federated.traits import Part, Promised, Trait
from fcit_ray.params import Lazy, clip_to_norm, norm, part, weighted_mean
from fcit_ray.types import Params

_AT_ONCE: Final = 2**20
_ALIGNED: Final = 2**10  # entries; the ends of a vector's registers fall where they fall in the whole tensor


@dataclass(frozen=True, kw_only=True)
class Rule(Part):
    """Base of all rules over clients."""

    promised: ClassVar[Promised] = {Trait.PLAIN_MEAN: ("combine",)}

    def combine(self, items: Sequence[Params], weights: Sequence[float]) -> dict[str, Tensor]:
        """One mapping from several; each name over the items that have it, absent if none has."""
        raise NotImplementedError

    def fewest(self) -> tuple[int, str]:
        """Clients of a round that it needs at least, and its hyper-parameters that say so."""
        return 1, ""


@dataclass(frozen=True, kw_only=True)
class Mean(Rule):
    """Weighted mean (FedAvg, McMahan et al., AISTATS 2017, arXiv 1602.05629)."""

    declares = frozenset({Trait.PLAIN_MEAN})

    def combine(self, items: Sequence[Params], weights: Sequence[float]) -> dict[str, Tensor]:
        return weighted_mean(items, weights)


@dataclass(frozen=True, kw_only=True)
class Median(Rule):
    """Median of every coordinate (Yin et al. 2018, Definition 1); weights are not looked at.

    Of an even number it is the mean of the middle two, so that two clients give their mean. Fewer than n / 2 attackers
    cannot move a coordinate beyond what honest clients sent, not even with infinities or what is no number.
    """

    def combine(self, items: Sequence[Params], weights: Sequence[float]) -> dict[str, Tensor]:
        return _by_coordinate(items, _median)


@dataclass(frozen=True, kw_only=True)
class TrimmedMean(Rule):
    """Mean of every coordinate without its largest and its smallest values (Yin et al. 2018, Definition 2).

    At each end floor(drop_frac * n) values go, n being the senders of the name; the mean of the others is not weighted.
    Yin et al. take drop_frac * n to be whole. Rounding down means that few senders are not protected: with 0.2, four
    senders lose nobody, five lose one at each end. f attackers are borne if floor(drop_frac * n) >= f.

    Attributes:
        drop_frac: beta, share of the values dropped at each end; with 0 it is the unweighted mean.
    """

    drop_frac: Annotated[float, Field(ge=0, lt=0.5)] = 0.2

    def combine(self, items: Sequence[Params], weights: Sequence[float]) -> dict[str, Tensor]:
        return _by_coordinate(items, self._trimmed_mean)

    def _trimmed_mean(self, values: Sequence[Tensor]) -> Tensor:
        count = len(values)
        # 0.29 * 100 is 28.999... in binary. What that adds must not make a share next to 1/2 drop everything.
        drop = min(math.floor(self.drop_frac * count + 1e-9), (count - 1) // 2)
        ranks = torch.stack(list(values)).argsort(dim=0, stable=True).argsort(dim=0)  # (n, ...); no number comes last
        mean = torch.zeros_like(values[0], dtype=torch.float32)
        for value, rank in zip(values, ranks, strict=True):  # in client order, so that with nothing dropped it is Mean
            kept = (rank >= drop) & (rank < count - drop)
            # Zero times infinity would be no number, so what is dropped is replaced rather than multiplied.
            mean.add_(value.masked_fill(~kept, 0.0), alpha=1.0 / (count - 2 * drop))
        return mean


@dataclass(frozen=True, kw_only=True)
class Krum(Rule):
    """The one delta that is nearest to most others (Blanchard et al. 2017); weights are not looked at.

    A client's score is the sum of its squared Euclidean distances to its n - f - 2 nearest others, over all that the
    compared clients sent; the lowest score wins, of equal ones the first in client order. The paper proves resilience
    for n >= 2f + 3; the score exists for n >= f + 3, and fewer clients a round are refused at the door.

    Where clients train different subspaces (DISCO) there is no distance between two of them. So names are taken in
    blocks, each holding all names that the very same clients sent, and every block has its own winner: a subspace's
    adapter among the subspace's clients, what is shared (the projector) among all. Where all clients send the same
    names there is one block, the whole delta, as in the paper. A block of fewer than f + 3 senders takes the
    coordinate median instead, which bears one attacker of three; among two nothing can tell who is right.

    Attributes:
        num_attackers: f, clients of a round that may send anything.
    """

    num_attackers: Annotated[int, Field(ge=0)] = 1

    def combine(self, items: Sequence[Params], weights: Sequence[float]) -> dict[str, Tensor]:
        return _nearest(items, self.num_attackers, 1)

    def fewest(self) -> tuple[int, str]:
        return self.num_attackers + 3, f"num_attackers={self.num_attackers}"


@dataclass(frozen=True, kw_only=True)
class MultiKrum(Rule):
    """The unweighted mean of the deltas with the lowest Krum scores (Blanchard et al. 2017, section on Multi-Krum).

    Scores, blocks and what happens in small ones: see `Krum`, which this is with `num_kept` of 1.

    Attributes:
        num_attackers: f, clients of a round that may send anything.
        num_kept: m, deltas averaged; null, and in blocks where m would be more, n - f: all but the attackers.
    """

    num_attackers: Annotated[int, Field(ge=0)] = 1
    num_kept: Annotated[int, Field(ge=1)] | None = None

    def combine(self, items: Sequence[Params], weights: Sequence[float]) -> dict[str, Tensor]:
        return _nearest(items, self.num_attackers, self.num_kept)

    def fewest(self) -> tuple[int, str]:
        needed = max(self.num_attackers + 3, self.num_attackers + (self.num_kept or 0))
        kept = f" and num_kept={self.num_kept}" if self.num_kept else ""
        return needed, f"num_attackers={self.num_attackers}{kept}"


@dataclass(frozen=True, kw_only=True)
class ClippedMean(Rule):
    """Weighted mean of deltas scaled down to a norm: D_k * min(1, C / ||D_k||) (Sun et al. 2019, norm thresholding).

    It bounds what one client can do, not its direction: an attacker of weight p moves the mean by p * C at most. The
    weights count here; with `weights: samples` an attacker may claim many, with `uniform` it has one of n. A delta that
    is not finite has no direction and counts as zero. The norm is over all that a client sent.

    Attributes:
        clip_norm: C; null takes the median of the round's norms (the lower one of an even number), which fits any
            learning rate and stage, and shortens about half the deltas of every round.
    """

    clip_norm: Annotated[float, Field(gt=0)] | None = None

    def combine(self, items: Sequence[Params], weights: Sequence[float]) -> dict[str, Tensor]:
        limit = self.clip_norm
        if limit is None:
            lengths = [norm(item) for item in items]
            # What is no number cannot be sorted; it counts as the longest.
            limit = statistics.median_low([x if math.isfinite(x) else math.inf for x in lengths])
        return weighted_mean([clip_to_norm(item, limit) for item in items], weights)


def _by_coordinate(items: Sequence[Params], rule: Callable[[Sequence[Tensor]], Tensor]) -> dict[str, Tensor]:
    """A rule that looks at each coordinate by itself, on each name over those who sent it, in client order.

    What does not fit into `_AT_ONCE` entries of all senders goes through it in pieces, to the same bits.
    """
    combined: dict[str, Tensor] = {}
    for name in dict.fromkeys(name for item in items for name in item):
        senders = [item for item in items if name in item]
        first = senders[0][name]
        step = max(_AT_ONCE // len(senders) // _ALIGNED, 1) * _ALIGNED
        if first.numel() <= step:
            combined[name] = rule([first, *(item[name] for item in senders[1:])])
            continue
        whole = combined[name] = torch.empty(first.shape, dtype=torch.float32)
        for start in range(0, first.numel(), step):
            stop = min(start + step, first.numel())
            whole.view(-1)[start:stop] = rule([part(item, name, start, stop) for item in senders])
    return combined


def _median(values: Sequence[Tensor]) -> Tensor:
    # Not torch.median, which takes the lower one of the middle two.
    ordered = torch.stack(list(values)).float().sort(dim=0).values  # (n, ...); what is no number comes last
    return (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2


def _nearest(items: Sequence[Params], num_attackers: int, num_kept: int | None) -> dict[str, Tensor]:
    """Krum and Multi-Krum, block by block."""
    blocks: dict[tuple[int, ...], list[str]] = {}  # who sent them, by position -> names
    for name in dict.fromkeys(name for item in items for name in item):
        blocks.setdefault(tuple(i for i, item in enumerate(items) if name in item), []).append(name)
    combined: dict[str, Tensor] = {}
    for senders, names in blocks.items():
        block = [Lazy(names, items[i].__getitem__) for i in senders]
        if len(block) < num_attackers + 3:
            combined |= _by_coordinate(block, _median)
            continue
        scores = krum_scores(block, num_attackers)
        most = len(block) - num_attackers
        ranking = sorted(range(len(block)), key=scores.__getitem__)  # stable: of equal ones the first client
        kept = sorted(ranking[: min(num_kept or most, most)])  # back in client order, as every sum runs
        combined |= weighted_mean([block[i] for i in kept], [1.0] * len(kept))
    return combined


def krum_scores(items: Sequence[Params], num_attackers: int) -> list[float]:
    """Each item's sum of squared distances to its n - f - 2 nearest others; the items have the same names.

    Distances are summed in float64; one that is not finite counts as infinite.
    """
    num_near = len(items) - num_attackers - 2
    assert num_near >= 1, f"{len(items)} items have no Krum score against {num_attackers} attackers"
    distances = [[0.0] * len(items) for _ in items]
    for name in items[0]:
        values = [item[name] for item in items]
        for i, left in enumerate(values):
            for j, right in enumerate(values[:i]):
                distances[i][j] += float((left - right).double().square().sum())
    for i in range(len(items)):
        for j in range(i):
            square = distances[i][j]
            distances[i][j] = distances[j][i] = square if math.isfinite(square) else math.inf
    return [sum(sorted(row[:i] + row[i + 1 :])[:num_near]) for i, row in enumerate(distances)]
