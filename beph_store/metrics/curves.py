"""Points to draw: ROC, precision and recall, calibration, confusion matrix. Survival curves: ``kaplan_meier``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from beph_store.errors import UsageError
from beph_store.metrics.checks import Floats, check_flags, check_scores
from beph_store.metrics.classification import confusions
from beph_store.metrics.ranking import rank


@dataclass(frozen=True, slots=True, eq=False)
class Roc:
    """``false_positive`` and ``true_positive`` rates (U + 1,) of calling positive what scores ``threshold`` or more.

    From (0, 0) at threshold infinity to (1, 1).
    """

    false_positive: Floats
    true_positive: Floats
    threshold: Floats


@dataclass(frozen=True, slots=True, eq=False)
class PrecisionRecall:
    """``recall`` and ``precision`` (U + 1,) at each ``threshold``, from (0, 1) at infinity on. Draw it as steps."""

    recall: Floats
    precision: Floats
    threshold: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """By bin that holds a case: mean ``predicted`` chance, share ``observed``, ``cases`` (≤ bins,)."""

    predicted: Floats
    observed: Floats
    cases: NDArray[np.int64]


def roc_points(score: ArrayLike, positive: ArrayLike) -> Roc:
    """From ``score`` (n,) and ``positive`` (n,) bool, one point for each distinct score."""
    hits, alarms, threshold = _cumulative(score, positive)
    if not hits[-1] or not alarms[-1]:
        raise UsageError("a ROC curve needs positive and negative cases")
    return Roc(alarms / alarms[-1], hits / hits[-1], threshold)


def pr_points(score: ArrayLike, positive: ArrayLike) -> PrecisionRecall:
    """From ``score`` (n,) and ``positive`` (n,) bool, one point for each distinct score."""
    hits, alarms, threshold = _cumulative(score, positive)
    if not hits[-1]:
        raise UsageError("a precision-recall curve needs positive cases")
    precision = np.append(1.0, hits[1:] / (hits + alarms)[1:])
    return PrecisionRecall(hits / hits[-1], precision, threshold)


def calibration_points(probability: ArrayLike, positive: ArrayLike, bins: int = 10) -> Calibration:
    """From ``probability`` (n,) of being positive and ``positive`` (n,) bool, in equal bins (low, high]."""
    chance = check_scores(probability, "probability")
    flags = check_flags(positive, "positive", len(chance))
    if bins < 1 or chance.min() < 0 or chance.max() > 1:
        raise UsageError("calibration needs probabilities between 0 and 1, and at least one bin")
    which = np.clip(np.ceil(chance * bins).astype(int) - 1, 0, bins - 1)
    cases = np.bincount(which, minlength=bins)
    used = cases > 0
    predicted = np.bincount(which, chance, minlength=bins)[used] / cases[used]
    observed = np.bincount(which, flags, minlength=bins)[used] / cases[used]
    return Calibration(predicted, observed, cases[used].astype(np.int64))


def confusion_matrix(probabilities: ArrayLike, truth: ArrayLike) -> NDArray[np.int64]:
    """(K, K) cases of class i (row) taken for class j (column), from (n, K) and (n,)."""
    return np.asarray(np.rint(confusions(probabilities, truth)[0]), np.int64)


def _cumulative(score: ArrayLike, positive: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Positives and negatives at or above each threshold, (U + 1,), highest first, and the thresholds."""
    values = check_scores(score, "score")
    flags = check_flags(positive, "positive", len(values))
    ranking = rank(values)
    ordered = flags[ranking.order][None]
    sides = [ranking.sums(side.astype(np.float64))[0, ::-1] for side in (ordered, ~ordered)]
    hits, alarms = (np.append(0.0, np.cumsum(side)) for side in sides)
    return hits, alarms, np.append(np.inf, values[ranking.order][ranking.starts][::-1])
