"""Small stores of known tiles on known tissue, written without a slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from beph_store.records import EncoderSpec, Rasters, Recipe, SlideInfo, TileSet, TileSpec, TissueMask
from beph_store.store import SlideRow, Store

DIM = 12
SIDE = 448
COLUMNS, ROWS = 10, 8
SIZE = (COLUMNS * SIDE + 37, ROWS * SIDE + 11)
SPEC = TileSpec(tile_px=224, mpp=0.5, stride_px=224, tissue_min=0.25, tissue_method="otsu-saturation")


def encoder(name: str = "toy") -> EncoderSpec:
    return EncoderSpec(
        name, "v1", "0" * 64, 224, 0.5, DIM, "mean", (0.0,) * 3, (1.0,) * 3, "fp32", "Apache-2.0"
    )


RECIPE = Recipe(SPEC, encoder())


def tissue() -> TissueMask:
    """Two pieces, the larger with a hole; 140 × 112 px at 8 µm and a little."""
    mask = np.zeros((112, 140), bool)
    mask[4:100, 6:90] = True
    mask[40:60, 30:50] = False
    mask[20:80, 104:134] = True
    return TissueMask(mask, SIZE[0] * 0.25 / 140, SIZE[1] * 0.25 / 112, "otsu-saturation")


def tiles_of(slide_id: str) -> TileSet:
    """The tiles whose middle is tissue, in raster order; ``tissue`` is not the same for any two."""
    mask = tissue().mask
    places = [
        (x * SIDE, y * SIDE)
        for y in range(ROWS)
        for x in range(COLUMNS)
        if mask[int((y + 0.5) * SIDE / SIZE[1] * 112), int((x + 0.5) * SIDE / SIZE[0] * 140)]
    ]
    origin = np.array(places, np.int32)
    return TileSet(slide_id, SPEC, origin, SIDE, np.linspace(0.3, 1, len(origin), dtype=np.float32))


def vectors_of(slide_id: str, n: int) -> np.ndarray:
    """(n, DIM) float32 that float16 holds exactly."""
    seed = sum(map(ord, slide_id))
    return np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float16).astype(np.float32)


def grow(
    folder: Path,
    slides: tuple[str, ...] = ("a.svs", "b.svs"),
    *,
    lost: tuple[int, ...] = (),
    recipe: Recipe = RECIPE,
) -> Store:
    """A store in ``folder/S``; the tiles ``lost`` of every slide could not be read."""
    store = Store.create(folder / "S", written_by="test")
    writer = store.writer(recipe, run="test", encoder_source="toy", parity={})
    for slide_id in slides:
        claim = writer.claim(slide_id)
        assert claim is not None
        tiles = tiles_of(slide_id)
        info = SlideInfo(slide_id, f"/slides/{slide_id}", SIZE, 0.25, 0.25, "vendor", (SIZE,), "f" * 64)
        spool = writer.open_spool(claim, info, tiles)
        index = np.arange(len(tiles), dtype=np.int32)
        spool.add(index, ~np.isin(index, lost), vectors_of(slide_id, len(tiles)))
        look = np.where(tissue().mask[..., None], (200, 120, 170), 245).astype(np.uint8)
        row = SlideRow(writer.key, slide_id, "done", case_id=f"case-{slide_id.split('.')[0]}")
        writer.seal(claim, Rasters(look, tissue()), row)
    writer.publish()
    writer.close()
    return store
