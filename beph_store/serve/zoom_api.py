"""A slide: what is known of it, its tiles in Deep Zoom's frame, and single stored tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from beph_store.errors import SlideUnreadable, StoreError
from beph_store.records import TileSet
from beph_store.serve.answers import answer, missing
from beph_store.serve.asked import whole
from beph_store.serve.desk import Desk
from beph_store.serve.images import MEDIA, encode
from beph_store.serve.routes import BOOLEAN, INTEGER, STRING, Endpoint, Parameter, record
from beph_store.serve.slide_tiles import (
    OVERLAP,
    TILE_PX,
    SlideGone,
    max_level,
    read_tile,
    tile_box,
)
from beph_store.serve.store_api import RECIPE, SLIDE, media
from beph_store.slides import SlideReader, TileReader
from beph_store.store import SlideRow

_MOST = 1 << 31


async def read_slide(request: Request) -> Response:
    """A slide: registry, labels, whether its file is there, and the frame of its tiles."""
    desk = Desk.of(request)
    key, name = request.path_params["recipe"], request.path_params["slide"]

    def look() -> dict[str, Any]:
        row = desk.shelf.slide(key, name)
        data: dict[str, Any] = {
            **{field: value for field, value in row.to_json().items() if field not in _PRIVATE},
            "slide": name,
            "case_id": desk.shelf.case(row),
            "file": True,
            "note": "",
            "image": None,
        }
        if row.width_l0 and row.height_l0:
            size = (row.width_l0, row.height_l0)
            data["image"] = {
                "width": size[0],
                "height": size[1],
                "tile_px": TILE_PX,
                "overlap": OVERLAP,
                "max_level": max_level(size),
                "version": version(row),
            }
        try:
            with desk.slides.lease(row) as slide:
                data["note"] = slide.note
                data["level_sizes"] = slide.info.level_sizes
        except SlideGone as gone:
            data |= {"file": False, "note": str(gone)}
        return data

    return answer(await desk.work(look))


#: Paths and digests are the server's business.
_PRIVATE = {
    "path",
    "ingest_id",
    "replaces",
    "sha256",
    "pixels_sha256",
    "file_mtime_ns",
    "fingerprint",
    "recipe",
}


def version(row: SlideRow) -> str:
    """Names the slide's content: a tile's address with ``v`` of this value never changes its meaning."""
    return (row.fingerprint or "")[:16]


async def read_dzi(request: Request) -> Response:
    """The descriptor that Deep Zoom viewers read."""
    desk = Desk.of(request)
    row = await desk.work(
        lambda: desk.shelf.slide(request.path_params["recipe"], request.path_params["slide"])
    )
    if not row.width_l0:
        raise missing("nothing is known of this slide's size: it could not be opened")
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" '
        f'Format="jpeg" Overlap="{OVERLAP}" TileSize="{TILE_PX}">'
        f'<Size Width="{row.width_l0}" Height="{row.height_l0}"/></Image>\n'
    )
    return Response(text, media_type="application/xml")


async def read_zoom_tile(request: Request) -> Response:
    """One tile of a level."""
    desk, form, given = Desk.of(request), media(request), request.path_params
    key, name = given["recipe"], given["slide"]
    level, column, line = (whole(given[part], part, 0, _MOST) for part in ("level", "column", "row"))
    row = desk.shelf.known(key, name)
    if row is None:
        row = await desk.work(lambda: desk.shelf.slide(key, name))
    data = await _zoom_tile(desk, row, (level, column, line), form)
    return Response(data, media_type=MEDIA[form], headers={"cache-control": _cached(request, row)})


async def _zoom_tile(desk: Desk, row: SlideRow, tile: tuple[int, int, int], form: str) -> bytes:
    """The image of (level, column, row); 404 where there is none."""
    level = tile[0]
    box = tile_box((row.width_l0, row.height_l0), *tile) if row.width_l0 and row.height_l0 else None
    if box is None:
        raise missing("the image has no such tile")
    found = box

    def make() -> bytes:
        with desk.slides.lease(row) as slide:
            return encode(read_tile(slide, level, found, lambda: _overview(desk, row, slide)), form)

    image_key = ("zoom", row.key, row.ingest_id, tile, form)
    if desk.images.get(image_key) is not None and not desk.slides.fresh(row):
        await desk.work(lambda: _still_there(desk, row))
    try:
        return await desk.image(image_key, make)
    except SlideUnreadable as error:
        raise missing(f"the slide's file is damaged here: {error}") from error


def _still_there(desk: Desk, row: SlideRow) -> None:
    with desk.slides.lease(row):
        pass


def _cached(request: Request, row: SlideRow) -> str:
    named = request.query_params.get("v")
    return "private, max-age=31536000, immutable" if named and named == version(row) else "private, no-cache"


def _overview(desk: Desk, row: SlideRow, slide: SlideReader) -> NDArray[np.uint8]:
    """The stored thumbnail, or one read now where the store has none."""
    try:
        return desk.shelf.store.rasters(row.recipe, row.slide_id).thumbnail
    except StoreError:
        return slide.overview()[0]


async def read_stored_tile(request: Request) -> Response:
    """A tile as the encoder saw it, by its number; where the slide's file has moved, cut from the overview."""
    desk, form, given = Desk.of(request), media(request), request.path_params
    key, name = given["recipe"], given["slide"]
    tile = whole(given["tile"], "tile", 0, _MOST)
    row = await desk.work(lambda: desk.shelf.slide(key, name))

    def make() -> bytes:
        return encode(_stored_tile(desk, row, tile), form)

    try:
        data = await desk.image(("stored", key, name, row.ingest_id, tile, form), make)
    except SlideGone:
        cut = await desk.image(
            ("cut", key, name, row.ingest_id, tile, form), lambda: encode(_cut(desk, row, tile), form)
        )
        return Response(cut, media_type=MEDIA[form], headers={"x-cut-from": "thumbnail"})
    return Response(data, media_type=MEDIA[form], headers={"x-cut-from": "slide"})


