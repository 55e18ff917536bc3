"""A map as a file: a picture, or a page to move in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from beph_store.engine.search.map import TileMap
from beph_store.engine.search.mappage import page
from beph_store.engine.search.mappicture import picture
from beph_store.engine.search.thumbnails import thumbnails

#: Told how many of how many thumbnails are there.
Progress = Callable[[int, int], None]


def save_map(drawn: TileMap, path: Path, progress: Progress | None = None) -> dict[str, int]:
    """Write the map as its suffix says, .png or .html; how many of an HTML's thumbnails are from where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".png":
        picture(drawn).save(path, optimize=True)
        return {}
    pictures = thumbnails(drawn.table, drawn.rows, progress)
    path.write_text(page(drawn, pictures), encoding="utf-8")
    return pictures.counts()
