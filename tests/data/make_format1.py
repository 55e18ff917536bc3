"""Makes ``format1/``: a small store of format 1 that every later version must open, and what it has to find there.

    python tests/data/make_format1.py FOLDER

It was run once, by the version that first wrote format 1 (0.1.0), and its result is in the repository. Do not run it
again into ``tests/data``: a store written today proves nothing about stores written then. For format 2 write another.

The slides are drawn; the encoder takes the mean and the spread of each colour, so that a reader can test vectors
against kept pixels with three lines of NumPy.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from datetime import timedelta
from pathlib import Path

import lance
import numpy as np
from numpy.typing import NDArray

from beph_store.engine.active.labels import LabelBook, SlideMark, TileMark
from beph_store.engine.study.kept import keep_table
from beph_store.records import EncoderSpec, Rasters, Recipe, SlideInfo, TileSet, TileSpec, TissueMask
from beph_store.store import RecipeWriter, SlideRow, Store
from beph_store.store.journal import Journal
from beph_store.store.pixels import pack
from beph_store.testing.synthetic import SlidePlan, draw
from beph_store_kernels import resize_area

SIDE, TILE_PX, FOOTPRINT = 2048, 16, 256  # level-0 px of a slide, px of a tile, level-0 px of a tile
DIM = 6
FULL = TileSpec(TILE_PX, 8.0, TILE_PX, 0.25, "otsu-saturation")
SPARSE = TileSpec(TILE_PX, 8.0, 2 * TILE_PX, 0.0, "none", limit=4)
ENCODER = EncoderSpec(
    name="colour-moments",
    variant="v1",
    weights_sha256=hashlib.sha256(b"colour-moments").hexdigest(),
    tile_px=TILE_PX,
    mpp=8.0,
    dim=DIM,
    pooling="none",
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    precision="fp32",
    licence="Apache-2.0",
)
ALPHA, BETA, GAMMA = "a/alpha.svs", "beta.svs", "gamma 'é' \u7d30\u80de.svs"


def encode(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(B, 6) float32: mean and standard deviation of each colour of (B, H, W, 3) tiles, over 255."""
    pixels = tiles.astype(np.float32) / 255
    return np.concatenate([pixels.mean(axis=(1, 2)), pixels.std(axis=(1, 2))], axis=1)


def overview(seed: int) -> NDArray[np.uint8]:
    """(128, 128, 3) of a drawn slide at 8 µm/px, which is the tiles' own scale."""
    plan = SlidePlan(size=(SIDE, SIDE), seed=seed, tumour=0.4, nuisances=())
    return np.asarray(resize_area(draw(plan, 0, 0, SIDE, SIDE), (128, 128)), np.uint8)


