"""A store with something to learn in it, written tile by tile without a slide."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from beph_store.records import EncoderSpec, Rasters, Recipe, SlideInfo, TileSet, TileSpec, TissueMask
from beph_store.store import SlideRow, Store

DIM = 12
SPEC = TileSpec(tile_px=224, mpp=0.5, stride_px=224, tissue_min=0.0, tissue_method="none")


def encoder(name: str = "planted") -> EncoderSpec:
    return EncoderSpec(name, "test", "0" * 64, 224, 0.5, DIM, "none", (0.0,) * 3, (1.0,) * 3, "fp32", "none")


@dataclass(frozen=True)
class Planted:
    """``labels`` has slide_id, case_id, label, days, event; tumour cases hold tiles shifted along one axis."""

    store: Path
    labels: Path
    key: str


def plant(
    folder: Path, *, cases: int = 48, seed: int = 3, name: str = "planted", noise: float = 1.0
) -> Planted:
    """Half of the cases are tumour: a third of their tiles lie apart, and they die sooner."""
    rng = np.random.default_rng(seed)
    store = Store.create(folder / "S", written_by="test")
    writer = store.writer(Recipe(SPEC, encoder(name)), run="test", encoder_source="test", parity={})
    rows = []
    for case in range(cases):
        tumour = bool(case % 2)
        days = max(1, round(rng.exponential(300 if tumour else 1200)))
        event = bool(rng.random() < 0.7)
        for slide in range(1 + case % 3 // 2):
            slide_id = f"site{case % 4}/c{case:02d}-{slide}.svs"
            tiles = int(rng.integers(9, 25))
            vectors = rng.normal(size=(tiles, DIM)).astype(np.float32) * noise
            if tumour:
                vectors[: tiles // 3, 0] += 4
            _write(writer, slide_id, vectors)
            rows.append([slide_id, f"c{case:02d}", "tumour" if tumour else "normal", days, int(event)])
    writer.close()
    labels = folder / "labels.csv"
    with labels.open("w", newline="") as file:
        csv.writer(file).writerows([["slide_id", "case_id", "label", "days", "event"], *rows])
    return Planted(folder / "S", labels, writer.key)


def _write(writer, slide_id: str, vectors: np.ndarray) -> None:
    n = len(vectors)
    columns = int(np.ceil(np.sqrt(n)))
    row, column = np.divmod(np.arange(n), columns)
    origin = np.stack([column * 224, row * 224], axis=1).astype(np.int32)
    side = columns * 224
    info = SlideInfo(slide_id, "nowhere", (side, side), 0.5, 0.5, "declared", ((side, side),), "0" * 64)
    claim = writer.claim(slide_id)
    spool = writer.open_spool(claim, info, TileSet(slide_id, SPEC, origin, 224, np.ones(n, np.float32)))
    spool.add(np.arange(n, dtype=np.int32), np.ones(n, bool), vectors)
    mask = TissueMask(np.ones((columns * 8, columns * 8), bool), 14.0, 14.0, "none")
    thumbnail = np.full((columns * 8, columns * 8, 3), 230, np.uint8)
    writer.seal(claim, Rasters(thumbnail, mask), SlideRow(writer.key, slide_id, "done", path="nowhere"))


@pytest.fixture(scope="session")
def planted(tmp_path_factory) -> Planted:
    """48 cases, 64 slides. Read only."""
    return plant(tmp_path_factory.mktemp("planted"))
