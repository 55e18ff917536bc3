"""Areas that people draw on slides: what they are, whether they can be meant, and which tiles they cover.

All coordinates are level-0 px, x right and y down. A polygon is a tuple of rings, the first its outline and the others
its holes; a ring is (n, 2) float64 without the repeated last point, in either direction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.float64]
Polygon = tuple[Ring, ...]
Bools = NDArray[np.bool_]
Float = NDArray[np.float64]

#: Pairs of edges that are compared at once.
_PAIRS = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """One annotated area. ``name`` is how a message calls it; ``exact`` that it is one tile, written as such."""

    label: str
    polygons: tuple[Polygon, ...]
    name: str
    exact: bool = False

    @property
    def area(self) -> float:
        """Level-0 px², holes taken off."""
        return sum(abs(signed_area(p[0])) - sum(abs(signed_area(h)) for h in p[1:]) for p in self.polygons)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(x0, y0, x1, y1) around all of it."""
        outlines = np.concatenate([polygon[0] for polygon in self.polygons])
        return (*outlines.min(axis=0).tolist(), *outlines.max(axis=0).tolist())

    def moved(self, by: tuple[float, float]) -> Region:
        """The same, shifted."""
        shift = np.asarray(by, np.float64)
        moved = tuple(tuple(ring + shift for ring in polygon) for polygon in self.polygons)
        return Region(self.label, moved, self.name, self.exact)


@dataclass(frozen=True, slots=True, eq=False)
class Annotations:
    """What a file holds: ``regions`` with a class, and the objects ``left_out``, each with the reason."""

    path: Path
    regions: tuple[Region, ...]
    left_out: tuple[tuple[str, str], ...] = field(default=())


def ring_of(points: Sequence[Sequence[Any]]) -> Ring | None:
    """The ring of a list of positions; None where it has no area. ValueError or TypeError for what is no position."""
    ring = np.array([(float(point[0]), float(point[1])) for point in points], np.float64).reshape(-1, 2)
    if not np.isfinite(ring).all():
        raise ValueError("a position is not finite")
    keep = (ring != np.roll(ring, -1, axis=0)).any(axis=1)  # the last point repeats the first
    ring = ring[keep]
    return ring if len(ring) >= 3 and not _on_a_line(ring) else None


def _on_a_line(ring: Ring) -> bool:
    away = ring - ring[0]
    far = away[np.abs(away).sum(axis=1).argmax()]
    return bool((far[0] * away[:, 1] == far[1] * away[:, 0]).all())


def signed_area(ring: Ring) -> float:
    """Area in px², positive for a ring that runs clockwise as seen on the screen."""
    x, y = (ring - ring[0]).T  # near zero, so that nothing is lost far from the origin
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def crossing(polygon: Polygon) -> tuple[float, float] | None:
    """A place where two edges of the polygon cross, or None. Edges that touch do not cross."""
    start = np.concatenate(polygon)
    end = np.concatenate([np.roll(ring, -1, axis=0) for ring in polygon])
    for a, b in _pairs(np.minimum(start[:, 0], end[:, 0]), np.maximum(start[:, 0], end[:, 0])):
        apart = (np.maximum(start[a, 1], end[a, 1]) < np.minimum(start[b, 1], end[b, 1])) | (
            np.maximum(start[b, 1], end[b, 1]) < np.minimum(start[a, 1], end[a, 1])
        )
        a, b = a[~apart], b[~apart]
        sides = [
            _side(start[a], end[a], start[b]) * _side(start[a], end[a], end[b]),
            _side(start[b], end[b], start[a]) * _side(start[b], end[b], end[a]),
        ]
        found = np.flatnonzero((sides[0] < 0) & (sides[1] < 0))
        if len(found):
            i, j = int(a[found[0]]), int(b[found[0]])
            share = abs(float(_side(start[j], end[j], start[i])))
            share /= share + abs(float(_side(start[j], end[j], end[i])))
            x, y = (start[i] + share * (end[i] - start[i])).tolist()
            return x, y
    return None


def _side(a: Float, b: Float, point: Float) -> Any:
    """Positive where the point lies to the right of the line from a to b as seen on the screen; 0 on it."""
    return (b - a)[..., 0] * (point - a)[..., 1] - (b - a)[..., 1] * (point - a)[..., 0]


