"""Annotated areas become labels of tiles: kept in the store's own journal, which the page and `probe` read too."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from beph_store.cohort.ids import SlideIndex, tcga_patient
from beph_store.engine.active.labels import LabelBook, Labels, TileMark, said
from beph_store.engine.active.saving import tiles_csv
from beph_store.engine.bounds import Corner, origin_of
from beph_store.errors import UnknownSlide, UsageError
from beph_store.interop.annotations import SUFFIXES, check_regions, read_annotations
from beph_store.interop.covering import classify_tiles
from beph_store.interop.geojson import collection, colour_of, tile_feature
from beph_store.interop.regions import Annotations, Region
from beph_store.records import READ_OK
from beph_store.store import SlideRow, Store
from beph_store.store.journal import Journal

_TARGET = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")


@dataclass(frozen=True, slots=True)
class AnnotateOptions:
    """How areas are read.

    ``cover`` the least share (0–1] of a tile that its class's areas must cover; None: its middle decides. ``rename``
    other names of classes, "" takes their tiles out. ``classes`` the only ones to keep, by their new names. ``rest``
    the class of all other tiles of an annotated slide. ``prop`` the property of GeoJSON that is the class. ``replace``
    takes away labels that tiles of these slides have and the files do not give. ``bounds_origin``, ``in_bounds``: see
    `beph_store.engine.bounds.origin_of`. ``who`` is kept with each label.
    """

    slide: str | None = None
    cover: float | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    rest: str | None = None
    prop: str | None = None
    replace: bool = False
    bounds_origin: Corner | None = None
    in_bounds: bool = False
    self_crossing: Literal["refuse", "fill"] = "refuse"
    outside: Literal["refuse", "clip"] = "refuse"
    who: str = "annotate"

    def __post_init__(self) -> None:
        if self.cover is not None and not 0 < self.cover <= 1:
            raise UsageError(f"--cover {self.cover:g}: a share above 0, up to 1")
        if self.rest is not None and self.classes and self.rest not in self.classes:
            raise UsageError(f"--rest {self.rest!r} is not one of --classes")


@dataclass(frozen=True, slots=True)
class SlideAnnotated:
    """What a file did to a slide.

    ``tiles`` how many have each class by it; ``changed`` labels written, ``relabelled`` of them that were of another
    class before; ``several`` tiles to which more than one class applied; ``left_out`` objects with the reason.
    """

    slide_id: str
    file: str
    areas: int
    tiles: Mapping[str, int]
    changed: int
    relabelled: int
    several: int
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AnnotateReport:
    """One entry a slide; ``labelled`` tiles of the recipe that have a label now, ``version`` of the journal."""

    recipe: str
    target: str | None
    slides: tuple[SlideAnnotated, ...]
    labelled: int
    version: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)


def book_of(store: Store, key: str, target: str | None = None) -> LabelBook:
    """The labels of a recipe's tiles: those that the page shows, or of another ``target`` a book of its own."""
    if target is not None and not _TARGET.fullmatch(target):
        raise UsageError(f"--target {target!r}: a letter, then up to 39 letters, digits, _ and -")
    return LabelBook(Journal(store.layout.annotations(key if target is None else f"{key}.{target}")))


