"""The losses of the linear head over many problems at once, and the ridge problem around them.

A *problem* is a weighting of the cases (a fold) with a penalty. Problems of one split share its design matrix, so that
their logits are one matrix product. Arrays are (splits F, columns C, cases n, problems M): sums over cases and over
columns then run along long contiguous rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beph_store.heads.minimise import minimise

Float = NDArray[np.float64]
#: Logits (F, C, n, M) to the mean loss (F, M) and its gradient by the logits.
Link = Callable[[Float], tuple[Float, Float]]


def softmax_link(index: NDArray[np.int64], columns: int, weights: Float) -> Link:
    """Cross-entropy of class ``index`` (n,), averaged with ``weights`` (F, n, M).

    One column means two classes: the logit of the second against the first.
    """
    share = weights / weights.sum(axis=1, keepdims=True)
    if columns == 1:
        truth = index.astype(np.float64)[None, :, None]

        def binary(logits: Float) -> tuple[Float, Float]:
            z = logits[:, 0]
            loss = np.logaddexp(0.0, z) - truth * z
            return (share * loss).sum(axis=1), (share * (_sigmoid(z) - truth))[:, None]

        return binary
    hot = np.eye(columns)[:, index][None, :, :, None]

    def link(logits: Float) -> tuple[Float, Float]:
        z = logits - logits.max(axis=1, keepdims=True)
        e = np.exp(z)
        total = e.sum(axis=1)
        loss = np.log(total) - (z * hot).sum(axis=1)
        e *= (share / total)[:, None]
        return (share * loss).sum(axis=1), e - share[:, None] * hot

    return link


class CoxLink:
    """Cox's negative log partial likelihood with Efron's (1977) ties, divided by the number of cases.

    Cases come sorted by time; ``mask`` (F, n, M) is 0 or 1, who takes part. ``total`` is the same not divided.
    """

    def __init__(self, event: NDArray[np.bool_], time_days: Float, mask: Float) -> None:
        if (np.diff(time_days) < 0).any():
            raise ValueError("cases must be sorted by time")
        self.mask = mask
        _, self.first, self.group = np.unique(time_days, return_index=True, return_inverse=True)
        self.last = np.append(self.first[1:], len(time_days)) - 1
        self.seen = event.astype(np.float64)[None, :, None] * mask
        self.share = self._share_of_ties()
        self.cases = mask.sum(axis=1)

    def _share_of_ties(self) -> Float:
        """Efron's r / d per case: the number of tied events before it over all events at its time."""
        before = np.cumsum(self.seen, axis=1) - self.seen
        rank = before - before[:, self.first][:, self.group]
        count = self._group_sum(self.seen)
        return np.divide(rank, count, out=np.zeros_like(rank), where=self.seen > 0)

    def _group_sum(self, values: Float) -> Float:
        """Per case the sum over the cases of the same time."""
        return np.asarray(np.add.reduceat(values, self.first, axis=1)[:, self.group])

    def __call__(self, logits: Float) -> tuple[Float, Float]:
        """Mean loss (F, M) and gradient, of logits (F, 1, n, M)."""
        loss, gradient = self.total(logits[:, 0])
        return loss / self.cases, (gradient / self.cases[:, None])[:, None]

    def total(self, risk: Float) -> tuple[Float, Float]:
        """Summed loss (F, M) and its gradient, of log hazards (F, n, M)."""
        shift = np.where(self.mask > 0, risk, -np.inf).max(axis=1, keepdims=True)
        # The floor keeps a risk set of tiny hazards from vanishing; only a step far too long gets there.
        hazard = np.exp(np.clip(risk - shift, -600.0, 0.0)) * self.mask
        at_risk = np.cumsum(hazard[:, ::-1], axis=1)[:, ::-1][:, self.first][:, self.group]
        tied = self._group_sum(hazard * self.seen)
        # Outside seen events the denominator is made 1, so that it neither counts nor divides by 0.
        below = np.where(self.seen > 0, at_risk - self.share * tied, 1.0)
        loss = (self.seen * (np.log(below) + shift - risk)).sum(axis=1)
        inverse = self.seen / below
        until = np.cumsum(inverse, axis=1)[:, self.last][:, self.group]
        correction = self.seen * self._group_sum(self.share * inverse)
        return loss, hazard * (until - correction) - self.seen


@dataclass(frozen=True, slots=True, eq=False)
class Ridge:
    """Linear models of every split, fold and penalty: mean loss + penalty / 2 · |w|².

    ``design`` (F, n, r) in principal axes of each split's training cases; ``power`` (F, r) their mean square there;
    ``penalty`` (M,); ``intercept`` whether there is an unpenalised one.
    """

    design: Float
    power: Float
    penalty: Float
    link: Link
    columns: int
    intercept: bool
    tolerance: float = 1e-8

    def solve(self, start: tuple[Float, Float] | None = None) -> tuple[Float, Float, NDArray[np.bool_]]:
        """Weights (F, C, r, M), intercepts (F, C, M) and which problems (F, M) converged.

        ``start``: weights and intercepts near the solution, such as those of a neighbouring penalty.
        """
        splits, _, rank = self.design.shape
        many = len(self.penalty)
        design, power = self.design, self.power
        if self.intercept:
            design = np.concatenate([design, np.ones((*design.shape[:2], 1))], axis=2)
            power = np.concatenate([power, np.ones((splits, 1))], axis=1)
        penalty = np.broadcast_to(self.penalty, (splits, 1, power.shape[1], many)).copy()
        penalty[:, :, rank:] = 0.0
        # In principal axes the Hessian is nearly diagonal, power · p(1 - p) + penalty: scale by its root.
        scale = 1 / np.sqrt(0.25 * power[:, None, :, None] + penalty)
        columns, rows = self.columns, power.shape[1]

        def weights(theta: Float) -> Float:
            return theta.reshape(splits, many, columns, rows).transpose(0, 2, 3, 1) * scale

        def function(theta: Float) -> tuple[Float, Float]:
            w = weights(theta)
            loss, slope = self.link(linear_logits(design, w))
            ridge = penalty * w
            value = loss + 0.5 * (ridge * w).sum(axis=(1, 2))
            gradient = (_by_column(design.transpose(0, 2, 1), slope) + ridge) * scale
            return value.ravel(), gradient.transpose(0, 3, 1, 2).reshape(theta.shape)

        begin = np.zeros((splits * many, columns * rows))
        if start is not None:
            near, free = start
            whole = np.concatenate([near, free[:, :, None]], axis=2) if self.intercept else near
            begin = (whole / scale).transpose(0, 3, 1, 2).reshape(begin.shape)
        best = minimise(function, begin, self.tolerance)
        w = weights(best.point)
        free = w[:, :, rank] if self.intercept else np.zeros((splits, columns, many))
        return w[:, :, :rank], free, best.converged.reshape(splits, many)


def linear_logits(design: Float, w: Float) -> Float:
    """(F, C, n, M) of a design (F, n, r) and weights (F, C, r, M)."""
    return _by_column(design, w)


def _by_column(matrix: Float, many: Float) -> Float:
    """(F, C, p, M) of (F, p, q) times each of (F, C, q, M), as one product: the matrix is read once, not C times."""
    splits, columns, inner, problems = many.shape
    flat = many.transpose(0, 2, 1, 3).reshape(splits, inner, columns * problems)
    product = (matrix @ flat).reshape(splits, -1, columns, problems)
    return np.ascontiguousarray(product.transpose(0, 2, 1, 3))


def _sigmoid(z: Float) -> Float:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * z)))
