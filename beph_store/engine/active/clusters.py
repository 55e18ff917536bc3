"""Clusters of a whole recipe: the same number means the same kind of tile on every slide."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beph_store.engine.active.threads import one_thread
from beph_store.engine.search.table import SearchTable
from beph_store.errors import SearchError, StoreError
from beph_store.search.clustering import Clustering, cluster
from beph_store.store.durable import write_atomic

#: Tiles that the k-means looks at.
SAMPLE = 20_000
MOST = 32
#: Version of the method and of its file: another one is made again.
_FORMAT = 1


@dataclass(frozen=True, slots=True, eq=False)
class RecipeClusters:
    """``clustering`` of ``sample`` of the ``tiles`` of a recipe; ``exemplar`` (k,) rows of the table, typical tiles.

    ``kept``: where it lies in the store, None where it could not be written.
    """

    clustering: Clustering
    exemplar: NDArray[np.int64]
    sample: int
    tiles: int
    kept: Path | None

    @property
    def k(self) -> int:
        """How many clusters there are; fewer than asked for where the recipe has fewer tiles."""
        return len(self.clustering.centres)


def recipe_clusters(table: SearchTable, k: int = 8, *, seed: int = 0) -> RecipeClusters:
    """k-means of up to 20,000 tiles of the recipe, found in the store's cache or made and put there.

    Number 0 is the largest cluster. The same recipe with the same slides gives the same clusters; one that has grown is
    clustered anew. ``clusters.clustering.of(vectors)`` numbers any embeddings of the recipe.

    >>> table = open_table("S")
    >>> found = recipe_clusters(table, 8)
    >>> numbers = found.clustering.of(table.flat.vectors[table.span(table.slide("a.svs"))])
    """
    if not 2 <= k <= MOST:
        raise SearchError(f"{k} clusters: ask for 2 to {MOST}")
    flat = table.flat
    if not len(flat):
        raise SearchError("the recipe has no tile to cluster: ingest slides under it first")
    rows = np.arange(len(flat), dtype=np.int64)
    if len(rows) > SAMPLE:
        rows = np.sort(np.random.default_rng(seed).choice(rows, SAMPLE, replace=False))
    sample = np.asarray(flat.vectors[rows])
    digest = hashlib.sha256(json.dumps([_FORMAT, k, seed, flat.slide_ids, flat.spans.tolist()]).encode())
    digest.update(sample.tobytes())
    # Within the cache of the recipe, which a new copy of the vectors clears.
    path = table.store.layout.cache(flat.recipe_key) / "clusters" / f"{digest.hexdigest()[:16]}.npz"
    found = _read(path, sample.shape[1])
    kept: Path | None = path
    if found is None:
        with one_thread():
            found = cluster(sample, k, seed=seed)
        kept = _write(path, found)
    return RecipeClusters(found, rows[found.exemplar], len(rows), len(flat), kept)


def _read(path: Path, dim: int) -> Clustering | None:
    """What was kept; None where there is none that can be read: it is made again."""
    try:
        with np.load(path, allow_pickle=False) as data:
            found = Clustering(data["mean"], data["centres"], data["share"], data["exemplar"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
        return None
    k = len(found.share)
    fits = found.mean.shape == (dim,) and found.centres.shape == (k, dim) and found.exemplar.shape == (k,)
    return found if fits and k else None


def _write(path: Path, found: Clustering) -> Path | None:
    """A store that cannot be written has its clusters made again each time."""
    file = io.BytesIO()
    np.savez(file, mean=found.mean, centres=found.centres, share=found.share, exemplar=found.exemplar)
    with suppress(OSError, StoreError):
        write_atomic(path, file.getvalue())
        return path
    return None
