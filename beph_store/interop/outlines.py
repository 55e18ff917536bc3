"""Outlines of a mask: exact along its pixels, one polygon with its holes for each piece."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from beph_store.interop.regions import Polygon, Ring, signed_area

Bools = NDArray[np.bool_]


def pieces(mask: Bools) -> tuple[NDArray[np.int32], int]:
    """(h, w) number of each pixel's piece, from 1, 0 where there is none, and how many; pieces touch along edges."""
    labels, count = ndimage.label(mask)
    return labels.astype(np.int32), int(count)


def outlines(mask: Bools, size_l0: tuple[int, int]) -> list[Polygon]:
    """One polygon a piece of the mask (h, w) that covers a slide of ``size_l0`` (w, h), in level-0 px."""
    labels, count = pieces(mask)
    scale = np.array([size_l0[0] / mask.shape[1], size_l0[1] / mask.shape[0]])
    rings: list[list[Ring]] = [[] for _ in range(count)]
    for number, corners in _rings(labels):
        rings[number - 1].append(corners * scale)
    # The outline encloses its holes, so that it is the one of the largest area.
    return [tuple(sorted(own, key=lambda ring: -abs(signed_area(ring)))) for own in rings]


def _rings(labels: NDArray[np.int32]) -> list[tuple[int, Ring]]:
    """(piece, corners (n, 2) x, y) of every closed border, its corners only, the piece to the right of it."""
    start, end, owner = _borders(labels)
    width = labels.shape[1] + 1
    leaving: dict[int, list[int]] = {}
    for edge, (x, y) in enumerate(start.tolist()):
        leaving.setdefault(y * width + x, []).append(edge)
    used = np.zeros(len(start), bool)
    found = []
    for first in range(len(start)):
        if used[first]:
            continue
        path, edge = [], first
        while not used[edge]:
            used[edge] = True
            path.append(edge)
            x, y = end[edge].tolist()
            choices = [e for e in leaving[y * width + x] if owner[e] == owner[edge]]
            edge = choices[0] if len(choices) == 1 else _turning_left(edge, choices, start, end)
        corners = start[path].astype(np.float64)
        step = end[path] - start[path]
        found.append((int(owner[first]), corners[(step != np.roll(step, 1, axis=0)).any(axis=1)]))
    return found


def _turning_left(edge: int, choices: list[int], start: NDArray[np.int64], end: NDArray[np.int64]) -> int:
    """Where two pixels of a piece touch at a corner: stay along the same gap, so that no border meets itself."""
    dx, dy = (end[edge] - start[edge]).tolist()
    return next((e for e in choices if (end[e] - start[e]).tolist() == [dy, -dx]), choices[0])


def _borders(labels: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Sides of pixels between a piece and what is not of it: from, to (n, 2) corners x, y, and whose they are."""
    padded = np.pad(labels, 1)
    inner = padded[1:-1, 1:-1]
    sides = (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),  # above: run to the right
        (padded[1:-1, 2:], (1, 0), (1, 1)),  # right: down
        (padded[2:, 1:-1], (1, 1), (0, 1)),  # below: to the left
        (padded[1:-1, :-2], (0, 1), (0, 0)),  # left: up
    )
    parts = []
    for other, a, b in sides:
        y, x = np.nonzero((inner > 0) & (other != inner))
        at = np.stack([x, y], axis=1)
        parts.append((at + a, at + b, inner[y, x]))
    start, end, owner = (np.concatenate(column) for column in zip(*parts, strict=True))
    return start.astype(np.int64), end.astype(np.int64), owner.astype(np.int64)


def piece_of_tiles(
    labels: NDArray[np.int32], size_l0: tuple[int, int], origin_l0: NDArray[np.int32], side: int
) -> NDArray[np.int64]:
    """(n,) the piece that covers most of each tile, counted from 0; -1 where none does."""
    h, w = labels.shape
    scale = np.array([w / size_l0[0], h / size_l0[1]])
    low = np.clip(np.floor(origin_l0 * scale), 0, [w - 1, h - 1]).astype(np.int64)
    high = np.clip(np.ceil((origin_l0 + side) * scale), low + 1, [w, h]).astype(np.int64)
    found = np.zeros(len(origin_l0), np.int64)
    for i, ((x0, y0), (x1, y1)) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        counts = np.bincount(labels[y0:y1, x0:x1].ravel())
        counts[0] = 0
        found[i] = int(counts.argmax()) if counts.any() else 0
    return found - 1
