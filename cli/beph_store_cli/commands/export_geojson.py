"""What ``beph-store export geojson`` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from beph_store.errors import UsageError
from beph_store_cli.commands.annotate import corner
from beph_store_cli.progress import bar
from beph_store_cli.render import choice, console, print_json

#: Options of `export` that are GeoJSON's alone, as they are when they were not given.
ALONE = {"what": None, "head": None, "in_bounds": False, "bounds_origin": None}


def refuse(**given: Any) -> None:
    """UsageError for the first option that only GeoJSON has and that was given to another format."""
    for name, value in given.items():
        if value != ALONE[name]:
            raise UsageError(f"--{name.replace('_', '-')} is for `export geojson` only")


def run(
    store: str, out: Path, recipe: str | None, slides: list[str] | None, json: bool, **given: Any
) -> None:
    """Write the files and say which."""
    from beph_store.engine.exporting_geojson import WHAT, GeoJsonOptions, export_geojson

    options = GeoJsonOptions(
        what=choice(given["what"], "--what", *WHAT) or "tiles",
        recipe=recipe,
        slides=tuple(slides or ()),
        head=given["head"],
        in_bounds=given["in_bounds"],
        bounds_origin=corner(given["bounds_origin"]),
    )
    with bar("exporting") as progress:
        written = export_geojson(store, out, options, progress=progress)
    if json:
        print_json(
            {"format": "geojson", "what": options.what, "out": str(out), "files": [str(p) for p in written]}
        )
        return
    console().print(f"{options.what} of {len(written)} slides → {out}")
