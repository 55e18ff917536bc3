"""Where what lies on a slide, at 16 px a cell: the plan that the painter fills in.

Also the truth that tests compare with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from beph_store.geometry import Size
from beph_store.testing.drawing.noise import F32, fractal_noise, smooth_noise

#: Side of a cell of the landscape in level-0 px.
CELL = 16
GLASS, GLAND, TUMOUR, STROMA = 0, 1, 2, 3
#: What the values of a truth mask mean, by position.
KINDS = ("glass", "gland", "tumour", "stroma")
NUISANCES = ("pale", "fold", "pen", "bubble")
FAR = 1e4


@dataclass(frozen=True, slots=True, eq=False)
class Landscape:
    """Signed distances in level-0 px, positive inside, on the corners of cells: each (h, w).

    ``pale`` is a share 0–1, ``fold`` and ``pen`` are distances from a line, ``bubble`` is
    (x, y, radius) in level-0 px or None; ``kinds`` (h, w) uint8 indexes ``KINDS``.
    """

    tissue: F32
    tumour: F32
    glands: F32
    pale: F32 | None
    fold: F32 | None
    pen: F32 | None
    bubble: tuple[float, float, float] | None
    kinds: NDArray[np.uint8]


def landscape(size: Size, seed: int, tumour: float, nuisances: tuple[str, ...]) -> Landscape:
    """Lay out a slide of ``size`` (width, height) px with ``tumour`` 0–1 of its tissue tumour."""
    rng = np.random.default_rng([seed, 1])
    shape = (size[1] // CELL + 2, size[0] // CELL + 2)
    potential = _tissue(rng, shape)
    tissue = potential > 0
    growth = fractal_noise(rng, shape, min(shape) * 0.09, 3) + 0.5 * smooth_noise(
        rng, shape, min(shape) * 0.2
    )
    cancer = _share(growth, tissue, tumour)
    inner = _signed(tissue)
    glands = tissue & ~cancer & (inner > rng.uniform(90, 150)) & (_signed(cancer) < -70)
    glands &= fractal_noise(rng, shape, min(shape) * 0.07, 2) > -1.0
    kinds = np.where(cancer, TUMOUR, np.where(glands, GLAND, STROMA)) * tissue
    marks = _marks(rng, shape, tissue, nuisances)
    return Landscape(
        inner,
        _signed(cancer),
        _signed(glands),
        marks.pale,
        marks.fold,
        marks.pen,
        marks.bubble,
        kinds.astype(np.uint8),
    )


def _axes(shape: tuple[int, int]) -> tuple[F32, F32]:
    """(x, y) of the cells, -1..1 across the slide."""
    y, x = np.meshgrid(np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1]), indexing="ij")
    return x.astype(np.float32), y.astype(np.float32)


def _tissue(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    """Potential > 0 inside the section: an uneven oval, with a tear and sometimes a splinter."""
    x, y = _axes(shape)
    turn = rng.uniform(-0.6, 0.6)
    u, v = x * np.cos(turn) + y * np.sin(turn), -x * np.sin(turn) + y * np.cos(turn)
    wide, high = rng.uniform(0.78, 0.88), rng.uniform(0.66, 0.8)
    oval = (np.abs(u / wide) ** 2.6 + np.abs(v / high) ** 2.6) ** (1 / 2.6)
    rough = fractal_noise(rng, shape, min(shape) * 0.11, 4)
    potential = 1 - oval + 0.13 * rough
    border = np.minimum(1 - np.abs(x), 1 - np.abs(y)) - 0.045
    potential = np.minimum(potential, border + 0.012 * rough)
    tears = np.abs(fractal_noise(rng, shape, min(shape) * 0.14, 3))
    where = smooth_noise(rng, shape, min(shape) * 0.12)
    torn = (tears < 0.05) & (where > 0.8)
    return _without_specks(np.where(torn, -0.05, potential).astype(np.float32))


def _without_specks(potential: F32) -> F32:
    """Drop pieces smaller than 0.4 % of the slide."""
    labels, count = ndimage.label(potential > 0)
    sizes = ndimage.sum_labels(np.ones_like(labels), labels, np.arange(count + 1))
    small = sizes < 0.004 * labels.size
    small[0] = False
    return np.where(small[labels], np.float32(-0.05), potential)


def _share(field: F32, within: NDArray[np.bool_], share: float) -> NDArray[np.bool_]:
    """The ``share`` of the cells of ``within`` where ``field`` is highest."""
    if share <= 0 or not within.any():
        return np.zeros_like(within)
    return within & (field >= np.quantile(field[within], 1 - min(share, 1.0)))


def _signed(mask: NDArray[np.bool_]) -> F32:
    """Distance to the border of ``mask`` in level-0 px, positive inside."""
    if not mask.any():
        return np.full(mask.shape, -FAR, np.float32)
    inside = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    outside = ndimage.distance_transform_edt(~mask)
    soft: F32 = ndimage.gaussian_filter(inside - outside, 0.8)
    return (soft * CELL).astype(np.float32)


@dataclass(slots=True)
class _Marks:
    pale: F32 | None = None
    fold: F32 | None = None
    pen: F32 | None = None
    bubble: tuple[float, float, float] | None = None


def _marks(
    rng: np.random.Generator, shape: tuple[int, int], tissue: NDArray[np.bool_], names: tuple[str, ...]
) -> _Marks:
    """What preparation and people leave on a slide; each is placed whether drawn or not."""
    x, y = _axes(shape)
    spots = _inside_points(rng, tissue, 4)
    marks = _Marks()
    pale = np.exp(-(((x - spots[0][0]) ** 2 + (y - spots[0][1]) ** 2) / 0.07)) + 0.12 * fractal_noise(
        rng, shape, 12.0
    )
    fold = _line_distance(rng, shape, spots[1], 0.42)
    pen = _line_distance(rng, shape, _edge_point(rng, tissue), 0.5)
    radius = rng.uniform(0.09, 0.13) * min(shape) * CELL
    if "pale" in names:
        marks.pale = np.clip((pale - 0.3) * 2.2, 0, 1).astype(np.float32)
    if "fold" in names:
        marks.fold = fold
    if "pen" in names:
        marks.pen = pen
    if "bubble" in names:
        px, py = spots[3]
        marks.bubble = ((px + 1) / 2 * shape[1] * CELL, (py + 1) / 2 * shape[0] * CELL, radius)
    return marks


def _inside_points(
    rng: np.random.Generator, tissue: NDArray[np.bool_], count: int
) -> list[tuple[float, float]]:
    """Points of the tissue as (x, y) in -1..1, some way from its border."""
    deep = ndimage.distance_transform_edt(np.pad(tissue, 1))[1:-1, 1:-1]
    rows, cols = np.nonzero(deep > 0.4 * deep.max())
    if not len(rows):
        return [(0.0, 0.0)] * count
    picks = rng.integers(0, len(rows), count)
    h, w = tissue.shape
    return [(2 * cols[i] / (w - 1) - 1, 2 * rows[i] / (h - 1) - 1) for i in picks]


def _edge_point(rng: np.random.Generator, tissue: NDArray[np.bool_]) -> tuple[float, float]:
    """A point of the border of the tissue as (x, y) in -1..1."""
    border = tissue & ~ndimage.binary_erosion(tissue)
    rows, cols = np.nonzero(border)
    if not len(rows):
        return 0.8, 0.8
    i = int(rng.integers(len(rows)))
    h, w = tissue.shape
    return 2 * cols[i] / (w - 1) - 1, 2 * rows[i] / (h - 1) - 1


def _line_distance(
    rng: np.random.Generator, shape: tuple[int, int], through: tuple[float, float], length: float
) -> F32:
    """Distance in level-0 px from a curved stroke of ``length`` (of 2 across) around a point."""
    angle, bend = rng.uniform(0, np.pi), rng.uniform(-0.5, 0.5)
    t = np.linspace(-1, 1, 160)
    along = t * length / 2
    across = bend * along**2 / length + 0.015 * np.sin(5 * t + rng.uniform(0, 6))
    px = through[0] + along * np.cos(angle) - across * np.sin(angle)
    py = through[1] + along * np.sin(angle) + across * np.cos(angle)
    h, w = shape
    line = np.ones((h, w), bool)
    rows = np.clip(np.round((py + 1) / 2 * (h - 1)), 0, h - 1).astype(int)
    cols = np.clip(np.round((px + 1) / 2 * (w - 1)), 0, w - 1).astype(int)
    line[rows, cols] = False
    distance: F32 = ndimage.gaussian_filter(ndimage.distance_transform_edt(line), 0.8)
    return (distance * CELL).astype(np.float32)
