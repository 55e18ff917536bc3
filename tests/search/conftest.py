"""Small tables that look like the store's: a flat one, and the Lance table that it was copied from."""

from dataclasses import dataclass
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

DIM = 64


@dataclass(frozen=True)
class Flat:
    slide_ids: tuple[str, ...]
    spans: np.ndarray
    tile_index: np.ndarray
    vectors: np.ndarray


def clustered(rows: int, seed: int, dim: int = DIM) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((40, dim)) + 0.7
    return (centres[rng.integers(0, 40, rows)] + 0.5 * rng.standard_normal((rows, dim))).astype(np.float16)


def append(
    path: Path, slide_id: str, vectors: np.ndarray, missing: int = 0, ingest_id: str | None = None
) -> None:
    """One slide as the store writes it; its first ``missing`` tiles could not be read."""
    n, dim = vectors.shape
    null = np.arange(n) < missing
    table = pa.table(
        {
            "slide_id": [slide_id] * n,
            "tile": pa.array(range(n), pa.int32()),
            "read_status": ["unreadable" if bad else "ok" for bad in null],
            "embedding": pa.FixedSizeListArray.from_arrays(
                pa.array(vectors.ravel()), dim, mask=pa.array(null)
            ),
            "ingest_id": [ingest_id or f"ingest of {slide_id}"] * n,
        }
    )
    exists = (path / "_versions").exists()
    lance.write_dataset(table, path, mode="append" if exists else "create", data_storage_version="2.2")


def flat_of(slides: list[tuple[str, np.ndarray]], missing: int = 0) -> Flat:
    """What the store's flat cache says of slides in this order, unreadable tiles left out."""
    sizes = [len(vectors) - missing for _, vectors in slides]
    stops = np.cumsum(sizes)
    return Flat(
        tuple(name for name, _ in slides),
        np.stack([stops - sizes, stops], 1).astype(np.int64),
        np.concatenate([np.arange(missing, len(vectors), dtype=np.int32) for _, vectors in slides]),
        np.concatenate([vectors[missing:] for _, vectors in slides]),
    )


@pytest.fixture
def small(tmp_path):
    """(table path, flat): 12 slides of 500 tiles, the first 3 of each unreadable; one id holds a quote."""
    path = tmp_path / "tiles.lance"
    slides = [(f"s{n:02d}'x.svs", clustered(500, n)) for n in range(12)]
    for name, vectors in slides:
        append(path, name, vectors, missing=3)
    return path, flat_of(slides, missing=3)
