"""Weights gathered by rank of a score, once for all draws: what AUROC, average precision and AUC(t) share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.metrics.checks import Bools, Floats, divide


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Cases by rising score. ``order`` (n,) sorts them; ``starts`` (U,) is where each group of equal ones begins."""

    order: NDArray[np.intp]
    starts: NDArray[np.intp]

    def sums(self, weights: Floats) -> Floats:
        """(B, U), the weight of each group of equal scores, from ``weights`` (B, n) in the order of ``order``."""
        if len(self.starts) == len(self.order):
            return weights
        return np.asarray(np.add.reduceat(weights, self.starts, axis=1))


def rank(score: Floats, tied_tol: float = 0.0) -> Ranking:
    """Neighbours in the ranking that differ by at most ``tied_tol`` are equal, and so are their neighbours."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf) > tied_tol)
    return Ranking(order, starts)


def split(score: Floats, positive: Bools, weights: Floats) -> tuple[Floats, Floats]:
    """Weight of positives and of negatives (B, U) at each distinct score, lowest first."""
    ranking = rank(score)
    in_order = np.take(weights, ranking.order, axis=1)
    flags = positive[ranking.order]
    return ranking.sums(in_order * flags), ranking.sums(in_order * ~flags)


def area(positive: Floats, negative: Floats) -> Floats:
    """(B,) chance that a positive ranks above a negative, ties 0.5; from ``split``. NaN if either is missing."""
    below = np.cumsum(negative, axis=1)
    pairs = positive.sum(1) * below[:, -1]
    won: NDArray[Any] = np.einsum("bu,bu->b", positive, below)
    tied: NDArray[Any] = np.einsum("bu,bu->b", positive, negative)
    return divide(won - 0.5 * tied, pairs)


def average_precision(positive: Floats, negative: Floats) -> Floats:
    """(B,) Σ (R_k - R_{k-1}) P_k over falling thresholds; from ``split``. NaN without a positive."""
    hits = np.cumsum(positive[:, ::-1], axis=1)
    drawn = hits + np.cumsum(negative[:, ::-1], axis=1)
    total = np.einsum("bu,bu->b", positive[:, ::-1], divide(hits, drawn, empty=0.0))
    return divide(total, hits[:, -1])
