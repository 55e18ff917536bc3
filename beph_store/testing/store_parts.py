"""What goes into a store in tests, without a slide or an encoder: tiles, vectors and rasters made from a slide's id."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from beph_store.records import EncoderSpec, Rasters, Recipe, SlideInfo, TileSet, TileSpec, TissueMask
from beph_store.store import ClaimedSlide, RecipeWriter, SlideRow, Store, pack
from beph_store.store.sealing import Sealing
from beph_store.store.staging import Spool

DIM, SIDE_PX = 16, 24
TILE = TileSpec(tile_px=SIDE_PX, mpp=0.5, stride_px=SIDE_PX, tissue_min=0.25, tissue_method="otsu-saturation")
ENCODER = EncoderSpec(
    "toy", "v1", "0" * 64, SIDE_PX, 0.5, DIM, "mean", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "fp32", "Apache-2.0"
)
RECIPE = Recipe(TILE, ENCODER)
KEY = RECIPE.key


def writer_of(store: Store, run: str = "run", *, keep_tiles: bool = False) -> RecipeWriter:
    """A writer under ``RECIPE``."""
    return store.writer(RECIPE, run=run, encoder_source="toy", parity={}, keep_tiles=keep_tiles)


def tiles_of(slide_id: str, n: int) -> TileSet:
    """A grid of ``n`` tiles."""
    origin = np.stack([np.arange(n) % 64, np.arange(n) // 64], axis=1).astype(np.int32) * SIDE_PX
    return TileSet(slide_id, TILE, origin, SIDE_PX, np.linspace(0.3, 1, n, dtype=np.float32))


def info_of(slide_id: str) -> SlideInfo:
    """What a reader would say of the slide."""
    size = (64 * SIDE_PX, 64 * SIDE_PX)
    return SlideInfo(slide_id, f"/slides/{slide_id}", size, 0.5, 0.5, "vendor", (size,), "f" * 64)


def vectors_of(slide_id: str, n: int, version: int = 0) -> NDArray[np.float32]:
    """(n, DIM), others for each slide and each ``version`` of it."""
    seed = zlib.crc32(f"{slide_id} {version}".encode())
    return np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)


def pixels_of(slide_id: str, n: int) -> NDArray[np.uint8]:
    """(n, SIDE_PX, SIDE_PX, 3) of the tiles."""
    seed = zlib.crc32(slide_id.encode())
    return np.random.default_rng(seed).integers(0, 255, (n, SIDE_PX, SIDE_PX, 3)).astype(np.uint8)


def rasters_of(grey: int = 200) -> Rasters:
    """A thumbnail of that grey, and a mask."""
    mask = TissueMask(np.ones((12, 10), bool), 8.0, 8.0, "otsu-saturation")
    return Rasters(np.full((12, 10, 3), grey, np.uint8), mask)


def sealing_of(slide_id: str, n: int, run: str = "run") -> Sealing:
    """What `seal_slide` is given."""
    return Sealing(info_of(slide_id), tiles_of(slide_id, n), rasters_of(), row_of(slide_id), run)


def row_of(slide_id: str, replaces: str | None = None) -> SlideRow:
    """What the engine says of a finished slide."""
    return SlideRow(KEY, slide_id, "done", replaces=replaces)


def claimed(writer: RecipeWriter, slide_id: str) -> ClaimedSlide:
    """The claim on a slide; it must be free."""
    claim = writer.claim(slide_id)
    assert claim is not None, f"{slide_id} is held by another"
    return claim


def fill(
    writer: RecipeWriter, claim: ClaimedSlide, n: int, *, lost: tuple[int, ...] = (), version: int = 0
) -> Spool:
    """Give a claimed slide the vectors, and pixels where it keeps them, of every tile that it lacks."""
    spool = writer.open_spool(claim, info_of(claim.slide_id), tiles_of(claim.slide_id, n))
    todo = np.flatnonzero(~spool.done).astype(np.int32)
    ok = ~np.isin(todo, lost)
    spool.keep(todo[ok], pack(pixels_of(claim.slide_id, n)[todo[ok]]))
    spool.add(todo, ok, vectors_of(claim.slide_id, n, version)[todo])
    return spool


def seal(
    writer: RecipeWriter,
    slide_id: str,
    n: int,
    *,
    lost: tuple[int, ...] = (),
    version: int = 0,
    replaces: str | None = None,
) -> SlideRow:
    """Everything from the claim to the sealed fragment."""
    claim = claimed(writer, slide_id)
    fill(writer, claim, n, lost=lost, version=version)
    return writer.seal(claim, rasters_of(), row_of(slide_id, replaces))
