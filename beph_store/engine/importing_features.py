"""Features of other tools into a store: one slide after the other, the next one read while one is written."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beph_store.engine.exporting_sidecar import Entry, Export, exports_at
from beph_store.engine.imported import IMPORTED_FROM, blank
from beph_store.engine.importing_notes import notes_of
from beph_store.engine.importing_options import ImportOptions, ImportReport
from beph_store.engine.importing_recipe import half_of, resolve
from beph_store.engine.importing_slides import Hand
from beph_store.engine.importing_storing import Keeper, Ready
from beph_store.errors import SlideError, UsageError, VectorInvalid
from beph_store.interop import Format, Found, SlideFeatures, format_named
from beph_store.records import MppSource, Recipe, SlideInfo, SlideOutcome, TileSet
from beph_store.slides import fingerprint
from beph_store.store import SlideRow
from beph_store.store.vectors import SlideRows

Progress = Callable[[int, int], None]
#: Vectors as they are stored, and the greatest change that this made.
_Half = tuple[NDArray[np.float16], float]
#: A slide, its vectors, and what stands for its fingerprint.
_Read = tuple[SlideFeatures, _Half, str]


def import_features(
    kind: str,
    path: str | Path,
    store: str | Path,
    *,
    options: ImportOptions | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Every slide's features under ``path``, in the format called ``kind``; start again at will, nothing is done twice.

    Slides that are in the store already are passed over, a broken one costs only itself, and where none can be used the
    store is left as it was. ``progress`` is called with (slides done, slides in all). Raises UsageError for what the
    files do not say and ``options`` do not either, StoreError for what concerns the whole store.
    """
    options = options or ImportOptions()
    form, root = format_named(kind), Path(path)
    found = _wanted(form, form.find(root, options.coords), options)
    if not found:
        what = " ".join(filter(None, (options.only_encoder, options.only_group)))
        raise UsageError(f"no features under {root} are of {what}")
    exports = [e for e in exports_at(root) if e.kind == form.name] if options.sidecar else []
    hand = Hand.find(options.slides, options.manifest)
    run = _Run(form, options, hand, exports, Keeper(str(store)))
    return run(found, progress or (lambda done, total: None))


def _wanted(form: Format, found: list[Found], options: ImportOptions) -> list[Found]:
    """What was asked for, with the files of which it cannot be told: opening them says what is wrong."""
    for flag, value, have in (
        ("--encoder", options.only_encoder, {one.encoder for one in found}),
        ("--group", options.only_group, {one.group for one in found}),
    ):
        if value is not None and have == {None}:
            raise UsageError(f"{flag}: {form.title} keeps one set of features in a folder")
    return [
        one
        for one in found
        if options.only_encoder in (None, one.encoder) or one.encoder is None
        if options.only_group in (None, one.group) or one.group is None
    ]


