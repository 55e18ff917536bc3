"""What the server holds for those who label: journals, the heads that follow them, clusters; and their JSON."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from starlette.requests import Request

from beph_store.engine.active.clusters import RecipeClusters, recipe_clusters
from beph_store.engine.active.labels import Label, LabelBook, Labels, SlideMark, Subject, TileMark
from beph_store.engine.active.places import marks_of, place, row_at_point, row_of_tile, rows_in_region
from beph_store.engine.active.refit import TileHead, refit
from beph_store.engine.active.saving import slide_columns
from beph_store.engine.search.table import SearchTable
from beph_store.errors import UnknownSlide, UsageError
from beph_store.serve.answers import malformed, missing
from beph_store.serve.asked import field as read_field
from beph_store.serve.asked import only, whole_field
from beph_store.serve.asked import place as read_place
from beph_store.serve.desk import Desk
from beph_store.serve.shelf import handle
from beph_store.store.journal import Journal

T = TypeVar("T")

MAX_ENTRIES, MAX_TILES = 1_000, 20_000
_MOST_TILE = (1 << 31) - 1


@dataclass(slots=True)
class _Latest(Generic[T]):
    """The last thing made for each key, as long as what it was made from is the same object or value."""

    made: dict[object, tuple[object, object, T]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, key: object, version: object, source: object, make: Callable[[], T]) -> T:
        """What was made, or is made now while others wait for it."""
        with self.lock:
            held = self.made.get(key)
            if held is None or held[0] != version or held[1] is not source:
                held = self.made[key] = (version, source, make())
            return held[2]


@dataclass(slots=True)
class Labelling:
    """One for an application. Usable from several threads."""

    _books: dict[str, LabelBook] = field(default_factory=dict)
    _heads: _Latest[TileHead] = field(default_factory=_Latest)
    _clusters: _Latest[RecipeClusters] = field(default_factory=_Latest)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, request: Request) -> Labelling:
        """That of the application that got the request."""
        state = request.app.state
        if not hasattr(state, "labelling"):
            state.labelling = cls()
        held: Labelling = state.labelling
        return held

    def book(self, desk: Desk, key: str) -> LabelBook:
        """The labels of a recipe; 404 for one that the store has not."""
        desk.shelf.recipe(key)
        with self._lock:
            if key not in self._books:
                self._books[key] = LabelBook(Journal(desk.shelf.store.layout.annotations(key)))
            return self._books[key]

    def head(self, table: SearchTable, labels: Labels) -> TileHead:
        """The head of those labels, fitted at the first question; HeadError where there can be none."""
        key = table.record.recipe.key
        return self._heads.get(key, labels.version, table.flat, lambda: refit(table, labels))

    def clusters(self, table: SearchTable, k: int) -> RecipeClusters:
        """The clusters of a recipe, made at the first question."""
        key = (table.record.recipe.key, k)
        return self._clusters.get(key, k, table.flat, lambda: recipe_clusters(table, k))


def cases_of(desk: Desk, key: str) -> dict[str, str]:
    """The case of each slide of a recipe."""
    return dict(desk.shelf.frame(key).select("slide_id", "case_id").iter_rows())


def tile_json(table: SearchTable, slide: int, tile: int, corner: tuple[int, int]) -> dict[str, Any]:
    """Where a tile is."""
    slide_id = table.flat.slide_ids[slide]
    return {
        "slide": handle(slide_id),
        "slide_id": slide_id,
        "case_id": table.case_of[slide],
        "tile": tile,
        "x": corner[0],
        "y": corner[1],
        "footprint_l0": table.footprint(slide),
    }


def row_json(table: SearchTable, row: int) -> dict[str, Any]:
    """Where the tile of a row of the table is."""
    x, y = (int(v) for v in table.flat.origin_l0[row])
    return tile_json(table, int(table.slide_of[row]), int(table.flat.tile_index[row]), (x, y))


def labels_json(table: SearchTable, labels: Labels) -> tuple[list[dict[str, Any]], int]:
    """Labelled tiles that the store has, oldest first, and how many others there are."""
    placed = place(table, list(labels.tiles.values()))
    found = [
        {
            "id": label.id,
            **row_json(table, row),
            "label": label.mark.label,
            "who": label.who,
            "at": label.at,
        }
        for label, row in zip(placed.labels, placed.rows.tolist(), strict=True)
    ]
    return found, placed.unplaced


def classes_json(labels: Labels, cases: Mapping[str, str]) -> list[dict[str, Any]]:
    """Classes that have tiles, in the order of their first use; ``place`` is that among all ever used, for colours."""
    slides: dict[str, list[str]] = {}
    for label in labels.tiles.values():
        slides.setdefault(str(label.mark.label), []).append(label.mark.slide_id)
    return [
        {
            "label": name,
            "place": number,
            "tiles": len(slides[name]),
            "slides": len(set(slides[name])),
            "cases": len({cases.get(slide_id, slide_id) for slide_id in slides[name]}),
        }
        for number, name in enumerate(labels.classes)
        if name in slides
    ]


def changed_tiles(table: SearchTable, labels: Labels, subjects: Iterable[Subject]) -> list[dict[str, Any]]:
    """What those tiles are labelled now, None where they have no label; tiles that the store lacks are left out."""
    bare = (
        Label("", "", "", TileMark(str(subject[0]), 0, int(subject[1]), int(subject[-1]), None))
        for subject in subjects
        if len(subject) == 3
    )
    placed = place(table, [labels.tiles.get(label.mark.subject, label) for label in bare])
    found = []
    for label, row in zip(placed.labels, placed.rows.tolist(), strict=True):
        told = {**row_json(table, row), "label": label.mark.label}
        found.append({"id": label.id, **told, "who": label.who, "at": label.at} if label.id else told)
    return found


def slide_label_json(label: Label, cases: Mapping[str, str]) -> dict[str, Any]:
    """A slide's label."""
    mark = label.mark
    assert isinstance(mark, SlideMark)
    return {
        "id": label.id,
        "slide": handle(mark.slide_id),
        "slide_id": mark.slide_id,
        "case_id": cases.get(mark.slide_id, mark.slide_id),
        "column": mark.column,
        "value": mark.label,
        "who": label.who,
        "at": label.at,
    }


