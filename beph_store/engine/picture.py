"""Pictures of a store: what the encoder sees in each slide, without any label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from beph_store.records import Embeddings
from beph_store.store import Store

_PANEL = 260
_GAP = 14
_INK = (40, 40, 48)


def principal_colours(bags: Sequence[Embeddings]) -> list[NDArray[np.uint8]]:
    """One (N, 3) uint8 array a bag: the first three principal components of all vectors as RGB.

    Tiles of like colour have like embeddings, across all the bags. Components are spread between
    their 2nd and 98th percentiles.
    """
    stacked = np.concatenate([bag.vectors for bag in bags]).astype(np.float32)
    if not len(stacked):
        return [np.empty((0, 3), np.uint8) for _ in bags]
    centred = stacked - stacked.mean(axis=0)
    values, axes = np.linalg.eigh(centred.T @ centred)
    top = axes[:, np.argsort(values)[::-1][:3]]
    top *= np.where(top[np.abs(top).argmax(axis=0), np.arange(top.shape[1])] < 0, -1, 1)  # a sign for good
    scores = centred @ top
    low, high = np.percentile(scores, [2, 98], axis=0)
    rgb = np.clip((scores - low) / np.maximum(high - low, 1e-9), 0, 1)
    colours = (40 + rgb * 200).astype(np.uint8)
    return np.split(colours, np.cumsum([len(bag) for bag in bags])[:-1])


def tile_map(
    size_l0: tuple[int, int], bag: Embeddings, footprint_l0: int, colours: NDArray[np.uint8]
) -> Image.Image:
    """The slide as its tiles, each a square of its colour on white."""
    scale = _PANEL / max(size_l0)
    image = Image.new("RGB", (round(size_l0[0] * scale), round(size_l0[1] * scale)), "white")
    draw = ImageDraw.Draw(image)
    for (x, y), colour in zip(bag.origin_l0, colours, strict=True):
        box = (x * scale, y * scale, (x + footprint_l0) * scale - 1, (y + footprint_l0) * scale - 1)
        draw.rectangle(box, fill=tuple(int(c) for c in colour))
    return image


def overview(
    store: Store, key: str, path: Path, *, captions: dict[str, str] | None = None, columns: int = 2
) -> Path:
    """A PNG of every finished slide: its thumbnail beside its tiles coloured by their embeddings."""
    rows = [row for row in store.rows(key) if row.status == "done"]
    bags = [store.bag(key, row.slide_id) for row in rows]
    cells = []
    for row, bag, colours in zip(rows, bags, principal_colours(bags), strict=True):
        size = (row.width_l0 or 1, row.height_l0 or 1)
        thumbnail = Image.fromarray(store.rasters(key, row.slide_id).thumbnail)
        mapped = tile_map(size, bag, row.footprint_l0 or 1, colours)
        caption = f"{row.slide_id}  ·  {row.tiles} tiles"
        note = (captions or {}).get(row.slide_id)
        cells.append(_cell(thumbnail.resize(mapped.size), mapped, caption + (f"  ·  {note}" if note else "")))
    sheet = _grid(cells, columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path


def _cell(left: Image.Image, right: Image.Image, caption: str) -> Image.Image:
    cell = Image.new("RGB", (2 * _PANEL + _GAP, _PANEL + 26), "white")
    cell.paste(left, (0, 24))
    cell.paste(right, (_PANEL + _GAP, 24))
    ImageDraw.Draw(cell).text((0, 2), caption, fill=_INK, font=ImageFont.load_default(14))
    return cell


def _grid(cells: Sequence[Image.Image], columns: int) -> Image.Image:
    if not cells:
        return Image.new("RGB", (_PANEL, _PANEL), "white")
    w, h = cells[0].size
    lines = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * (w + 2 * _GAP) + _GAP, lines * (h + _GAP) + _GAP), "white")
    for i, cell in enumerate(cells):
        sheet.paste(cell, (_GAP + i % columns * (w + 2 * _GAP), _GAP + i // columns * (h + _GAP)))
    return sheet
