"""GeoJSON for QuPath: a store's tiles, tissue, labels, or what a head says of each tile; one file a slide."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from beph_store.cohort.ids import parts_of
from beph_store.engine.annotate import book_of, labels_geojson, stored_tiles
from beph_store.engine.bounds import Corner, origin_of
from beph_store.engine.heatmap import to_geojson
from beph_store.engine.study.attention import Show, tile_values
from beph_store.engine.study.trained import TrainedRun
from beph_store.errors import UsageError
from beph_store.interop.geojson import area_feature, collection, tile_feature
from beph_store.interop.outlines import outlines
from beph_store.interop.regions import Polygon
from beph_store.objects import require_disk
from beph_store.store import SlideRow, Store

What = Literal["tiles", "tissue", "labels", "heatmap"]
WHAT: tuple[What, ...] = get_args(What)

_TISSUE = {"name": "Tissue", "color": [150, 150, 150]}


@dataclass(frozen=True, slots=True)
class GeoJsonOptions:
    """``what`` is written; ``head`` the folder that `train` wrote, for a heatmap, with ``show`` and ``of_class``.

    ``target`` whose labels (see `annotate`). ``in_bounds`` counts from the corner of a slide's bounds, as QuPath does
    of a slide that it shows cropped, ``bounds_origin`` from that level-0 px.
    """

    what: What = "tiles"
    recipe: str | None = None
    slides: tuple[str, ...] = ()
    head: Path | None = None
    show: Show = "auto"
    of_class: str | None = None
    target: str | None = None
    in_bounds: bool = False
    bounds_origin: Corner | None = None

    def __post_init__(self) -> None:
        if self.what not in WHAT:
            raise UsageError(f"--what {self.what!r}: choose from {', '.join(WHAT)}")
        if (self.what == "heatmap") != (self.head is not None):
            raise UsageError("a heatmap needs --head, the folder that `train` wrote, and nothing else does")


def export_geojson(
    store: str | Path,
    out: Path,
    options: GeoJsonOptions | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write ``out/<slide id>.geojson`` of each finished slide that has something to show; the files, in their order.

    Polygons are in level-0 px from the top left. Raises UsageError, RecipeMismatch, UnknownSlide, and HeadError for a
    head that does not fit.
    """
    require_disk(out, "an export is written", out=True)
    asked = options or GeoJsonOptions()
    opened = Store.open(store)
    key = opened.recipe(asked.recipe).recipe.key
    run = None if asked.head is None else TrainedRun.open(asked.head)
    if run is not None:
        key = run.fits(opened)
    rows = [row for row in opened.rows(key) if row.status == "done"]
    if asked.slides:
        rows = [opened.slide(key, name) for name in asked.slides]
    labels = book_of(opened, key, asked.target).labels() if asked.what == "labels" else None
    written = []
    for number, row in enumerate(rows, 1):
        corner = origin_of(row, in_bounds=asked.in_bounds, corner=asked.bounds_origin)
        about = {"slide_id": row.slide_id, "recipe": key, "shows": asked.what, "origin_l0": list(corner)}
        if labels is not None:
            data = labels_geojson(labels, row, corner, about)
        elif run is not None:
            data = _heatmap(opened, run, row, corner, asked, about)
        else:
            features = _tissue(opened, row, corner) if asked.what == "tissue" else _tiles(opened, row, corner)
            data = collection(features, about)
        if data["features"]:
            written.append(_write(out, row.slide_id, data))
        if progress is not None:
            progress(number, len(rows))
    return written


def _tiles(store: Store, row: SlideRow, corner: Corner) -> Iterable[dict[str, Any]]:
    number, origin = stored_tiles(store, row)
    side = row.footprint_l0 or 1
    for tile, (x, y) in zip(number.tolist(), origin.tolist(), strict=True):
        yield tile_feature((x - corner[0], y - corner[1]), side, {"name": f"tile {tile}"})


def _tissue(store: Store, row: SlideRow, corner: Corner) -> Iterable[dict[str, Any]]:
    mask = store.rasters(row.recipe, row.slide_id).tissue.mask
    for number, polygon in enumerate(outlines(mask, (row.width_l0 or 1, row.height_l0 or 1)), 1):
        moved: Polygon = tuple(ring - corner for ring in polygon)
        yield area_feature(moved, {"name": f"tissue {number}", "classification": _TISSUE})


def _heatmap(
    store: Store, run: TrainedRun, row: SlideRow, corner: Corner, asked: GeoJsonOptions, about: dict[str, Any]
) -> dict[str, Any]:
    found = tile_values(run, store, row.slide_id, show=asked.show, of_class=asked.of_class)
    about |= {"shows": found.what, "prediction": found.said, "held_out": found.held_out}
    side = row.footprint_l0 or 1
    return to_geojson(found.bag.origin_l0 - corner, side, found.values, name=found.what, properties=about)


def _write(out: Path, slide_id: str, data: dict[str, Any]) -> Path:
    path = out.joinpath(*(part for part in parts_of(f"{slide_id}.geojson") if part != ".."))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, separators=(",", ":")), encoding="utf-8")
    return path
