"""Minimise many smooth functions at once.

L-BFGS (Nocedal & Wright 2006, algorithm 7.4) where every step is taken for a whole batch of independent problems, so
that the work is a few large array operations instead of a loop of small ones. Each problem has its own history and its
own step length; one that is done stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
#: Points (B, d) to values (B,) and gradients (B, d), row by row independent.
Function = Callable[[Float], tuple[Float, Float]]

_MEMORY = 10
_SUFFICIENT = 1e-4  # Armijo's constant
_TRIALS = 40


@dataclass(frozen=True, slots=True, eq=False)
class Minimum:
    """``point`` (B, d), ``value`` (B,), ``converged`` (B,) and the ``rounds`` that the batch took."""

    point: Float
    value: Float
    converged: NDArray[np.bool_]
    rounds: int


class _History:
    """The last steps and gradient changes of every problem, and the direction they imply."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.steps = np.zeros((_MEMORY, *shape))
        self.changes = np.zeros((_MEMORY, *shape))
        self.weight = np.zeros((_MEMORY, shape[0]))
        self.scale = np.ones(shape[0])
        self.newest: list[int] = []

    def add(self, step: Float, change: Float) -> None:
        slot = self.newest.pop() if len(self.newest) == _MEMORY else len(self.newest)
        self.newest.insert(0, slot)
        curvature, square = _dot(step, change), _dot(change, change)
        # A pair without positive curvature (a problem that stands still) gets weight 0: it is skipped.
        good = curvature > 1e-10 * square
        self.weight[slot] = np.divide(1.0, curvature, out=np.zeros_like(curvature), where=good)
        self.steps[slot], self.changes[slot] = step, change
        self.scale = np.divide(curvature, square, out=self.scale, where=good)

    def direction(self, gradient: Float) -> Float:
        q = -gradient
        share = {}
        for slot in self.newest:
            share[slot] = self.weight[slot] * _dot(self.steps[slot], q)
            q -= share[slot][:, None] * self.changes[slot]
        q *= self.scale[:, None]
        for slot in reversed(self.newest):
            back = self.weight[slot] * _dot(self.changes[slot], q)
            q += (share[slot] - back)[:, None] * self.steps[slot]
        return q


def minimise(function: Function, start: Float, tolerance: float = 1e-8, rounds: int = 300) -> Minimum:
    """Minimise ``function`` from ``start`` (B, d) until each gradient's largest entry is at most ``tolerance``.

    Meant for convex functions whose Hessian is near the identity; scale the variables accordingly.
    """
    point = start.astype(np.float64, copy=True)
    value, gradient = function(point)
    history = _History(point.shape)
    done = np.abs(gradient).max(axis=1, initial=0.0) <= tolerance
    count = 0
    while count < rounds and not done.all():
        direction = history.direction(gradient)
        slope = _dot(direction, gradient)
        uphill = slope >= 0
        direction[uphill], slope[uphill] = -gradient[uphill], -_dot(gradient, gradient)[uphill]
        direction[done], slope[done] = 0.0, 0.0
        new_point, new_value, new_gradient = _line_search(function, point, value, direction, slope)
        history.add(new_point - point, new_gradient - gradient)
        stuck = (new_point == point).all(axis=1)
        point, value, gradient = new_point, new_value, new_gradient
        done |= np.abs(gradient).max(axis=1, initial=0.0) <= tolerance
        count += 1
        if (stuck | done).all():
            break
    return Minimum(point, value, done, count)


def _line_search(
    function: Function, point: Float, value: Float, direction: Float, slope: Float
) -> tuple[Float, Float, Float]:
    """Backtrack every problem until its value has fallen enough; a problem that cannot fall stays in place."""
    length = np.ones(len(point))
    slack = 1e-14 * np.abs(value)
    for _ in range(_TRIALS):
        trial = point + length[:, None] * direction
        new_value, gradient = function(trial)
        accepted = new_value <= value + _SUFFICIENT * length * slope + slack
        if accepted.all():
            return trial, new_value, gradient
        # The minimum of the parabola through both ends, kept between a tenth and a half of the last step.
        bend = 2 * (new_value - value - length * slope)
        with np.errstate(divide="ignore", invalid="ignore"):
            shorter = np.clip(np.nan_to_num(-slope * length / bend, nan=0.1), 0.1, 0.5) * length
        length = np.where(accepted, length, shorter)
    length[~accepted] = 0.0
    trial = point + length[:, None] * direction
    return trial, *function(trial)


def _dot(a: Float, b: Float) -> Float:
    return np.asarray(np.einsum("bd,bd->b", a, b))
