"""Which class each tile of a slide gets from annotated areas: by its middle, or by the share that they cover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from beph_store.interop.regions import Float, Polygon, Region, contains, covered, crossing

#: Points a side on which the share is counted where areas of one class overlap, or cross themselves.
_GRID = 64


@dataclass(frozen=True, slots=True, eq=False)
class TileClasses:
    """``number`` (n,) int64 into ``classes``, -1 for none; ``several`` tiles to which more than one applied."""

    classes: tuple[str, ...]
    number: NDArray[np.int64]
    several: int


def classify_tiles(
    regions: Sequence[Region], origin_l0: NDArray[np.int32], side: int, *, cover: float | None = None
) -> TileClasses:
    """The class of each tile, ``origin_l0`` (n, 2) top-left and ``side`` in level-0 px.

    A class applies where the tile's middle lies in one of its areas, or, with ``cover`` (0–1], where its areas together
    cover at least that share. Where several apply, that of the smallest area counts: what is drawn inside another is
    meant. An area that is itself a tile (``exact``) is that tile's, and no other's.
    """
    origin = origin_l0.astype(np.float64)
    classes = tuple(dict.fromkeys(region.label for region in regions))
    applies = np.zeros((len(classes), len(origin)), bool)
    smallest = np.full((len(classes), len(origin)), np.inf)
    rest = _exact(regions, classes, origin_l0, side, applies)
    smallest[applies] = 0.0
    for number, label in enumerate(classes):
        mine = [region for region in rest if region.label == label]
        shares = _Shares(origin, side, cover is None)
        for region in mine:
            tiles = shares.add(region)
            smallest[number, tiles] = np.minimum(smallest[number, tiles], region.area)
        applies[number] |= shares.total() >= (1.0 if cover is None else cover - 1e-9)
    smallest[~applies] = np.inf
    chosen = smallest.argmin(axis=0) if len(classes) else np.zeros(len(origin), np.int64)
    found = np.where(applies.any(axis=0), chosen, -1) if len(classes) else chosen - 1
    return TileClasses(classes, found.astype(np.int64), int((applies.sum(axis=0) > 1).sum()))


def _exact(
    regions: Sequence[Region],
    classes: tuple[str, ...],
    origin_l0: NDArray[np.int32],
    side: int,
    applies: NDArray[np.bool_],
) -> list[Region]:
    """Mark the tiles that areas are; returns the areas that are none."""
    place = {(x, y): i for i, (x, y) in enumerate(origin_l0.tolist())}
    rest = []
    for region in regions:
        x0, y0, x1, y1 = region.box
        tile = place.get((int(x0), int(y0))) if region.exact else None
        is_square = len(region.polygons) == 1 and len(region.polygons[0][0]) == 4
        if tile is not None and is_square and (x1 - x0, y1 - y0) == (side, side):
            applies[classes.index(region.label), tile] = True
        else:
            rest.append(region)
    return rest


@dataclass(slots=True, eq=False)
class _Shares:
    """The share of each tile that the areas of one class cover, as they are added."""

    origin: Float
    side: int
    by_middle: bool
    _sum: Float = field(init=False)
    _most: Float = field(init=False)
    _parts: list[tuple[Polygon, NDArray[np.int64]]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._sum, self._most = np.zeros(len(self.origin)), np.zeros(len(self.origin))

    def add(self, region: Region) -> NDArray[np.int64]:
        """Count an area in; returns the tiles that it touches, or whose middle it holds."""
        touched = []
        for polygon in region.polygons:
            low, high = polygon[0].min(axis=0), polygon[0].max(axis=0)
            near = ((self.origin < high) & (self.origin + self.side > low)).all(axis=1)
            tiles = np.flatnonzero(near)
            if not len(tiles):
                continue
            crosses = not self.by_middle and crossing(polygon) is not None
            share = self._share(polygon, tiles, crosses)
            tiles, share = tiles[share > 0], share[share > 0]
            self._sum[tiles] += share
            self._most[tiles] = np.maximum(self._most[tiles], share)
            self._parts.append((polygon, tiles))
            touched.append(tiles)
        return np.unique(np.concatenate(touched)) if touched else np.empty(0, np.int64)

    def _share(self, polygon: Polygon, tiles: NDArray[np.int64], crosses: bool) -> Float:
        if self.by_middle:
            return contains(polygon, self.origin[tiles] + self.side / 2).astype(np.float64)
        if crosses:
            return np.array([contains(polygon, self._grid(tile)).mean() for tile in tiles.tolist()])
        return covered(polygon, self.origin[tiles], self.side)

    def total(self) -> Float:
        """(n,) the share of their union: areas that overlap count once."""
        share = np.minimum(self._sum, 1.0)
        for tile in np.flatnonzero(self._sum > self._most + 1e-9).tolist():
            share[tile] = self._union(tile) if not self.by_middle else self._most[tile]
        return share

    def _union(self, tile: int) -> float:
        """The exact sum, less what the parts have in common, which is counted on points."""
        within = np.zeros(_GRID * _GRID, np.int64)
        for polygon, tiles in self._parts:
            at = np.searchsorted(tiles, tile)
            if at < len(tiles) and tiles[at] == tile:
                within += contains(polygon, self._grid(tile))
        common = np.maximum(within - 1, 0).mean()
        return float(np.clip(self._sum[tile] - common, self._most[tile], min(1.0, self._sum[tile])))

    def _grid(self, tile: int) -> Float:
        step = (np.arange(_GRID) + 0.5) * self.side / _GRID
        x, y = np.meshgrid(step, step)
        return np.asarray(np.stack([x.ravel(), y.ravel()], axis=1) + self.origin[tile])