def _pairs(low: Float, high: Float) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Every pair of spans that overlap, a bounded number at a time."""
    order = np.argsort(low, kind="stable")
    low, high = low[order], high[order]
    counts = np.searchsorted(low, high, side="right") - np.arange(len(low)) - 1
    at = 0
    while at < len(low):
        stop = max(at + 1, int(np.searchsorted(np.cumsum(counts[at:]), _PAIRS, side="right")) + at)
        some = counts[at:stop]
        first = np.repeat(np.arange(at, stop), some)
        second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(some) - some, some)
        yield order[first], order[second]
        at = stop


def contains(polygon: Polygon, points: Float) -> Bools:
    """(n,) which points (n, 2) lie within the outline and in no hole; what an outline winds around is within it."""
    inside: Bools = _winding(polygon[0], points) != 0
    for hole in polygon[1:]:
        inside &= _winding(hole, points) == 0
    return inside


def _winding(ring: Ring, points: Float) -> NDArray[np.int64]:
    """(n,) how often the ring runs around each point. Points of one row are looked up together."""
    start, end = ring, np.roll(ring, -1, axis=0)
    turns = np.zeros(len(points), np.int64)
    rows, of = np.unique(points[:, 1], return_inverse=True)
    order = np.argsort(of, kind="stable")
    bounds = np.searchsorted(of[order], np.arange(len(rows) + 1))
    for number, y in enumerate(rows.tolist()):
        down = (start[:, 1] <= y) & (end[:, 1] > y)
        up = (end[:, 1] <= y) & (start[:, 1] > y)
        met = down | up
        if not met.any():
            continue
        a, b = start[met], end[met]
        x = a[:, 0] + (y - a[:, 1]) * (b[:, 0] - a[:, 0]) / (b[:, 1] - a[:, 1])
        step = np.where(down[met], 1, -1)
        by_x = np.argsort(x)
        total = np.concatenate([[0], np.cumsum(step[by_x])])
        mine = order[bounds[number] : bounds[number + 1]]
        turns[mine] = total[np.searchsorted(x[by_x], points[mine, 0], side="right")]
    return turns


def covered(polygon: Polygon, origin_l0: Float, side: float) -> Float:
    """(n,) share 0–1 of each square that a polygon without crossings covers: exact, by Green's theorem.

    ``origin_l0`` (n, 2) top-left corners of squares of ``side``.
    """
    area = np.zeros(len(origin_l0))
    columns, of = np.unique(origin_l0[:, 0], return_inverse=True)
    order = np.argsort(of, kind="stable")
    bounds = np.searchsorted(of[order], np.arange(len(columns) + 1))
    for number, ring in enumerate(polygon):
        sign = np.sign(signed_area(ring)) * (1 if number == 0 else -1)
        a, b = ring, np.roll(ring, -1, axis=0)
        low, high = np.minimum(a[:, 0], b[:, 0]), np.maximum(a[:, 0], b[:, 0])
        for column, x0 in enumerate(columns.tolist()):
            met = (low < x0 + side) & (high > x0) & (low < high)  # an upright edge bounds nothing
            if met.any():
                mine = order[bounds[column] : bounds[column + 1]]
                top = origin_l0[mine, 1]
                area[mine] += sign * _strip_area(a[met], b[met], (x0, x0 + side), top, side)
    return np.clip(area / (side * side), 0.0, 1.0)


def _strip_area(a: Float, b: Float, strip: tuple[float, float], top: Float, side: float) -> Float:
    """(n,) signed area that edges a → b (m, 2) bound in the squares of one column, ``top`` (n,) their upper edges."""
    slope = (b[:, 1] - a[:, 1]) / (b[:, 0] - a[:, 0])
    xa, xb = (np.clip(end[:, 0], *strip) for end in (a, b))
    ya, yb = (a[:, 1] + (x - a[:, 0]) * slope for x in (xa, xb))
    ua, ub = (y[None, :] - top[:, None] for y in (ya, yb))
    rise = ub - ua
    flat = np.abs(rise) < 1e-9 * side
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(
            flat,
            np.clip((ua + ub) / 2, 0, side),
            (_held(ub, side) - _held(ua, side)) / np.where(flat, 1.0, rise),
        )
    # Seen on the screen, y down: what lies above an edge that runs left is counted, below one that runs right not.
    return np.asarray(-(mean * (xb - xa)).sum(axis=1))


def _held(u: Float, side: float) -> Float:
    """Integral from 0 to u of a height that is held between 0 and ``side``."""
    return np.clip(u, 0, side) ** 2 / 2 + side * np.maximum(u - side, 0)
