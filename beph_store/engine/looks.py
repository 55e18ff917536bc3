"""How a store looks in a console and in a notebook."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path

from PIL import Image

from beph_store.errors import BephStoreError
from beph_store.store import RecipeRecord, SlideRow, Store

#: Slides that a notebook shows, and the longest side of their pictures: some 40 kB in all.
_SHOWN = 12
_PX = 96


def text(store: Store, key: str | None = None) -> str:
    """Two lines a recipe: what made the vectors, and of how much."""
    lines = [f"beph-store {store.layout.root}"]
    records = _records(store, key)
    for record in records:
        lines += [f"  {_name(record)}", f"    {_counts(store.rows(record.recipe.key))}"]
    return "\n".join(lines if records else [*lines, "  no recipe yet"])


def html(store: Store, key: str | None = None) -> str:
    """The same with pictures of the first slides: no script, nothing fetched, every name escaped."""
    parts = [f"<div><b>beph-store</b> {escape(str(store.layout.root))}"]
    for record in _records(store, key):
        rows = store.rows(record.recipe.key)
        parts.append(f"<p style='margin:.5em 0'>{escape(_name(record))}<br>{escape(_counts(rows))}</p>")
        done = [row for row in rows if row.status == "done"]
        cells = "".join(_cell(store, row) for row in done[:_SHOWN])
        more = f"<span>and {len(done) - _SHOWN:,} more</span>" if len(done) > _SHOWN else ""
        parts.append(f"<div style='display:flex;flex-wrap:wrap;gap:8px;align-items:end'>{cells}{more}</div>")
    return "".join([*parts, "</div>"])


def _records(store: Store, key: str | None) -> list[RecipeRecord]:
    return store.recipes() if key is None else [store.recipe(key)]


def _name(record: RecipeRecord) -> str:
    tile, encoder = record.recipe.tile, record.recipe.encoder
    step = "" if tile.stride_px == tile.tile_px else f", step {tile.stride_px}"
    cut = f"tiles of {tile.tile_px} px at {tile.mpp:g} µm{step}"
    return f"{record.recipe.key}: {encoder.name} {encoder.variant}, {encoder.dim} values, {cut}"


def _counts(rows: list[SlideRow]) -> str:
    done = [row for row in rows if row.status == "done"]
    said = f"{len(done):,} slides, {sum(row.tiles for row in done):,} tiles"
    for word, count in (
        ("unreadable tiles", sum(row.unreadable for row in done)),
        ("slides without tissue", sum(row.status == "empty" for row in rows)),
        ("failed slides", sum(row.status == "failed" for row in rows)),
    ):
        said += f", {count:,} {word}" if count else ""
    return said


def _cell(store: Store, row: SlideRow) -> str:
    name = escape(Path(row.slide_id).name, quote=True)
    return (
        f"<figure style='margin:0;width:{_PX + 14}px' title='{escape(row.slide_id, quote=True)}'>{_picture(store, row)}"
        "<figcaption style='font-size:11px;overflow:hidden;text-overflow:ellipsis;white-space:nowrap'>"
        f"{name}<br>{row.tiles:,} tiles</figcaption></figure>"
    )


def _picture(store: Store, row: SlideRow) -> str:
    """The stored thumbnail, small; nothing where it cannot be read."""
    try:
        picture = Image.fromarray(store.rasters(row.recipe, row.slide_id).thumbnail)
    except (BephStoreError, OSError, ValueError, KeyError):
        return ""
    picture.thumbnail((_PX, _PX))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=70)
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f"<img alt='' width='{picture.width}' height='{picture.height}' src='data:image/jpeg;base64,{data}'>"
    )
