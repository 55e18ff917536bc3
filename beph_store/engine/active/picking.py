"""Which of many tiles a person should label next: arrays in, positions out.

* `typical`, before there is a head: tiles in the middle of groups that hold no label yet, the largest groups first. The
  method is that of TypiClust (Hacohen, Dekel & Weinshall, ICML 2022), which found that a head that knows nothing learns
  most from what is common, and only later from what is odd; here the most typical of a k-means cluster is the one
  nearest to its centre.
* `k_centre`, the other way to begin: each tile as far as possible from all that is labelled or taken (greedy, Gonzalez,
  Theoretical Computer Science 1985; to choose what to label, Sener & Savarese, ICLR 2018). It finds folds, pen and
  edges first; `benchmarks/bench_active.py` compares.
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

from beph_store.halves import widened

Float32 = NDArray[np.float32]
Index = NDArray[np.int64]

_BLOCK = 512
_GROUPS = 200


def directions(vectors: NDArray[np.floating], centre: NDArray[np.floating]) -> Float32:
    """(n, D) float32 of unit length: where each vector lies seen from ``centre``; a vector at it stays zero."""
    moved = widened(vectors) - widened(centre)
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


def typical(pool: Float32, labelled: Float32, count: int, seed: int) -> Index:
    """Up to ``count`` positions in ``pool`` (n, D), unit vectors, that stand for groups without a tile of ``labelled``.

    Pool and labelled tiles are clustered into as many groups as there are labelled tiles and ``count`` together, at
    most ``_GROUPS``; where too few are without a label, the largest others follow.
    """
    from sklearn.cluster import MiniBatchKMeans  # half a second to import

    count = min(count, len(pool))
    groups = min(len(pool), max(count, min(count + len(labelled), _GROUPS)))
    means = MiniBatchKMeans(groups, n_init=3, batch_size=2048, max_iter=40, random_state=seed)
    means.fit(np.concatenate([pool, labelled]) if len(labelled) else pool)
    centres = np.asarray(means.cluster_centers_, np.float32)
    half = (centres * centres).sum(axis=1) / 2
    near = pool @ centres.T - half
    taken_by = (labelled @ centres.T - half).argmax(axis=1)
    group = near.argmax(axis=1)
    size = np.bincount(group, minlength=groups)
    known = np.bincount(taken_by, minlength=groups) > 0
    order = [g for g in np.lexsort((np.arange(groups), -size, known)).tolist() if size[g]]
    chosen = [int(np.flatnonzero(group == g)[near[group == g, g].argmax()]) for g in order[:count]]
    # Groups that ran empty, as where tiles are all alike: what is farthest from all that is taken.
    rest = np.setdiff1d(np.arange(len(pool)), chosen)
    more = k_centre(pool[rest], np.concatenate([labelled, pool[chosen]]), count - len(chosen))
    return np.array([*chosen, *rest[more].tolist()], np.int64)


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
