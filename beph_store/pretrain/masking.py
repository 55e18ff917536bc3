"""Block-wise masks of BEiT (Bao et al. 2022, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import UsageError


@dataclass(frozen=True, slots=True)
class MaskSpec:
    """``count`` of ``grid`` x ``grid`` patches are masked, in blocks of at least ``smallest`` patches whose sides are
    as ``aspect`` to 1 at most. BEPH: 75 of 14 x 14, 16, 0.3.
    """

    grid: int = 14
    count: int = 75
    smallest: int = 16
    aspect: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.count < self.grid**2:
            raise UsageError(f"{self.count} of {self.grid**2} patches cannot be masked")


def draw_mask(spec: MaskSpec, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(grid, grid) bool with exactly ``count`` True.

    Unlike BEiT's own code, which stops short when no block fits any more, single patches make up the number: every
    tile then costs the same and the loss is a mean over equally many.
    """
    mask = np.zeros((spec.grid, spec.grid), bool)
    missing = spec.count
    for _ in range(100):
        if missing < min(spec.smallest, spec.count):
            break
        block = _block(spec, missing, rng)
        if block is not None and 0 < (added := int((~mask[block]).sum())) <= missing:
            mask[block] = True
            missing -= added
    if missing:
        free = np.flatnonzero(~mask)
        mask.flat[rng.choice(free, missing, replace=False)] = True
    return mask


def _block(spec: MaskSpec, most: int, rng: np.random.Generator) -> tuple[slice, slice] | None:
    area = rng.uniform(min(spec.smallest, most), most)
    ratio = np.exp(rng.uniform(np.log(spec.aspect), -np.log(spec.aspect)))
    height, width = round(float(np.sqrt(area * ratio))), round(float(np.sqrt(area / ratio)))
    if not (0 < height < spec.grid and 0 < width < spec.grid):
        return None
    top, left = rng.integers(spec.grid - height + 1), rng.integers(spec.grid - width + 1)
    return slice(int(top), int(top) + height), slice(int(left), int(left) + width)
