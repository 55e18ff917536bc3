"""What is fine-tuned on: labelled tile images, read again in every epoch, and their division by case."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from beph_store.cohort import Dropped
from beph_store.cohort.image_sets import ImageSet
from beph_store.cohort.tile_splits import (
    SplitChoice,
    TileSplit,
    given_split,
    read_parts,
    tile_splits,
    whole_split,
)
from beph_store.engine.embed import Fit, fit_tile, read_image
from beph_store.engine.probe.images import UNREADABLE, treatment
from beph_store.engine.probe.tiles import MAX_TILES, LabelledTiles, Rows
from beph_store.errors import CohortError, UsageError
from beph_store.records import EncoderSpec
from beph_store.regular import require_regular

OTHER_GROUP = "of another group than --only-group"
NO_PART = "the split says nothing of it"

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class ImageTiles:
    """A ``TileSource``: images of any size; as they are tested, ``fit`` makes tiles of ``tile_px`` of them."""

    root: Path
    paths: tuple[str, ...]
    tile_px: int
    fit: Fit

    def image(self, row: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB."""
        return read_image(self.root / self.paths[row])

    def tile(self, row: int) -> NDArray[np.uint8]:
        """(tile_px, tile_px, 3) uint8 RGB."""
        return fit_tile(self.image(row), self.tile_px, self.fit)


@dataclass(frozen=True, slots=True)
class DataChoice:
    """``fit`` for images of another size than the encoder's; ``classes`` in their order; at most about ``max_tiles``;
    ``only_group`` of several; ``split`` how to divide the cases, or ``split_column`` of the table that says it.
    """

    fit: Fit = "crop"
    classes: tuple[str, ...] = ()
    max_tiles: int = MAX_TILES
    only_group: str | None = None
    split: SplitChoice = dataclasses.field(default_factory=SplitChoice)
    split_column: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """The tiles, where they are read, and the splits; ``final`` the one of the model that is kept, if it is another."""

    tiles: LabelledTiles
    source: ImageTiles
    splits: tuple[TileSplit, ...]
    final: TileSplit | None


def gather(
    images: ImageSet,
    table: Path,
    spec: EncoderSpec,
    choice: DataChoice,
    *,
    final: bool = True,
    progress: Progress | None = None,
) -> Material:
    """The readable images of a set, divided by case. ``table`` is the file that ``split_column`` is of.

    Raises CohortError where the cases cannot be divided, UsageError for a choice that the set does not allow.
    """
    parts = _parts(images, table, choice)
    kept, dropped = _chosen(images, choice, parts)
    sizes = _sizes([images.root / images.images[i].path for i in kept], progress)
    dropped += [
        Dropped(None, images.images[i].path, UNREADABLE) for i, s in zip(kept, sizes, strict=True) if not s
    ]
    place = np.array([i for i, size in zip(kept, sizes, strict=True) if size], np.int64)
    if not len(place):
        raise CohortError(f"none of the {len(kept)} images under {images.root} can be read")
    small = next((size for size in sizes if size and min(size) < spec.tile_px), None)
    if choice.fit == "centre" and small:
        raise UsageError(
            f"an image of {small[0]} × {small[1]} px has no middle of {spec.tile_px} px: pass --fit crop"
        )
    tiles, paths = _labelled(images, place, spec, choice, Counter(size for size in sizes if size), dropped)
    source = ImageTiles(images.root, paths, spec.tile_px, choice.fit)
    truth, case, split = tiles.truth, tiles.case, choice.split
    if parts is not None:
        said = [parts[path] for path in paths]
        only = given_split(said, truth, case, tiles.case_ids, tiles.classes, split)
        return Material(tiles, source, (only,), None)
    splits = tuple(tile_splits(truth, case, tiles.classes, split))
    last = whole_split(truth, case, tiles.classes, split) if len(splits) > 1 and final else None
    return Material(tiles, source, splits, last)


def part_of(tiles: LabelledTiles, rows: NDArray[np.int64]) -> LabelledTiles:
    """Some of the tiles, with only the cases and groups that these are of: figures draw from these cases."""
    cases, case = np.unique(tiles.case[rows], return_inverse=True)
    groups, group = np.unique(tiles.group[rows], return_inverse=True)
    return dataclasses.replace(
        tiles,
        truth=tiles.truth[rows],
        case=case.astype(np.int64),
        group=group.astype(np.int64),
        case_ids=tuple(tiles.case_ids[i] for i in cases),
        groups=tuple(tiles.groups[i] for i in groups),
        names={name: [values[i] for i in rows] for name, values in tiles.names.items()},
    )


def _parts(images: ImageSet, table: Path, choice: DataChoice) -> dict[str, str] | None:
    if choice.split_column is None:
        return None
    if images.layout != "csv":
        raise UsageError(f"--split-column is for layout csv, not for {images.layout}: leave it out")
    if choice.split.folds > 1:
        raise UsageError("--split-column names one split, --folds makes several: leave one of them out")
    return read_parts(table, choice.split_column)


def _chosen(
    images: ImageSet, choice: DataChoice, parts: dict[str, str] | None
) -> tuple[list[int], list[Dropped]]:
    """Numbers of the images that are used, and those that were left out so far."""
    kept, dropped = [], list(images.dropped)
    for i, image in enumerate(images.images):
        if choice.only_group is not None and image.group != choice.only_group:
            dropped.append(Dropped(None, image.path, OTHER_GROUP))
        elif parts is not None and image.path not in parts:
            dropped.append(Dropped(None, image.path, NO_PART))
        else:
            kept.append(i)
    if not kept:
        have = ", ".join(sorted({image.group for image in images.images if image.group})) or "none"
        raise UsageError(f"--only-group {choice.only_group}: no image is of it; there are {have}")
    return kept, dropped


def _labelled(
    images: ImageSet,
    place: NDArray[np.int64],
    spec: EncoderSpec,
    choice: DataChoice,
    sizes: Counter[tuple[int, int]],
    dropped: list[Dropped],
) -> tuple[LabelledTiles, tuple[str, ...]]:
    kept = [images.images[i] for i in place]
    rows = Rows(place, [x.label for x in kept], [x.case_id for x in kept], [x.group for x in kept])
    numbered = rows.numbered(choice.classes, choice.max_tiles, choice.split.seed)
    paths = tuple(kept[i].path for i in numbered.keep)
    counted = {f"{width} × {height}": count for (width, height), count in sizes.most_common()}
    treated = treatment(counted, spec.tile_px, choice.fit)
    tiles = LabelledTiles(
        numbered.truth,
        numbered.case,
        numbered.group,
        numbered.classes,
        numbered.case_ids,
        numbered.groups,
        {"path": paths},
        len(place),
        tuple(dropped),
        (*images.notes, *([f"Tested: {treated}"] if treated else [])),
        {
            "source": str(images.root),
            "layout": images.layout,
            "encoder": spec.name,
            "weights_sha256": spec.weights_sha256,
            "dim": spec.dim,
            "tile_px": spec.tile_px,
            "fit": choice.fit,
            "sizes": counted,
        },
        images.by_patient,
    )
    return tiles, paths


def _sizes(paths: list[Path], progress: Progress | None) -> list[tuple[int, int] | None]:
    """(width, height) of each image, None where it cannot be read to its end."""
    sizes: list[tuple[int, int] | None] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for done, size in enumerate(pool.map(_size, paths), start=1):
            sizes.append(size)
            if progress:
                progress(done, len(paths))
    return sizes


def _size(path: Path) -> tuple[int, int] | None:
    try:
        require_regular(path)
        with Image.open(path) as image:
            image.load()
            return image.size
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return None
