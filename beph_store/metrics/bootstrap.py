"""Confidence by resampling cases: which cases a draw holds, and what many draws say together.

A draw is one row of multiplicities, so every metric takes all draws as one matrix and needs no loop.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from beph_store.errors import UsageError
from beph_store.metrics.checks import Bools, Floats

#: Draws × cases worked on at a time: 64 MB as float64.
BLOCK = 2**23

#: Metrics by name, (B,) each, of one repeat (its number), some cases (their numbers) and draws (B, cases) of them.
Metrics = Callable[[int, NDArray[np.intp], Floats], dict[str, Floats]]


@dataclass(frozen=True, slots=True)
class Estimate:
    """``value`` on all cases, and the interval of ``draws`` bootstrap draws, ``undefined`` of which were left out."""

    value: float
    ci_low: float
    ci_high: float
    draws: int
    undefined: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; what is undefined is None."""
        fields = dataclasses.asdict(self)
        return {name: None if math.isnan(field) else field for name, field in fields.items()}


def draws(n: int, strata: ArrayLike | None = None, b: int = 1000, seed: int = 0) -> NDArray[np.int16]:
    """(b, n) how often each of ``n`` cases is drawn, with replacement, as many as there are.

    Within each of ``strata`` (n,), a class or whether an event was seen, as many are drawn as it has. Rows must be
    cases: tiles or slides of one patient resampled apart would make the intervals too narrow.
    """
    if n < 1 or b < 1:
        raise UsageError(f"{b} draws of {n} cases: give at least one of each")
    labels = np.zeros(n) if strata is None else np.asarray(strata)
    if labels.shape != (n,):
        raise UsageError(f"strata of shape {labels.shape}: name one for each of the {n} cases")
    rng = np.random.default_rng(seed)
    out = np.empty((b, n), np.int16)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        out[:, members] = _multiplicities(rng, len(members), b)
    return out


def with_point(drawn: NDArray[np.int16]) -> NDArray[np.int16]:
    """(1 + B, n): every case once, then the draws, so that one call gives the value and its draws."""
    return np.concatenate([np.ones_like(drawn[:1]), drawn])


def interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the draws ``values`` (B,) that are defined; NaN if none is."""
    if not 0 < level < 1:
        raise UsageError(f"level {level}: give a share between 0 and 1, such as 0.95")
    each = np.asarray(values, np.float64)
    known = each[~np.isnan(each)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def estimate(values: Floats, level: float = 0.95) -> Estimate:
    """From ``values`` (1 + B,), the value on all cases first."""
    low, high = interval(values[1:], level)
    return Estimate(float(values[0]), low, high, len(values) - 1, int(np.isnan(values[1:]).sum()))


def over_repeats(metrics: Metrics, predicted: Bools, weights: NDArray[np.int16]) -> dict[str, Floats]:
    """Mean over repeats of each metric, (B,), draw by draw; undefined where one repeat is.

    ``predicted`` (R, n) says which cases a repeat predicts; the others are left out of it. ``weights`` (B, n) are the
    same cases in every repeat: patients are resampled, not predictions.
    """
    parts = []
    for repeat, has in enumerate(predicted):
        cases = np.flatnonzero(has)
        step = max(1, BLOCK // len(cases))
        blocks = [
            metrics(repeat, cases, weights[at : at + step, cases].astype(np.float64))
            for at in range(0, len(weights), step)
        ]
        parts.append({name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]})
    return {name: np.mean([part[name] for part in parts], axis=0) for name in parts[0]}


def repeats(prediction: ArrayLike, n: int, dims: int) -> tuple[Floats, Bools]:
    """(R, n, …) float64 and which cases (R, n) each repeat predicts, from (n, …) or (R, n, …) with NaN for none.

    ``dims`` is how many axes one repeat has.
    """
    stack = np.asarray(prediction, np.float64)
    stack = stack[None] if stack.ndim == dims else stack
    if stack.ndim != dims + 1 or stack.shape[1] != n or not len(stack):
        raise UsageError(f"predictions of shape {stack.shape}: give a row for each of the {n} cases")
    missing: Bools = np.isnan(stack.reshape(*stack.shape[:2], -1))
    if np.isinf(stack).any() or (missing.any(2) != missing.all(2)).any():
        raise UsageError("predictions hold values that are not finite: leave those cases out")
    predicted: Bools = ~np.all(missing, axis=2)
    if not predicted.any(0).all():
        raise UsageError(
            f"{(~predicted.any(0)).sum()} cases have no prediction: leave them out of the evaluation"
        )
    if not predicted.any(1).all():
        raise UsageError("a repeat predicts no case: leave it out")
    return stack, predicted


def _multiplicities(rng: np.random.Generator, n: int, b: int) -> NDArray[np.int16]:
    out = np.empty((b, n), np.int16)
    step = max(1, BLOCK // n)
    for start in range(0, b, step):
        rows = min(step, b - start)
        picked = rng.integers(0, n, size=(rows, n)) + np.arange(rows)[:, None] * n
        out[start : start + rows] = np.bincount(picked.ravel(), minlength=rows * n).reshape(rows, n)
    return out
