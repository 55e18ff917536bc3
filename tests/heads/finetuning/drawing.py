"""Tiles drawn by arithmetic, in three colours."""

from dataclasses import dataclass

import numpy as np

from beph_store.errors import UsageError
from beph_store.heads.finetuning import TileTask

MEAN, STD = (189.0, 128.0, 175.0), (38.0, 45.0, 32.0)
_COLOURS = np.array([(120, 70, 160), (220, 180, 210), (130, 190, 120)])


@dataclass(frozen=True)
class Drawn:
    """Row r is of class r % 3; it pickles, as sources must. ``broken`` rows cannot be read."""

    px: int = 48
    broken: tuple[int, ...] = ()

    def image(self, row):
        if row in self.broken:
            raise UsageError(f"image {row} cannot be read")
        noise = np.random.default_rng(row).normal(0, 25, (self.px + 16, self.px + 8, 3))
        return np.clip(_COLOURS[row % 3] + noise, 0, 255).astype(np.uint8)

    def tile(self, row):
        return self.image(row)[8 : 8 + self.px, 4 : 4 + self.px]


def task(n=36, dim=32, tile_px=48, broken=()):
    """Rows 0 … n-1, every third one for validation (of all classes)."""
    rows = np.arange(n)
    val = rows[(rows // 3) % 3 == 0]
    return TileTask(
        Drawn(tile_px, broken), rows % 3, 3, np.setdiff1d(rows, val), val, tile_px, dim, MEAN, STD
    )
