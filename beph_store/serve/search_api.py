"""Search: the tiles most like a point, a region, a slide or an image."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from starlette.requests import Request
from starlette.responses import Response

from beph_store.engine.embed import FITS, fit_tile
from beph_store.engine.search.ask import Question, SearchOptions, ask_at, ask_region, ask_slide, find
from beph_store.engine.search.table import SearchTable
from beph_store.records import Hit
from beph_store.serve.answers import Refused, answer, malformed
from beph_store.serve.asked import field, json_body, one_of, only, place, whole_field, whole_query
from beph_store.serve.desk import Desk
from beph_store.serve.routes import (
    BOOLEAN,
    INTEGER,
    NUMBER,
    STRING,
    Endpoint,
    Parameter,
    Schema,
    array,
    record,
)
from beph_store.serve.shelf import handle
from beph_store.serve.store_api import RECIPE
from beph_store.sqlguard import check_condition

_MOST_HITS = 500
_MOST_PIXELS = 50_000_000
_IMAGES = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/tiff": "TIFF",
    "image/bmp": "BMP",
    "image/webp": "WEBP",
}
_EXCLUDE, _POOL = ("none", "slide", "case"), ("mean", "max")
#: Columns of tiles, beside those of slides and labels, that a condition may compare.
_TILE_COLUMNS = {"tile", "x", "y", "tissue"}


async def search_place(request: Request) -> Response:
    """The tiles most like a point, a region or a whole slide of the store."""
    desk, key = Desk.of(request), request.path_params["recipe"]
    data = await json_body(request)
    only(data, "slide", "point", "region", "top", "exclude", "where", "per_slide", "pool", "exact")
    name = field(data, "slide", str)
    if name is None:
        raise malformed("slide is missing: say whose point or region it is")
    point, region = place(data, "point", 2), place(data, "region", 4)
    if point is not None and region is not None:
        raise malformed("point or region, not both")
    options = _options(data)

    def ask(table: SearchTable) -> Question:
        slide_id = desk.shelf.slide(key, name).slide_id
        if point is not None:
            return ask_at(table, slide_id, point[0], point[1])
        if region is not None:
            return ask_region(table, slide_id, (region[0], region[1], region[2], region[3]))
        return ask_slide(table, slide_id)

    return answer(await desk.work(lambda: _searched(desk, key, ask, options)))


async def search_image(request: Request) -> Response:
    """The tiles most like an image, which is the body."""
    desk, key = Desk.of(request), request.path_params["recipe"]
    asked = request.query_params
    fit = one_of(asked.get("fit"), "fit", *FITS)
    top = whole_query(request, "top", None, 1, _MOST_HITS)
    per_slide = whole_query(request, "per_slide", None, 1, _MOST_HITS)
    options = _options({"top": top, "per_slide": per_slide, "where": asked.get("where")})
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind not in _IMAGES:
        raise malformed(f"send one image, with content-type: one of {', '.join(_IMAGES)}")
    body = await request.body()

    def ask(table: SearchTable) -> Question:
        tile = _tile(body, _IMAGES[kind], table.record.recipe.encoder.tile_px, fit)
        return Question(desk.encode(table, tile), "the image")

    return answer(await desk.work(lambda: _searched(desk, key, ask, options)))


def _tile(body: bytes, kind: str, tile_px: int, fit: Any) -> NDArray[np.uint8]:
    """(tile_px, tile_px, 3) uint8 RGB of an uploaded image; 422 for what is no image or has another size."""
    try:
        with Image.open(io.BytesIO(body), formats=(kind,)) as image:
            width, height = image.size
            if width * height > _MOST_PIXELS:
                raise Refused(
                    413, f"an image of {width} × {height} px: at most {_MOST_PIXELS // 10**6} megapixels"
                )
            if (width, height) != (tile_px, tile_px) and fit is None:
                raise malformed(
                    f"the image has {width} × {height} px, the encoder takes {tile_px} × {tile_px}: cut it to size, or "
                    f"say how to make it fit, fit={'|'.join(FITS)}, which changes what the encoder sees"
                )
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError, SyntaxError) as error:
        raise malformed(f"the body cannot be read as {kind}") from error
    return pixels if fit is None else fit_tile(pixels, tile_px, fit)


def _options(data: Mapping[str, Any]) -> SearchOptions:
    return SearchOptions(
        top=whole_field(data, "top", 24, 1, _MOST_HITS) or 24,
        where=field(data, "where", str),
        exclude=one_of(field(data, "exclude", str), "exclude", *_EXCLUDE),
        per_slide=whole_field(data, "per_slide", None, 1, _MOST_HITS),
        pool=one_of(field(data, "pool", str), "pool", *_POOL) or "mean",
        exact=field(data, "exact", bool, False),
    )


def _searched(
    desk: Desk, key: str, ask: Callable[[SearchTable], Question], options: SearchOptions
) -> dict[str, Any]:
    table = desk.shelf.table(key)
    start = time.perf_counter()
    if options.where is not None:
        check_condition(options.where, _TILE_COLUMNS.union(table.slide_frame().columns) - _HIDDEN)
    question = ask(table)
    hits = find(table, question, options)
    query = None if question.row is None else _hit(table.hit(question.row, 1.0))
    return {
        "query": {"name": question.name, "vectors": len(question.vectors), "tile": query},
        "tiles": len(table.flat),
        "seconds": round(time.perf_counter() - start, 6),
        "hits": [_hit(hit) for hit in hits],
    }


_HIDDEN = {"_slide", "path", "key"}


def _hit(hit: Hit) -> dict[str, Any]:
    return {
        "slide": handle(hit.slide_id),
        "slide_id": hit.slide_id,
        "case_id": hit.case_id,
        "tile": hit.tile_index,
        "x": hit.origin_l0[0],
        "y": hit.origin_l0[1],
        "footprint_l0": hit.footprint_l0,
        "score": hit.score,
    }


_HIT = record(
    slide=STRING,
    slide_id=STRING,
    case_id=STRING,
    tile=INTEGER,
    x=INTEGER,
    y=INTEGER,
    footprint_l0=INTEGER,
    score=NUMBER,
)
_HITS: dict[str, Schema] = {
    "application/json": record(
        query=record(name=STRING, vectors=INTEGER), tiles=INTEGER, seconds=NUMBER, hits=array(_HIT)
    )
}
_WHERE = (
    "SQL condition over the columns of slides, tiles and labels, without functions; acts before the ranking"
)

ENDPOINTS = (
    Endpoint(
        "POST",
        "/api/recipes/{recipe}/search",
        "The tiles most like a point, a region or a whole slide",
        search_place,
        _HITS,
        (RECIPE,),
        {
            "application/json": {
                **record(
                    slide=STRING,
                    point={**array(INTEGER), "description": "x, y; level-0 px", "minItems": 2, "maxItems": 2},
                    region={
                        **array(INTEGER),
                        "description": "x0, y0, x1, y1; level-0 px",
                        "minItems": 4,
                        "maxItems": 4,
                    },
                    top={**INTEGER, "default": 24, "maximum": _MOST_HITS},
                    exclude={"enum": list(_EXCLUDE), "default": "case"},
                    where={**STRING, "description": _WHERE},
                    per_slide={**INTEGER, "description": "at most so many hits of one slide"},
                    pool={"enum": list(_POOL), "default": "mean"},
                    exact={**BOOLEAN, "default": False},
                ),
                "required": ["slide"],
                "additionalProperties": False,
            }
        },
    ),
    Endpoint(
        "POST",
        "/api/recipes/{recipe}/search/image",
        "The tiles most like an image",
        search_image,
        _HITS,
        (
            RECIPE,
            Parameter("top", "how many hits", {"type": "integer", "default": 24, "maximum": _MOST_HITS}),
            Parameter("per_slide", "at most so many hits of one slide", INTEGER),
            Parameter("where", _WHERE, STRING),
            Parameter(
                "fit", "what to do with an image of another size than the encoder's", {"enum": list(FITS)}
            ),
        ),
        {kind: {"type": "string", "format": "binary"} for kind in _IMAGES},
        errors=(409, 503),
    ),
)
