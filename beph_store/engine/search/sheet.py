"""Hits to look at: a contact sheet of their tiles, and GeoJSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from beph_store.engine.fonts import fit, font
from beph_store.engine.search.table import SearchTable
from beph_store.errors import BephStoreError
from beph_store.objects import is_url
from beph_store.records import Hit, TileSet
from beph_store.slides import TileReader, open_slide

_CELL, _GAP, _CAPTION, _HEAD = 168, 14, 40, 44
_INK, _SOFT, _LINE = (28, 33, 40), (99, 108, 118), (213, 217, 222)


def tile_pixels(table: SearchTable, hits: Sequence[Hit]) -> list[tuple[NDArray[np.uint8], bool]]:
    """For each hit (H, W, 3) uint8 RGB and whether it is the tile itself: from the slide's file, or where that has
    moved or changed, cut from the stored thumbnail.
    """
    by_slide: dict[str, list[int]] = {}
    for number, hit in enumerate(hits):
        by_slide.setdefault(hit.slide_id, []).append(number)
    found: dict[int, tuple[NDArray[np.uint8], bool]] = {}
    for slide_id, numbers in by_slide.items():
        some = [hits[number] for number in numbers]
        try:
            pixels = _from_file(table, slide_id, some)
            found |= {number: (tile, True) for number, tile in zip(numbers, pixels, strict=True)}
        except (BephStoreError, OSError):
            cuts = _from_thumbnail(table, slide_id, some)
            found |= {number: (cut, False) for number, cut in zip(numbers, cuts, strict=True)}
    return [found[number] for number in range(len(hits))]


def _from_file(table: SearchTable, slide_id: str, hits: Sequence[Hit]) -> NDArray[np.uint8]:
    row, spec = table.rows[slide_id], table.record.recipe.tile
    if row.path is None or not (is_url(row.path) or Path(row.path).exists()):
        raise FileNotFoundError(slide_id)
    with open_slide(row.path, slide_id=slide_id, mpp=row.mpp_x, mpp_source="declared") as slide:
        if row.fingerprint is not None and slide.info.fingerprint != row.fingerprint:
            raise FileNotFoundError(slide_id)
        origins = np.array([hit.origin_l0 for hit in hits], np.int32)
        tiles = TileSet(slide_id, spec, origins, hits[0].footprint_l0, np.ones(len(hits), np.float32))
        pixels = np.empty((len(hits), spec.tile_px, spec.tile_px, 3), np.uint8)
        ok = TileReader(slide, tiles).read(np.arange(len(hits), dtype=np.int32), pixels)
    if not ok.all():
        raise OSError(f"{slide_id} cannot be read any more")
    return pixels


def _from_thumbnail(table: SearchTable, slide_id: str, hits: Sequence[Hit]) -> list[NDArray[np.uint8]]:
    image = table.store.rasters(table.record.recipe.key, slide_id).thumbnail
    row = table.rows[slide_id]
    scale = image.shape[1] / (row.width_l0 or image.shape[1])
    cuts = []
    for hit in hits:
        x, y = (int(v * scale) for v in hit.origin_l0)
        side = max(1, round(hit.footprint_l0 * scale))
        cut: NDArray[np.uint8] = image[y : y + side, x : x + side]
        cuts.append(cut if cut.size else image[:1, :1])
    return cuts


def query_picture(table: SearchTable, row: int | None, image: Path | None) -> Image.Image | None:
    """What was asked for, where it is one picture: a stored tile, or an image file."""
    if row is not None:
        return Image.fromarray(tile_pixels(table, [table.hit(row, 1.0)])[0][0])
    return None if image is None else Image.open(image)


def contact_sheet(
    table: SearchTable, hits: Sequence[Hit], *, title: str, query: Image.Image | None = None, columns: int = 5
) -> Image.Image:
    """The tiles of the hits in order, each with its score and where it is from; the query first where it is given."""
    cells: list[tuple[Image.Image, str, str]] = []
    if query is not None:
        cells.append((query, "query", ""))
    for hit, (pixels, own) in zip(hits, tile_pixels(table, hits), strict=True):
        place = f"{hit.origin_l0[0]}, {hit.origin_l0[1]}" + ("" if own else " (thumbnail)")
        cells.append(
            (
                Image.fromarray(pixels),
                fit(f"{hit.score:.3f}  {Path(hit.slide_id).name}", font(11), _CELL),
                place,
            )
        )
    columns = max(1, min(columns, len(cells)))
    lines = -(-len(cells) // columns)
    width = columns * (_CELL + _GAP) + _GAP
    page = Image.new("RGB", (width, _HEAD + lines * (_CELL + _CAPTION + _GAP)), "white")
    draw = ImageDraw.Draw(page)
    draw.text((_GAP, 12), title, fill=_INK, font=font(15, bold=True))
    for number, (image, first, second) in enumerate(cells):
        x = _GAP + number % columns * (_CELL + _GAP)
        y = _HEAD + number // columns * (_CELL + _CAPTION + _GAP)
        page.paste(image.convert("RGB").resize((_CELL, _CELL), Image.Resampling.LANCZOS), (x, y))
        draw.rectangle((x, y, x + _CELL - 1, y + _CELL - 1), outline=_LINE)
        draw.text((x, y + _CELL + 5), first, fill=_INK, font=font(11))
        draw.text((x, y + _CELL + 21), second, fill=_SOFT, font=font(10))
    return page


def hits_geojson(hits: Sequence[Hit]) -> dict[str, Any]:
    """A FeatureCollection in level-0 px; ``slide_id`` in the properties tells whose slide a square is on."""
    features = []
    for rank, hit in enumerate(hits, 1):
        (x, y), side = hit.origin_l0, hit.footprint_l0
        ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
        properties = {
            "objectType": "annotation",
            "name": f"{rank}: {hit.score:.3f}",
            "slide_id": hit.slide_id,
            "case_id": hit.case_id,
            "measurements": {"score": hit.score, "rank": rank},
        }
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": properties,
            }
        )
    return {"type": "FeatureCollection", "features": features}
