"""Tiles by number, to train on: those that a store kept, or the images of a folder.

Both sources fulfil `pretrain.data.TileSource`. What cannot be read is found when a source is opened, left out and
listed in ``left_out`` with its reason; no tile stands in for another, so the same numbers give the same tiles in every
run, of which ``fingerprint`` is the proof. A source may be pickled into a spawned worker process, which opens its own
files.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from beph_store.engine.embed import find_images, read_image
from beph_store.errors import BephStoreError, RecipeMismatch, StoreError, UsageError
from beph_store.records import Recipe
from beph_store.store import KeptTiles, Shard, SlideRow, Store
from beph_store.store.kept import check_range
from beph_store.store.place import place

Progress = Callable[[int, int], None]

#: Slides whose files a source holds open at once.
OPEN_SLIDES = 128
_EIGHT_BITS = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


class ArchiveSource:
    """The readable tiles that ``ingest --keep-tiles`` kept under one recipe, slides by id, tiles in their order.

    ``slides`` names some of them (ids, with or without their suffix); all by default. ``left_out`` lists the finished
    slides whose tiles are not kept, and how many tiles of the others could not be read.
    Raises StoreError where no tile is kept, or a slide that is named was not kept; UnknownSlide for one that the store
    does not know.
    """

    def __init__(
        self, store: Store | str | Path, recipe_key: str, slides: Sequence[str] | None = None
    ) -> None:
        opened = store if isinstance(store, Store) else Store.open(store)
        kept = opened.pixels(recipe_key)
        rows = kept.rows if slides is None else _named(opened, kept, slides)
        if not any(row.tiles > row.unreadable for row in rows):
            raise StoreError(_none_kept(opened), path=opened.layout.root)
        self._kept = kept
        self._rows = rows
        self._starts = np.concatenate([[0], np.cumsum([row.tiles - row.unreadable for row in rows])]).astype(
            np.int64
        )
        # Where all could be read, the number of a tile in its slide is its number among the readable ones.
        self._readable = {
            at: np.flatnonzero(kept.ok(row.slide_id)) for at, row in enumerate(rows) if row.unreadable
        }
        self._open: OrderedDict[int, Shard] = OrderedDict()
        self.left_out = _left_out(kept, rows, everything=slides is None)
        digests = [(row.slide_id, row.pixels_sha256) for row in rows]
        self._fingerprint = hashlib.sha256(json.dumps(["kept", digests]).encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """Names the tiles by their content; the same after a move, another after an ingest with another outcome."""
        return self._fingerprint

    @property
    def recipe(self) -> Recipe:
        """The recipe under which the tiles were cut: their scale is ``recipe.tile.mpp``."""
        return self._kept.recipe

    @property
    def slides(self) -> tuple[str, ...]:
        """Ids of the slides, in the order of their tiles."""
        return tuple(row.slide_id for row in self._rows)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def slide_of(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) place in ``slides`` of the slide that each tile is from."""
        return np.searchsorted(self._starts, index, side="right") - 1

    def read(self, index: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """(H, W, 3) uint8 RGB of each tile, in the order asked for.

        Raises IndexError for a number that there is not, StoreError for a tile that is damaged.
        """
        numbers = np.asarray(index, np.int64)
        check_range(numbers, len(self))
        slides = self.slide_of(numbers)
        found: dict[int, NDArray[np.uint8]] = {}
        for at in np.argsort(numbers, kind="stable").tolist():  # as they lie on the disk
            slide = int(slides[at])
            found[at] = self._shard(slide).tile(self._tile(slide, int(numbers[at])))
        return [found[at] for at in range(len(numbers))]

    def _tile(self, slide: int, number: int) -> int:
        number -= int(self._starts[slide])
        readable = self._readable.get(slide)
        return number if readable is None else int(readable[number])

    def _shard(self, slide: int) -> Shard:
        if slide not in self._open:
            if len(self._open) >= OPEN_SLIDES:
                self._open.popitem(last=False)[1].close()
            self._open[slide] = self._kept.open(self._rows[slide])
        self._open.move_to_end(slide)
        return self._open[slide]

    def close(self) -> None:
        """Let the files go; another ``read`` opens them again."""
        while self._open:
            self._open.popitem()[1].close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}


def _named(store: Store, kept: KeptTiles, names: Sequence[str]) -> tuple[SlideRow, ...]:
    """The rows of those slides, by id, each once."""
    found = {store.slide(kept.recipe.key, name).slide_id for name in names}
    return tuple(kept.row(slide_id) for slide_id in sorted(found))


