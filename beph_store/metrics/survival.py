"""Metrics of survival predictions, each over many weighted draws of the cases at once.

``log_hazard`` (n,): **higher = worse, sooner**. ``event`` (n,) bool, True = seen; ``time`` (n,). ``weights`` (B, n),
how often each draw holds each case (None: each once). All return (B,) or what they say; NaN where a draw leaves the
metric undefined. Definitions: docs/metrics.md. Bad input raises UsageError.

``censoring``: (event, time) of the cases, usually the training part, whose censoring distribution G weights the
others (inverse probability of censoring, IPCW). None: the cases themselves, anew in each draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from beph_store.errors import UsageError
from beph_store.metrics.checks import (
    Floats,
    check_grid,
    check_outcomes,
    check_scores,
    check_survival,
    check_weights,
    divide,
)
from beph_store.metrics.lifetime import Steps, count
from beph_store.metrics.ranking import area, rank

#: Log hazards that differ by no more than this are tied.
TIED_TOL = 1e-8
#: Events a block of the pair matrix: 512 × n float32 is 10 MB at 5,000 cases.
BLOCK = 512

Censoring = tuple[ArrayLike, ArrayLike]


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Comparable pairs, by the case whose event came first: ``first`` (E,) its number, ``time`` (E,) of its event.

    ``weight`` (B, E) of that case; ``against`` (B, E) the weight of the cases it is compared with; ``won`` (B, E) of
    those with a lower log hazard, ties counted half.
    """

    first: NDArray[np.intp]
    time: Floats
    weight: Floats
    against: Floats
    won: Floats


def pairs(
    log_hazard: ArrayLike,
    event: ArrayLike,
    time: ArrayLike,
    weights: ArrayLike | None = None,
    tied_tol: float = TIED_TOL,
) -> Pairs:
    """Compare all cases with an event to all that outlived them: what both concordance indices count.

    One matrix product of (B, n) and (n, E), in float32 where the weights are whole numbers: it is then exact.
    """
    risk = check_scores(log_hazard, "log hazard")
    seen, times = check_outcomes(event, time, len(risk))
    rows = check_weights(weights, len(risk))
    # By time, events before censored cases: those comparable with an event are then all from some place on.
    order = np.lexsort((~seen, times))
    rows, sorted_risk = np.take(rows, order, axis=1), risk[order]
    place = np.flatnonzero(seen[order])
    events_by = times[order][place]
    last_of_time = np.searchsorted(events_by, events_by, side="right") - 1
    later = place[last_of_time] + 1
    after = np.zeros((len(rows), len(risk) + 1))
    after[:, :-1] = np.cumsum(rows[:, ::-1], axis=1)[:, ::-1]
    won = _won(rows.astype(np.float32) if _whole(rows) else rows, sorted_risk, place, later, tied_tol)
    return Pairs(order[place], events_by, np.take(rows, place, axis=1), np.take(after, later, axis=1), won)


def cindex_harrell(
    log_hazard: ArrayLike,
    event: ArrayLike,
    time: ArrayLike,
    weights: ArrayLike | None = None,
    tied_tol: float = TIED_TOL,
) -> Floats:
    """Harrell's concordance: share of comparable pairs in which the higher log hazard had the earlier event."""
    return harrell_of(pairs(log_hazard, event, time, weights, tied_tol))


def cindex_uno(
    log_hazard: ArrayLike,
    event: ArrayLike,
    time: ArrayLike,
    weights: ArrayLike | None = None,
    tau: float | None = None,
    censoring: Censoring | None = None,
) -> Floats:
    """Uno's concordance: each pair weighted by G(t)⁻² of its event's time t < ``tau`` (Uno et al. 2011)."""
    compared = pairs(log_hazard, event, time, weights)
    return uno_of(compared, Followed.of(event, time, weights, censoring), tau)


def auc_t(
    log_hazard: ArrayLike,
    event: ArrayLike,
    time: ArrayLike,
    times: ArrayLike,
    weights: ArrayLike | None = None,
    censoring: Censoring | None = None,
) -> tuple[Floats, Floats]:
    """Cumulative/dynamic AUC: does the log hazard tell those with an event by t from those still free of it?

    Returns its mean (B,), weighted by how much the Kaplan–Meier curve falls up to each of ``times`` (M,), and the
    AUC(t) (B, M) themselves (Uno et al. 2007; Lambert & Chevret 2016).
    """
    return auc_t_of(log_hazard, event, time, times, Followed.of(event, time, weights, censoring))


def brier_t(
    survival: ArrayLike,
    times: ArrayLike,
    event: ArrayLike,
    time: ArrayLike,
    weights: ArrayLike | None = None,
    censoring: Censoring | None = None,
) -> Floats:
    """(B, M) Brier score of the predicted chances ``survival`` (n, M) to be event-free at ``times`` (M,).

    Weighted by G (Graf et al. 1999). NaN in draws in which nobody is followed beyond the last of ``times``.
    """
    return brier_t_of(survival, times, event, time, Followed.of(event, time, weights, censoring))


def integrated_brier(
    survival: ArrayLike,
    times: ArrayLike,
    event: ArrayLike,
    time: ArrayLike,
    weights: ArrayLike | None = None,
    censoring: Censoring | None = None,
) -> Floats:
    """Mean of ``brier_t`` over the span of ``times``, at least two, by trapezoids. Lower is better."""
    return integrate(brier_t(survival, times, event, time, weights, censoring), times)


