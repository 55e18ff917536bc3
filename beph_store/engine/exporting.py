"""Out of a store into the files of other tools."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from beph_store.engine.exporting_sidecar import Entry, Export
from beph_store.engine.imported import FEATURES_ONLY, has_places
from beph_store.engine.importing_slides import name_of
from beph_store.engine.provenance import WRITTEN_BY
from beph_store.errors import SlideError, UnknownSlide, UsageError
from beph_store.interop import Format, Found, SlideFeatures, format_named
from beph_store.objects import require_disk
from beph_store.records import Rasters, SlideOutcome
from beph_store.store import RecipeRecord, SlideRow, Store
from beph_store.store.finding import SlideFinder
from beph_store.store.rasters import read_rasters
from beph_store.store.vectors import SlideRows

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """``recipe`` key or prefix, where the store has several; ``slides`` ids, all where empty; ``encoder_name`` what the
    encoder is called there. ``sidecar`` False writes nothing but the other tool's files; ``overwrite`` replaces files
    that hold something else.
    """

    recipe: str | None = None
    slides: tuple[str, ...] = ()
    encoder_name: str | None = None
    sidecar: bool = True
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class ExportReport:
    """One outcome a slide; ``nbytes`` of the files of vectors that were written; ``notes`` what could not be held."""

    recipe: str
    kind: str
    out: str
    slides: tuple[SlideOutcome, ...]
    tiles: int
    nbytes: int
    seconds: float
    notes: tuple[str, ...]

    @property
    def failed(self) -> tuple[SlideOutcome, ...]:
        """The slides that were not exported."""
        return tuple(outcome for outcome in self.slides if outcome.status == "failed")


def export_features(
    kind: str,
    store: str | Path,
    out: str | Path,
    *,
    options: ExportOptions | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Every finished slide of a recipe into the folder ``out``, in the format called ``kind``; start again at will.

    Slides that are there already are passed over; a file that holds something else is not touched unless ``overwrite``.
    Unreadable tiles are left out, kept pixels and labels stay in the store. ``progress`` is called with (slides done,
    slides in all). Raises UsageError, RecipeMismatch and UnknownSlide.
    """
    require_disk(out, "an export is written", out=True)
    options = options or ExportOptions()
    form, opened = format_named(kind), Store.open(store)
    record = opened.recipe(options.recipe)
    rows = [row for row in opened.rows(record.recipe.key) if row.complete]
    if options.slides:
        rows = [opened.slide(record.recipe.key, slide_id) for slide_id in options.slides]
    if not rows:
        raise UnknownSlide(f"recipe {record.recipe.key} has no finished slide to export")
    root = Path(out)
    if root.exists() and not root.is_dir():
        raise UsageError(f"{out} is a file: choose a folder", path=out)
    return _Run(form, opened, record, root, options)(rows, progress or (lambda done, total: None))


