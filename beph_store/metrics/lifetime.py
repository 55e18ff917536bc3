"""Curves of time to event: Kaplan–Meier for people and for weighted draws, log-rank test, Breslow's baseline.

Times are in any one unit (days in this library); ``event`` is bool, True = seen, False = censored.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaincc

from beph_store.errors import UsageError
from beph_store.metrics.checks import Floats, check_outcomes, check_scores, check_weights, divide


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """What happens at each of ``times`` (U,), rising: ``events``, ``censored`` and ``at_risk`` (B, U) weights."""

    times: Floats
    events: Floats
    censored: Floats
    at_risk: Floats

    def survival(self) -> Steps:
        """Kaplan–Meier curves of the event."""
        alive = 1 - divide(self.events, self.at_risk, empty=0.0)
        return Steps(self.times, np.cumprod(alive, axis=1, dtype=np.float64))

    def uncensored(self) -> Steps:
        """Kaplan–Meier curves G of the censoring; at a tie, events come first and leave the risk set."""
        left = self.at_risk - self.events
        free = np.cumprod(1 - divide(self.censored, left, empty=0.0), axis=1, dtype=np.float64)
        # What rounding leaves of 0 when weights are not whole numbers.
        free[free < 1e-12] = 0
        return Steps(self.times, free)


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """Right-continuous step functions that start at 1: ``values`` (B, U) from each of ``times`` (U,) on."""

    times: Floats
    values: Floats

    def at(self, query: Floats) -> Floats:
        """(B, Q), the values at ``query`` (Q,); the last value holds for ever."""
        place = np.searchsorted(self.times, query, side="right")
        started = np.concatenate([np.ones((len(self.values), 1)), self.values], axis=1)
        return np.take(started, place, axis=1)


def count(event: ArrayLike, time: ArrayLike, weights: ArrayLike | None = None) -> Counts:
    """Count weighted draws (B, n); ``event`` (n,) bool, ``time`` (n,)."""
    seen, times = check_outcomes(event, time)
    rows = check_weights(weights, len(times))
    order = np.argsort(times, kind="stable")
    starts = np.flatnonzero(np.diff(times[order], prepend=-np.inf))
    in_order = np.take(rows, order, axis=1)
    events = np.add.reduceat(in_order * seen[order], starts, axis=1)
    censored = np.add.reduceat(in_order * ~seen[order], starts, axis=1)
    at_risk = np.cumsum((events + censored)[:, ::-1], axis=1)[:, ::-1]
    return Counts(times[order][starts], events, censored, at_risk)


@dataclass(frozen=True, slots=True, eq=False)
class KaplanMeier:
    """A survival curve to draw, a step down at each of ``times`` (U,), rising; it starts at 1 at time 0.

    ``survival``, ``ci_low``, ``ci_high`` (U,) the chance to be free of the event after that time, with its pointwise
    interval (Greenwood's variance on the log(-log) scale); ``at_risk``, ``events``, ``censored`` (U,) counts.
    """

    times: Floats
    survival: Floats
    ci_low: Floats
    ci_high: Floats
    at_risk: NDArray[np.int64]
    events: NDArray[np.int64]
    censored: NDArray[np.int64]

    @property
    def median(self) -> float:
        """First time at which the survival is 0.5 or less; infinity if it never is."""
        # 3/4 of 2/3 is half, but not to the last bit.
        below = np.flatnonzero(self.survival <= 0.5 + 1e-12)
        return float(self.times[below[0]]) if len(below) else np.inf


def kaplan_meier(event: ArrayLike, time: ArrayLike, level: float = 0.95) -> KaplanMeier:
    """The survival curve of one group (Kaplan & Meier, JASA 1958)."""
    counts = count(event, time)
    survival, events, at_risk = counts.survival().values[0], counts.events[0], counts.at_risk[0]
    variance = np.cumsum(divide(events, at_risk * (at_risk - events), empty=0.0))
    low, high = survival.copy(), survival.copy()
    inside = (survival > 0) & (survival < 1)
    log = np.log(survival[inside])
    spread = NormalDist().inv_cdf(0.5 + level / 2) * np.sqrt(variance[inside]) / np.abs(log)
    low[inside], high[inside] = np.exp(log * np.exp(spread)), np.exp(log * np.exp(-spread))
    whole = [np.rint(row).astype(np.int64) for row in (at_risk, events, counts.censored[0])]
    return KaplanMeier(counts.times, survival, low, high, *whole)


@dataclass(frozen=True, slots=True)
class LogRank:
    """``statistic`` is χ² with ``freedom`` degrees if the groups' hazards are equal; ``p_value`` its upper tail."""

    statistic: float
    freedom: int
    p_value: float


def log_rank(event: ArrayLike, time: ArrayLike, group: ArrayLike) -> LogRank:
    """Do the groups differ in survival? ``group`` (n,) names two or more groups (Mantel 1966, K samples)."""
    seen, times = check_outcomes(event, time)
    labels = np.asarray(group)
    if labels.shape != times.shape or len(np.unique(labels)) < 2:
        raise UsageError(f"groups of shape {labels.shape}: name a group for each case, at least two in all")
    # Each group is one "draw" of the cases, so that one count gives all risk sets.
    member = np.unique(labels)[:, None] == labels
    counts = count(seen, times, member)
    events, at_risk = counts.events.sum(0), counts.at_risk.sum(0)
    share = counts.at_risk / at_risk
    surplus = (counts.events - share * events).sum(1)
    scale = events * divide(at_risk - events, at_risk - 1, empty=0.0)
    covariance = np.diag(share @ scale) - (share * scale) @ share.T
    # The surpluses sum to 0: one group is redundant.
    freedom = len(surplus) - 1
    statistic = float(surplus @ np.linalg.pinv(covariance, hermitian=True) @ surplus)
    return LogRank(statistic, freedom, float(gammaincc(freedom / 2, statistic / 2)))


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """Breslow's ``cumulative_hazard`` (U,) up to each of ``times`` (U,), of a case of log hazard ``reference``."""

    times: Floats
    cumulative_hazard: Floats
    reference: float

    def survival(self, log_hazard: ArrayLike, times: ArrayLike) -> Floats:
        """(n, M), the chance that each case is free of the event at each of ``times`` (M,)."""
        place = np.searchsorted(self.times, np.asarray(times, np.float64), side="right")
        hazard = np.append(0.0, self.cumulative_hazard)[place]
        ratio = np.exp(np.minimum(check_scores(log_hazard, "log hazard") - self.reference, 700))
        return np.exp(-np.outer(ratio, hazard))


def breslow(log_hazard: ArrayLike, event: ArrayLike, time: ArrayLike) -> Baseline:
    """Baseline hazard of a Cox model from its *training* cases, (n,) each (Breslow, JRSS-B 1972)."""
    risk = check_scores(log_hazard, "log hazard")
    seen, times = check_outcomes(event, time, len(risk))
    reference = float(risk.mean())
    counts = count(seen, times)
    ratio = count(seen, times, np.exp(np.minimum(risk - reference, 700)))
    return Baseline(counts.times, np.cumsum(divide(counts.events[0], ratio.at_risk[0])), reference)
