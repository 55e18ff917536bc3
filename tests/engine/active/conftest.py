"""A store that looks like tissue to a head: five kinds, one of them rare, in patches, each slide with its own stain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from beph_store.engine.active.labels import Label, Labels, TileMark
from beph_store.engine.active.places import marks_of
from beph_store.engine.search.table import SearchTable, open_table
from beph_store.records import EncoderSpec, Rasters, Recipe, SlideInfo, TileSet, TileSpec, TissueMask
from beph_store.store import SlideRow, Store

DIM = 48
SIDE = 16
KINDS = ("stroma", "fat", "muscle", "tumour", "necrosis")
SHARES = (0.55, 0.22, 0.14, 0.07, 0.02)
SPEC = TileSpec(tile_px=224, mpp=0.5, stride_px=224, tissue_min=0.0, tissue_method="none")


@dataclass(frozen=True)
class Tissue:
    """``kind`` (T,) the truth of each row of the table."""

    store: Path
    table: SearchTable
    kind: np.ndarray

    def labels(self, rows: Iterable[int], version: int = 1) -> Labels:
        """True labels of some rows, without a journal."""
        return label_rows(self.table, {int(row): KINDS[self.kind[row]] for row in rows}, version)


def label_rows(table: SearchTable, given: Mapping[int, str], version: int = 1) -> Labels:
    tiles = {}
    for number, (row, name) in enumerate(given.items()):
        (mark,) = marks_of(table, [row], name)
        assert isinstance(mark, TileMark)
        tiles[mark.subject] = Label(f"1.{number}", "Ann", "2026-01-01T00:00:00.000Z", mark)
    return Labels(version, tiles, classes=tuple(dict.fromkeys(given.values())))


def kinds_of(rng: np.random.Generator) -> np.ndarray:
    """(SIDE * SIDE,) kinds in patches: the shares vary from slide to slide, and a rare kind may be absent."""
    shares = rng.dirichlet(np.array(SHARES) * 12)
    field = gaussian_filter(rng.normal(size=(SIDE, SIDE)), 2.0)
    rank = np.argsort(np.argsort(field.ravel())) / field.size
    return np.searchsorted(np.cumsum(shares)[:-1], rank, side="right")


def grow(folder: Path, *, slides: int = 12, seed: int = 5) -> Tissue:
    """Slides, two a case; a tile near the border of a patch is a mixture, and every kind has three textures."""
    rng = np.random.default_rng(seed)
    spec = EncoderSpec("tissue", "t", "0" * 64, 224, 0.5, DIM, "none", (0.0,) * 3, (1.0,) * 3, "fp32", "none")
    store = Store.create(folder / "S", written_by="test")
    writer = store.writer(Recipe(SPEC, spec), run="test", encoder_source="test", parity={})
    centre = 2 * rng.normal(size=DIM)
    textures = rng.normal(size=(len(KINDS), 1, DIM)) + 0.7 * rng.normal(size=(len(KINDS), 3, DIM))
    truth = {}
    for number in range(slides):
        kind = kinds_of(rng)
        texture = rng.integers(0, 3, len(kind))
        stain = 0.35 * rng.normal(size=DIM)
        vectors = centre + textures[kind, texture] + stain + 0.8 * rng.normal(size=(len(kind), DIM))
        slide_id = f"c{number // 2:02d}/s{number % 2}.svs"
        truth[slide_id] = kind
        write_slide(writer, slide_id, f"c{number // 2:02d}", vectors.astype(np.float32))
    writer.close()
    table = open_table(folder / "S")
    return Tissue(folder / "S", table, np.concatenate([truth[name] for name in table.flat.slide_ids]))


def write_slide(writer, slide_id: str, case_id: str, vectors: np.ndarray) -> None:
    row, column = np.divmod(np.arange(len(vectors)), SIDE)
    origin = np.stack([column * 224, row * 224], axis=1).astype(np.int32)
    side = SIDE * 224
    info = SlideInfo(slide_id, "nowhere", (side, side), 0.5, 0.5, "declared", ((side, side),), "0" * 64)
    claim = writer.claim(slide_id)
    tiles = TileSet(slide_id, SPEC, origin, 224, np.ones(len(vectors), np.float32))
    spool = writer.open_spool(claim, info, tiles)
    spool.add(np.arange(len(vectors), dtype=np.int32), np.ones(len(vectors), bool), vectors)
    mask = TissueMask(np.ones((64, 64), bool), 28.0, 28.0, "none")
    row_ = SlideRow(writer.key, slide_id, "done", case_id=case_id, path="nowhere")
    writer.seal(claim, Rasters(np.full((64, 64, 3), 230, np.uint8), mask), row_)


@pytest.fixture(scope="session")
def tissue(tmp_path_factory) -> Tissue:
    """12 slides of 6 cases, 3,072 tiles. Read only."""
    return grow(tmp_path_factory.mktemp("tissue"))