def origin_of(desk: Desk, row: SlideRow, tile: int) -> NDArray[np.int32]:
    """(2,) x, y of a stored tile; 404 where the slide has no readable one of that number."""
    table = desk.shelf.table(row.recipe)
    if row.status != "done" or row.slide_id not in table.flat.slide_ids:
        raise missing("the slide has no stored tiles")
    rows = table.span(table.slide(row.slide_id))
    at = rows.start + int(np.searchsorted(table.flat.tile_index[rows], tile))
    if at >= rows.stop or table.flat.tile_index[at] != tile:
        raise missing("the slide has no readable tile of that number")
    return np.asarray(table.flat.origin_l0[at], np.int32)


def _stored_tile(desk: Desk, row: SlideRow, tile: int) -> NDArray[np.uint8]:
    spec = desk.shelf.recipe(row.recipe).recipe.tile
    origin = origin_of(desk, row, tile)[None]
    tiles = TileSet(row.slide_id, spec, origin, row.footprint_l0 or 1, np.ones(1, np.float32))
    pixels = np.empty((1, spec.tile_px, spec.tile_px, 3), np.uint8)
    with desk.slides.lease(row) as slide:
        reader = TileReader(slide, tiles)
        if not reader.read(np.zeros(1, np.int32), pixels).all():
            raise missing(f"the slide's file is damaged here: {reader.errors[0]}")
    tile_pixels: NDArray[np.uint8] = pixels[0]
    return tile_pixels


def _cut(desk: Desk, row: SlideRow, tile: int) -> NDArray[np.uint8]:
    """What the overview shows of the tile, at the overview's own scale."""
    small = desk.shelf.store.rasters(row.recipe, row.slide_id).thumbnail
    scale = small.shape[1] / (row.width_l0 or small.shape[1])
    x, y = (int(v * scale) for v in origin_of(desk, row, tile))
    side = max(1, round((row.footprint_l0 or 1) * scale))
    x, y = min(x, small.shape[1] - 1), min(y, small.shape[0] - 1)
    return np.ascontiguousarray(small[y : y + side, x : x + side])


async def on_gone(request: Request, raised: Exception) -> Response:
    """The file has moved: 410, with what remains."""
    return answer({"error": str(raised)}, 410)


_FORMAT = Parameter("format", "of the image", {"enum": list(MEDIA)})
_IMAGES: dict[str, dict[str, Any]] = {"image/jpeg": {}, "image/png": {}}
_FRAME = record(
    width=INTEGER, height=INTEGER, tile_px=INTEGER, overlap=INTEGER, max_level=INTEGER, version=STRING
)

ENDPOINTS = (
    Endpoint(
        "GET",
        "/api/recipes/{recipe}/slides/{slide}",
        "A slide: what is known of it, whether its file is there, the frame of its tiles",
        read_slide,
        {"application/json": record(slide_id=STRING, file=BOOLEAN, note=STRING, image=_FRAME)},
        (RECIPE, SLIDE),
    ),
    Endpoint(
        "GET",
        "/api/recipes/{recipe}/slides/{slide}/image.dzi",
        "Descriptor for Deep Zoom viewers",
        read_dzi,
        {"application/xml": {}},
        (RECIPE, SLIDE),
    ),
    Endpoint(
        "GET",
        "/api/recipes/{recipe}/slides/{slide}/image_files/{level}/{column}_{row}.{format}",
        "A tile of the slide's pyramid, from its own file",
        read_zoom_tile,
        _IMAGES,
        (
            RECIPE,
            SLIDE,
            Parameter("level", "of the Deep Zoom image; the largest is the slide itself", INTEGER),
            Parameter("column", "of the tile", INTEGER),
            Parameter("row", "of the tile", INTEGER),
            _FORMAT,
            Parameter("v", "the image's `version`: lets a browser keep the tile for ever", STRING),
        ),
        errors=(410, 422),
    ),
    Endpoint(
        "GET",
        "/api/recipes/{recipe}/slides/{slide}/tiles/{tile}.{format}",
        "A stored tile as the encoder saw it; cut from the overview where the slide's file has moved",
        read_stored_tile,
        _IMAGES,
        (RECIPE, SLIDE, Parameter("tile", "number of the tile", INTEGER), _FORMAT),
        errors=(422,),
    ),
)
