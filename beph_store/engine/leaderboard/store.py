"""Recipes of one store on the tiles that all have: joined by slide, place and footprint, nothing else is compared."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.encoders import load_bundle
from beph_store.engine.leaderboard.colour import DIM, NAME, WHAT, Colour, colour_vectors
from beph_store.engine.leaderboard.comparison import (
    NEEDS_PIXELS,
    Comparison,
    Entrant,
    Source,
    folder_of,
    keep,
    load,
    opener,
)
from beph_store.engine.probe.store import Wanted, store_tiles
from beph_store.engine.probe.tiles import LabelledTiles, ProbeTiles
from beph_store.engine.search.table import SearchTable, open_table
from beph_store.errors import CohortError, EncoderError, UsageError
from beph_store.halves import widened
from beph_store.store import KeptTiles, Store
from beph_store.store.reader import RecipeRecord

Index = NDArray[np.int64]
Progress = Callable[[int, int], None]


def store_comparison(
    store: str | Path,
    labels: str | Path,
    out: Path,
    encoders: Sequence[str] = (),
    *,
    wanted: Wanted | None = None,
    runtime: str = "auto",
    progress: Progress | None = None,
) -> Comparison:
    """The recipes of a store, by encoder name or key, all for none named, on the labelled tiles that all of them have.

    Vectors are the stored ones; what is made of kept pixels on the way is kept under ``out``.

    Raises UsageError for a recipe that is not there, CohortError where no tile coincides or a table does not fit.
    """
    records = _chosen(Store.open(store), encoders)
    names = _names(records)
    tables = [open_table(store, recipe=one.recipe.key, progress=progress) for one in records]
    placed = [coinciding(tables[0], other) for other in tables]
    both = np.logical_and.reduce([rows >= 0 for rows in placed])
    if not both.any():
        raise CohortError(
            f"no tile of {' and '.join(names)} lies at the same place with the same footprint: ingest the same slides "
            "with tiles of the same µm and the same stride"
        )
    asked = dataclasses.replace(wanted or Wanted(), rows=both)
    first = store_tiles(store, labels, recipe=records[0].recipe.key, wanted=asked)
    place = _places(tables[0], first)
    rows = [found[place] for found in placed]
    kept = kept_tiles(tables, rows)
    entrants = [
        _entrant(name, table, own, kept, runtime)
        for name, table, own in zip(names, tables, rows, strict=True)
    ]
    fields = {f.name: getattr(first, f.name) for f in dataclasses.fields(LabelledTiles)}
    notes = (*first.notes, *_counted(names, tables, placed))
    about = {
        "source": str(store),
        "labels": str(labels),
        "labels_by": first.about["labels_by"],
        "tiles_of_first": len(tables[0].flat),
        "tiles_coinciding": int(both.sum()),
        "encoder": "several",
    }
    tiles = LabelledTiles(**{**fields, "notes": notes, "about": about})
    return Comparison(tiles, (*entrants, _colour(next(iter(kept.values()), None), len(tiles), out, progress)))


def _entrant(name: str, table: SearchTable, rows: Index, kept: Mapping[int, Kept], runtime: str) -> Entrant:
    """A recipe's vectors, and more of them where its tiles' pixels and its encoder are at hand."""
    source, missing = _source(table.record, kept.get(table.record.recipe.tile.tile_px), runtime)
    vectors = widened(table.flat.vectors[rows])
    return Entrant(name, vectors, _about(table.record), source, missing)


def _source(record: RecipeRecord, kept: Kept | None, runtime: str) -> tuple[Source | None, str]:
    spec = record.recipe.encoder
    if kept is None:
        return None, NEEDS_PIXELS
    try:
        bundle = load_bundle(record.encoder_source)
        same = bundle.spec_for(spec.precision) == spec
    except (EncoderError, UsageError):
        same = False
    if not same:
        return None, f"needs the encoder: its bundle is not at {record.encoder_source}"
    opened = opener(bundle, runtime, spec.precision)
    identity = f"{record.recipe.key}-{kept.identity}"
    return Source(opened, kept.tile_px, spec.precision, kept.tile, None, identity), ""


def _colour(kept: Kept | None, count: int, out: Path, progress: Progress | None) -> Entrant:
    about: dict[str, Any] = {"encoder": NAME, "what": WHAT, "dim": DIM}
    if kept is None:
        return Entrant(NAME, None, about, None, NEEDS_PIXELS)
    file, tile_px = folder_of(out, NAME) / "vectors.npz", kept.tile_px
    found = load(file, kept.identity)
    if found is None:
        vectors = np.empty((count, DIM), np.float32)
        for row in range(count):
            vectors[row] = colour_vectors(kept.tile(row)[None])[0]
            if progress:
                progress(row + 1, count)
        found = {"vectors": vectors}
        keep(file, kept.identity, found)
    source = Source(lambda: Colour(tile_px), tile_px, "fp32", kept.tile, None, kept.identity)
    about |= {"tile_px": tile_px, "precision": "fp32"}
    return Entrant(NAME, found["vectors"], about, source)


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """The pixels of the compared tiles: ``numbers`` (n,) of each among its slide's ``kept`` tiles."""

    kept: KeptTiles
    slides: tuple[str, ...]
    numbers: NDArray[np.int32]

    @property
    def tile_px(self) -> int:
        """Side of a tile in pixels."""
        return self.kept.recipe.tile.tile_px

    @property
    def identity(self) -> str:
        """Changes with the tiles and with what was kept of them."""
        named = [self.kept.recipe.key, self.slides, self.numbers.tolist(), _hashes(self.kept)]
        return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]

    def tile(self, row: int) -> NDArray[np.uint8]:
        """(H, W, 3) of one of the compared tiles."""
        return np.asarray(self.kept.read(self.slides[row], [self.numbers[row]])[0], np.uint8)


