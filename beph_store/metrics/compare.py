"""Is one predictor better than another on the same cases? Paired bootstrap of any metric, DeLong's test for AUROC."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from beph_store.errors import UsageError
from beph_store.metrics.bootstrap import draws, interval, with_point
from beph_store.metrics.checks import Floats, check_flags, check_outcomes, check_scores
from beph_store.metrics.evaluate import class_draws, survival_draws


@dataclass(frozen=True, slots=True)
class Difference:
    """``difference`` = ``a`` - ``b`` of a metric of two predictors, its interval, and the chance of one as large if
    they were equally good (``p_value``, two-sided). ``method`` says how; of ``draws`` bootstrap draws ``undefined``
    were left out.
    """

    metric: str
    a: float
    b: float
    difference: float
    ci_low: float
    ci_high: float
    p_value: float
    method: str
    draws: int = 0
    undefined: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; what is undefined is None."""
        fields = dataclasses.asdict(self)
        return {
            name: None if isinstance(field, float) and math.isnan(field) else field
            for name, field in fields.items()
        }


def paired_bootstrap(metric: str, first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Difference:
    """Compare ``first`` and ``second`` (1 + B,), one metric of two predictors on the same draws.

    The value on all cases comes first: both are what a metric returns for the weights ``with_point(draws(…))``. The
    p-value is twice the smaller share of draws on either side of 0, one more counted (Davison & Hinkley 1997).
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.ndim != 1 or a.shape != b.shape or len(a) < 2:
        raise UsageError(f"draws of shapes {a.shape} and {b.shape}: compare two predictors on the same draws")
    gaps = a[1:] - b[1:]
    known = gaps[~np.isnan(gaps)]
    low, high = interval(gaps, level)
    p_value = math.nan
    if len(known):
        rarer = min((known <= 0).sum(), (known >= 0).sum())
        p_value = min(1.0, float(2 * (1 + rarer) / (1 + len(known))))
    point = float(a[0]), float(b[0]), float(a[0] - b[0])
    undefined = len(gaps) - len(known)
    return Difference(metric, *point, low, high, p_value, "paired bootstrap", len(gaps), undefined)


def compare_classes(
    first: ArrayLike,
    second: ArrayLike,
    truth: ArrayLike,
    classes: Sequence[str],
    b: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Difference]:
    """Every metric of ``evaluate_classes``, first minus second, of predictions of the same cases."""
    _check_same(first, second)
    index = np.asarray(truth)
    weights = with_point(draws(np.size(index), index, b, seed))
    both = [class_draws(each, index, classes, weights) for each in (first, second)]
    return _differences(both[0], both[1], level)


def compare_survival(
    first: ArrayLike,
    second: ArrayLike,
    event: ArrayLike,
    time: ArrayLike,
    times: ArrayLike | None = None,
    b: int = 1000,
    seed: int = 0,
) -> dict[str, Difference]:
    """cindex_harrell, cindex_uno (also truncated) and auc_t, first minus second, of log hazards of the same cases."""
    _check_same(first, second)
    seen, ends = check_outcomes(event, time)
    weights = with_point(draws(len(seen), seen, b, seed))
    both = [survival_draws(each, seen, ends, weights, times=times) for each in (first, second)]
    return _differences(both[0], both[1], 0.95)


def delong(first: ArrayLike, second: ArrayLike, positive: ArrayLike, level: float = 0.95) -> Difference:
    """DeLong's test of two AUROCs on the same cases, without draws (DeLong et al. 1988).

    ``first``, ``second`` (n,) scores, ``positive`` (n,) bool. The variance comes from midranks in O(n log n)
    (Sun & Xu, IEEE Signal Processing Letters 21:1389, 2014). The p-value is NaN where the variance is 0 and
    the difference is not.
    """
    flags = check_flags(positive, "positive")
    scores = np.stack([check_scores(each, "scores", len(flags)) for each in (first, second)])
    if min(flags.sum(), (~flags).sum()) < 2:
        raise UsageError("DeLong's test needs two positives and two negatives at least")
    won = _placements(scores[:, flags], scores[:, ~flags])
    lost = _placements(scores[:, ~flags], scores[:, flags])
    auc = won.mean(1)
    covariance = np.cov(won) / won.shape[1] + np.cov(lost) / lost.shape[1]
    gap = float(auc[0] - auc[1])
    error = math.sqrt(max(0.0, float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])))
    margin = NormalDist().inv_cdf(0.5 + level / 2) * error
    p_value = 1.0 if gap == 0 else math.nan
    if error > 0:
        p_value = math.erfc(abs(gap) / error / math.sqrt(2))
    return Difference(
        "auroc", float(auc[0]), float(auc[1]), gap, gap - margin, gap + margin, p_value, "DeLong"
    )


def _placements(mine: Floats, other: Floats) -> Floats:
    """(2, m), the share of the other class that each of mine ranks above, ties half: two midranks apart."""
    everyone = np.concatenate([mine, other], axis=1)
    count = mine.shape[1]
    return np.stack(
        [
            (_midranks(whole)[:count] - _midranks(part)) / other.shape[1]
            for whole, part in zip(everyone, mine, strict=True)
        ]
    )


def _midranks(scores: Floats) -> Floats:
    """(n,) ranks from 1, equal scores sharing the mean of theirs."""
    _, group, size = np.unique(scores, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(size) - (size - 1) / 2)[group])


def _check_same(first: ArrayLike, second: ArrayLike) -> None:
    a: NDArray[np.float64] = np.asarray(first, np.float64)
    b: NDArray[np.float64] = np.asarray(second, np.float64)
    if a.shape != b.shape or (np.isnan(a) != np.isnan(b)).any():
        raise UsageError(f"predictions of shapes {a.shape} and {b.shape}: compare two on identical cases")


def _differences(a: Mapping[str, Floats], b: Mapping[str, Floats], level: float) -> dict[str, Difference]:
    return {name: paired_bootstrap(name, a[name], b[name], level) for name in a}
