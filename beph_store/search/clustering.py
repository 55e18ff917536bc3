"""k-means of embeddings by direction: kinds of tissue that nobody named."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import SearchError
from beph_store.halves import widened

_CHUNK = 8192


@dataclass(frozen=True, slots=True, eq=False)
class Clustering:
    """``mean`` (D,) of the sample; ``centres`` (k, D) among unit vectors seen from it, the largest cluster first;
    ``share`` (k,) of the sample; ``exemplar`` (k,) int64, the row of the sample nearest to each centre. float32.
    """

    mean: NDArray[np.float32]
    centres: NDArray[np.float32]
    share: NDArray[np.float32]
    exemplar: NDArray[np.int64]

    def of(self, vectors: NDArray[np.floating]) -> NDArray[np.int32]:
        """(N,) the cluster of each vector (N, D)."""
        out = np.empty(len(vectors), np.int32)
        half = (self.centres * self.centres).sum(axis=1) / 2
        for at in range(0, len(vectors), _CHUNK):
            unit = _directions(vectors[at : at + _CHUNK], self.mean)
            out[at : at + _CHUNK] = (unit @ self.centres.T - half).argmax(axis=1)
        return out


def cluster(sample: NDArray[np.floating], k: int, *, seed: int = 0) -> Clustering:
    """k-means of the directions of ``sample`` (n, D) from its mean, best of three starts; 0 is the largest cluster.

    Directions, because embeddings lie in a narrow cone whose axis drowns what differs. Fewer than ``k`` clusters where
    the sample has fewer vectors.
    """
    from sklearn.cluster import MiniBatchKMeans  # half a second to import

    if k < 1 or not len(sample):
        raise SearchError("clusters need at least one vector, and at least 1 of them")
    mean = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
    unit = _directions(sample, mean)
    k = min(k, len(np.unique(unit[: 4 * k], axis=0)) if len(unit) <= 4 * k else k)
    means = MiniBatchKMeans(k, n_init=3, batch_size=2048, max_iter=60, random_state=seed).fit(unit)
    centres = np.asarray(means.cluster_centers_, np.float32)
    counts = np.bincount(
        Clustering(mean, centres, centres[:, 0], np.zeros(k, np.int64)).of(sample), minlength=k
    )
    order = np.argsort(-counts, kind="stable")[: max(1, int((counts > 0).sum()))]
    centres = np.ascontiguousarray(centres[order])
    half = (centres * centres).sum(axis=1) / 2
    near = unit @ centres.T - half
    own = near.argmax(axis=1)[:, None] == np.arange(len(order))
    exemplar = np.where(own, near, -np.inf).argmax(axis=0)
    share = (counts[order] / len(sample)).astype(np.float32)
    return Clustering(mean, centres, share, np.asarray(exemplar, np.int64))


def _directions(vectors: NDArray[np.floating], mean: NDArray[np.float32]) -> NDArray[np.float32]:
    moved = widened(vectors) - mean
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    return np.asarray(moved / np.maximum(length, np.finfo(np.float32).tiny), np.float32)