# ---- from what is counted once for several metrics ---------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Followed:
    """``weights`` (B, n); ``alive`` each draw's Kaplan–Meier curve; ``free`` its G, or one for all if ``fixed``."""

    weights: Floats
    alive: Steps
    free: Steps
    fixed: bool

    @classmethod
    def of(
        cls, event: ArrayLike, time: ArrayLike, weights: ArrayLike | None, censoring: Censoring | None = None
    ) -> Followed:
        """Count the draws of some cases, (n,) and (B, n)."""
        counts = count(event, time, weights)
        rows = check_weights(weights, np.size(time))
        other = counts if censoring is None else count(*censoring)
        return cls(rows, counts.survival(), other.uncensored(), censoring is not None)

    def free_at(self, times: Floats) -> Floats:
        """(B or 1, Q), G at ``times`` (Q,)."""
        free, last = self.free.at(times), self.free.times[-1]
        if self.fixed and times.size and (times.max() > last or free.min() == 0):
            raise UsageError(
                f"the censoring cases are followed to {last:g} only, but {times.max():g} is needed: "
                "give a lower tau, or earlier times"
            )
        return free

    def inverse(self, weight: Floats, times: Floats, power: int = 1) -> Floats:
        """``weight`` (B, Q) over G(``times``) ** ``power``; NaN where that is 1 / 0."""
        free = np.broadcast_to(self.free_at(times), weight.shape) ** power
        return np.where((free == 0) & (weight > 0), np.nan, divide(weight, free, empty=0.0))


def harrell_of(compared: Pairs) -> Floats:
    """(B,)"""
    weight = compared.weight
    return divide(_dot(weight, compared.won), _dot(weight, compared.against))


def uno_of(compared: Pairs, followed: Followed, tau: float | None = None) -> Floats:
    """(B,)"""
    used = slice(None) if tau is None else slice(0, int(np.searchsorted(compared.time, tau, side="left")))
    weight = followed.inverse(compared.weight[:, used], compared.time[used], power=2)
    return divide(_dot(weight, compared.won[:, used]), _dot(weight, compared.against[:, used]))


def auc_t_of(
    log_hazard: ArrayLike, event: ArrayLike, time: ArrayLike, times: ArrayLike, followed: Followed
) -> tuple[Floats, Floats]:
    """(B,), (B, M)"""
    risk, grid = check_scores(log_hazard, "log hazard"), check_grid(times)
    seen, ends = check_outcomes(event, time, len(risk))
    ranking = rank(risk, TIED_TOL)
    ends, seen = ends[ranking.order], seen[ranking.order]
    rows = np.take(followed.weights, ranking.order, axis=1)
    early = np.flatnonzero(seen & (ends <= grid[-1]))
    cases = np.zeros_like(rows)
    cases[:, early] = followed.inverse(rows[:, early], ends[early])
    each = np.stack(
        [area(ranking.sums(cases * (ends <= t)), ranking.sums(rows * (ends > t))) for t in grid], axis=1
    )
    alive = followed.alive.at(grid)
    falls = -np.diff(alive, axis=1, prepend=1.0)
    return divide(_dot(falls, each), 1 - alive[:, -1]), each


def brier_t_of(
    survival: ArrayLike, times: ArrayLike, event: ArrayLike, time: ArrayLike, followed: Followed
) -> Floats:
    """(B, M)"""
    grid = check_grid(times)
    seen, ends = check_outcomes(event, time)
    chance = check_survival(survival, len(ends), len(grid))
    early = np.flatnonzero(seen & (ends <= grid[-1]))
    dead = chance[early] ** 2 * (ends[early, None] <= grid)
    alive = (1 - chance) ** 2 * (ends[:, None] > grid)
    rows = followed.weights
    error = followed.inverse(rows[:, early], ends[early]) @ dead + followed.inverse(rows @ alive, grid)
    outlived = rows[:, ends > grid[-1]].sum(1, keepdims=True) > 0
    return np.where(outlived, divide(error, rows.sum(1, keepdims=True)), np.nan)


def integrate(scores: Floats, times: ArrayLike) -> Floats:
    """(B,) mean over time of ``scores`` (B, M) at ``times`` (M ≥ 2,)."""
    grid = check_grid(times)
    if len(grid) < 2:
        raise UsageError("the integrated Brier score needs two times at least: give a grid")
    return np.asarray(np.trapezoid(scores, grid, axis=1) / (grid[-1] - grid[0]))


def _dot(a: Floats, b: Floats) -> Floats:
    return np.asarray(np.einsum("bi,bi->b", a, b))


def _whole(rows: Floats) -> bool:
    """Whether sums of whole numbers and their doubles stay below 2**24, where float32 is exact and twice as fast."""
    return bool(rows.sum(1).max(initial=0) < 2**22 and (rows == np.rint(rows)).all())


def _won(
    rows: NDArray[Any], risk: Floats, place: NDArray[np.intp], later: NDArray[np.intp], tied_tol: float
) -> Floats:
    """(B, E), for the cases at ``place``: weight among those from ``later`` on of lower risk, ties half."""
    won = np.empty((len(rows), len(place)))
    for start in range(0, len(place), BLOCK):
        block = slice(start, start + BLOCK)
        first = later[block][0]
        above = risk[place[block]] - risk[first:, None]
        beats: NDArray[Any] = (above > tied_tol).astype(rows.dtype)
        beats += above >= -tied_tol
        beats *= np.arange(first, len(risk))[:, None] >= later[block]
        won[:, block] = rows[:, first:] @ beats
    return won / 2