@dataclass(slots=True)
class _Run:
    form: Format
    store: Store
    record: RecipeRecord
    root: Path
    options: ExportOptions
    tally: Counter[str] = field(default_factory=Counter)
    there: dict[tuple[Path, str | None], Found] | None = None
    finder: SlideFinder = field(init=False)

    def __post_init__(self) -> None:
        self.finder = SlideFinder(self.store, self.record.recipe.key)

    def __call__(self, rows: list[SlideRow], progress: Progress) -> ExportReport:
        start = time.perf_counter()
        called = self.options.encoder_name or self.record.recipe.encoder.name
        export = Export(self.root, self.form.name, _folder_name(called), self.record)
        if self.options.sidecar:
            export.begin(WRITTEN_BY)
        names = export_names([row.slide_id for row in rows], nested=self.form.name == "stamp")
        outcomes = []
        for number, row in enumerate(rows, 1):
            outcomes.append(self._slide(export, names[row.slide_id], row))
            progress(number, len(rows))
        return ExportReport(
            self.record.recipe.key,
            self.form.name,
            str(self.root),
            tuple(outcomes),
            self.tally["tiles"],
            self.tally["bytes"],
            time.perf_counter() - start,
            tuple(self._notes()),
        )

    def _slide(self, export: Export, name: str, row: SlideRow) -> SlideOutcome:
        start = time.perf_counter()
        if row.status == "empty" and not self.form.empty:
            return SlideOutcome(row.slide_id, "empty")
        try:
            made = self._write(export, name, row)
        except (SlideError, OSError, MemoryError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            return SlideOutcome(row.slide_id, "failed", error=why)
        if made is None:
            return SlideOutcome(row.slide_id, "skipped", row.tiles)
        self.tally["tiles"] += row.tiles - row.unreadable
        self.tally["unreadable"] += row.unreadable
        self.tally["bytes"] += _nbytes(made)
        return SlideOutcome(
            row.slide_id, row.status, row.tiles - row.unreadable, round(time.perf_counter() - start, 3)
        )

    def _write(self, export: Export, name: str, row: SlideRow) -> Path | None:
        """The slide's file of vectors; None where it was there already."""
        made = self.form.place(self.root, self._features(export, name, row, None))
        if made.exists() and self.options.sidecar and _same(export.row(made), row):
            return None
        tiles = self._tiles(row)
        slide = self._features(export, name, row, tiles)
        write = not made.exists() or self._may_write(made, slide)
        if not write and not self.options.sidecar:
            return None
        if self.options.sidecar:  # first: a file without its entry would not be taken for ours
            entry = Entry(row, tiles.origin_l0, tiles.tissue, tiles.ok, self._rasters(row))
            export.write(made, entry)
        return self.form.write(self.root, slide) if write else made

    def _tiles(self, row: SlideRow) -> SlideRows:
        return self.finder.rows(row) if row.status == "done" else _nothing(self.record.recipe.encoder.dim)

    def _rasters(self, row: SlideRow) -> Rasters:
        return read_rasters(self.store.layout.raster(row.recipe, row.slide_id))  # no look into the registry

    def _may_write(self, made: Path, slide: SlideFeatures) -> bool:
        """Of a file that is there: False where it holds this slide; SlideError where it holds something else."""
        if self.there is None:
            self.there = _found(self.form, self.root)
        found = self.there.get((made.resolve(), slide.encoder)) or self.there.get((made.resolve(), None))
        if found is None and self.form.name == "atlaspatch":
            return True  # a file has room for several encoders: this one is added
        if found is not None and _holds(self.form.open(found), slide):
            return False
        if not self.options.overwrite:
            raise SlideError(
                f"{made} is there and holds something else: choose another folder, or pass --overwrite",
                slide_id=slide.slide_id,
            )
        made.unlink()
        return True

    def _features(self, export: Export, name: str, row: SlideRow, tiles: SlideRows | None) -> SlideFeatures:
        """The slide as the formats know it, unreadable tiles left out; empty arrays where ``tiles`` is None."""
        recipe = self.record.recipe
        spec = recipe.tile
        tiles = _nothing(recipe.encoder.dim) if tiles is None else tiles
        placed = has_places(recipe) and row.reader != "table"
        mpp_l0 = ((row.mpp_x or 0.0) + (row.mpp_y or 0.0)) / 2 or None
        there = "" if (row.path or "").startswith(FEATURES_ONLY) else row.path or ""
        about: dict[str, Any] = {
            "slide_path": there,
            "recipe": recipe.key,
            "tiles": row.tiles - row.unreadable,
        }
        if self.form.name == "wsidata" and len(tiles.ok):  # its tissues are polygons of their own
            about["tissue_mask"] = self._rasters(row).tissue
        return SlideFeatures(
            slide_id=name,
            vectors=tiles.vectors[tiles.ok],
            origin_l0=tiles.origin_l0[tiles.ok] if placed else None,
            footprint_l0=row.footprint_l0,
            tile_px=spec.tile_px,
            mpp=spec.mpp,
            mpp_l0=mpp_l0,
            size_l0=(row.width_l0 or 1, row.height_l0 or 1),
            encoder=export.encoder,
            path=Path(name),
            attributes=about,
            stride_px=spec.stride_px,
            tissue=tiles.tissue[tiles.ok],
            tissue_min=spec.tissue_min,
        )

    def _notes(self) -> Iterator[str]:
        if self.tally["unreadable"]:
            yield f"{self.tally['unreadable']} unreadable tiles are left out: the format has no place for them"


def _nbytes(made: Path) -> int:
    """Of the vectors' file, or of the folder that a zarr.json stands for."""
    paths = made.parent.rglob("*") if made.name == "zarr.json" else (made,)
    return sum(path.stat().st_size for path in paths if path.is_file())


def _nothing(dim: int) -> SlideRows:
    """No tile at all."""
    places, shares = np.empty((0, 2), np.int32), np.empty(0, np.float32)
    return SlideRows(places, shares, np.zeros(0, bool), np.empty((0, dim), np.float16))


def _same(have: SlideRow | None, row: SlideRow) -> bool:
    return have is not None and (have.slide_id, have.sha256) == (row.slide_id, row.sha256)


def _found(form: Format, root: Path) -> dict[tuple[Path, str | None], Found]:
    """What the folder holds already, by file and encoder."""
    try:
        return {(found.path.resolve(), found.encoder): found for found in form.find(root)}
    except UsageError:
        return {}


def _holds(have: SlideFeatures, slide: SlideFeatures) -> bool:
    """Whether a file has the same vectors, and the same places where it has any."""
    if have.vectors.shape != slide.vectors.shape or not np.array_equal(have.vectors, slide.vectors):
        return False
    if have.origin_l0 is not None and slide.origin_l0 is not None:
        return np.array_equal(have.origin_l0, slide.origin_l0)
    if have.coords_um is not None and slide.origin_l0 is not None and slide.mpp_l0:
        return np.array_equal(np.rint(have.coords_um / slide.mpp_l0).astype(np.int32), slide.origin_l0)
    return True


def export_names(slide_ids: Iterable[str], *, nested: bool) -> dict[str, str]:
    """What each slide's files are called: its name without folder and suffix, where that is one slide's alone.

    ``nested`` keeps the folders, for the formats that do. Where two slides would have one name, both get their
    whole path, with __ for each /.
    """
    ids = list(slide_ids)
    whole = {slide_id: name_of(slide_id) for slide_id in ids}
    if nested:
        counts = Counter(whole.values())
        return {i: name if counts[name] == 1 else i for i, name in whole.items()}
    short = {slide_id: Path(name).name for slide_id, name in whole.items()}
    counts = Counter(short.values())
    flat = {i: short[i] if counts[short[i]] == 1 else whole[i].replace("/", "__") for i in ids}
    counts = Counter(flat.values())  # a.svs beside a.tif: only the suffix tells them apart
    return {i: name if counts[name] == 1 else i.replace("/", "__") for i, name in flat.items()}


def _folder_name(encoder: str) -> str:
    """The encoder's name as part of a path, and as a name inside a file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", encoder).strip("._") or "encoder"
