"""Vectors of a set of images, made once: they are kept beside the result and used again for the same files.

    vectors.npy    (N, D) float32, one row an image of the list; NaN for one that cannot be read
    vectors.json   what they were made of: a key over encoder, treatment and files, and the sizes met

Parts are written as they are made, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.cohort import Dropped
from beph_store.cohort.image_sets import ImageSet
from beph_store.encoders import Bundle, load_bundle
from beph_store.engine.choosing import choose
from beph_store.engine.embed import FITS, Fit, fit_tile, read_image
from beph_store.engine.probe.tiles import MAX_TILES, ProbeTiles, Rows
from beph_store.errors import CohortError, UsageError
from beph_store.runtimes import Runtime
from beph_store.store.durable import write_json

UNREADABLE = "it cannot be read as an image"
VECTORS, LISTED = "vectors.npy", "vectors.json"

_PART = 512  # images whose vectors are written together


@dataclass(frozen=True, slots=True)
class Embedding:
    """How images become vectors: the ``encoder`` (a name or a bundle's folder), its ``runtime`` and ``precision``, and
    what is done to images of another size (``fit``, None refuses them).
    """

    encoder: str = "beph-mini"
    fit: Fit | None = None
    runtime: str = "auto"
    precision: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """``vectors`` (N, D), NaN where an image cannot be read; ``sizes`` "W × H" → how many; ``again`` from the cache."""

    vectors: NDArray[np.float32]
    sizes: Mapping[str, int]
    bundle: Bundle
    again: bool


def image_tiles(
    images: ImageSet,
    out: Path,
    how: Embedding,
    *,
    classes: tuple[str, ...] = (),
    max_tiles: int = MAX_TILES,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ProbeTiles:
    """The vectors of a set with their labels; made under ``out`` where they are not there.

    Raises UsageError for images of another size than the encoder's without ``fit``, CohortError where none can be read.
    """
    made = embed_set(images, out, how, progress)
    readable: NDArray[np.bool_] = np.asarray(np.isfinite(made.vectors).all(axis=1))
    if not readable.any():
        raise CohortError(f"none of the {len(readable)} images under {images.root} can be read")
    place = np.flatnonzero(readable).astype(np.int64)
    kept = [images.images[i] for i in place]
    rows = Rows(place, [x.label for x in kept], [x.case_id for x in kept], [x.group for x in kept])
    numbered = rows.numbered(classes, max_tiles, seed)
    place = place[numbered.keep]
    lost = tuple(Dropped(None, images.images[i].path, UNREADABLE) for i in np.flatnonzero(~readable))
    spec = made.bundle.spec
    treated = treatment(made.sizes, spec.tile_px, how.fit)
    return ProbeTiles(
        numbered.truth,
        numbered.case,
        numbered.group,
        numbered.classes,
        numbered.case_ids,
        numbered.groups,
        {"path": [images.images[i].path for i in place]},
        int(readable.sum()),
        (*images.dropped, *lost),
        (*images.notes, *([treated] if treated else [])),
        {
            "source": str(images.root),
            "layout": images.layout,
            "encoder": spec.name,
            "weights_sha256": spec.weights_sha256,
            "dim": spec.dim,
            "tile_px": spec.tile_px,
            "fit": how.fit,
            "sizes": dict(made.sizes),
            "vectors": str(out / VECTORS),
        },
        images.by_patient,
        vectors=made.vectors[place],
    )


def embed_set(
    images: ImageSet, out: Path, how: Embedding, progress: Callable[[int, int], None] | None = None
) -> Embedded:
    """The vectors of the images, from ``out`` where they were made of the same files in the same way."""
    bundle = load_bundle(how.encoder)
    key = _key(images, bundle, how)
    found = _kept(out, key)
    if found is not None:
        return Embedded(*found, bundle, True)
    parts = out / "parts"
    folder = parts / key
    for other in parts.glob("*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)  # of other files, or of another encoder
    folder.mkdir(parents=True, exist_ok=True)
    run: Runtime | None = None
    paths = [images.root / image.path for image in images.images]
    for at in range(0, len(paths), _PART):
        file = folder / f"{at:08d}.npz"
        if not file.exists():
            run = run or choose(bundle, runtime=how.runtime, precision=how.precision).runtime
            _write_part(file, paths[at : at + _PART], run, how.fit)
        if progress:
            progress(min(at + _PART, len(paths)), len(paths))
    vectors, sizes = _join(folder)
    with (out / f".{VECTORS}").open("wb") as target:
        np.save(target, vectors)
    (out / f".{VECTORS}").replace(out / VECTORS)
    counts = dict(Counter(f"{w} × {h}" for w, h in sizes.tolist() if w).most_common())
    write_json(
        out / LISTED,
        {
            "key": key,
            "encoder": bundle.spec.to_json(),
            "precision": how.precision or "fp32",
            "fit": how.fit,
            "images": len(vectors),
            "sizes": counts,
            "sha256": _digest(out / VECTORS),
        },
    )
    shutil.rmtree(parts, ignore_errors=True)
    return Embedded(vectors, counts, bundle, False)


def _key(images: ImageSet, bundle: Bundle, how: Embedding) -> str:
    """Over the encoder, the treatment and the list of files with their sizes and times."""
    stats = ((image.path, (images.root / image.path).stat()) for image in images.images)
    listed = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    named = [bundle.spec.to_json(), how.precision or "fp32", how.fit, str(images.root.resolve()), listed]
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16]


def _kept(out: Path, key: str) -> tuple[NDArray[np.float32], dict[str, int]] | None:
    """The vectors of an earlier run and the sizes of its images; None where they are of something else or damaged."""
    try:
        about: dict[str, Any] = json.loads((out / LISTED).read_bytes())
        if about["key"] != key or about["sha256"] != _digest(out / VECTORS):
            return None
        return np.load(out / VECTORS, allow_pickle=False), dict(about["sizes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _write_part(file: Path, paths: list[Path], run: Runtime, fit: Fit | None) -> None:
    vectors = np.full((len(paths), run.spec.dim), np.nan, np.float32)
    sizes = np.zeros((len(paths), 2), np.int64)
    for at, batch in _batches(paths, run, fit):
        good = [i for i, (tile, _) in enumerate(batch) if tile is not None]
        for i in good:
            sizes[at + i] = batch[i][1]
        if good:
            pixels = np.stack([tile for i in good if (tile := batch[i][0]) is not None])
            vectors[np.array(good) + at] = run.encode(pixels)
    aside = file.with_suffix(f".{os.getpid()}")
    with aside.open("wb") as target:
        np.savez(target, vectors=vectors, sizes=sizes)
    aside.replace(file)


Tile = tuple[NDArray[np.uint8] | None, tuple[int, int]]


def _batches(paths: list[Path], run: Runtime, fit: Fit | None) -> Iterator[tuple[int, list[Tile]]]:
    """Batches of tiles, decoded by other threads while the encoder works."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        tiles = pool.map(lambda path: _tile(path, run.spec.tile_px, fit), paths)
        batch: list[Tile] = []
        for number, tile in enumerate(tiles, start=1):
            batch.append(tile)
            if len(batch) == run.batch or number == len(paths):
                yield number - len(batch), batch
                batch = []


def _tile(path: Path, tile_px: int, fit: Fit | None) -> Tile:
    """The image as a tile and its own (width, height); no tile where it cannot be read."""
    try:
        pixels = read_image(path)
    except UsageError:
        return None, (0, 0)
    height, width = pixels.shape[:2]
    if (width, height) != (tile_px, tile_px) and fit is None:
        raise UsageError(
            f"{path} is {width} × {height} px, the encoder takes {tile_px} × {tile_px}: choose with --fit what is done "
            f"to it: {', '.join(FITS)}",
            path=path,
        )
    return fit_tile(pixels, tile_px, fit or "squeeze"), (width, height)


def _join(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    vectors, sizes = [], []
    for file in sorted(folder.glob("*.npz")):
        with np.load(file, allow_pickle=False) as part:
            vectors.append(part["vectors"])
            sizes.append(part["sizes"])
    return np.concatenate(vectors), np.concatenate(sizes)


def treatment(sizes: Mapping[str, int], tile_px: int, fit: Fit | None) -> str:
    """What was done to images of another size, in a sentence."""
    others = {size: count for size, count in sizes.items() if size != f"{tile_px} × {tile_px}"}
    if not others or fit is None:
        return ""
    listed = ", ".join(f"{count:,} of {size} px" for size, count in list(others.items())[:3])
    more = f" and {len(others) - 3} other sizes" if len(others) > 3 else ""
    return f"Images of another size than {tile_px} px ({listed}{more}): {FITS[fit]}."
