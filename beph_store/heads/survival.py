"""Survival arithmetic that every head shares: baseline hazard, time bins, discrete hazards. NumPy, float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

#: A survival curve is kept at no more than this many times.
TIMES_MAX = 100
#: Hazards and survival are kept this far from 0 and 1 before a logarithm.
_TINY = 1e-7


def event_times(event: Bool, time_days: Float) -> Float:
    """The distinct times (M,) of seen events, ascending; thinned where there are more than ``TIMES_MAX``."""
    times = np.unique(time_days[event])
    if len(times) <= TIMES_MAX:
        return times
    return np.unique(np.quantile(times, np.linspace(0, 1, TIMES_MAX), method="nearest"))


def breslow(log_hazard: Float, event: Bool, time_days: Float, times: Float) -> Float:
    """Breslow's (1972) cumulative baseline hazard (M,) at ``times``, of cases with ``log_hazard`` (n,).

    At each event time the number of events over the summed hazards of those still at risk.
    """
    order = np.argsort(time_days, kind="stable")
    # Shifted by the largest so that the exponential cannot overflow; undone at the end.
    shift = float(log_hazard.max())
    at_risk = np.cumsum(np.exp(log_hazard[order] - shift)[::-1])[::-1]
    distinct, count = np.unique(time_days[event], return_counts=True)
    first = np.searchsorted(time_days[order], distinct, side="left")
    steps = np.concatenate([[0.0], np.cumsum(count / at_risk[first])])
    return np.asarray(
        steps[np.searchsorted(distinct, times, side="right")] * np.exp(-shift), dtype=np.float64
    )


def cox_survival(baseline: Float, log_hazard: float) -> Float:
    """(M,) chance to be alive under proportional hazards: exp(-H0 · exp(log hazard))."""
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(-baseline * np.exp(log_hazard)))


def bin_edges(event: Bool, time_days: Float, bins: int) -> Float:
    """Right edges (K,) of ``bins`` time intervals, days: quantiles of the event times, the last the longest follow-up.

    Fewer than ``bins`` where event times coincide.
    """
    inner = np.quantile(time_days[event], np.linspace(0, 1, bins + 1)[1:-1])
    last = float(time_days.max())
    return np.append(np.unique(inner[inner < last]), last)


def bin_index(time_days: Float, edges: Float) -> NDArray[np.int64]:
    """The interval (n,) that each time falls into; (previous edge, edge], and the last one for anything later."""
    return np.minimum(np.searchsorted(edges, time_days, side="left"), len(edges) - 1).astype(np.int64)


def discrete_survival(logits: ArrayLike) -> Float:
    """(..., K) chance to be alive after each interval, from the logits (..., K) of the hazards in them."""
    x = np.asarray(logits, np.float64)
    log_alive = -np.logaddexp(0.0, x)
    return np.asarray(np.exp(np.cumsum(log_alive, axis=-1)))


def discrete_log_hazard(logits: ArrayLike) -> Float:
    """(...,) one number for the hazards' logits (..., K): log(-log(mean survival)), higher = worse.

    It ranks cases as minus the summed survival of Zadeh & Schmid (2020) and MCAT does, on the scale of a log
    cumulative hazard.
    """
    alive = np.clip(discrete_survival(logits).mean(axis=-1), _TINY, 1 - _TINY)
    return np.asarray(np.log(-np.log(alive)))
