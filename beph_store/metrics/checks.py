"""What the metrics accept: shapes, finite values, and weights as one matrix. Everything else is a UsageError."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from beph_store.errors import UsageError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


def check_weights(weights: ArrayLike | None, n: int) -> Floats:
    """(B, n) float64 weights of ``n`` cases; None is one row of ones, a vector is one row."""
    if weights is None:
        return np.ones((1, n))
    rows = np.atleast_2d(np.asarray(weights, np.float64))
    if rows.ndim != 2 or rows.shape[1] != n:
        raise UsageError(f"weights of shape {rows.shape}: give (draws, {n}), one column a case")
    if rows.size and not (rows.min() >= 0 and np.isfinite(rows.max())):
        raise UsageError("weights must be finite and not negative: give how often each case was drawn")
    return rows


def check_scores(scores: ArrayLike, name: str, n: int | None = None) -> Floats:
    """(n,) finite float64."""
    vector = np.asarray(scores, np.float64)
    if vector.ndim != 1 or (n is not None and len(vector) != n) or not len(vector):
        raise UsageError(f"{name} of shape {vector.shape}: give one number for each case")
    if not np.isfinite(vector).all():
        raise UsageError(f"{name} holds values that are not finite: leave those cases out")
    return vector


def check_flags(flags: ArrayLike, name: str, n: int | None = None) -> Bools:
    """(n,) bool; numbers are refused, for 1 means "seen" in one table and "censored" in the next."""
    vector = np.asarray(flags)
    if vector.dtype != np.bool_:
        raise UsageError(f"{name} of type {vector.dtype}: give bool, True = seen")
    if vector.ndim != 1 or (n is not None and len(vector) != n):
        raise UsageError(f"{name} of shape {vector.shape}: give one flag for each case")
    return vector


def check_classes(probabilities: ArrayLike, truth: ArrayLike) -> tuple[Floats, Ints]:
    """(n, K ≥ 2) float64 probabilities and (n,) int64 indices into their columns."""
    values = np.asarray(probabilities, np.float64)
    if values.ndim != 2 or values.shape[1] < 2 or not len(values):
        raise UsageError(
            f"probabilities of shape {values.shape}: give (cases, classes), at least two classes"
        )
    if not (values.min() >= 0 and values.max() <= 1):
        raise UsageError("probabilities must lie between 0 and 1: apply the softmax first")
    return values, check_truth(truth, len(values), values.shape[1])


def check_truth(truth: ArrayLike, n: int, classes: int) -> Ints:
    """(n,) int64, each 0 … ``classes`` - 1."""
    index = np.asarray(truth)
    if index.shape != (n,) or index.dtype.kind not in "iu":
        raise UsageError(f"truth of shape {index.shape}, type {index.dtype}: give {n} class numbers")
    if index.min() < 0 or index.max() >= classes:
        raise UsageError(f"truth holds class {index.max()} of {classes}: numbers run from 0 to {classes - 1}")
    return index.astype(np.int64)


def check_outcomes(event: ArrayLike, time: ArrayLike, n: int | None = None) -> tuple[Bools, Floats]:
    """(n,) bool and (n,) float64 ≥ 0."""
    times = check_scores(time, "time", n)
    if times.min() < 0:
        raise UsageError("time holds negative values: count days from baseline")
    return check_flags(event, "event", len(times)), times


def check_grid(times: ArrayLike) -> Floats:
    """(M,) finite float64, rising."""
    grid = np.atleast_1d(check_scores(np.atleast_1d(np.asarray(times, np.float64)), "times"))
    if (np.diff(grid) <= 0).any():
        raise UsageError("times must rise from one to the next: sort them and drop repeats")
    return grid


def check_survival(survival: ArrayLike, n: int, times: int) -> Floats:
    """(n, M) float64 chances, 0 … 1."""
    curves = np.asarray(survival, np.float64)
    if curves.shape != (n, times):
        raise UsageError(
            f"survival of shape {curves.shape}: give ({n}, {times}), a case a row, a time a column"
        )
    if not (curves.min() >= 0 and curves.max() <= 1):
        raise UsageError("survival must lie between 0 and 1: give chances, not hazards")
    return curves


def divide(upper: NDArray[Any], lower: NDArray[Any], empty: float = np.nan) -> Floats:
    """``upper / lower``, and ``empty`` where ``lower`` is 0."""
    upper, lower = np.broadcast_arrays(upper, lower)
    out = np.full(upper.shape, empty)
    np.divide(upper, lower, out=out, where=lower != 0)
    return out
