"""Sealing a slide on whatever node there is: from the parts in the store's staging folder to a fragment."""

from __future__ import annotations

import time
from pathlib import Path

from beph_store.errors import StoreError
from beph_store.records import Rasters, Recipe, SlideInfo, TileSet
from beph_store.store import SlideRow
from beph_store.store.layout import Layout
from beph_store.store.sealing import Sealing, seal_slide
from beph_store.store.staging import Ready, read_ready

#: A network disk may show a part that another machine wrote only after half a minute.
_LOOK_AGAIN_SECONDS = (1, 2, 4, 8, 16, 30)


def seal(
    layout: Layout, recipe: Recipe, known: tuple[SlideInfo, TileSet, SlideRow, str], rasters: Rasters
) -> Ready:
    """Seal a slide; ``known`` are its info, tiles, registry row, and the run. What an earlier try sealed is taken.

    Raises StoreError where tiles are missing.
    """
    info, tiles, row, run = known
    sealing = Sealing(info, tiles, rasters, row, run)
    folder = layout.slide_staging(recipe.key, info.slide_id)
    waits = list(_LOOK_AGAIN_SECONDS) if isinstance(layout.root, Path) else []
    while True:
        ready = read_ready(folder)
        if ready is not None and ready.row.run == run:
            return ready
        try:
            return seal_slide(layout, recipe, sealing)
        except StoreError:
            if not waits:
                raise
            time.sleep(waits.pop(0))
