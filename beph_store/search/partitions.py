"""The partitions of an index: their centroids, and which one every vector belongs to.

Both are done here because Lance's own ways are slow: its k-means takes minutes where this takes seconds, and it
compares float16 vectors with centroids one by one, where a product of matrices is about fifty times as quick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans

from beph_store.errors import SearchError
from beph_store.halves import widened

_ROWS = 8192
_SCHEMA = pa.schema([("row_id", pa.uint64()), ("partition", pa.uint32())])


def centroids(vectors: NDArray[np.float16], partitions: int) -> NDArray[np.float32]:
    """Directions (partitions, D), unit length, by k-means on a sample (n, D) of unit vectors.

    Vectors that are zero or not finite are left out. SearchError for fewer than ``partitions``.
    """
    wide = widened(vectors)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    good = np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)
    wide = wide[good] / lengths[good]
    if len(wide) < partitions:
        raise SearchError(f"{len(wide)} sample vectors for {partitions} partitions: plan fewer, or pass more")
    means = MiniBatchKMeans(
        partitions,
        init="random",
        n_init=1,
        batch_size=4096,
        max_iter=20,
        random_state=0,
        compute_labels=False,
    ).fit(wide)
    found = np.asarray(means.cluster_centers_, np.float32)
    return np.asarray(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12), np.float32)


def nearest(vectors: NDArray[np.float16], means: NDArray[np.float32]) -> NDArray[np.uint32]:
    """(n,) which of ``means`` (P, D), of unit length, each of ``vectors`` (n, D) has the largest cosine with.

    A vector's own length does not change that. One that is zero belongs to the first.
    """
    return np.asarray((widened(vectors) @ means.T).argmax(axis=1), np.uint32)


@contextmanager
def assigned(
    table: Any, column: str, means: NDArray[np.float32], progress: Callable[[int, int], None] | None = None
) -> Iterator[Path]:
    """A small table on disk, while the context lasts, of every row's partition, as Lance takes it: row_id, partition.

    ``table`` is a Lance dataset whose ``column`` holds the vectors; rows without one, or with one that is not finite,
    are left out, as Lance leaves them out of its index. ``progress`` is told rows done and in all.
    """
    total = int(table.count_rows())
    done = 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal done
        for batch in table.to_batches(columns=[column], with_row_id=True, batch_size=_ROWS):
            rows, vectors = _vectors(batch, column)
            done += batch.num_rows
            if progress is not None:
                progress(done, total)
            yield pa.RecordBatch.from_arrays(
                [pa.array(rows), pa.array(nearest(vectors, means))], schema=_SCHEMA
            )

    with TemporaryDirectory(prefix="beph-store-index-") as folder:
        path = Path(folder) / "partitions.lance"
        # One file: Lance reads no more than that of it.
        lance.write_dataset(batches(), path, schema=_SCHEMA, max_rows_per_file=max(total, 1))
        yield path


def _vectors(batch: pa.RecordBatch, column: str) -> tuple[NDArray[np.uint64], NDArray[np.float16]]:
    """Row ids (n,) and vectors (n, D) of those rows that have a finite one."""
    held = batch.column(column)
    rows = batch.column("_rowid").to_numpy()
    if held.null_count:
        keep = held.is_valid().to_numpy(zero_copy_only=False)
        rows, held = rows[keep], held.drop_null()
    vectors = held.flatten().to_numpy(zero_copy_only=False).reshape(len(held), -1)
    finite = np.isfinite(vectors).all(axis=1)
    return (rows, vectors) if finite.all() else (rows[finite], vectors[finite])
