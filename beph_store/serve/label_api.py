"""Labels of tiles and slides, given by people: read, write, undo, redo, and tables of them."""

from __future__ import annotations

from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from beph_store.engine.active.labels import Change, Kind, LabelBook, Labels, NothingToUndo, SlideMark
from beph_store.engine.active.saving import slides_csv, tiles_csv
from beph_store.serve.answers import Refused, answer, malformed
from beph_store.serve.asked import field, json_body, only
from beph_store.serve.desk import Desk, writing
from beph_store.serve.labelling import (
    MAX_ENTRIES,
    Labelling,
    cases_of,
    changed_tiles,
    classes_json,
    columns_json,
    entries_of,
    labels_json,
    slide_label_json,
    text_or_null,
    tile_marks,
)
from beph_store.serve.routes import BOOLEAN, INTEGER, STRING, Endpoint, Parameter, Schema, array, record
from beph_store.serve.shelf import handle
from beph_store.serve.store_api import RECIPE


async def list_tile_labels(request: Request) -> Response:
    """Labelled tiles, and the classes that they make."""
    desk, key = Desk.of(request), request.path_params["recipe"]
    who, slide = request.query_params.get("who"), request.query_params.get("slide")
    book = Labelling.of(request).book(desk, key)

    def look() -> dict[str, Any]:
        if slide is not None:
            desk.shelf.slide(key, slide)
        labels = book.labels()
        shown, unplaced = labels_json(desk.shelf.table(key), labels) if labels.tiles else ([], 0)
        return {
            "version": labels.version,
            "classes": classes_json(labels, cases_of(desk, key)),
            "labels": [one for one in shown if slide in (None, one["slide"])],
            **_can(labels, "tiles", who),
            "unplaced": unplaced,
        }

    return answer(await desk.work(look))


def _can(labels: Labels, kind: Kind, who: str | None) -> dict[str, bool]:
    return {"can_undo": labels.can("undo", kind, who), "can_redo": labels.can("redo", kind, who)}


async def _given(request: Request) -> tuple[Desk, str, LabelBook, str, list[dict[str, Any]]]:
    """The desk, the recipe's key, its book, who labels, and the labels of a body."""
    desk, key = writing(request), request.path_params["recipe"]
    data = await json_body(request)
    only(data, "who", "labels")
    who, entries = _who(data), entries_of(data)
    return desk, key, Labelling.of(request).book(desk, key), who, entries


async def label_tiles(request: Request) -> Response:
    """Label tiles, or take their labels away."""
    desk, key, book, who, entries = await _given(request)

    def write() -> dict[str, Any]:
        marks = tile_marks(desk, key, desk.shelf.table(key), entries)
        return _tiles_changed(desk, key, book.mark(who, marks), who)

    return answer(await desk.work(write))


def _who(data: dict[str, Any]) -> str:
    who = field(data, "who", str)
    if who is None:
        raise malformed("who is missing: every label keeps who gave it")
    return str(who).strip()


def _tiles_changed(desk: Desk, key: str, change: Change, who: str) -> dict[str, Any]:
    return {
        "version": change.labels.version,
        "changed": changed_tiles(desk.shelf.table(key), change.labels, change.subjects),
        "classes": classes_json(change.labels, cases_of(desk, key)),
        **_can(change.labels, "tiles", who),
    }


async def undo_tile_labels(request: Request) -> Response:
    """Take back a person's last action on tiles."""
    return await _step(request, "undo", "tiles")


async def redo_tile_labels(request: Request) -> Response:
    """Put back what a person took back last on tiles."""
    return await _step(request, "redo", "tiles")


async def undo_slide_labels(request: Request) -> Response:
    """Take back a person's last action on slides."""
    return await _step(request, "undo", "slides")


async def redo_slide_labels(request: Request) -> Response:
    """Put back what a person took back last on slides."""
    return await _step(request, "redo", "slides")


