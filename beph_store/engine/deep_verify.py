"""Is what the store holds what the slides show? Tiles drawn at random are read and embedded again, and compared.

``verify`` proves that the store still holds what was written to it. This goes further back: to the slides, or to the
kept tiles where a slide is gone, through the encoder, to the vectors. A slide or an encoder that is no longer at hand
is told and not held against the store.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.encoders import Bundle, kind_of, load_bundle
from beph_store.encoders.parity import THRESHOLDS
from beph_store.engine.choosing import choose
from beph_store.engine.tile_child import TileAsked, TileChild
from beph_store.errors import BephStoreError, RecipeMismatch, SlideError
from beph_store.halves import widened
from beph_store.records import EncoderSpec, TileSet
from beph_store.runtimes import Runtime
from beph_store.store import SlideRow, Store
from beph_store.store.reader import RecipeRecord
from beph_store.store.vectors import SlideRows

#: Rounding to float16 moves a vector by up to this share of its length; less than that is no difference.
_ROUNDING = 2.0**-10

Count = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class DeepOptions:
    """``sample`` tiles in all, drawn by ``seed``; ``encoder`` in place of the one that the recipe names."""

    sample: int = 256
    seed: int = 0
    encoder: str | None = None
    runtime: str = "auto"
    recipe: str | None = None


@dataclass(slots=True)
class DeepReport:
    """``tiles`` compared, of ``slides``; ``worst`` the least centred cosine between stored and fresh vector.

    ``from_kept`` of the tiles came from kept pixels, their slide being gone. ``problems`` are tiles whose vectors
    differ by more than the parity gate allows; ``notes`` what could not be compared, and why.
    """

    asked: int = 0
    tiles: int = 0
    slides: int = 0
    from_kept: int = 0
    worst: float | None = None
    tolerances: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing differs."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """JSON data."""
        return asdict(self)


def deep_verify(
    store: Store,
    options: DeepOptions | None = None,
    progress: Count | None = None,
    child: TileChild | None = None,
) -> DeepReport:
    """Draw readable tiles at random over all slides (or those of one recipe) and compare them.

    ``progress`` is called with (tiles looked at, tiles drawn); ``child`` is the process that reads slides, where the
    caller has one. Raises RecipeMismatch for a recipe that is not there, or
    an ``encoder`` that is another than the recipe's; nothing for what cannot be compared.
    """
    options = options or DeepOptions()
    records = store.recipes() if options.recipe is None else [store.recipe(options.recipe)]
    report = DeepReport()
    drawn = _draw(store, records, options)
    report.asked = sum(len(index) for _, wanted in drawn for _, index in wanted)
    with nullcontext(child) if child is not None else TileChild() as reader:
        moved = _Moved(report, reader, progress)
        for record, wanted in drawn:
            if wanted:
                _recipe(store, record, wanted, options, moved)
    return report


@dataclass(slots=True)
class _Moved:
    """What goes through all recipes."""

    report: DeepReport
    child: TileChild
    progress: Count | None
    seen: int = 0

    def on(self, tiles: int) -> None:
        self.seen += tiles
        if self.progress is not None:
            self.progress(self.seen, self.report.asked)


Wanted = list[tuple[SlideRow, NDArray[np.int32]]]


def _draw(
    store: Store, records: list[RecipeRecord], options: DeepOptions
) -> list[tuple[RecipeRecord, Wanted]]:
    """(slide, tile numbers) of each recipe, every stored tile with the same chance."""
    rows = [(record, row) for record in records for row in store.rows(record.recipe.key) if row.tiles > 0]
    rows = [(record, row) for record, row in rows if row.status == "done"]
    counts = np.array([row.tiles for _, row in rows], np.int64)
    total = int(counts.sum())
    rng = np.random.default_rng([options.seed, 0xDEE9])
    chosen = np.sort(rng.choice(total, min(options.sample, total), replace=False)) if total else np.zeros(0)
    stops = np.cumsum(counts)
    which = np.searchsorted(stops, chosen, side="right")
    found: dict[str, Wanted] = {record.recipe.key: [] for record in records}
    for number in np.unique(which).tolist():
        record, row = rows[number]
        own = chosen[which == number] - (stops[number] - counts[number])
        found[record.recipe.key].append((row, own.astype(np.int32)))
    return [(record, found[record.recipe.key]) for record in records]


def _recipe(store: Store, record: RecipeRecord, wanted: Wanted, options: DeepOptions, moved: _Moved) -> None:
    spec, report = record.recipe.encoder, moved.report
    tiles = sum(len(index) for _, index in wanted)
    try:
        bundle = same_encoder(spec, options.encoder or record.encoder_source)
        runtime = choose(bundle, runtime=options.runtime, precision=spec.precision).runtime
    except RecipeMismatch:
        if options.encoder is not None and options.recipe is not None:
            raise
        report.notes.append(f"recipe {record.recipe.key}: {tiles} tiles not compared: {_other(spec)}")
        moved.on(tiles)
        return
    except BephStoreError as error:
        report.notes.append(f"recipe {record.recipe.key}: {tiles} tiles not compared: {error}")
        moved.on(tiles)
        return
    least = tolerance(spec.precision, record.parity)
    report.tolerances[record.recipe.key] = least
    try:
        _compare(store, record, wanted, _Judge(runtime, least, moved))
    finally:
        runtime.close()


def same_encoder(spec: EncoderSpec, source: str) -> Bundle:
    """The bundle at ``source``; RecipeMismatch where it is another encoder than ``spec`` says."""
    bundle = load_bundle(source)
    if bundle.spec_for(spec.precision if bundle.has(spec.precision) else None) != spec:
        raise RecipeMismatch(f"{source} is another encoder: {_other(spec)}")
    return bundle


def _other(spec: EncoderSpec) -> str:
    return (
        f"the store was made with {spec.name} ({spec.variant}, {spec.precision}); pass --encoder with the bundle "
        "that ingest used"
    )


def tolerance(precision: str, parity: dict[str, Any]) -> float:
    """Least centred cosine of two vectors of one tile, each of which may be as far from the reference as the gate lets.

    The gate's threshold holds for the mean over its tiles; a single tile may lie as low as the worst that it saw. Two
    vectors that far from the reference are at most twice the angle apart.
    """
    figures = [value for name, value in parity.items() if name.split()[-1] == precision]
    seen = [float(one["minimum"]) for one in figures if isinstance(one, dict) and "minimum" in one]
    least = min([THRESHOLDS[kind_of(precision)], *(value for value in seen if math.isfinite(value))])
    return 2 * max(least, 0.0) ** 2 - 1


@dataclass(slots=True)
class _Judge:
    runtime: Runtime
    least: float
    moved: _Moved

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        size = self.runtime.batch
        parts = [self.runtime.encode(pixels[at : at + size]) for at in range(0, len(pixels), size)]
        return np.concatenate(parts)


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """Fresh and stored vectors of the same (n,) tiles of a slide."""

    row: SlideRow
    index: NDArray[np.int32]
    fresh: NDArray[np.float32]
    stored: NDArray[np.float32]


def _compare(store: Store, record: RecipeRecord, wanted: Wanted, judge: _Judge) -> None:
    """Every tile first, then judged: what vectors have in common is known only when all are there."""
    pairs, total, count = [], np.zeros(record.recipe.encoder.dim), 0
    for row, index in wanted:
        label = f"slide {row.slide_id} [{record.recipe.key}]"
        try:
            rows = store.slide_rows(row)
            total += rows.vectors[rows.ok].sum(axis=0, dtype=np.float64)
            count += int(rows.ok.sum())
            pair = _pair(store, record, row, rows, index, judge)
        except (BephStoreError, OSError, ValueError, IndexError) as error:
            judge.moved.report.notes.append(f"{label}: not compared: {str(error).splitlines()[0]}")
        else:
            if pair is not None:
                pairs.append(pair)
                judge.moved.report.slides += 1
        judge.moved.on(len(index))
    centre = total / max(1, count)
    for pair in pairs:
        _judged(pair, centre, judge)


def _pair(
    store: Store,
    record: RecipeRecord,
    row: SlideRow,
    rows: SlideRows,
    index: NDArray[np.int32],
    judge: _Judge,
) -> _Pair | None:
    report = judge.moved.report
    index = index[rows.ok[index]]  # what could not be read has no vector to compare
    if not len(index):
        return None
    spec = record.recipe.tile
    tiles = TileSet(row.slide_id, spec, rows.origin_l0, row.footprint_l0 or 1, rows.tissue)
    kept = store.pixels(record.recipe.key)
    try:
        pixels, ok = judge.moved.child.read(TileAsked.of(row, tiles, index))
    except SlideError as error:
        if row.slide_id not in kept.slides:
            raise
        pixels, ok = kept.read(row.slide_id, index), np.ones(len(index), bool)
        report.from_kept += len(index)
        report.notes.append(f"slide {row.slide_id}: its kept tiles were embedded in its place: {error}")
    if not ok.all():
        report.notes.append(f"slide {row.slide_id}: {int((~ok).sum())} tiles can no longer be read")
    index, pixels = index[ok], pixels[ok]
    if not len(index):
        return None
    return _Pair(row, index, judge.encode(pixels), widened(rows.vectors[index]))


def _judged(pair: _Pair, centre: NDArray[np.float64], judge: _Judge) -> None:
    report = judge.moved.report
    cosine = agreement(pair.stored, pair.fresh, centre)
    report.tiles += len(cosine)
    report.worst = float(min(cosine.min(), 1.0 if report.worst is None else report.worst))
    wrong = np.flatnonzero(cosine < judge.least)
    if len(wrong):
        shown = ", ".join(f"{pair.index[i]} ({cosine[i]:.3f})" for i in wrong[:5])
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        report.problems.append(
            f"slide {pair.row.slide_id} [{pair.row.recipe}]: the stored vectors of {len(wrong)} of {len(cosine)} "
            f"tiles are not what its pixels give (centred cosine below {judge.least:.4f}): tile {shown}{more}"
        )


def agreement(
    stored: NDArray[np.float32], fresh: NDArray[np.float32], centre: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(N,) centred cosine of each pair of rows; 1 where float16 could not tell them apart, -1 for non-finite."""
    finite = np.isfinite(fresh).all(axis=1)
    fresh = np.nan_to_num(fresh)
    a, b = stored - centre, fresh - centre
    scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = np.einsum("nd,nd->n", a, b) / np.where(scale > 0, scale, 1)
    alike = np.linalg.norm(stored - fresh, axis=1) <= _ROUNDING * np.linalg.norm(stored, axis=1)
    return np.where(finite, np.where(alike, 1.0, cosine), -1.0)
