"""Clusters of a recipe's tiles: kinds of tissue that nobody named, with the same numbers on all slides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from beph_store.engine.active.clusters import MOST, RecipeClusters
from beph_store.engine.search.table import SearchTable
from beph_store.errors import SearchError
from beph_store.serve.answers import Refused, answer
from beph_store.serve.asked import whole_query
from beph_store.serve.desk import Desk
from beph_store.serve.labelling import Labelling, row_json
from beph_store.serve.overlay_api import BINARY, FORMAT, slide_form, slide_rows
from beph_store.serve.routes import INTEGER, NUMBER, STRING, Endpoint, Parameter, array, record
from beph_store.serve.store_api import RECIPE, SLIDE


def _clusters(request: Request, table: SearchTable, k: int) -> RecipeClusters:
    try:
        return Labelling.of(request).clusters(table, k)
    except SearchError as error:
        raise Refused(409, str(error)) from None


async def read_clusters(request: Request) -> Response:
    """The clusters of a recipe."""
    desk, key = Desk.of(request), request.path_params["recipe"]
    k = whole_query(request, "k", 8, 2, MOST) or 2

    def look() -> dict[str, Any]:
        table = desk.shelf.table(key)
        return _told(table, _clusters(request, table, k), None)

    return answer(await desk.work(look))


async def read_slide_clusters(request: Request) -> Response:
    """The cluster of every tile of a slide."""
    desk, form = Desk.of(request), slide_form(request)
    key, name = request.path_params["recipe"], request.path_params["slide"]
    k = whole_query(request, "k", 8, 2, MOST) or 2

    def look() -> Response:
        row, table = desk.shelf.slide(key, name), desk.shelf.table(key)
        rows = slide_rows(table, row)
        found = _clusters(request, table, k)
        numbers = found.clustering.of(table.flat.vectors[rows])
        if form == "bin":
            headers = {"x-tiles": str(len(numbers)), "x-k": str(found.k)}
            return Response(numbers.astype("<f4").tobytes(), 200, headers, BINARY)
        here = np.bincount(numbers, minlength=found.k).tolist()
        return answer({**_told(table, found, here), "cluster": numbers.tolist()})

    return await desk.work(look)


def _told(table: SearchTable, found: RecipeClusters, here: Sequence[int] | None) -> dict[str, Any]:
    clusters = []
    for number, (share, row) in enumerate(zip(found.clustering.share, found.exemplar, strict=True)):
        told: dict[str, Any] = {
            "cluster": number,
            "share": round(float(share), 5),
            "tiles": round(float(share) * found.tiles),
        }
        if here is not None:
            told["here"] = here[number]
        clusters.append({**told, "exemplar": row_json(table, int(row))})
    return {"k": found.k, "of_tiles": found.tiles, "sample": found.sample, "clusters": clusters}


_K = Parameter("k", "how many", {"type": "integer", "default": 8, "minimum": 2, "maximum": MOST})
_TILE = record(slide=STRING, slide_id=STRING, tile=INTEGER, x=INTEGER, y=INTEGER, footprint_l0=INTEGER)
_CLUSTER = {"cluster": INTEGER, "share": NUMBER, "tiles": INTEGER, "exemplar": _TILE}
_WHOLE = {"k": INTEGER, "of_tiles": INTEGER, "sample": INTEGER}

ENDPOINTS = (
    Endpoint(
        "GET",
        "/api/recipes/{recipe}/clusters.json",
        "k-means clusters of a sample of the recipe's tiles, the largest first, each with its most typical tile",
        read_clusters,
        {"application/json": record(clusters=array(record(**_CLUSTER)), **_WHOLE)},
        (RECIPE, _K),
        errors=(409, 422),
    ),
    Endpoint(
        "GET",
        "/api/recipes/{recipe}/slides/{slide}/clusters.{format}",
        "The cluster of every tile, in the order of the grid; the same numbers on all slides; bin: (N,) float32",
        read_slide_clusters,
        {
            "application/json": record(
                cluster=array(INTEGER), clusters=array(record(here=INTEGER, **_CLUSTER)), **_WHOLE
            ),
            BINARY: {},
        },
        (RECIPE, SLIDE, FORMAT, _K),
        errors=(409, 422),
    ),
)
