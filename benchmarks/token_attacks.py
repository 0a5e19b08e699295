"""What a server that has candidate instructions makes of an identity token; for `identity_leak.py` and for a test.

Legend: N candidates, D features, n instructions of a client.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls
from scipy.stats import rankdata


def cosines(token: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Of a token (D,) with each candidate's feature, (N, D) -> (N,); 0 where one of the two is zero."""
    lengths = np.linalg.norm(candidates, axis=1) * np.linalg.norm(token)
    return np.divide(candidates @ token, lengths, out=np.zeros(len(candidates)), where=lengths > 0)


def best(scores: np.ndarray, number: int) -> list[int]:
    """Positions of the largest scores, the largest first; of equal ones the first."""
    return [int(place) for place in np.argsort(-scores, kind="stable")[:number]]


def recall(guessed: Sequence[int], held: Sequence[int]) -> float:
    """Share of a client's instructions among those that were guessed."""
    return len(set(guessed) & set(held)) / len(set(held))


def auc(scores: np.ndarray, member: np.ndarray) -> float:
    """How probable it is that a member scores above a non-member, equal ones counting half: Mann-Whitney's statistic.

    Args:
        scores: (N,).
        member: bool (N,), of both kinds at least one.
    """
    num_members = int(member.sum())
    num_others = len(member) - num_members
    above = rankdata(scores)[member].sum() - num_members * (num_members + 1) / 2
    return float(above / (num_members * num_others))


def pursued(token: np.ndarray, candidates: np.ndarray, number: int) -> list[int]:
    """Orthogonal matching pursuit, with weights that are not negative: candidates that add up to the token.

    (Pati, Rezaiifar, Krishnaprasad, "Orthogonal Matching Pursuit", Asilomar 1993.) The candidate most like what is left
    of the token is taken, the token is fitted anew by all that were taken, and so on, until `number` are, or nothing is
    left that a candidate resembles.
    """
    taken: list[int] = []
    left = token
    while len(taken) < number:
        scores = cosines(left, candidates)
        scores[taken] = -1.0
        new = int(scores.argmax())
        if scores[new] <= 0 or np.linalg.norm(left) <= 1e-6 * np.linalg.norm(token):
            break
        taken.append(new)
        weights, _ = nnls(candidates[taken].T, token)
        left = token - weights @ candidates[taken]
    return taken


def decomposed(token: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Weights, none of them negative, with which all candidates add up to the token as nearly as can be, (N,)."""
    weights, _ = nnls(candidates.T, token, maxiter=10 * len(candidates))
    return np.asarray(weights)


def searched(
    token: np.ndarray,
    candidates: np.ndarray,
    starts: Sequence[Sequence[int]],
    seen: Callable[[np.ndarray], np.ndarray],
) -> list[int]:
    """The set of instructions whose token would look most like the one seen: from each start, one swap after another.

    Args:
        token: as the server sees it, (D,).
        candidates: of the client's task, (N, D).
        starts: sets of as many as the client has.
        seen: what the rule, but for its noise, makes of tokens, (B, D) -> (B, D).
    """
    likeness, found = -np.inf, list(starts[0])
    for start in starts:
        held = list(start)
        score = cosines(token, seen(candidates[held].mean(axis=0)[None]))[0]
        moved = True
        while moved:
            moved = False
            for place in range(len(held)):
                others = [*held[:place], *held[place + 1 :]]
                scores = cosines(token, seen((candidates[others].sum(axis=0) + candidates) / len(held)))
                scores[others] = -np.inf
                if scores.max() > score + 1e-12:
                    held[place], score, moved = int(scores.argmax()), scores.max(), True
        if score > likeness:
            likeness, found = score, held
    return found


@dataclass(frozen=True)
class Recovered:
    """What one client's token gave away.

    Attributes:
        task: share of its instructions that so many of its task's, at random, would hold.
        nearest: share of them among as many candidates nearest to the token.
        pursuit: share among as many that matching pursuit takes.
        fit: share among the heaviest of the fit to the task's candidates; those of no weight follow by their cosine.
        search: share of the set whose token would look most like the one seen; it starts from the fit, from the nearest
            of the task, and from three sets drawn.
        auc_nearest: of members and others of the task by their cosine; nan where the client holds all of its task.
        auc_fit: likewise by the order of that fit.
    """

    task: float
    nearest: float
    pursuit: float
    fit: float
    search: float
    auc_nearest: float
    auc_fit: float


def recover(
    token: np.ndarray,
    features: np.ndarray,
    seen: Callable[[np.ndarray], np.ndarray],
    places: np.ndarray,
    held: np.ndarray,
) -> Recovered:
    """All attacks on one client.

    Args:
        token: as the server sees it, (D,).
        features: of all candidates, (N, D).
        seen: what the rule, but for its noise, makes of tokens, (B, D) -> (B, D).
        places: which of them are of the client's task.
        held: which are the client's.
    """
    number = len(held)
    near = cosines(token, seen(features))
    order = np.lexsort((-near[places], -decomposed(token, features[places])))
    heaviness = np.empty(len(places))
    heaviness[order] = np.arange(len(places), 0, -1)
    draw = np.random.default_rng(0)
    starts = [order[:number], best(near[places], number)]
    starts += [draw.choice(len(places), number, replace=False) for _ in range(3)]
    member = np.isin(places, held)
    known = not member.all()
    return Recovered(
        task=number / len(places),
        nearest=recall(best(near, number), held),
        pursuit=recall(pursued(token, features, number), held),
        fit=recall([int(place) for place in places[order[:number]]], held),
        search=recall([int(places[place]) for place in searched(token, features[places], starts, seen)], held),
        auc_nearest=auc(near[places], member) if known else float("nan"),
        auc_fit=auc(heaviness, member) if known else float("nan"),
    )
