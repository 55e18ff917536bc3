"""A little store to break."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from beph_store.records import EncoderSpec, Rasters, Recipe, SlideInfo, TileSet, TileSpec, TissueMask
from beph_store.store import RecipeWriter, SlideRow, Store

DIM = 16
TILE = TileSpec(tile_px=224, mpp=0.5, stride_px=224, tissue_min=0.25, tissue_method="otsu-saturation")
ENCODER = EncoderSpec(
    "toy", "v1", "0" * 64, 224, 0.5, DIM, "mean", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "fp32", "Apache-2.0"
)
RECIPE = Recipe(TILE, ENCODER)


def tile_set(slide_id: str, n: int) -> TileSet:
    side = 64
    origin = np.stack([np.arange(n) % side, np.arange(n) // side], axis=1).astype(np.int32) * 224
    return TileSet(slide_id, TILE, origin, 224, np.linspace(0.3, 1, n, dtype=np.float32))


def slide_info(slide_id: str, fingerprint: str = "f" * 64) -> SlideInfo:
    size = (64 * 224, 64 * 224)
    return SlideInfo(slide_id, f"/slides/{slide_id}", size, 0.5, 0.5, "vendor", (size,), fingerprint)


def vectors(slide_id: str, n: int) -> np.ndarray:
    seed = int.from_bytes(slide_id.encode()[:4], "little")
    return np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)


def rasters() -> Rasters:
    mask = TissueMask(np.ones((12, 10), bool), 8.0, 8.0, "otsu-saturation")
    return Rasters(np.full((12, 10, 3), 200, np.uint8), mask)


def seal(
    writer: RecipeWriter, slide_id: str, n: int, *, lost: tuple[int, ...] = (), **row: object
) -> SlideRow:
    """Everything from the claim to the sealed fragment."""
    claim = writer.claim(slide_id)
    assert claim is not None
    spool = writer.open_spool(claim, slide_info(slide_id), tile_set(slide_id, n))
    todo = np.flatnonzero(~spool.done).astype(np.int32)
    ok = ~np.isin(todo, lost)
    spool.add(todo, ok, vectors(slide_id, n)[todo])
    return writer.seal(claim, rasters(), SlideRow(writer.key, slide_id, "done", **row))  # type: ignore[arg-type]


def crash(writer: RecipeWriter) -> None:
    """What the system does for a process that dies: its locks are freed, nothing else happens."""
    for claim in writer._claims.values():
        claim.lock.release(force=True)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "S", written_by="test")


@pytest.fixture
def new_writer(store: Store) -> Callable[..., RecipeWriter]:
    def make(run: str = "run") -> RecipeWriter:
        return store.writer(RECIPE, run=run, encoder_source="toy", parity={})

    return make


@pytest.fixture
def writer(new_writer: Callable[..., RecipeWriter]) -> RecipeWriter:
    return new_writer()