@dataclass(slots=True)
class _Run:
    form: Format
    options: ImportOptions
    hand: Hand
    exports: list[Export]
    keeper: Keeper
    outcomes: list[SlideOutcome] = field(default_factory=list)
    #: Of each set of features, those of one encoder at one scale: its recipe, and the slide that told it.
    recipes: dict[tuple[str | None, str | None], tuple[Recipe, str]] = field(default_factory=dict)
    used: dict[str, Recipe] = field(default_factory=dict)
    tally: Counter[str] = field(default_factory=Counter)
    rounding: float = 0.0
    late: list[tuple[Found, _Read]] = field(default_factory=list)

    def __call__(self, found: list[Found], progress: Progress) -> ImportReport:
        start = time.perf_counter()
        try:
            with ThreadPoolExecutor(1, thread_name_prefix="import") as pool:
                for one, future in self._ahead(found, pool):
                    self._slide(one, future.result)
                    progress(len(self.outcomes), len(found))
            late, self.late = self.late, []
            for one, slide in late:
                self._slide(one, lambda slide=slide: slide)  # type: ignore[misc]
                progress(len(self.outcomes), len(found))
            self.outcomes += self.keeper.rest()
            progress(len(self.outcomes), len(found))
            for one, _ in self.late:
                self._failed(one.slide_id, "it has no tiles, and nothing says how long the vectors would be")
        finally:
            self.keeper.close()
        return self._report(time.perf_counter() - start)

    def _ahead(self, found: list[Found], pool: ThreadPoolExecutor) -> Iterator[tuple[Found, Future[_Read]]]:
        """What is not in the store, being read by another thread: one slide ahead of the one that is handed out."""
        counts = Counter((one.slide_id, one.encoder, one.group) for one in found)
        queue: deque[tuple[Found, Future[_Read]]] = deque()
        for one in found:
            if counts[one.slide_id, one.encoder, one.group] > 1:
                self._failed(one.slide_id, "two files have this id: import their folders one by one")
            elif not self._settled(one):
                queue.append((one, pool.submit(self._read, one)))
            if len(queue) > 1:
                yield queue.popleft()
        yield from queue

    def _read(self, found: Found) -> _Read:
        """In the other thread: the file, and what takes as long, its vectors as float16."""
        slide = self.form.open(found)
        return slide, half_of(slide), _fingerprint(found)

    def _slide(self, found: Found, read: Callable[[], _Read]) -> None:
        try:
            slide = read()
            if self._settled(found):  # the slide before it told the recipe
                return
            ready = self._ready(found, *slide)
            if ready is not None and (self._settled(found) or self._held(ready)):  # this one did
                return
        except (SlideError, VectorInvalid, OSError, MemoryError) as error:
            slide_id = getattr(error, "slide_id", None) or found.slide_id
            self._failed(slide_id, (str(error).splitlines() or [type(error).__name__])[0])
            return
        if ready is None:
            self.late.append((found, slide))
            return
        self.outcomes += self.keeper.keep(ready)
        self.used[ready.recipe.key] = ready.recipe
        self.rounding = max(self.rounding, ready.rounding)
        self.tally["restored"] += ready.restored
        self.tally["blank"] += blank(ready.rasters)
        self.tally["tiles"] += len(ready.tiles)
        self.tally["bytes"] += sum(path.stat().st_size for path in found.files)

    def _ready(self, found: Found, slide: SlideFeatures, half: _Half, fingerprint: str) -> Ready | None:
        """The slide as it will be stored; None for one without tiles whose recipe is not known yet."""
        export = self._export(found)
        if export is not None:
            return _restored(export, found, slide, half[0], self.form)
        told = self.recipes.get((found.encoder, found.group))
        if not slide.dim:
            if told is None:
                return None
            slide = dataclasses.replace(slide, vectors=np.empty((0, told[0].encoder.dim), np.float16))
            half = half_of(slide)
        hand = self.hand(found.slide_id)
        made = resolve(self.form, slide, half, self.options, hand, fingerprint)
        recipe, first = self.recipes.setdefault((found.encoder, found.group), (made.recipe, found.slide_id))
        if made.recipe != recipe:
            raise SlideError(f"{_difference(made.recipe, recipe)} {first}", slide_id=found.slide_id)
        nbytes, mtime = _stamp(found)
        row = SlideRow(
            recipe.key,
            made.info.slide_id,
            "done",
            case_id=hand.case_id,
            file_bytes=nbytes,
            file_mtime_ns=mtime,
            reader=self.form.name,
        )
        source = f"{IMPORTED_FROM}{self.form.title} features"
        everything = np.ones(len(made.vectors), bool)
        return Ready(
            recipe,
            source,
            {},
            made.info,
            made.tiles,
            made.vectors,
            everything,
            made.rasters,
            row,
            rounding=made.rounding,
        )

    def _settled(self, found: Found) -> bool:
        """Whether the store has the slide; then it is told off. False where only its content can tell."""
        if self.options.replace:
            return False
        export = self._export(found)
        if export is not None:
            row = export.row(found.path)
            have = None if row is None else self.keeper.known(export.record.recipe).get(row.slide_id)
            if row is None or have is None or not have.complete:
                return False
            same = have.sha256 == row.sha256
            self._tell(have, None if same else "the store has another version of this slide")
            return True
        told = self.recipes.get((found.encoder, found.group))
        if told is None:
            return False
        known = self.keeper.known(told[0])
        have = next((known[name] for name in self.hand.ids(found.slide_id) if name in known), None)
        if have is None or not have.complete:
            return False
        # Of a file that was touched, or of the first after a move, only the content can tell.
        if _stamp(found) != (have.file_bytes, have.file_mtime_ns):
            return False
        self._tell(have, None)
        self.used[told[0].key] = told[0]
        return True

    def _held(self, ready: Ready) -> bool:
        """Whether the store has a version of the slide; then it is told off, as the same or as another."""
        have = self.keeper.known(ready.recipe).get(ready.info.slide_id)
        if self.options.replace or have is None or not have.complete:
            return False
        same = not len(ready.tiles) or have.sha256 == ready.rows().sha256()
        self._tell(have, None if same else "the store has another version of this slide")
        self.used[ready.recipe.key] = ready.recipe
        return True

    def _export(self, found: Found) -> Export | None:
        """The export of ours that this file belongs to, if any."""
        fitting = (e for e in self.exports if found.encoder in (None, e.encoder))
        return next((export for export in fitting if export.path(found.path).is_file()), None)

    def _tell(self, have: SlideRow, why: str | None) -> None:
        if why is None:
            self.outcomes.append(SlideOutcome(have.slide_id, "skipped", have.tiles))
        else:
            self._failed(have.slide_id, f"{why}: pass --replace to import it anew")

    def _failed(self, slide_id: str, why: str) -> None:
        self.outcomes.append(SlideOutcome(slide_id, "failed", error=why))

    def _report(self, seconds: float) -> ImportReport:
        used = list(self.used.values())
        return ImportReport(
            recipe=used[0].key if used else "",
            dim=used[0].encoder.dim if used else 0,
            slides=tuple(sorted(self.outcomes, key=lambda outcome: outcome.slide_id)),
            recipes=tuple(recipe.key for recipe in used),
            tiles=self.tally["tiles"],
            nbytes=self.tally["bytes"],
            seconds=seconds,
            largest_rounding=self.rounding,
            notes=tuple(notes_of(used, self.options, self.tally, self.rounding)),
        )


