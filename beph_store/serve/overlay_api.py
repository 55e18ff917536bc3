"""What lies over a slide: the grid of its stored tiles, their likeness to one of them, and the tissue."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from beph_store.engine.search.ask import ask_at
from beph_store.engine.search.table import SearchTable
from beph_store.search.exact import score_rows
from beph_store.serve.answers import answer, malformed, missing
from beph_store.serve.asked import whole_query
from beph_store.serve.desk import Desk
from beph_store.serve.images import mask_png
from beph_store.serve.routes import INTEGER, NUMBER, STRING, Endpoint, Parameter, array, record
from beph_store.serve.store_api import RECIPE, SLIDE
from beph_store.store import SlideRow

_MOST = 1 << 31
BINARY = "application/octet-stream"


def slide_rows(table: SearchTable, row: SlideRow) -> slice:
    """The slide's rows in the table; 404 where it is not finished."""
    if row.slide_id not in table.flat.slide_ids:
        raise missing("the slide has no stored tiles")
    return table.span(table.slide(row.slide_id))


async def read_grid(request: Request) -> Response:
    """Number and top-left corner of every readable tile."""
    desk, form = Desk.of(request), slide_form(request)
    key, name = request.path_params["recipe"], request.path_params["slide"]

    def look() -> Response:
        row, table = desk.shelf.slide(key, name), desk.shelf.table(key)
        rows = slide_rows(table, row)
        tile, origin = table.flat.tile_index[rows], table.flat.origin_l0[rows]
        side = row.footprint_l0 or 1
        if form == "bin":
            together = np.column_stack([tile, origin]).astype("<i4")
            return _bytes(together, {"x-tiles": str(len(tile)), "x-footprint-l0": str(side)})
        columns = {"tile": tile.tolist(), "x": origin[:, 0].tolist(), "y": origin[:, 1].tolist()}
        return answer({"tiles": len(tile), "footprint_l0": side, **columns})

    return await desk.work(look)


async def read_similarity(request: Request) -> Response:
    """Cosine of every readable tile with one tile, of this slide or another."""
    desk, form = Desk.of(request), slide_form(request)
    key, name = request.path_params["recipe"], request.path_params["slide"]
    source = request.query_params.get("of", name)
    tile, x, y = (whole_query(request, part, None, 0, _MOST) for part in ("tile", "x", "y"))
    if (tile is None) == (x is None or y is None):
        raise malformed("say which tile: tile=NUMBER, or x and y of a point, level-0 px")

    def look() -> Response:
        row, asked, table = desk.shelf.slide(key, name), desk.shelf.slide(key, source), desk.shelf.table(key)
        rows = slide_rows(table, row)
        query = _row_of(table, asked, tile) if tile is not None else _row_at(table, asked, x or 0, y or 0)
        vector = table.flat.vectors[query].astype(np.float64)
        unit = vector / (np.linalg.norm(vector) or 1.0)
        score = score_rows(unit, table.flat.vectors, np.arange(rows.start, rows.stop))
        number = int(table.flat.tile_index[query])
        if form == "bin":
            return _bytes(score.astype("<f4"), {"x-tiles": str(len(score)), "x-tile": str(number)})
        shown = [round(value, 5) if np.isfinite(value) else None for value in score.tolist()]
        return answer({"of": source, "tile": number, "score": shown})

    return await desk.work(look)


def _row_of(table: SearchTable, row: SlideRow, tile: int) -> int:
    rows = slide_rows(table, row)
    found = np.flatnonzero(table.flat.tile_index[rows] == tile)
    if not len(found):
        raise missing("the slide has no readable tile of that number")
    return int(rows.start + found[0])


def _row_at(table: SearchTable, row: SlideRow, x: int, y: int) -> int:
    slide_rows(table, row)
    found = ask_at(table, row.slide_id, x, y).row
    assert found is not None
    return found


async def read_tissue(request: Request) -> Response:
    """The tissue mask as an image of the whole slide."""
    desk = Desk.of(request)
    key, name = request.path_params["recipe"], request.path_params["slide"]
    row = await desk.work(lambda: desk.shelf.slide(key, name))
    make: Callable[[], bytes] = lambda: mask_png(desk.shelf.store.rasters(key, row.slide_id).tissue.mask)  # noqa: E731
    data = await desk.image(("tissue", key, name, row.ingest_id), make)
    return Response(data, media_type="image/png", headers={"cache-control": "private, max-age=60"})


def slide_form(request: Request) -> str:
    """What the path ends in, json or bin; 404 for anything else."""
    form: str = request.path_params["format"]
    if form not in ("json", "bin"):
        raise missing("this ends in json or bin")
    return form


def _bytes(array_: NDArray[np.generic], headers: dict[str, str]) -> Response:
    return Response(array_.tobytes(), media_type=BINARY, headers=headers)


FORMAT = Parameter("format", "json, or bin: little-endian", {"enum": ["json", "bin"]})

ENDPOINTS = (
    Endpoint(
        "GET",
        "/api/recipes/{recipe}/slides/{slide}/grid.{format}",
        "Every readable tile's number and top-left corner in level-0 px; bin: (N, 3) int32 of tile, x, y",
        read_grid,
        {
            "application/json": record(
                tiles=INTEGER, footprint_l0=INTEGER, tile=array(INTEGER), x=array(INTEGER), y=array(INTEGER)
            ),
            BINARY: {},
        },
        (RECIPE, SLIDE, FORMAT),
    ),
    Endpoint(
        "GET",
        "/api/recipes/{recipe}/slides/{slide}/similarity.{format}",
        "Cosine of every tile with one tile, in the order of the grid; bin: (N,) float32",
        read_similarity,
        {"application/json": record(of=STRING, tile=INTEGER, score=array(NUMBER)), BINARY: {}},
        (
            RECIPE,
            SLIDE,
            FORMAT,
            Parameter("tile", "number of the tile", INTEGER),
            Parameter("x", "with y instead of tile: a point on it, level-0 px", INTEGER),
            Parameter("y", "with x instead of tile: a point on it, level-0 px", INTEGER),
            Parameter("of", "the slide that the tile is of, if another", STRING),
        ),
        errors=(422,),
    ),
    Endpoint(
        "GET",
        "/api/recipes/{recipe}/slides/{slide}/tissue.png",
        "The tissue mask: white on transparent, over the whole slide",
        read_tissue,
        {"image/png": {}},
        (RECIPE, SLIDE),
    ),
)
