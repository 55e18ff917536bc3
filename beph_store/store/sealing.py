"""Sealing: a slide whose every vector is there becomes one Lance fragment, ready for the commit.

`seal_slide` works from the staging folder alone, so that any process on any machine can seal what others have staged
with `write_part`; `seal_rows` takes a slide whose vectors are all in memory, in any thread. The result is JSON data for
the one that commits, see `RecipeWriter.take`.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import StoreError
from beph_store.records import Rasters, Recipe, SlideInfo, TileSet
from beph_store.store.durable import sync_data
from beph_store.store.kept import archive_of
from beph_store.store.layout import Layout, is_dataset, tiles_schema
from beph_store.store.locks import held
from beph_store.store.pixels import place
from beph_store.store.place import Place
from beph_store.store.rasters import write_rasters
from beph_store.store.registry import SlideRow
from beph_store.store.staging import Ready, Spool, plan_of, staged_plan, write_ready
from beph_store.store.tables import create_table, write_rows
from beph_store.store.vectors import SlideRows, assemble

#: Makes the archive of a slide's kept pixels from (N,) ok and what names it; its digest, or None where none are kept.
_FinishPixels = Callable[[NDArray[np.bool_], dict[str, Any]], str | None]


@dataclass(frozen=True, slots=True, eq=False)
class Sealing:
    """What sealing needs beside the staged vectors. ``row`` carries what only the engine knows."""

    info: SlideInfo
    tiles: TileSet
    rasters: Rasters
    row: SlideRow
    run: str


def seal_slide(layout: Layout, recipe: Recipe, sealing: Sealing) -> Ready:
    """Seal a slide from the parts in its staging folder, whoever wrote them; the caller's driver holds its claim.

    Raises StoreError where the parts belong to another grid or tiles are missing.
    """
    slide_id = sealing.info.slide_id
    folder = layout.slide_staging(recipe.key, slide_id)
    plan = plan_of(sealing.info, sealing.tiles)
    if len(sealing.tiles) and staged_plan(folder) != plan:
        raise StoreError(
            "what is staged belongs to other tiles: run the same command again", slide_id=slide_id
        )
    return seal_spool(layout, recipe, sealing, Spool(folder, plan, recipe.encoder.dim))


def seal_spool(layout: Layout, recipe: Recipe, sealing: Sealing, spool: Spool) -> Ready:
    """Write the rasters and the fragment of a spool's vectors and record it as ready. StoreError for missing tiles.

    A slide without tiles gives a Ready without fragments, whose row says empty.
    """
    return _seal(layout, recipe, sealing, assemble(sealing.tiles, *spool.collect()), spool.finish_pixels)


def seal_rows(layout: Layout, recipe: Recipe, sealing: Sealing, rows: SlideRows) -> Ready:
    """`seal_spool` of vectors that never were on the disk; they are stored as they are, whoever made them checked them.

    The caller holds the claim. A process that dies here leaves what `compact` removes, and the slide to be done again.
    """
    return _seal(layout, recipe, sealing, rows, lambda ok, named: None)


def _seal(
    layout: Layout, recipe: Recipe, sealing: Sealing, rows: SlideRows, finish_pixels: _FinishPixels
) -> Ready:
    slide_id, key = sealing.info.slide_id, recipe.key
    write_rasters(layout.raster(key, slide_id), sealing.rasters)
    row = dataclasses.replace(
        sealing.row.with_info(sealing.info),
        run=sealing.run,
        tiles=len(sealing.tiles),
        footprint_l0=sealing.tiles.footprint_l0,
        ingest_id=uuid.uuid4().hex,
    )
    if not len(sealing.tiles):
        return Ready(dataclasses.replace(row, status="empty"), [])
    named = {"recipe": key, "slide_id": slide_id, "ingest_id": str(row.ingest_id)}
    pixels = finish_pixels(rows.ok, named)
    ready = _write_fragment(layout, recipe, dataclasses.replace(row, pixels_sha256=pixels), rows)
    if layout.is_remote:
        # First: once a slide is ready, the machine that holds its pixels may be lost.
        place_pixels(layout, ready)
        write_ready(layout.slide_staging(key, slide_id), ready)
    else:
        write_ready(layout.slide_staging(key, slide_id), ready)
        place_pixels(layout, ready)
    return ready


def place_pixels(layout: Layout, ready: Ready) -> bool:
    """Whether a slide's kept pixels, if it has any, are where the registry will name them; moves them there."""
    archive = archive_of(layout, ready.row)
    staged = layout.slide_work(ready.row.recipe, ready.row.slide_id) / "pixels.zarr"
    return archive is None or place(staged, archive)


def ensure_table(layout: Layout, recipe: Recipe) -> Place:
    """The tile table of a recipe, made where it is not there."""
    where = layout.tiles(recipe.key)
    if not is_dataset(where):
        with held(layout, f"{recipe.key}-create"):
            if not is_dataset(where):
                create_table(where, tiles_schema(recipe.encoder.dim))
    return where


def _write_fragment(layout: Layout, recipe: Recipe, row: SlideRow, rows: SlideRows) -> Ready:
    where = ensure_table(layout, recipe)
    fragments = write_rows(where, rows.to_table(row.slide_id, str(row.ingest_id)))
    unreadable = int((~rows.ok).sum())
    ready = Ready(
        dataclasses.replace(row, status="done", unreadable=unreadable, sha256=rows.sha256()), fragments
    )
    sync_data(where, ready.data_files())
    return ready
