"""How well vectors tell the classes of tiles: a linear model and a vote of neighbours, on rows that belong to folds.

What depends on data (standardisation, the penalty, the number of neighbours) is fitted on training rows only. NumPy,
no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import HeadError
from beph_store.heads.linear import principal
from beph_store.heads.objectives import Ridge, linear_logits, softmax_link

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]
Index = NDArray[np.int64]

#: Ridge values to choose from, in units of the mean loss per tile, tried from the largest down.
PENALTIES = (100.0, 10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5)
#: Where nothing can be held out to choose it, as with one case a class.
FEW_SHOT_PENALTY = 0.1
#: Numbers of neighbours to choose from, and the one where nothing can be held out.
NEIGHBOURS = (100, 50, 20, 10, 5, 3, 1)
FEW_SHOT_NEIGHBOURS = 20
#: Votes weigh exp(cosine / this), as in DINO's evaluation (Caron et al., ICCV 2021).
TEMPERATURE = 0.07

_TOLERANCE = 1e-5  # of the scaled gradient: probabilities to about as much
_CHOOSING = 1e-4  # the same while penalties are compared
_BLOCK = 1 << 25  # cosines held at a time, 128 MB


@dataclass(frozen=True, slots=True, eq=False)
class LinearProbe:
    """``coef`` (K, D) and ``intercept`` (K,), -inf for a class that training lacked; the ``penalty`` and its ``grid``.

    ``grid``: (penalty, held-out loss) of those that were tried.
    """

    coef: Float
    intercept: Float
    penalty: float
    grid: tuple[tuple[float, float], ...]

    def probabilities(self, vectors: Float32) -> Float:
        """(n, K) of vectors (n, D)."""
        logits = vectors @ self.coef.T.astype(np.float32) + self.intercept
        exp = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(exp / exp.sum(axis=1, keepdims=True), np.float64)


def fit_linear(
    vectors: Float32,
    truth: Index,
    classes: int,
    inner: Index | None = None,
    penalties: Sequence[float] = PENALTIES,
) -> LinearProbe:
    """L2-regularised multinomial logistic regression on standardised ``vectors`` (n, D), every tile of equal weight.

    The penalty is the one with the least cross-entropy on held-out tiles, ``inner`` (n,) numbering the folds they are
    held out in; without it the first of ``penalties`` is taken. All folds of one penalty are solved as one batch,
    from the solution of the next larger one, and smaller ones are not tried once they do worse.
    Raises HeadError for training rows of one class, or where no penalty converges.
    """
    present, local = np.unique(truth, return_inverse=True)
    if len(present) < 2:
        raise HeadError("all tiles to learn from are of one class: add cases of another")
    folds = [] if inner is None else _usable(local, inner)
    if inner is not None and not folds:
        raise HeadError(
            "no fold can be held out that leaves every class to learn from: add cases, or use fewer folds"
        )
    axes = principal(vectors.astype(np.float64))
    design = ((vectors - axes.mean) / axes.scale @ axes.axes)[None]
    problem = TileProblem(design, axes.power[None], np.asarray(local, np.int64), len(present))
    penalty, start = penalties[0], None
    grid: list[tuple[float, float]] = []
    if inner is not None:
        penalty, grid, start = problem.choose(inner, folds, sorted(penalties, reverse=True))
    w, free, converged = problem.solve(np.ones((len(truth), 1)), penalty, start, _TOLERANCE)
    if not converged.all():
        raise HeadError(f"the linear probe does not converge with penalty {penalty:g}: verify the vectors")
    coef = w[0, :, :, 0] @ axes.axes.T / axes.scale
    intercept = free[0, :, 0] - coef @ axes.mean
    return LinearProbe(*spread(coef, intercept, present, classes), penalty, tuple(grid))


Solution = tuple[Float, Float]


@dataclass(frozen=True, slots=True, eq=False)
class TileProblem:
    """Fits to many choices of the same tiles at once.

    ``design`` (1, n, r) in principal axes, ``power`` (1, r) their mean square, ``local`` (n,) classes learned.
    """

    design: Float
    power: Float
    local: Index
    classes: int

    def solve(
        self, mask: Float, penalty: float, start: Solution | None, tolerance: float
    ) -> tuple[Float, Float, NDArray[np.bool_]]:
        """Weights, intercepts and convergence of the fits to the rows of each column of ``mask`` (n, M)."""
        columns = 1 if self.classes == 2 else self.classes
        link = softmax_link(self.local, columns, mask[None])
        many = np.full(mask.shape[1], penalty)
        return Ridge(self.design, self.power, many, link, columns, True, tolerance).solve(start)

    def choose(
        self, inner: Index, folds: Sequence[int], penalties: Sequence[float]
    ) -> tuple[float, list[tuple[float, float]], Solution]:
        """The penalty with the least held-out loss, those tried, and where the fit to all rows may start."""
        mask = np.stack([(inner != fold).astype(np.float64) for fold in folds], axis=1)
        grid: list[tuple[float, float]] = []
        best: Solution | None = None
        start: Solution | None = None
        for penalty in penalties:
            w, free, converged = self.solve(mask, penalty, start, _CHOOSING)
            if not converged.all():
                break
            loss = _held_out(linear_logits(self.design, w) + free[:, :, None], self.local, inner, folds)
            grid.append((penalty, loss))
            if loss > min(other for _, other in grid):
                break
            start = w, free
            best = w.mean(axis=3, keepdims=True), free.mean(axis=2, keepdims=True)
        if best is None:
            raise HeadError("the linear probe converges with none of its penalties: verify the vectors")
        return min(grid, key=lambda pair: pair[1])[0], grid, best


def _usable(local: Index, inner: Index) -> list[int]:
    """The folds that leave every class to learn from when they are held out."""
    classes = int(local.max()) + 1
    return [
        int(fold) for fold in np.unique(inner) if len(np.unique(local[inner != fold])) == classes
    ]  # an absent class would have no finite intercept


def _held_out(logits: Float, local: Index, inner: Index, folds: Sequence[int]) -> float:
    """Mean cross-entropy of each tile by the fit that held its fold out; logits (1, C, n, folds)."""
    total, count = 0.0, 0
    for number, fold in enumerate(folds):
        rows = np.flatnonzero(inner == fold)
        z = logits[0][:, rows, number].T
        z = np.concatenate([np.zeros_like(z), z], axis=1) if z.shape[1] == 1 else z
        top = z.max(axis=1)
        total += float((np.log(np.exp(z - top[:, None]).sum(axis=1)) + top).sum())
        total -= float(z[np.arange(len(rows)), local[rows]].sum())
        count += len(rows)
    return total / max(count, 1)


def spread(coef: Float, intercept: Float, present: Index, classes: int) -> tuple[Float, Float]:
    """Rows of the classes that were learned among all classes."""
    if len(present) == 2:
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    whole, free = np.zeros((classes, coef.shape[1])), np.full(classes, -np.inf)
    whole[present], free[present] = coef, intercept
    return whole, free


@dataclass(frozen=True, slots=True, eq=False)
class FoldNeighbours:
    """The nearest training rows of each row in each fold: ``score`` (n, F, k) cosine, -inf where there are fewer,
    and ``truth`` (n, F, k) their class. Neighbours in any union of folds follow without another search.
    """

    score: Float32
    truth: NDArray[np.int32]

    def vote(self, rows: Index, folds: Sequence[int], classes: int, ks: Sequence[int]) -> Float:
        """(len(ks), rows, K): shares of the weighted votes of the k nearest of those folds."""
        score = self.score[rows][:, folds].reshape(len(rows), -1)
        truth = self.truth[rows][:, folds].reshape(len(rows), -1)
        return _vote(score, truth, classes, ks)


def neighbours_by_fold(
    vectors: Float32,
    truth: Index,
    fold: Index,
    pool: NDArray[np.bool_],
    folds: int,
) -> FoldNeighbours:
    """Exact cosine neighbours of all ``vectors`` (n, D), those of one's own fold left out.

    ``fold`` (n,) below ``folds``; ``pool`` (n,) bool, the rows that may be found.
    """
    unit, most = _unit(vectors), max(NEIGHBOURS)
    score = np.full((len(unit), folds, most), -np.inf, np.float32)
    found = np.zeros((len(unit), folds, most), np.int32)
    members = [np.flatnonzero((fold == number) & pool) for number in range(folds)]
    step = max(1, _BLOCK // max(1, max(map(len, members))))
    for at in range(0, len(unit), step):
        rows = np.arange(at, min(at + step, len(unit)))
        for number, own in enumerate(members):
            outside = rows[fold[rows] != number]
            if len(own) and len(outside):
                k = min(most, len(own))
                cosines = unit[outside] @ unit[own].T
                near = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
                score[outside, number, :k] = np.take_along_axis(cosines, near, axis=1)
                found[outside, number, :k] = truth[own][near]
    return FoldNeighbours(score, found)


def vote_among(vectors: Float32, truth: Index, asked: Float32, classes: int, k: int) -> Float:
    """(q, K) for ``asked`` (q, D) by their ``k`` nearest of ``vectors`` (n, D)."""
    unit, parts = _unit(vectors), []
    step = max(1, _BLOCK // len(unit))
    for at in range(0, len(asked), step):
        cosines = _unit(asked[at : at + step]) @ unit.T
        parts.append(_vote(cosines, np.broadcast_to(truth.astype(np.int32), cosines.shape), classes, (k,))[0])
    return np.concatenate(parts)


def _vote(score: Float32, truth: NDArray[np.int32], classes: int, ks: Sequence[int]) -> Float:
    """Shares of the votes of the k best of each row; equal scores in order of place."""
    most = min(max(ks), score.shape[1])
    if most < score.shape[1]:
        near = np.argpartition(-score, most - 1, axis=1)[:, :most]
        score, truth = np.take_along_axis(score, near, axis=1), np.take_along_axis(truth, near, axis=1)
    order = np.argsort(-score, axis=1, kind="stable")
    score, truth = np.take_along_axis(score, order, axis=1), np.take_along_axis(truth, order, axis=1)
    weight = np.exp((score - score[:, :1]).astype(np.float64) / TEMPERATURE)
    cells = weight[:, :, None] * (truth[:, :, None] == np.arange(classes))
    gathered = np.cumsum(cells, axis=1)
    votes = np.stack([gathered[:, min(k, most) - 1] for k in ks])
    return np.asarray(votes / votes.sum(axis=2, keepdims=True))


def _unit(vectors: Float32) -> Float32:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, np.finfo(np.float32).tiny), np.float32)
