"""The audit's pictures, as data URIs: thumbnails with matched places, tiles side by side, swatches of stain."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from beph_store.engine.audit.tissue import Duplicate
from beph_store.engine.search.sheet import tile_pixels
from beph_store.engine.search.table import SearchTable
from beph_store.search.placing import Placing

_TILE, _PANEL, _THUMB = 132, 250, 120
#: Pairs of tiles shown of one duplicate.
PAIRS = 4
_GLASS = (244, 244, 244)


def tiles(table: SearchTable, rows: Sequence[int]) -> list[str]:
    """Tiles of those rows."""
    hits = [table.hit(int(row), 0.0) for row in rows]
    return [uri(_square(pixels)) for pixels, _ in tile_pixels(table, hits)]


def tile_pairs(table: SearchTable, one: Duplicate) -> list[tuple[str, str]]:
    """The most alike matched tiles of two slides, the second turned as the first lies."""
    rows = _spread(one.rows)
    hits = [table.hit(int(row), 0.0) for row in rows.ravel()]
    shown = [pixels for pixels, _ in tile_pixels(table, hits)]
    return [
        (uri(_square(a)), uri(_square(_as_first(b, one.placing))))
        for a, b in zip(shown[::2], shown[1::2], strict=True)
    ]


def thumbnail(table: SearchTable, slide: int) -> str:
    """A whole slide, small."""
    image = Image.fromarray(
        table.store.rasters(table.record.recipe.key, table.flat.slide_ids[slide]).thumbnail
    )
    image.thumbnail((_THUMB, _THUMB), Image.Resampling.LANCZOS)
    page = Image.new("RGB", (_THUMB, _THUMB), _GLASS)
    page.paste(image, ((_THUMB - image.width) // 2, (_THUMB - image.height) // 2))
    return uri(page)


def matched(table: SearchTable, one: Duplicate) -> tuple[str, str]:
    """Both slides with a mark on every matched tile, of one colour on either: like colours, like places."""
    colours = _colours(table, one)
    return _marked(table, one.a, one.rows[:, 0], colours), _marked(table, one.b, one.rows[:, 1], colours)


def rgb_of(density: NDArray[np.float64]) -> str:
    """A mean optical density (3,), natural logarithm, as a CSS colour."""
    red, green, blue = (int(v) for v in np.clip(np.rint(255 * np.exp(-density)), 0, 255))
    return f"#{red:02x}{green:02x}{blue:02x}"


def uri(image: Image.Image) -> str:
    """A JPEG data URI."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def _square(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((_TILE, _TILE), Image.Resampling.LANCZOS)


def _as_first(pixels: NDArray[np.uint8], placing: Placing | None) -> NDArray[np.uint8]:
    """Turned back by the nearest quarter turn, then flipped back."""
    if placing is None:
        return pixels
    back = np.rot90(pixels, round(placing.turn / 90))  # counterclockwise, where a turn goes clockwise
    return back[:, ::-1] if placing.flipped else back


def _spread(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The best pair, and some from all over the list: the best are often neighbours of each other."""
    if len(rows) <= PAIRS:
        return rows
    chosen: NDArray[np.int64] = rows[np.linspace(0, len(rows) // 2, PAIRS).round().astype(int)]
    return chosen


def _colours(table: SearchTable, one: Duplicate) -> list[tuple[int, int, int]]:
    """A colour for each matched tile by where it is on the first slide: red grows to the right, blue downwards."""
    where = table.flat.origin_l0[one.rows[:, 0]].astype(np.float64)
    if not len(where):
        return []
    span = np.maximum(np.ptp(where, axis=0), 1)
    x, y = ((where - where.min(axis=0)) / span).T
    return [
        (int(40 + 200 * a), int(150 - 90 * abs(a - b)), int(40 + 200 * b)) for a, b in zip(x, y, strict=True)
    ]


def _marked(
    table: SearchTable, slide: int, rows: NDArray[np.int64], colours: Sequence[tuple[int, int, int]]
) -> str:
    name = table.flat.slide_ids[slide]
    image = Image.fromarray(table.store.rasters(table.record.recipe.key, name).thumbnail)
    scale = _PANEL / max(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    draw = ImageDraw.Draw(image, "RGBA")
    per_px = image.width / (table.rows[name].width_l0 or image.width)
    side = max(3.0, table.footprint(slide) * per_px)
    for row, colour in zip(rows.tolist(), colours, strict=True):
        x, y = (float(v) * per_px for v in table.flat.origin_l0[row])
        draw.rectangle((x, y, x + side - 1, y + side - 1), fill=(*colour, 190))
    return uri(image)