def columns_json(labels: Labels, cases: Mapping[str, str]) -> list[dict[str, Any]]:
    """Columns of slides with their values and how many slides and cases have each."""
    told = []
    for name in slide_columns(labels.slides.values()):
        held = [label.mark for label in labels.slides.values() if label.mark.subject[1] == name]
        values = dict.fromkeys(str(mark.label) for mark in held)
        told.append(
            {
                "name": name,
                "values": [
                    {
                        "value": value,
                        "slides": len(ids := [m.slide_id for m in held if m.label == value]),
                        "cases": len({cases.get(slide_id, slide_id) for slide_id in ids}),
                    }
                    for value in values
                ],
            }
        )
    return told


def entries_of(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``labels`` of a body: a list of objects, neither empty nor too long."""
    entries = data.get("labels")
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_ENTRIES:
        raise malformed(f"labels is not a list of 1 to {MAX_ENTRIES} objects")
    if not all(isinstance(entry, dict) for entry in entries):
        raise malformed("labels holds something that is not an object")
    return entries


def text_or_null(entry: Mapping[str, Any], name: str) -> str | None:
    """A field that must be there, a string or null."""
    if name not in entry:
        raise malformed(f"{name} is missing: give a text, or null to take it away")
    value: str | None = read_field(entry, name, str)
    return value


def tile_marks(
    desk: Desk, key: str, table: SearchTable, entries: Sequence[Mapping[str, Any]]
) -> list[TileMark]:
    """What the entries of a request mean; of a tile named twice the last counts."""
    marks: dict[Subject, TileMark] = {}
    for entry in entries:
        only(entry, "slide", "tile", "point", "region", "label")
        label = text_or_null(entry, "label")
        row = desk.shelf.slide(key, str(read_field(entry, "slide", str, "")))
        try:
            slide = table.slide(row.slide_id)
        except UnknownSlide:
            raise missing("the slide has no stored tiles") from None
        for mark in marks_of(table, _rows_meant(table, slide, entry).tolist(), label):
            marks[mark.subject] = mark
        if len(marks) > MAX_TILES:
            raise malformed(f"more than {MAX_TILES:,} tiles at once: label a smaller region")
    return list(marks.values())


def _rows_meant(table: SearchTable, slide: int, entry: Mapping[str, Any]) -> Any:
    """Rows of one entry, which names exactly one of tile, point and region."""
    tile = whole_field(entry, "tile", None, 0, _MOST_TILE)
    point, region = read_place(entry, "point", 2), read_place(entry, "region", 4)
    if sum(one is not None for one in (tile, point, region)) != 1:
        raise malformed("say which tiles: one of tile, point and region")
    if tile is not None:
        try:
            return row_of_tile(table, slide, tile)
        except UsageError as error:
            raise missing(str(error)) from None
    if point is not None:
        return row_at_point(table, slide, (point[0], point[1]))
    assert region is not None
    return rows_in_region(table, slide, (region[0], region[1], region[2], region[3]))