def annotate(
    store: str | Path,
    files: Sequence[Path],
    options: AnnotateOptions | None = None,
    *,
    recipe: str | None = None,
    target: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AnnotateReport:
    """Label the tiles that annotated areas cover, all files in one action; the same files again change nothing.

    A file is of the slide that its name gives (``S1.geojson``, ``S1.svs.xml``), or of ``options.slide``. Raises
    UsageError for files that cannot be meant, UnknownSlide for slides that the recipe lacks; nothing is written then.
    """
    asked = options or AnnotateOptions()
    opened = Store.open(store)
    key = opened.recipe(recipe).recipe.key
    book = book_of(opened, key, target)
    before = book.labels()
    rows = {row.slide_id: row for row in opened.rows(key) if row.complete}
    marks: list[TileMark] = []
    told: dict[str, SlideAnnotated] = {}
    for done, (path, slide_id) in enumerate(_slides(files, asked.slide, rows)):
        if slide_id in told:
            raise UsageError(
                f"{told[slide_id].file} and {path.name} are both of {slide_id}: annotate one after the other"
            )
        found, one = _annotated(opened, rows[slide_id], path, asked, before)
        marks += found
        told[slide_id] = one
        if progress is not None:
            progress(done + 1, len(files))
    after = book.mark(asked.who, marks).labels if marks else before
    return AnnotateReport(key, target, tuple(told.values()), len(after.tiles), after.version)


def undo_annotation(
    store: str | Path, who: str, *, recipe: str | None = None, target: str | None = None
) -> AnnotateReport:
    """Take back the last action of ``who`` on tiles; NothingToUndo where there is none."""
    opened = Store.open(store)
    key = opened.recipe(recipe).recipe.key
    after = book_of(opened, key, target).undo("tiles", said(who, "--who")).labels
    return AnnotateReport(key, target, (), len(after.tiles), after.version)


def _slides(files: Sequence[Path], slide: str | None, rows: Mapping[str, SlideRow]) -> list[tuple[Path, str]]:
    """Each file with the id of its slide."""
    if slide is not None and len(files) != 1:
        raise UsageError(
            f"--slide names one slide, and there are {len(files)} files: name them after their slides"
        )
    index = SlideIndex(rows)
    found = []
    for path in files:
        name = slide or (path.name[: -len(path.suffix)] if path.suffix.lower() in SUFFIXES else path.name)
        fits = index.find(name)
        if len(fits) != 1:
            what = f"{len(fits)} slides are called" if fits else "no finished slide is called"
            raise UnknownSlide(
                f"{path.name}: {what} {name!r}; `beph-store slides` lists them, --slide names one", path=path
            )
        found.append((path, fits[0]))
    return found


def _annotated(
    store: Store, row: SlideRow, path: Path, asked: AnnotateOptions, before: Labels
) -> tuple[list[TileMark], SlideAnnotated]:
    """The marks that a file makes on a slide, and what is told of it."""
    read = read_annotations(path, prop=asked.prop)
    corner = origin_of(row, in_bounds=asked.in_bounds, corner=asked.bounds_origin)
    regions = tuple(region.moved(corner) for region in read.regions)
    check_regions(
        Annotations(path, regions),
        (row.width_l0 or 0, row.height_l0 or 0),
        crossings=asked.self_crossing == "fill",
        outside=asked.outside == "clip",
    )
    regions, left = _named(regions, asked)
    left = (*(f"{name}: {why}" for name, why in read.left_out), *left)
    if not regions and asked.rest is None and not asked.replace:
        why = f" ({left[0]})" if left else ""
        raise UsageError(f"{path.name} has no area with a class{why}", path=path)
    tile, origin = stored_tiles(store, row)
    found = classify_tiles(regions, origin, row.footprint_l0 or 1, cover=asked.cover)
    names = [*found.classes, asked.rest]  # -1 is the last
    labels = [names[number] or None for number in found.number.tolist()]
    marks, relabelled = [], 0
    for number, (x, y), label in zip(tile.tolist(), origin.tolist(), labels, strict=True):
        held = before.tiles.get((row.slide_id, x, y))
        now = None if held is None else held.mark.label
        if now != label and (label is not None or asked.replace):
            marks.append(TileMark(row.slide_id, number, x, y, label))
            relabelled += now is not None
    counts = Counter(label for label in labels if label is not None)
    told = SlideAnnotated(
        row.slide_id, path.name, len(regions), dict(counts), len(marks), relabelled, found.several, left
    )
    return marks, told


def _named(regions: Sequence[Region], asked: AnnotateOptions) -> tuple[tuple[Region, ...], tuple[str, ...]]:
    """The areas by the names that were asked for, and those left out."""
    kept, left = [], []
    for region in regions:
        label = asked.rename.get(region.label, region.label)
        if asked.classes and label not in asked.classes and label:
            left.append(f"{region.name}: class {label!r} is not one of --classes")
        else:
            kept.append(Region(label, region.polygons, region.name, region.exact))
    return tuple(kept), tuple(left)


def stored_tiles(store: Store, row: SlideRow) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(n,) numbers and (n, 2) top-left corners, level-0 px, of a slide's readable tiles; no vector is read."""
    if row.status != "done":
        return np.empty(0, np.int32), np.empty((0, 2), np.int32)
    table = store.slide_table(row, ["tile", "x", "y", "read_status"])
    table = table.filter(pc.equal(table.column("read_status"), READ_OK)).sort_by("tile")
    tile, x, y = (table[column].to_numpy() for column in ("tile", "x", "y"))
    return tile, np.stack([x, y], axis=1)


def labels_csv(store: str | Path, path: Path, *, recipe: str | None = None, target: str | None = None) -> int:
    """Write a recipe's labelled tiles as a table that `probe --labels` reads; how many. The class is in ``label``."""
    opened = Store.open(store)
    key = opened.recipe(recipe).recipe.key
    labels = book_of(opened, key, target).labels()
    cases = {r.slide_id: r.case_id or tcga_patient(r.slide_id) or r.slide_id for r in opened.rows(key)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tiles_csv(labels, cases), encoding="utf-8", errors="surrogateescape")
    return len(labels.tiles)


def labels_geojson(
    labels: Labels, row: SlideRow, corner: Corner, properties: Mapping[str, Any]
) -> dict[str, Any]:
    """A slide's labelled tiles as tile objects of QuPath, counted from ``corner``; `annotate` reads them back."""
    features = []
    for label in labels.tiles.values():
        mark = label.mark
        if isinstance(mark, TileMark) and mark.slide_id == row.slide_id:
            colour = colour_of(labels.classes.index(str(mark.label)))
            place = mark.x - corner[0], mark.y - corner[1]
            shown = {"classification": {"name": mark.label, "color": colour}}
            features.append(tile_feature(place, row.footprint_l0 or 1, shown))
    return collection(features, properties)