async def _step(request: Request, what: Literal["undo", "redo"], kind: Kind) -> Response:
    desk, key = writing(request), request.path_params["recipe"]
    data = await json_body(request)
    only(data, "who")
    who = _who(data)
    book = Labelling.of(request).book(desk, key)

    def write() -> dict[str, Any]:
        try:
            change = book.undo(kind, who) if what == "undo" else book.redo(kind, who)
        except NothingToUndo as error:
            raise Refused(409, str(error)) from None
        told = _tiles_changed if kind == "tiles" else _slides_changed
        return told(desk, key, change, who)

    return answer(await desk.work(write))


async def list_slide_labels(request: Request) -> Response:
    """Labelled slides."""
    desk, key = Desk.of(request), request.path_params["recipe"]
    who = request.query_params.get("who")
    book = Labelling.of(request).book(desk, key)

    def look() -> dict[str, Any]:
        labels, cases = book.labels(), cases_of(desk, key)
        return {
            "version": labels.version,
            "columns": columns_json(labels, cases),
            "labels": [slide_label_json(label, cases) for label in labels.slides.values()],
            **_can(labels, "slides", who),
        }

    return answer(await desk.work(look))


async def label_slides(request: Request) -> Response:
    """Label slides, or take their labels away."""
    desk, key, book, who, entries = await _given(request)

    def write() -> dict[str, Any]:
        marks: dict[tuple[str, str], SlideMark] = {}
        for entry in entries:
            only(entry, "slide", "column", "value")
            slide_id = desk.shelf.slide(key, str(field(entry, "slide", str, ""))).slide_id
            column = str(field(entry, "column", str, "label")).strip()
            marks[slide_id, column] = SlideMark(slide_id, column, text_or_null(entry, "value"))
        return _slides_changed(desk, key, book.mark(who, list(marks.values())), who)

    return answer(await desk.work(write))


def _slides_changed(desk: Desk, key: str, change: Change, who: str) -> dict[str, Any]:
    cases, labels = cases_of(desk, key), change.labels
    changed = []
    for subject in change.subjects:
        if len(subject) == 2:
            held = labels.slides.get(subject)
            slide_id, column = subject
            gone = {"slide": handle(slide_id), "slide_id": slide_id, "column": column, "value": None}
            gone["case_id"] = cases.get(slide_id, slide_id)
            changed.append(gone if held is None else slide_label_json(held, cases))
    return {
        "version": labels.version,
        "changed": changed,
        "columns": columns_json(labels, cases),
        **_can(labels, "slides", who),
    }


async def read_tiles_csv(request: Request) -> Response:
    """Labelled tiles as a table."""
    return await _csv(request, "tiles")


async def read_slides_csv(request: Request) -> Response:
    """Labelled slides as a table of a cohort."""
    return await _csv(request, "slides")


async def _csv(request: Request, kind: Kind) -> Response:
    desk, key = Desk.of(request), request.path_params["recipe"]
    book = Labelling.of(request).book(desk, key)
    make = tiles_csv if kind == "tiles" else slides_csv
    text = await desk.work(lambda: make(book.labels(), cases_of(desk, key)))
    headers = {"content-disposition": f'attachment; filename="{kind}-{key}.csv"'}
    return Response(text.encode("utf-8", "surrogateescape"), 200, headers, "text/csv")


_WHO = Parameter("who", "can_undo and can_redo of this person; otherwise of anybody", STRING)
_CLASS = record(label=STRING, place=INTEGER, tiles=INTEGER, slides=INTEGER, cases=INTEGER)
#: What every label has: of what it is, by whom, when.
_OF = {"id": STRING, "slide": STRING, "slide_id": STRING, "case_id": STRING}
_BY = {"who": STRING, "at": STRING}
TILE_LABEL = record(
    **_OF,
    tile=INTEGER,
    x=INTEGER,
    y=INTEGER,
    footprint_l0=INTEGER,
    label={"type": ["string", "null"]},
    **_BY,
)
_SLIDE_LABEL = record(**_OF, column=STRING, value={"type": ["string", "null"]}, **_BY)
_STEPS = {"can_undo": BOOLEAN, "can_redo": BOOLEAN}
_COLUMN = record(name=STRING, values=array(record(value=STRING, slides=INTEGER, cases=INTEGER)))
_TILES_CHANGED: dict[str, Schema] = {
    "application/json": record(version=INTEGER, changed=array(TILE_LABEL), classes=array(_CLASS), **_STEPS)
}
_SLIDES_CHANGED: dict[str, Schema] = {
    "application/json": record(version=INTEGER, changed=array(_SLIDE_LABEL), columns=array(_COLUMN), **_STEPS)
}


