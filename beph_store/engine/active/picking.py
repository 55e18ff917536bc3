"""Which of many tiles a person should label next: arrays in, positions out.

* `k_centre`, before there is a head: each tile as far as possible from all that is labelled or taken. Greedy k-centre
  is Gonzalez (Theoretical Computer Science 1985); as a way to choose what to label, Sener & Savarese (ICLR 2018).
* `badge`, with a head: uncertain and unlike each other at once. The method is BADGE (Ash, Zhang, Krishnamurthy,
  Langford & Agarwal, ICLR 2020): the gradient of the loss by the head's weights, had the head been right with what it
  takes for the truth, is long where the head is unsure and points where it would learn something; k-means++ (Arthur &
  Vassilvitskii, SODA 2007) draws long ones that differ. Two things are ours: the embeddings are centred and of unit
  length, so that an odd tile is not taken for an uncertain one; and the origin counts as taken, because the gradients
  of all that the head is sure of lie there and one of them would be drawn for them all.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Index = NDArray[np.int64]

_BLOCK = 512


def directions(vectors: NDArray[np.floating], centre: NDArray[np.floating]) -> Float32:
    """(n, D) float32 of unit length: where each vector lies seen from ``centre``; a vector at it stays zero."""
    moved = vectors.astype(np.float32) - centre.astype(np.float32)
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    return np.asarray(moved / np.maximum(length, np.finfo(np.float32).tiny), np.float32)


def k_centre(pool: Float32, labelled: Float32, count: int) -> Index:
    """Up to ``count`` positions in ``pool`` (n, D), unit vectors: each the one farthest from ``labelled`` (L, D) and
    all taken before. Where nothing is labelled the first is the one most like all others.
    """
    count = min(count, len(pool))
    nearest = np.full(len(pool), -np.inf, np.float32)  # the largest cosine with what is there
    for at in range(0, len(labelled), _BLOCK):
        np.maximum(nearest, (pool @ labelled[at : at + _BLOCK].T).max(axis=1), out=nearest)
    taken: list[int] = []
    for _ in range(count):
        first = not taken and not len(labelled)
        best = int((pool @ pool.mean(axis=0)).argmax()) if first else int(nearest.argmin())
        taken.append(best)
        np.maximum(nearest, pool @ pool[best], out=nearest)
        nearest[best] = np.inf
    return np.array(taken, np.int64)


def badge(pool: Float32, probabilities: NDArray[np.floating], count: int, seed: int) -> Index:
    """Up to ``count`` positions in ``pool`` (n, D), unit vectors, whose classes have these ``probabilities`` (n, K).

    The first has the longest gradient, each other is drawn with a chance that grows with the square of its distance
    from the origin and all taken. The gradients, outer products of K by D numbers, are never made: their products are
    products of products.
    """
    count = min(count, len(pool))
    error = probabilities.astype(np.float32).copy()
    error[np.arange(len(error)), error.argmax(axis=1)] -= 1
    square = (error * error).sum(axis=1) * (pool * pool).sum(axis=1)
    away = square.astype(np.float64)
    rng = np.random.default_rng(seed)
    taken: list[int] = []
    for _ in range(count):
        total = np.cumsum(away)
        if not taken:
            best = int(away.argmax())
        elif total[-1] > 0:
            best = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
        else:  # the head is sure of all that is left: anything that is not taken
            best = int(np.setdiff1d(np.arange(len(pool)), taken)[0])
        best = min(best, len(pool) - 1)
        taken.append(best)
        product = (error @ error[best]) * (pool @ pool[best])
        np.minimum(away, np.maximum(square + square[best] - 2 * product, 0), out=away)
        away[taken] = 0
    return np.array(taken, np.int64)


def uncertainty(probabilities: NDArray[np.floating]) -> Float32:
    """(n,) 0–1 of chances (n, K): 1 where the two likeliest classes are equally likely, 0 where one is certain."""
    two = np.sort(probabilities, axis=1)[:, -2:]
    return np.asarray(1 - (two[:, 1] - two[:, 0]), np.float32)