def tile_set(slide_id: str, spec: TileSpec, count: int) -> TileSet:
    """``count`` tiles row by row."""
    step = spec.stride_px * FOOTPRINT // TILE_PX
    across = SIDE // step
    index = np.arange(count)
    origin = np.stack([index % across, index // across], axis=1).astype(np.int32) * step
    return TileSet(slide_id, spec, origin, FOOTPRINT, np.linspace(0.3, 1, count, dtype=np.float32))


def cut(picture: NDArray[np.uint8], tiles: TileSet) -> NDArray[np.uint8]:
    """(N, 16, 16, 3) of the tiles."""
    corners = tiles.origin_l0 * TILE_PX // FOOTPRINT
    return np.stack([picture[y : y + TILE_PX, x : x + TILE_PX] for x, y in corners])


def write(
    writer: RecipeWriter, slide_id: str, seed: int, count: int, *, lost: tuple[int, ...] = (), **row: object
) -> NDArray[np.float32]:
    """A whole slide, from claim to seal; its vectors."""
    picture = overview(seed)
    tiles = tile_set(slide_id, writer.recipe.tile, count)
    size = (SIDE, SIDE)
    fingerprint = hashlib.sha256(picture.tobytes()).hexdigest()
    info = SlideInfo(slide_id, f"slides/{slide_id}", size, 0.5, 0.5, "tiff", (size,), fingerprint)
    claim = writer.claim(slide_id)
    assert claim is not None
    spool = writer.open_spool(claim, info, tiles)
    index = np.arange(count, dtype=np.int32)
    ok = ~np.isin(index, lost)
    pixels = cut(picture, tiles) if count else np.zeros((0, TILE_PX, TILE_PX, 3), np.uint8)
    vectors = encode(pixels) if count else np.zeros((0, DIM), np.float32)
    if count:
        spool.keep(index[ok], pack(pixels[ok]))
        spool.add(index, ok, vectors)
    mask = TissueMask(picture.min(axis=2) < 225, 16.0, 16.0, writer.recipe.tile.tissue_method)
    row = {"file_bytes": 1234567, "file_mtime_ns": 1_700_000_000_000_000_000, "seconds": 1.5} | row
    thumbnail = np.ascontiguousarray(picture[::2, ::2])
    made = SlideRow(writer.key, slide_id, "done", reader="tiled-jpeg", **row)  # type: ignore[arg-type]
    writer.seal(claim, Rasters(thumbnail, TissueMask(mask.mask[::2, ::2], 16.0, 16.0, mask.method)), made)
    return vectors


def main(folder: Path) -> None:
    """Write the store and ``expected.json``."""
    root = folder / "format1"
    shutil.rmtree(root, ignore_errors=True)
    store = Store.create(root / "S", written_by="beph-store 0.1.0")
    full, sparse = Recipe(FULL, ENCODER), Recipe(SPARSE, ENCODER)
    parity = {"fp32": {"kind": "exact", "mean": 1.0, "minimum": 1.0, "neighbours": 1.0, "tiles": 64}}
    writer = store.writer(
        full, run="20261126T000000-abcdef", encoder_source="colour-moments", parity=parity, keep_tiles=True
    )
    write(writer, BETA, 2, 9, case_id="case-2")  # replaced below
    writer.publish(force=True)
    old = store.slide(full.key, BETA).ingest_id
    vectors = {BETA: write(writer, BETA, 3, 12, case_id="case-2", replaces=old)}
    vectors[ALPHA] = write(writer, ALPHA, 1, 40, lost=(7,), case_id="case-1")
    vectors[GAMMA] = write(writer, GAMMA, 4, 5, case_id="case-3")
    write(writer, "empty.svs", 5, 0, case_id="case-4")
    writer.fail(
        "bad.svs", SlideRow(full.key, "bad.svs", "failed", error="bad.svs is empty", path="slides/bad.svs")
    )
    writer.close()
    writer = store.writer(sparse, run="20261126T000002-abcdef", encoder_source="colour-moments", parity={})
    write(writer, ALPHA, 1, 4, case_id="case-1")
    writer.close()
    unfinished(store, full)
    people(store, full.key)
    runs = store.layout.runs
    runs.mkdir(exist_ok=True)
    record = {"run": "20261126T000000-abcdef", "state": "ended", "recipe": full.key, "tiles": 66}
    (runs / "20261126T000000-abcdef.json").write_text(json.dumps(record, indent=2, sort_keys=True))
    # A merge leaves 66 kB of old manifest and transaction; of the registry the newest version is enough here.
    lance.dataset(str(store.layout.registry)).cleanup_old_versions(
        older_than=timedelta(0), delete_unverified=True
    )
    shutil.rmtree(root / "S" / "locks")
    for lock in (root / "S").rglob("*.lock"):
        lock.unlink()
    expected(root, store, full, sparse, vectors)


def unfinished(store: Store, recipe: Recipe) -> None:
    """A slide that an interrupted run left half done: four of ten tiles."""
    writer = store.writer(recipe, run="stopped", encoder_source="colour-moments", parity={})
    tiles = tile_set("delta.svs", recipe.tile, 10)
    info = SlideInfo(
        "delta.svs", "slides/delta.svs", (SIDE, SIDE), 0.5, 0.5, "tiff", ((SIDE, SIDE),), "d" * 64
    )
    claim = writer.claim("delta.svs")
    assert claim is not None
    spool = writer.open_spool(claim, info, tiles)
    spool.add(np.arange(4, dtype=np.int32), np.ones(4, bool), encode(cut(overview(6), tiles)[:4]))
    writer.release("delta.svs")


def people(store: Store, key: str) -> None:
    """What people said: a journal of labels, with an action that was taken back, and a table that was uploaded."""
    book = LabelBook(Journal(store.layout.annotations(key)))
    book.mark(
        "Ann",
        [TileMark(ALPHA, 3, 3 * FOOTPRINT, 0, "tumour"), TileMark(ALPHA, 9, FOOTPRINT, FOOTPRINT, "other")],
    )
    book.mark("Ben", [SlideMark(BETA, "grade", "high")])
    book.mark("Ann", [TileMark(ALPHA, 3, 3 * FOOTPRINT, 0, "stroma")])
    book.undo("tiles", "Ann")
    table = f'slide_id,case_id,label\n{ALPHA},case-1,x\n{BETA},case-2,y\n"{GAMMA}",case-3,x\n'
    keep_table(store, table.encode(), ".csv", "labels.csv")


def expected(
    root: Path, store: Store, full: Recipe, sparse: Recipe, vectors: dict[str, NDArray[np.float32]]
) -> None:
    """What a reader has to find."""
    slides = {}
    for row in store.registry.rows():
        fields = ("status", "tiles", "unreadable", "case_id", "sha256", "pixels_sha256", "ingest_id", "error")
        slides[row.key] = {name: getattr(row, name) for name in fields}
    data = {
        "full": full.key,
        "sparse": sparse.key,
        "slides": slides,
        "vectors": {name: rows.astype(np.float16).astype(float).tolist() for name, rows in vectors.items()},
        "nearest": {"at": [ALPHA, 40, 40], "exclude": "slide"},
    }
    (root / "expected.json").write_text(json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
