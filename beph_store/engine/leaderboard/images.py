"""Encoders on a set of labelled images: every one embeds the same images, and all columns are there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beph_store.cohort import Dropped
from beph_store.cohort.image_sets import ImageSet
from beph_store.engine.embed import fit_tile, read_image
from beph_store.engine.leaderboard.colour import DIM, NAME, WHAT, Colour, colour_vectors
from beph_store.engine.leaderboard.comparison import (
    Asked,
    Comparison,
    Entrant,
    Source,
    check_baseline,
    folder_of,
    keep,
    load,
    names_of,
    opener,
)
from beph_store.engine.probe.images import LISTED, UNREADABLE, Embedded, Embedding, embed_set, treatment
from beph_store.engine.probe.tiles import MAX_TILES, LabelledTiles, Rows
from beph_store.errors import CohortError, UsageError

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which ``classes``, and at most about ``max_tiles`` images, drawn with ``seed``; ``baseline`` must be there."""

    classes: tuple[str, ...] = ()
    max_tiles: int = MAX_TILES
    seed: int = 0
    baseline: str | None = None


def image_comparison(
    images: ImageSet,
    out: Path,
    encoders: Sequence[str],
    how: Embedding,
    *,
    wanted: Wanted | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Every encoder's vectors of the same images, made under ``out`` where they are not there, and the colours.

    ``encoders`` are names or bundles' folders, ``@precision`` after them; ``how`` says the rest for all of them.
    Raises UsageError for images of another size without ``how.fit``, CohortError where none can be read.
    """
    asked = [Asked.read(text) for text in encoders]
    names = names_of(asked)
    check_baseline((wanted or Wanted()).baseline, [*names, NAME])
    steps = _Steps(progress, len(asked) + 1)
    made = []
    for one, name in zip(asked, names, strict=True):
        so = dataclasses.replace(how, encoder=one.encoder, precision=one.precision)
        made.append(embed_set(images, folder_of(out, name), so, steps.next()))
    tile_px = made[0].bundle.spec.tile_px
    colours = _colours(images, folder_of(out, NAME), tile_px, how, steps.next())
    tiles, place = _tiles(images, wanted or Wanted(), dict(zip(names, made, strict=True)), colours)
    treated = treatment(made[0].sizes, tile_px, how.fit)
    if treated:
        tiles = dataclasses.replace(tiles, notes=(*tiles.notes, treated))

    def pixels(row: int) -> NDArray[np.uint8]:
        return read_image(images.root / images.images[place[row]].path)

    entrants = [
        _entrant(one, name, found, place, Source(
            opener(found.bundle, how.runtime, one.precision),
            found.bundle.spec.tile_px, one.precision or "fp32", pixels, how.fit,
            _identity(json.loads((folder_of(out, name) / LISTED).read_bytes())["key"], place),
        ))
        for one, name, found in zip(asked, names, made, strict=True)
    ]  # fmt: skip
    own = Source(
        lambda: Colour(tile_px),
        tile_px,
        "fp32",
        pixels,
        how.fit,
        _identity(_key(images, tile_px, how), place),
    )
    about = {"encoder": NAME, "what": WHAT, "dim": DIM, "tile_px": tile_px, "precision": "fp32"}
    return Comparison(tiles, (*entrants, Entrant(NAME, colours[place], about, own)))


def _entrant(asked: Asked, name: str, made: Embedded, place: NDArray[np.int64], source: Source) -> Entrant:
    spec = made.bundle.spec
    about = {
        "encoder": spec.name,
        "asked": asked.text,
        "variant": spec.variant,
        "weights_sha256": spec.weights_sha256,
        "dim": spec.dim,
        "tile_px": spec.tile_px,
        "precision": asked.precision or "fp32",
        "licence": spec.licence,
        "flop_per_tile": made.bundle.flop_per_tile,
    }
    return Entrant(name, made.vectors[place], about, source)


def _tiles(
    images: ImageSet, wanted: Wanted, made: dict[str, Embedded], colours: NDArray[np.float32]
) -> tuple[LabelledTiles, NDArray[np.int64]]:
    """The images that all of them could read, and where each lies in the set."""
    good: NDArray[np.bool_] = np.asarray(np.isfinite(colours).all(axis=1))
    lost = [Dropped(None, images.images[i].path, UNREADABLE) for i in np.flatnonzero(~good)]
    for name, one in made.items():
        finite: NDArray[np.bool_] = np.asarray(np.isfinite(one.vectors).all(axis=1))
        lost += [
            Dropped(None, images.images[i].path, f"{name} gives no finite vector")
            for i in np.flatnonzero(good & ~finite)
        ]
        good &= finite
    if not good.any():
        raise CohortError(f"none of the {len(good)} images under {images.root} can be used: {lost[0].reason}")
    place = np.flatnonzero(good).astype(np.int64)
    kept = [images.images[i] for i in place]
    rows = Rows(place, [x.label for x in kept], [x.case_id for x in kept], [x.group for x in kept])
    numbered = rows.numbered(wanted.classes, wanted.max_tiles, wanted.seed)
    place = place[numbered.keep]
    sizes = next(iter(made.values())).sizes
    tiles = LabelledTiles(
        numbered.truth,
        numbered.case,
        numbered.group,
        numbered.classes,
        numbered.case_ids,
        numbered.groups,
        {"path": [images.images[i].path for i in place]},
        int(good.sum()),
        (*images.dropped, *lost),
        images.notes,
        {
            "source": str(images.root),
            "layout": images.layout,
            "sizes": dict(sizes),
            "encoder": "several",
        },
        images.by_patient,
    )
    return tiles, place


def _colours(
    images: ImageSet, folder: Path, tile_px: int, how: Embedding, progress: Progress
) -> NDArray[np.float32]:
    """(N, 6) of all images, fitted as the first encoder sees them; NaN for those that cannot be read."""
    key = _key(images, tile_px, how)
    file = folder / "vectors.npz"
    found = load(file, key)
    if found is not None:
        return found["vectors"]

    def one(path: Path) -> NDArray[np.float32]:
        try:
            return colour_vectors(fit_tile(read_image(path), tile_px, how.fit or "squeeze")[None])
        except UsageError:
            return np.full((1, DIM), np.nan, np.float32)

    vectors = np.empty((len(images.images), DIM), np.float32)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for i, row in enumerate(pool.map(one, (images.root / x.path for x in images.images))):
            vectors[i] = row[0]
            progress(i + 1, len(vectors))
    keep(file, key, {"vectors": vectors})
    return vectors


def _identity(key: str, place: NDArray[np.int64]) -> str:
    """Of which images of the set the compared ones are, besides the set's own key."""
    return f"{key}-{hashlib.sha256(place.tobytes()).hexdigest()[:16]}"


def _key(images: ImageSet, tile_px: int, how: Embedding) -> str:
    """Over the treatment and the list of files with their sizes and times."""
    stats = ((image.path, (images.root / image.path).stat()) for image in images.images)
    listed = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    named = [NAME, 1, tile_px, how.fit, str(images.root.resolve()), listed]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]


class _Steps:
    """One meter for the same work done several times over."""

    def __init__(self, progress: Progress | None, times: int) -> None:
        self._progress, self._times, self._at = progress, times, 0

    def next(self) -> Progress:
        at, self._at = self._at, self._at + 1

        def moved(done: int, total: int) -> None:
            if self._progress:
                self._progress(at * total + done, self._times * total)

        return moved