def _left_out(kept: KeptTiles, rows: Sequence[SlideRow], *, everything: bool) -> tuple[tuple[str, str], ...]:
    without = [(name, "its tiles were not kept") for name in kept.without] if everything else []
    lost = [(row.slide_id, f"unreadable tiles: {row.unreadable}") for row in rows if row.unreadable]
    return (*without, *lost)


@dataclass(frozen=True, slots=True)
class _File:
    """One image of a folder: what its file is, or why it is left out."""

    name: str
    sha256: str
    why: str | None = None


class FolderSource:
    """The images under a folder, in the order of their names.

    Each is read once when the source is opened, on all cores: a file that is cut off is told then, not in the middle
    of a training. ``left_out`` lists what cannot be read, with the reason. ``progress`` is called with (images read,
    images in all). Raises UsageError where there is no folder, or nothing in it that can be read.
    """

    def __init__(self, folder: str | Path, *, progress: Progress | None = None) -> None:
        self._folder = Path(folder).absolute()
        names = _image_names(self._folder)
        files = []
        with ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1))) as threads:
            for file in threads.map(self._look, names):
                files.append(file)
                if progress:
                    progress(len(files), len(names))
        used = [file for file in files if file.why is None]
        self.left_out = tuple((file.name, file.why) for file in files if file.why is not None)
        if not used:
            name, why = self.left_out[0]
            raise UsageError(
                f"none of the {len(names)} images under {folder} can be read: {name}: {why}", path=folder
            )
        self._names = tuple(file.name for file in used)
        listed = [(file.name, file.sha256) for file in used]
        self._fingerprint = hashlib.sha256(json.dumps(["folder", listed]).encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """Names the images by their paths within the folder and the content of their files."""
        return self._fingerprint

    @property
    def names(self) -> tuple[str, ...]:
        """Path of each image within the folder."""
        return self._names

    def __len__(self) -> int:
        return len(self._names)

    def read(self, index: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """(H, W, 3) uint8 RGB of each image in its own size, in the order asked for.

        Raises IndexError for a number that there is not, UsageError for a file that has gone bad since.
        """
        numbers = np.asarray(index, np.int64)
        check_range(numbers, len(self))
        return [read_image(self._folder / self._names[number]) for number in numbers.tolist()]

    def _look(self, name: str) -> _File:
        path = self._folder / name
        try:
            data = path.read_bytes()
            with Image.open(io.BytesIO(data)) as image:
                if image.mode not in _EIGHT_BITS:
                    return _File(
                        name, "", f"its pixels are not of 8 bits a channel ({image.mode}): convert them"
                    )
            read_image(path)
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError, BephStoreError) as error:
            return _File(name, "", str(error).splitlines()[0])
        return _File(name, hashlib.sha256(data).hexdigest())


def _image_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise UsageError(f"no such folder: {folder}", path=folder)
    try:
        found = find_images([folder])
    except UsageError:
        raise UsageError(
            f"{folder} is no store and holds no images (PNG, JPEG, TIFF, BMP, WebP)", path=folder
        ) from None
    return sorted(path.relative_to(folder).as_posix() for path in found if path.is_file())


def open_source(
    path: str | Path, recipe: str | None = None, *, progress: Progress | None = None
) -> ArchiveSource | FolderSource:
    """The tiles of a store that keeps them, or the images of a folder, whichever ``path`` is.

    ``recipe`` is a key, or how one begins; it may be left out where only one recipe of the store has kept tiles.
    Raises UsageError, StoreError or RecipeMismatch where there is nothing to read, or too much to choose from.
    """
    folder = place(path)
    if not (folder / "store.json").exists():
        if recipe is not None:
            raise UsageError(f"{path} is no store, so there is no recipe {recipe!r} to choose in it")
        if not isinstance(folder, Path):
            raise UsageError(f"no store at {folder}; folders of images are read from a disk", path=folder)
        return FolderSource(folder, progress=progress)
    store = Store.open(folder)
    known = [each.recipe for each in store.recipes() if each.recipe.key.startswith(recipe or "")]
    if recipe is not None and not known:
        store.recipe(recipe)  # says which there are
    keys = [each.key for each in known if store.pixels(each.key).rows]
    if not keys:
        raise StoreError(_none_kept(store), path=folder)
    if len(keys) > 1:
        raise RecipeMismatch(
            f"more than one recipe has kept tiles; pass --recipe with one of: {', '.join(keys)}"
        )
    return ArchiveSource(store, keys[0])


def _none_kept(store: Store) -> str:
    return (
        f"the store at {store.layout.root} keeps no tiles to train on: "
        "`beph-store ingest … --keep-tiles` keeps them, with --replace for slides that are in it already"
    )
