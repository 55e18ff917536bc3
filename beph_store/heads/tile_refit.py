"""A linear head of tile classes, fitted anew after every few labels, and how good it is on tiles that it did not see.

The solver is the linear probe's. Held-out chances cost nothing extra: they are those of the fits that chose the
penalty. So that they do not flatter, the penalty by which a fold is judged is chosen on the other folds alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import HeadError
from beph_store.heads.linear import principal
from beph_store.heads.objectives import linear_logits
from beph_store.heads.tilewise import (
    FEW_SHOT_PENALTY,
    Float,
    Float32,
    Index,
    LinearProbe,
    Solution,
    TileProblem,
    spread,
)

#: From the largest down. Coarser than the probe's, because a person waits, and without its large ones: by the loss of a
#: few held-out tiles they are often chosen, and rare classes are then found less (EBHI-Seg, 12 to 144 labels: mean
#: recall 0.53 on average with 1 and 10 among them, 0.54 with 0.1 always).
PENALTIES = (0.1, 1e-2, 1e-3)
_TOLERANCE = 1e-4  # of the scaled gradient
_PATH = 1e-3  # the same while penalties are compared


@dataclass(frozen=True, slots=True, eq=False)
class Refitted:
    """``probe`` fitted to all; ``held_out`` (n, K) chances of each tile by a fit that lacked its fold, or None."""

    probe: LinearProbe
    held_out: Float | None


@dataclass(frozen=True, slots=True, eq=False)
class _Tried:
    """One penalty: ``chances`` (n, L) of the learned classes by the fit that lacked the tile's fold; ``loss`` (F,)
    summed over each fold; ``fits`` the solution.
    """

    penalty: float
    chances: Float
    loss: Float
    fits: Solution


def refit(
    vectors: Float32,
    truth: Index,
    classes: int,
    fold: Index | None = None,
    penalties: Sequence[float] = PENALTIES,
) -> Refitted:
    """Multinomial logistic regression with a ridge on standardised ``vectors`` (n, D), every tile of equal weight.

    ``truth`` (n,) below ``classes``; ``fold`` (n,) numbers the parts that are held out in turn, each of which must
    leave every class to learn from. Without it the penalty is that for few shots and nothing is held out. Raises
    HeadError for tiles of one class, folds that take a class away, and vectors without a solution.
    """
    present, local = np.unique(truth, return_inverse=True)
    if len(present) < 2:
        raise HeadError("all tiles to learn from are of one class: label a second one")
    axes = principal(vectors.astype(np.float64))
    design = ((vectors - axes.mean) / axes.scale @ axes.axes)[None]
    problem = TileProblem(design, axes.power[None], np.asarray(local, np.int64), len(present))
    penalty, start, held_out = FEW_SHOT_PENALTY, None, None
    grid: tuple[tuple[float, float], ...] = ()
    if fold is not None:
        tried = _path(problem, fold, sorted(penalties, reverse=True))
        best = min(tried, key=lambda one: float(one.loss.sum()))
        penalty, start = best.penalty, _mean(best.fits)
        grid = tuple((one.penalty, float(one.loss.sum()) / len(truth)) for one in tried)
        held_out = np.zeros((len(truth), classes))
        held_out[:, present] = _judged(tried, fold)
    w, free, converged = problem.solve(np.ones((len(truth), 1)), penalty, start, _TOLERANCE)
    if not converged.all():
        raise HeadError(f"the head does not converge with penalty {penalty:g}: verify the vectors")
    coef = w[0, :, :, 0] @ axes.axes.T / axes.scale
    intercept = free[0, :, 0] - coef @ axes.mean
    return Refitted(LinearProbe(*spread(coef, intercept, present, classes), penalty, grid), held_out)


def _path(problem: TileProblem, fold: Index, penalties: Sequence[float]) -> list[_Tried]:
    """Every penalty until the held-out loss rises, each solved from the one before, all folds as one batch."""
    folds = np.unique(fold)
    mask = np.stack([(fold != number).astype(np.float64) for number in folds], axis=1)
    for column in mask.T:
        if len(np.unique(problem.local[column > 0])) < problem.classes:
            raise HeadError("a fold that is held out takes the only tiles of a class with it")
    tried: list[_Tried] = []
    start: Solution | None = None
    for penalty in penalties:
        w, free, converged = problem.solve(mask, penalty, start, _PATH)
        if not converged.all():
            break
        chances = _held_out(linear_logits(problem.design, w) + free[:, :, None], fold, folds)
        own = -np.log(np.maximum(chances[np.arange(len(fold)), problem.local], 1e-300))
        tried.append(_Tried(penalty, chances, np.array([own[fold == f].sum() for f in folds]), (w, free)))
        start = w, free
        if tried[-1].loss.sum() > min(float(one.loss.sum()) for one in tried):
            break
    if not tried:
        raise HeadError("the head converges with none of its penalties: verify the vectors")
    return tried


def _held_out(logits: Float, fold: Index, folds: NDArray[np.int64]) -> Float:
    """(n, L) softmax of each tile by the fit that lacked its fold; logits (1, C, n, F)."""
    own = np.searchsorted(folds, fold)
    z = logits[0][:, np.arange(len(fold)), own].T
    z = np.concatenate([np.zeros_like(z), z], axis=1) if z.shape[1] == 1 else z
    exp = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(exp / exp.sum(axis=1, keepdims=True))


def _judged(tried: Sequence[_Tried], fold: Index) -> Float:
    """(n, L): each fold by the penalty that is best on the others."""
    loss = np.stack([one.loss for one in tried])
    chosen = (loss.sum(axis=1, keepdims=True) - loss).argmin(axis=0)
    own = chosen[np.searchsorted(np.unique(fold), fold)]
    return np.asarray(np.stack([one.chances for one in tried])[own, np.arange(len(fold))])


def _mean(fits: Solution) -> Solution:
    """The mean of the folds' fits, near the fit to all."""
    w, free = fits
    return w.mean(axis=3, keepdims=True), free.mean(axis=2, keepdims=True)
