"""Metrics of class probabilities, each over many weighted draws of the cases at once.

Every function takes ``probabilities`` (n, K), ``truth`` (n,) class numbers 0 … K-1 and ``weights`` (B, n), how often
each draw holds each case (None: each once), and returns (B,), or (B, K) where its name says so. NaN where a draw
leaves the metric undefined. The predicted class is the most probable one, the first of equals. With K = 2 the
second class is the positive one. Definitions: docs/metrics.md. Bad input raises UsageError.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from beph_store.metrics.checks import Floats, Ints, check_classes, check_weights, divide
from beph_store.metrics.ranking import area, average_precision, split

ECE_BINS = 15


def confusions(probabilities: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """(B, K, K) weight of the cases of class i (row) taken for class j (column)."""
    values, index = check_classes(probabilities, truth)
    rows, classes = check_weights(weights, len(index)), values.shape[1]
    cells, where = np.unique(index * classes + values.argmax(1), return_inverse=True)
    member = np.zeros((len(index), len(cells)))
    member[np.arange(len(index)), where] = 1
    table = np.zeros((len(rows), classes * classes))
    table[:, cells] = rows @ member
    return table.reshape(-1, classes, classes)


def accuracy(probabilities: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Share of cases whose class is met."""
    return accuracy_of(confusions(probabilities, truth, weights))


def balanced_accuracy(probabilities: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Mean recall over the classes that the draw holds."""
    return balanced_accuracy_of(confusions(probabilities, truth, weights))


def recall_per_class(probabilities: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """(B, K) share of each class that is met; NaN for a class that the draw lacks."""
    return recall_of(confusions(probabilities, truth, weights))


def f1_per_class(probabilities: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """(B, K) 2 TP / (2 TP + FP + FN); NaN for a class neither present nor predicted."""
    return f1_of(confusions(probabilities, truth, weights))


def f1_macro(probabilities: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Mean F1 over the classes present or predicted in the draw."""
    return f1_macro_of(confusions(probabilities, truth, weights))


def f1_weighted(probabilities: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Mean F1, each class weighted by its cases."""
    return f1_weighted_of(confusions(probabilities, truth, weights))


def kappa_quadratic(probabilities: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Cohen's κ with weights (i - j)², classes in the order of the columns; NaN if all is one class."""
    return kappa_of(confusions(probabilities, truth, weights))


def auroc_per_class(probabilities: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """(B, K) one-vs-rest AUROC, ties 0.5; NaN for a class that the draw lacks or consists of."""
    values, index = check_classes(probabilities, truth)
    return _one_vs_rest(area, values, index, weights)


def auroc(probabilities: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """AUROC of the positive class (K = 2), else the mean one-vs-rest AUROC over the classes in ``truth``."""
    values, index = check_classes(probabilities, truth)
    return _overall(area, values, index, weights)


def auprc_per_class(probabilities: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """(B, K) one-vs-rest average precision, step-wise; NaN for a class that the draw lacks."""
    values, index = check_classes(probabilities, truth)
    return _one_vs_rest(average_precision, values, index, weights)


def auprc(probabilities: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Average precision of the positive class (K = 2), else the mean over the classes in ``truth``."""
    values, index = check_classes(probabilities, truth)
    return _overall(average_precision, values, index, weights)


def log_loss(probabilities: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Mean -ln of the probability given to the true class, no lower than the float64 epsilon."""
    values, index = check_classes(probabilities, truth)
    chance = values[np.arange(len(index)), index]
    return mean(-np.log(np.clip(chance, np.finfo(np.float64).eps, 1)), weights)


def brier(probabilities: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Mean squared error of the probabilities: of the positive class (K = 2), else summed over classes."""
    values, index = check_classes(probabilities, truth)
    squares = ((values - (index[:, None] == np.arange(values.shape[1]))) ** 2).sum(1)
    if values.shape[1] == 2:
        squares = (values[:, 1] - index) ** 2
    return mean(squares, weights)


def ece(probabilities: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Expected calibration error of the predicted class, 15 equal bins (Guo et al., ICML 2017)."""
    values, index = check_classes(probabilities, truth)
    rows = check_weights(weights, len(index))
    confidence = values.max(1)
    gap = confidence - (values.argmax(1) == index)
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    member = (bins[:, None] == np.arange(ECE_BINS)) * gap[:, None]
    return divide(np.abs(rows @ member).sum(1), rows.sum(1))


def mean(values: Floats, weights: ArrayLike | None) -> Floats:
    """(B,) weighted mean of one value a case."""
    rows = check_weights(weights, len(values))
    return divide(rows @ values, rows.sum(1))


# ---- from a table of counts (B, K, K), so that six metrics count once --------------------------


def accuracy_of(table: Floats) -> Floats:
    """(B,) from ``confusions``."""
    return divide(np.einsum("bkk->b", table), table.sum((1, 2)))


def recall_of(table: Floats) -> Floats:
    """(B, K) from ``confusions``."""
    return divide(np.einsum("bkk->bk", table), table.sum(2))


def balanced_accuracy_of(table: Floats) -> Floats:
    """(B,) from ``confusions``."""
    return _mean_defined(recall_of(table))


def f1_of(table: Floats) -> Floats:
    """(B, K) from ``confusions``."""
    return divide(2 * np.einsum("bkk->bk", table), table.sum(1) + table.sum(2))


def f1_macro_of(table: Floats) -> Floats:
    """(B,) from ``confusions``."""
    return _mean_defined(f1_of(table))


def f1_weighted_of(table: Floats) -> Floats:
    """(B,) from ``confusions``."""
    support = table.sum(2)
    return divide((support * np.nan_to_num(f1_of(table))).sum(1), support.sum(1))


def kappa_of(table: Floats) -> Floats:
    """(B,) from ``confusions``."""
    grade = np.arange(table.shape[1])
    cost = (grade[:, None] - grade) ** 2
    chance = np.einsum("bi,bj,ij->b", table.sum(2), table.sum(1), cost)
    return 1 - divide((table * cost).sum((1, 2)) * table.sum((1, 2)), chance)


def _mean_defined(each: Floats) -> Floats:
    known = ~np.isnan(each)
    return divide(np.where(known, each, 0).sum(1), known.sum(1))


Curve = Callable[[Floats, Floats], Floats]


def _one_vs_rest(curve: Curve, values: Floats, index: Ints, weights: ArrayLike | None) -> Floats:
    rows = check_weights(weights, len(index))
    return np.stack([curve(*split(score, index == k, rows)) for k, score in enumerate(values.T)], axis=1)


def _overall(curve: Curve, values: Floats, index: Ints, weights: ArrayLike | None) -> Floats:
    if values.shape[1] == 2:
        return curve(*split(values[:, 1], index == 1, check_weights(weights, len(index))))
    return np.asarray(_one_vs_rest(curve, values, index, weights)[:, np.unique(index)].mean(1))