def kept_tiles(tables: Sequence[SearchTable], rows: Sequence[Index]) -> dict[int, Kept]:
    """By tile_px, the pixels of the first recipe that kept all of the tiles: one place of one file has one picture."""
    found: dict[int, Kept] = {}
    for table, own in zip(tables, rows, strict=True):
        kept = table.store.pixels(table.record.recipe.key)
        slides = tuple(table.flat.slide_ids[i] for i in table.slide_of[own])
        if set(slides) <= set(kept.slides):
            found.setdefault(kept.recipe.tile.tile_px, Kept(kept, slides, table.flat.tile_index[own]))
    return found


def _hashes(kept: KeptTiles) -> list[str | None]:
    return [row.pixels_sha256 for row in kept.rows]


def coinciding(first: SearchTable, other: SearchTable) -> Index:
    """(T,) for each tile of ``first`` the row of ``other`` that is the same piece of the same slide, -1 for none.

    The same: slide, top left and footprint in level-0 px; and a file that did not change between the two.
    """
    found = np.full(len(first.flat), -1, np.int64)
    number = {name: i for i, name in enumerate(other.flat.slide_ids)}
    for slide, name in enumerate(first.flat.slide_ids):
        there = number.get(name)
        if there is None or not _same_file(first, other, name):
            continue
        mine, theirs = first.span(slide), other.span(there)
        _, a, b = np.intersect1d(
            _corner(first.flat.origin_l0[mine]), _corner(other.flat.origin_l0[theirs]), return_indices=True
        )
        found[mine.start + a] = theirs.start + b
    return found


def _same_file(first: SearchTable, other: SearchTable, name: str) -> bool:
    a, b = first.rows[name], other.rows[name]
    same = a.fingerprint is None or b.fingerprint is None or a.fingerprint == b.fingerprint
    return same and a.footprint_l0 == b.footprint_l0


def _corner(origin_l0: NDArray[np.int32]) -> Index:
    """(n,) one number for each (x, y)."""
    wide = np.asarray(origin_l0, np.int64)
    return (wide[:, 0] << 32) + wide[:, 1]


def _places(table: SearchTable, tiles: ProbeTiles) -> Index:
    """(n,) rows of the flat table that the tiles are."""
    number = {name: i for i, name in enumerate(table.flat.slide_ids)}
    slides = [number[name] for name in tiles.names["slide_id"]]
    index = np.asarray(table.flat.tile_index)
    return np.array(
        [
            table.span(slide).start + int(np.searchsorted(index[table.span(slide)], tile))
            for slide, tile in zip(slides, tiles.names["tile"], strict=True)
        ],
        np.int64,
    )


def _chosen(store: Store, encoders: Sequence[str]) -> list[RecipeRecord]:
    """The recipes of those names, in their order; a name is an encoder's, or a recipe's key or its beginning."""
    records = store.filled()
    have = ", ".join(f"{one.recipe.key} ({one.recipe.encoder.name})" for one in records) or "none"
    if not encoders:
        if not records:
            raise UsageError(f"{store.layout.root} has no recipe yet: ingest slides first")
        return records
    found = []
    for name in encoders:
        fits = [one for one in records if one.recipe.encoder.name == name]
        fits = fits or [one for one in records if one.recipe.key.startswith(name)]
        if len(fits) != 1:
            what = "more than one recipe" if fits else "no recipe"
            raise UsageError(f"--encoder {name!r}: {what} of the store; name a key of: {have}")
        if fits[0] in found:
            raise UsageError(f"--encoder {name!r} is there twice: name it once")
        found += fits
    return found


def _names(records: Sequence[RecipeRecord]) -> list[str]:
    """The encoder's name, with the precision or the recipe's key where that is needed to tell them apart."""
    plain = [one.recipe.encoder.name for one in records]
    full = [f"{one.recipe.encoder.name}@{one.recipe.encoder.precision}" for one in records]
    keyed = [f"{one.recipe.encoder.name} {one.recipe.key[:8]}" for one in records]
    return [
        a if plain.count(a) == 1 else b if full.count(b) == 1 else c
        for a, b, c in zip(plain, full, keyed, strict=True)
    ]


def _about(record: RecipeRecord) -> dict[str, Any]:
    encoder = record.recipe.encoder
    return {
        "encoder": encoder.name,
        "variant": encoder.variant,
        "recipe": record.recipe.key,
        "weights_sha256": encoder.weights_sha256,
        "dim": encoder.dim,
        "tile_px": record.recipe.tile.tile_px,
        "mpp": record.recipe.tile.mpp,
        "precision": encoder.precision,
        "licence": encoder.licence,
    }


def _counted(names: Sequence[str], tables: Sequence[SearchTable], placed: Sequence[Index]) -> list[str]:
    """How many tiles of each recipe were left out because not all have them."""
    notes = []
    total = len(tables[0].flat)
    for name, table, rows in zip(names[1:], tables[1:], placed[1:], strict=True):
        same = int((rows >= 0).sum())
        if same < max(total, len(table.flat)):
            notes.append(
                f"{same:,} tiles of {name} are also tiles of {names[0]}: {len(table.flat) - same:,} of its own and "
                f"{total - same:,} of {names[0]} lie elsewhere and are left out."
            )
    return notes