def _restored(
    export: Export, found: Found, slide: SlideFeatures, half: NDArray[np.float16], form: Format
) -> Ready:
    """A slide of our own export, as it was; SlideError unless the file holds exactly what was exported."""
    entry = export.read(found.path)
    recipe, row = export.record.recipe, entry.row
    vectors = np.zeros((len(entry.ok), recipe.encoder.dim), np.float16)
    same = len(half) == int(entry.ok.sum()) and (slide.dim == recipe.encoder.dim or not len(half))
    if same and len(half):
        vectors[entry.ok] = half
        same = _places_agree(slide, entry)
    rows = SlideRows(entry.origin_l0, entry.tissue, entry.ok, vectors)
    if not same or (row.sha256 and rows.sha256() != row.sha256):
        raise SlideError(
            f"{found.path.name} is not what beph-store exported: --no-sidecar imports it as another {form.title} file",
            slide_id=row.slide_id,
        )
    size = (row.width_l0 or 1, row.height_l0 or 1)
    source: MppSource = row.mpp_source or "declared"  # type: ignore[assignment]
    info = SlideInfo(
        row.slide_id,
        row.path or "",
        size,
        row.mpp_x or 1.0,
        row.mpp_y or 1.0,
        source,
        (size,),
        row.fingerprint or "",
    )
    tiles = TileSet(row.slide_id, recipe.tile, entry.origin_l0, row.footprint_l0 or 1, entry.tissue)
    row = dataclasses.replace(row, ingest_id=None, replaces=None, pixels_sha256=None)
    return Ready(
        recipe,
        export.record.encoder_source,
        export.record.parity,
        info,
        tiles,
        vectors,
        entry.ok,
        entry.rasters,
        row,
        restored=True,
    )


def _places_agree(slide: SlideFeatures, entry: Entry) -> bool:
    """Whether the places in the file, where it has any, are those of the entry."""
    places = entry.origin_l0[entry.ok]
    if slide.origin_l0 is not None:
        return np.array_equal(slide.origin_l0, places)
    if slide.coords_um is not None and entry.row.mpp_x and entry.row.mpp_y:
        px = np.rint(slide.coords_um.astype(np.float64) * 2 / (entry.row.mpp_x + entry.row.mpp_y))
        return np.array_equal(px.astype(np.int32), places)
    return True


def _difference(made: Recipe, first: Recipe) -> str:
    """What is other about this slide than about the first of its folder, with the cure."""
    if made.encoder.dim != first.encoder.dim:
        return f"vectors of {made.encoder.dim} values, {first.encoder.dim} in"
    if made.encoder.name != first.encoder.name:
        return f"of the encoder {made.encoder.name}, not {first.encoder.name} as"
    ours, theirs = made.tile, first.tile
    return (
        f"tiles of {ours.tile_px} px at {ours.mpp:g} µm every {ours.stride_px} px, not {theirs.tile_px} px at "
        f"{theirs.mpp:g} every {theirs.stride_px} (--tile-px, --mpp and --stride-px say it for all) as"
    )


def _stamp(found: Found) -> tuple[int, int]:
    """Size and newest change of a slide's files, to tell without reading them that they are the same."""
    try:
        stats = [path.stat() for path in found.files]
    except OSError:
        return -1, -1  # opening it says what is wrong
    return sum(s.st_size for s in stats), max(s.st_mtime_ns for s in stats)


def _fingerprint(found: Found) -> str:
    """Of all files of a slide, sampled as those of slides are."""
    digest = hashlib.sha256()
    for path in found.files:
        digest.update(fingerprint(path).encode())
    return digest.hexdigest()
