"""The head that follows the labels of tiles: refit it, see what it says of a slide, what to label next, save it."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from beph_store.engine.active.labels import Labels
from beph_store.engine.active.proposals import Proposal, propose
from beph_store.engine.active.refit import TileHead
from beph_store.engine.active.saving import (
    NameTaken,
    packed,
    remove_saved,
    save_tile_head,
    saved_folder,
    saved_heads,
)
from beph_store.engine.search.table import SearchTable
from beph_store.errors import HeadError
from beph_store.serve.answers import Refused, answer, malformed, missing
from beph_store.serve.asked import field, json_body, only, whole_query
from beph_store.serve.desk import Desk, writing
from beph_store.serve.labelling import Labelling, row_json
from beph_store.serve.overlay_api import BINARY, FORMAT, slide_form, slide_rows
from beph_store.serve.routes import INTEGER, NUMBER, STRING, Endpoint, Parameter, Schema, array, record
from beph_store.serve.store_api import RECIPE, SLIDE

_MOST = 200


def _head(request: Request, desk: Desk, key: str, status: int) -> tuple[SearchTable, Labels, TileHead]:
    """The head of the labels as they are; refused with ``status`` where they are of fewer than two classes."""
    held = Labelling.of(request)
    table, labels = desk.shelf.table(key), held.book(desk, key).labels()
    try:
        return table, labels, held.head(table, labels)
    except HeadError as error:
        raise Refused(status, str(error)) from None


async def refit_tiles(request: Request) -> Response:
    """Fit the head to the labels as they are."""
    desk, key = Desk.of(request), request.path_params["recipe"]
    if await request.body():
        only(await json_body(request))
    _, _, head = await desk.work(lambda: _head(request, desk, key, 422))
    return answer({**head.to_json(), "seconds": round(head.seconds, 4)})


async def read_tile_classes(request: Request) -> Response:
    """What the head says of every tile of a slide."""
    desk, form = Desk.of(request), slide_form(request)
    key, name = request.path_params["recipe"], request.path_params["slide"]
    wanted = request.query_params.get("class")

    def look() -> Response:
        row = desk.shelf.slide(key, name)
        table, _, head = _head(request, desk, key, 409)
        if wanted is not None and wanted not in head.classes:
            raise malformed(f"no class {wanted[:60]!r} has labels; there are {', '.join(head.classes)}")
        chances = head.probabilities(table.flat.vectors[slide_rows(table, row)])
        predicted = chances.argmax(axis=1)
        shown = chances.max(axis=1, initial=0) if wanted is None else chances[:, head.classes.index(wanted)]
        if form == "bin":
            values = predicted if wanted is None else shown
            headers = {
                "x-tiles": str(len(values)),
                "x-version": str(head.version),
                "x-classes": quote(json.dumps(head.classes)),
            }
            return Response(values.astype("<f4").tobytes(), 200, headers, BINARY)
        return answer(
            {
                "version": head.version,
                "classes": list(head.classes),
                "class": wanted,
                "probability": [round(value, 5) for value in shown.tolist()],
                "predicted": predicted.tolist(),
            }
        )

    return await desk.work(look)


async def list_proposals(request: Request) -> Response:
    """What to label next."""
    desk, key = Desk.of(request), request.path_params["recipe"]
    count = whole_query(request, "count", 12, 1, _MOST) or 1
    seed = whole_query(request, "seed", 0, 0, 1 << 31) or 0
    slide = request.query_params.get("slide")

    def look() -> dict[str, Any]:
        held = Labelling.of(request)
        row = None if slide is None else desk.shelf.slide(key, slide)
        table, labels = desk.shelf.table(key), held.book(desk, key).labels()
        head = _head_if_any(held, table, labels)
        where = None
        if row is not None:
            slide_rows(table, row)
            where = [table.slide(row.slide_id)]
        found = propose(table, labels, head, count, slides=where, seed=seed)
        classes = head.classes if head else ()
        return {
            "version": found.version,
            "method": found.method,
            "why": found.why,
            "pool": found.pool,
            "proposals": [_proposal_json(table, one, classes) for one in found.found],
        }

    return answer(await desk.work(look))


def _head_if_any(held: Labelling, table: SearchTable, labels: Labels) -> TileHead | None:
    try:
        return held.head(table, labels)
    except HeadError:
        return None


def _proposal_json(table: SearchTable, one: Proposal, classes: tuple[str, ...]) -> dict[str, Any]:
    chances = None
    if one.probabilities is not None:
        chances = {name: round(value, 5) for name, value in zip(classes, one.probabilities, strict=True)}
    unsure = None if one.uncertainty is None else round(one.uncertainty, 5)
    return {**row_json(table, one.row), "uncertainty": unsure, "probabilities": chances}


async def save_tiles_head(request: Request) -> Response:
    """Keep the head of the labels as they are under a name."""
    desk, key = writing(request), request.path_params["recipe"]
    data = await json_body(request)
    only(data, "name", "who")
    name, who = field(data, "name", str), field(data, "who", str)
    if name is None or who is None:
        raise malformed("name and who are needed: what the head is called, and who saves it")

    def write() -> dict[str, Any]:
        table, labels, head = _head(request, desk, key, 422)
        try:
            return _saved_json(save_tile_head(table, head, labels, name, who))
        except NameTaken as error:
            raise Refused(409, str(error)) from None

    return answer(await desk.work(write), 201)


def _saved_json(about: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in about.items() if name != "format"}


async def list_saved(request: Request) -> Response:
    """Saved heads of tile classes."""
    desk, key = Desk.of(request), request.path_params["recipe"]

    def look() -> dict[str, Any]:
        desk.shelf.recipe(key)
        return {"saved": [_saved_json(about) for about in saved_heads(desk.shelf.store.layout, key)]}

    return answer(await desk.work(look))


async def read_saved(request: Request) -> Response:
    """A saved head as a ZIP file."""
    desk, key, name = Desk.of(request), request.path_params["recipe"], request.path_params["name"]

    def look() -> bytes:
        desk.shelf.recipe(key)
        try:
            return packed(saved_folder(desk.shelf.store.layout, key, name))
        except HeadError as error:
            raise missing(str(error)) from None

    data = await desk.work(look)
    # Only a name that is listed gets here: small letters, digits and hyphens.
    headers = {"content-disposition": f'attachment; filename="{name}.zip"'}
    return Response(data, 200, headers, "application/zip")


async def delete_saved(request: Request) -> Response:
    """Delete a saved head."""
    desk, key, name = writing(request), request.path_params["recipe"], request.path_params["name"]

    def write() -> None:
        desk.shelf.recipe(key)
        try:
            remove_saved(desk.shelf.store.layout, key, name)
        except HeadError as error:
            raise missing(str(error)) from None

    await desk.work(write)
    return Response(status_code=204)


_HELD_OUT = record(
    by={"enum": ["case", "slide", "none"]},
    note=STRING,
    accuracy={"type": ["number", "null"]},
    balanced_accuracy={"type": ["number", "null"]},
    majority={"type": ["number", "null"]},
    tiles=INTEGER,
    folds=INTEGER,
)
_HEAD = {
    "version": INTEGER,
    "classes": array(STRING),
    "tiles": INTEGER,
    "used": INTEGER,
    "slides": INTEGER,
    "cases": INTEGER,
    "penalty": NUMBER,
    "held_out": _HELD_OUT,
}
_SAVED: Schema = record(name=STRING, title=STRING, who=STRING, saved_at=STRING, recipe=STRING, **_HEAD)
_PROPOSAL = record(
    slide=STRING,
    slide_id=STRING,
    case_id=STRING,
    tile=INTEGER,
    x=INTEGER,
    y=INTEGER,
    footprint_l0=INTEGER,
    uncertainty={"type": ["number", "null"]},
    probabilities={"type": ["object", "null"]},
)
_NAME = Parameter("name", "what `name` is in the list of saved heads", STRING)
_ROOT = "/api/recipes/{recipe}/labels"

ENDPOINTS = (
    Endpoint(
        "POST",
        f"{_ROOT}/refit",
        "Fit a linear head to the labelled tiles, and say how good it is on tiles that it did not see; writes nothing",
        refit_tiles,
        {"application/json": record(seconds=NUMBER, **_HEAD)},
        (RECIPE,),
        errors=(422,),
    ),
    Endpoint(
        "GET",
        "/api/recipes/{recipe}/slides/{slide}/tile-classes.{format}",
        "What the refitted head says of every tile, in the order of the grid; bin: (N,) float32",
        read_tile_classes,
        {
            "application/json": record(
                version=INTEGER,
                classes=array(STRING),
                probability=array(NUMBER),
                predicted=array(INTEGER),
                **{"class": {"type": ["string", "null"]}},
            ),
            BINARY: {},
        },
        (
            RECIPE,
            SLIDE,
            FORMAT,
            Parameter(
                "class",
                "whose probability; without it bin is the number of the likeliest class, and json its probability",
                STRING,
            ),
        ),
        errors=(409, 422),
    ),
    Endpoint(
        "GET",
        f"{_ROOT}/proposals",
        "Tiles to label next: uncertain and diverse; while fewer than two classes have labels, diverse",
        list_proposals,
        {
            "application/json": record(
                version=INTEGER, method=STRING, why=STRING, pool=INTEGER, proposals=array(_PROPOSAL)
            )
        },
        (
            RECIPE,
            Parameter("count", "how many", {"type": "integer", "default": 12, "maximum": _MOST}),
            Parameter("slide", "of this slide only", STRING),
            Parameter("seed", "another number, other tiles", {"type": "integer", "default": 0}),
        ),
        errors=(422,),
    ),
    Endpoint(
        "POST",
        f"{_ROOT}/save",
        "Keep the head of the labels as they are, with the labels, under a name",
        save_tiles_head,
        {"application/json": _SAVED},
        (RECIPE,),
        {
            "application/json": {
                **record(name=STRING, who=STRING),
                "required": ["name", "who"],
                "additionalProperties": False,
            }
        },
        errors=(409,),
    ),
    Endpoint(
        "GET",
        f"{_ROOT}/saved",
        "Saved heads of tile classes",
        list_saved,
        {"application/json": record(saved=array(_SAVED))},
        (RECIPE,),
    ),
    Endpoint(
        "GET",
        f"{_ROOT}/saved/{{name}}.zip",
        "A saved head: classifier.json, classifier.npz, labels.csv, about.json",
        read_saved,
        {"application/zip": {}},
        (RECIPE, _NAME),
    ),
    Endpoint(
        "DELETE",
        f"{_ROOT}/saved/{{name}}",
        "Delete a saved head",
        delete_saved,
        {},
        (RECIPE, _NAME),
    ),
)
