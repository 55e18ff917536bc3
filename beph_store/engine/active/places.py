"""Which stored tiles a person means, and where labelled tiles are in the table of vectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beph_store.engine.active.labels import Label, TileMark
from beph_store.engine.search.table import SearchTable
from beph_store.errors import UnknownSlide, UsageError

Rows = NDArray[np.int64]


def row_of_tile(table: SearchTable, slide: int, tile: int) -> Rows:
    """(1,) the row of a slide's tile of that number; UsageError where it has none that could be read."""
    rows = table.span(slide)
    at = int(np.searchsorted(table.flat.tile_index[rows], tile))
    if at >= rows.stop - rows.start or int(table.flat.tile_index[rows.start + at]) != tile:
        raise UsageError(f"{table.flat.slide_ids[slide]} has no readable tile {tile}")
    return np.array([rows.start + at], np.int64)


def row_at_point(table: SearchTable, slide: int, point: tuple[int, int]) -> Rows:
    """(1,) the row of the tile that the level-0 point lies on, of several the one whose middle is nearest."""
    rows, side = table.span(slide), table.footprint(slide)
    middle = _middles(table, slide)
    away = np.abs(2 * middle - 2 * np.asarray(point, np.int64)).max(axis=1, initial=0)
    if not len(away) or away.min() > side:
        raise UsageError(f"no stored tile of {table.flat.slide_ids[slide]} at {point}: click on a tile")
    return np.array([rows.start + int(away.argmin())], np.int64)


def rows_in_region(table: SearchTable, slide: int, box: tuple[int, int, int, int]) -> Rows:
    """(n,) the rows of the tiles whose middle lies in the level-0 box (x0, y0, x1, y1), in any order of its corners."""
    low = min(box[0], box[2]), min(box[1], box[3])
    high = max(box[0], box[2]), max(box[1], box[3])
    middle = _middles(table, slide)
    inside = ((middle >= low) & (middle < high)).all(axis=1)
    if not inside.any():
        raise UsageError(f"no tile of {table.flat.slide_ids[slide]} has its middle in the region {box}")
    return np.asarray(table.span(slide).start + np.flatnonzero(inside), np.int64)


def _middles(table: SearchTable, slide: int) -> Rows:
    return table.flat.origin_l0[table.span(slide)].astype(np.int64) + table.footprint(slide) // 2


def marks_of(table: SearchTable, rows: Iterable[int], label: str | None) -> list[TileMark]:
    """Marks that give those rows a label."""
    found = []
    for row in rows:
        x, y = (int(v) for v in table.flat.origin_l0[row])
        slide_id = table.flat.slide_ids[int(table.slide_of[row])]
        found.append(TileMark(slide_id, int(table.flat.tile_index[row]), x, y, label))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """Labels whose tiles the store has: ``rows`` (n,) int64 in the table, in the order of ``labels``.

    ``unplaced``: how many others there are, of slides that are gone or were tiled otherwise since.
    """

    labels: tuple[Label, ...]
    rows: Rows
    unplaced: int


def place(table: SearchTable, labels: Sequence[Label]) -> Placed:
    """The rows of labels of tiles, by their slides and top-left corners."""
    by_slide: dict[str, list[int]] = {}
    for number, label in enumerate(labels):
        by_slide.setdefault(label.mark.slide_id, []).append(number)
    rows = np.full(len(labels), -1, np.int64)
    for slide_id, numbers in by_slide.items():
        try:
            slide = table.slide(slide_id)
        except UnknownSlide:
            continue
        span = table.span(slide)
        known = _packed(np.asarray(table.flat.origin_l0[span], np.int64))
        order = np.argsort(known, kind="stable")
        asked = _packed(np.array([_corner(labels[number]) for number in numbers], np.int64))
        at = np.minimum(np.searchsorted(known[order], asked), max(0, len(known) - 1))
        if len(known):
            found = order[at]
            rows[numbers] = np.where(known[found] == asked, span.start + found, -1)
    kept = np.flatnonzero(rows >= 0)
    return Placed(tuple(labels[i] for i in kept.tolist()), rows[kept], len(labels) - len(kept))


def _corner(label: Label) -> tuple[int, int]:
    assert isinstance(label.mark, TileMark)
    return label.mark.x, label.mark.y


def _packed(corners: Rows) -> Rows:
    """(n,) one number a corner (n, 2)."""
    return corners[:, 0] * (1 << 32) + corners[:, 1]