def _posted(entry: Schema) -> dict[str, Schema]:
    entries = {**array({**entry, "additionalProperties": False}), "minItems": 1, "maxItems": MAX_ENTRIES}
    whole = {**record(who=STRING, labels=entries), "required": ["who", "labels"]}
    return {"application/json": {**whole, "additionalProperties": False}}


_ONLY_WHO: dict[str, Schema] = {
    "application/json": {**record(who=STRING), "required": ["who"], "additionalProperties": False}
}
_TILE_ENTRY = record(
    slide=STRING,
    tile={**INTEGER, "description": "number of a tile; or"},
    point={**array(INTEGER), "description": "x, y on a tile, level-0 px; or"},
    region={**array(INTEGER), "description": "x0, y0, x1, y1: every tile whose middle lies within"},
    label={"type": ["string", "null"], "description": "null takes the label away"},
)
_SLIDE_ENTRY = record(
    slide=STRING,
    column={**STRING, "default": "label"},
    value={"type": ["string", "null"], "description": "null takes the value away"},
)
_ROOT = "/api/recipes/{recipe}/labels"

ENDPOINTS = (
    Endpoint(
        "GET",
        f"{_ROOT}/tiles",
        "Labelled tiles: the label that each has now, with who gave it and when",
        list_tile_labels,
        {
            "application/json": record(
                version=INTEGER, classes=array(_CLASS), labels=array(TILE_LABEL), unplaced=INTEGER, **_STEPS
            )
        },
        (RECIPE, _WHO, Parameter("slide", "labels of this slide only", STRING)),
    ),
    Endpoint(
        "POST",
        f"{_ROOT}/tiles",
        "Label tiles, or take labels away; one request is one action, undone as one",
        label_tiles,
        _TILES_CHANGED,
        (RECIPE,),
        _posted(_TILE_ENTRY),
    ),
    Endpoint(
        "POST",
        f"{_ROOT}/tiles/undo",
        "Take back a person's last action on tiles",
        undo_tile_labels,
        _TILES_CHANGED,
        (RECIPE,),
        _ONLY_WHO,
        errors=(409,),
    ),
    Endpoint(
        "POST",
        f"{_ROOT}/tiles/redo",
        "Put back what a person took back last on tiles",
        redo_tile_labels,
        _TILES_CHANGED,
        (RECIPE,),
        _ONLY_WHO,
        errors=(409,),
    ),
    Endpoint(
        "GET",
        f"{_ROOT}/tiles.csv",
        "Labelled tiles as a table that beph-store probe --labels reads",
        read_tiles_csv,
        {"text/csv": STRING},
        (RECIPE,),
    ),
    Endpoint(
        "GET",
        f"{_ROOT}/slides",
        "Labelled slides",
        list_slide_labels,
        {
            "application/json": record(
                version=INTEGER, columns=array(_COLUMN), labels=array(_SLIDE_LABEL), **_STEPS
            )
        },
        (RECIPE, _WHO),
    ),
    Endpoint(
        "POST",
        f"{_ROOT}/slides",
        "Label slides, or take labels away",
        label_slides,
        _SLIDES_CHANGED,
        (RECIPE,),
        _posted(_SLIDE_ENTRY),
    ),
    Endpoint(
        "POST",
        f"{_ROOT}/slides/undo",
        "Take back a person's last action on slides",
        undo_slide_labels,
        _SLIDES_CHANGED,
        (RECIPE,),
        _ONLY_WHO,
        errors=(409,),
    ),
    Endpoint(
        "POST",
        f"{_ROOT}/slides/redo",
        "Put back what a person took back last on slides",
        redo_slide_labels,
        _SLIDES_CHANGED,
        (RECIPE,),
        _ONLY_WHO,
        errors=(409,),
    ),
    Endpoint(
        "GET",
        f"{_ROOT}/slides.csv",
        "Labelled slides as a table of a cohort, for /api/cohorts",
        read_slides_csv,
        {"text/csv": STRING},
        (RECIPE,),
    ),
)
