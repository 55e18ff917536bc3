"""The probe: H&E-like tiles made by whole-number arithmetic, the same on every machine.

They are no substitute for tissue, but they spread over stains, densities and textures, and that is
what it takes to notice a graph that no longer computes what its reference computes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

VERSION = 1
TILES = 64

Ints = NDArray[np.int64]
_ONE = 256  # optical density 1, as an integer
# What comes through at each optical density, 0–255.
_LIGHT = np.rint(255 * np.exp(-np.arange(8 * _ONE) / _ONE)).astype(np.uint8)
# Optical density of haematoxylin and eosin per RGB channel, in 1/256, and how far a tile may stray from it.
_STAINS = np.array([[166, 180, 72], [22, 240, 60]], np.int64)
_STRAY = 36


def probe_tiles(tile_px: int = 224, count: int = TILES) -> NDArray[np.uint8]:
    """(count, tile_px, tile_px, 3) uint8 RGB; tile i is the same whatever ``count``."""
    return np.stack([_tile(i, tile_px) for i in range(count)])


def _tile(i: int, px: int) -> NDArray[np.uint8]:
    rng = np.random.Generator(np.random.PCG64([VERSION, i]))
    blue, pink = _TEXTURES[i % len(_TEXTURES)](rng, px)
    stains = _STAINS + rng.integers(-_STRAY, _STRAY + 1, _STAINS.shape)
    gain = rng.integers(140, 360, 2)
    amount = np.stack([blue * gain[0] // _ONE, pink * gain[1] // _ONE], -1)
    density = amount @ np.maximum(stains, 0) // _ONE + rng.integers(0, 12) + rng.integers(0, 10, (px, px, 3))
    return np.asarray(_LIGHT[np.clip(density, 0, len(_LIGHT) - 1)], np.uint8)


def _cloud(rng: np.random.Generator, px: int, cell_y: int, cell_x: int) -> Ints:
    """Smooth noise (px, px), 0–255: random integers on a grid of cells, blended linearly."""
    grid = rng.integers(0, 256, (px // cell_y + 2, px // cell_x + 2))
    y, x = np.arange(px)[:, None], np.arange(px)[None, :]
    gy, gx, fy, fx = y // cell_y, x // cell_x, y % cell_y, x % cell_x
    top = grid[gy, gx] * (cell_x - fx) + grid[gy, gx + 1] * fx
    low = grid[gy + 1, gx] * (cell_x - fx) + grid[gy + 1, gx + 1] * fx
    return np.asarray((top * (cell_y - fy) + low * fy) // (cell_y * cell_x), np.int64)


def _discs(rng: np.random.Generator, px: int, count: int, sizes: tuple[int, int]) -> Ints:
    """``count`` soft ellipses (px, px), 0–255: nuclei with radii between ``sizes`` px."""
    field = np.zeros((px, px), np.int64)
    for _ in range(count):
        cy, cx = (int(v) for v in rng.integers(0, px, 2))
        a, b = rng.integers(sizes[0], sizes[1] + 1, 2)
        lean = rng.integers(-2, 3)
        reach = 2 * sizes[1]
        rows = slice(max(0, cy - reach), cy + reach)
        columns = slice(max(0, cx - reach), cx + reach)
        dy, dx = np.arange(px)[rows, None] - cy, np.arange(px)[None, columns] - cx
        dx = dx + lean * dy // 4
        inside = 256 - (dy * dy * 256 // (a * a) + dx * dx * 256 // (b * b))
        shade = np.clip(inside * 3, 0, 255) * rng.integers(150, 256) // 255
        field[rows, columns] = np.maximum(field[rows, columns], shade)
    return field


def _ring(rng: np.random.Generator, px: int) -> tuple[Ints, Ints]:
    """Distance-like field of a gland (0 at its centre) and how much of it is lumen, both (px, px)."""
    y, x = np.arange(px)[:, None], np.arange(px)[None, :]
    cy, cx = rng.integers(px // 4, 3 * px // 4, 2)
    a, b = rng.integers(px // 6, px // 3, 2)
    far = (y - cy) ** 2 * 256 // (a * a) + (x - cx) ** 2 * 256 // (b * b) + _cloud(rng, px, 24, 24) // 3
    return np.asarray(far, np.int64), np.clip((220 - far) * 4, 0, 255)


def _stroma(rng: np.random.Generator, px: int) -> tuple[Ints, Ints]:
    thin, long = int(rng.integers(3, 9)), int(rng.integers(30, 90))
    fibres = _cloud(rng, px, thin, long) if rng.integers(2) else _cloud(rng, px, long, thin)
    return _discs(rng, px, int(rng.integers(5, 40)), (3, 7)), fibres


def _sheet(rng: np.random.Generator, px: int) -> tuple[Ints, Ints]:
    nuclei = _discs(rng, px, int(rng.integers(60, 160)), (5, 12))
    return nuclei + _cloud(rng, px, 20, 20) // 6, _cloud(rng, px, 40, 40) // 2 + 50


def _lymphocytes(rng: np.random.Generator, px: int) -> tuple[Ints, Ints]:
    return _discs(rng, px, int(rng.integers(200, 400)), (3, 5)) * 5 // 4, _cloud(rng, px, 30, 30) // 4


def _gland(rng: np.random.Generator, px: int) -> tuple[Ints, Ints]:
    far, lumen = _ring(rng, px)
    wall = np.clip(255 - abs(far - 300) * 2, 0, 255)
    blue = np.maximum(_discs(rng, px, 220, (4, 8)) * wall // 255, _discs(rng, px, 30, (3, 6)) * (far > 420))
    return blue * (255 - lumen) // 255, (_cloud(rng, px, 10, 40) // 2 + 70) * (255 - lumen) // 255


def _fat(rng: np.random.Generator, px: int) -> tuple[Ints, Ints]:
    cell = int(rng.integers(28, 56))
    field = _cloud(rng, px, cell, cell)
    walls = np.clip(255 - abs(field - 128) * int(rng.integers(12, 30)), 0, 255)
    return walls * _discs(rng, px, 30, (3, 5)) // 255, walls // 2


def _blood(rng: np.random.Generator, px: int) -> tuple[Ints, Ints]:
    cells = _discs(rng, px, int(rng.integers(150, 400)), (4, 6))
    return _discs(rng, px, int(rng.integers(0, 12)), (4, 7)), cells + _cloud(rng, px, 60, 60) // 4


def _mucin(rng: np.random.Generator, px: int) -> tuple[Ints, Ints]:
    haze = _cloud(rng, px, 16, 16) // 3 + _cloud(rng, px, 70, 70) // 4
    return haze + _discs(rng, px, int(rng.integers(0, 25)), (3, 7)), _cloud(rng, px, 50, 50) // 6


def _edge(rng: np.random.Generator, px: int) -> tuple[Ints, Ints]:
    tissue = np.clip((_cloud(rng, px, 90, 90) - 110) * 12, 0, 255)
    blue, pink = _sheet(rng, px)
    return blue * tissue // 255, pink * tissue // 255


_Texture = Callable[[np.random.Generator, int], tuple[NDArray[Any], NDArray[Any]]]
_TEXTURES: tuple[_Texture, ...] = (_stroma, _sheet, _lymphocytes, _gland, _fat, _blood, _mucin, _edge)
