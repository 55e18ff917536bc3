"""A flat copy of a recipe's vectors for training: one memory map, several times as fast to read as Lance.

It is made once from what the registry lists and named by it, so that another ingest makes another
copy. It is not the truth: deleting ``cache/`` is always safe. A build goes beside its place and is
renamed when all of it is on the disk; it holds a lock, which makes a second builder wait and
`compact` refuse.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from beph_store.errors import CohortError, StoreError, UnknownSlide
from beph_store.records import Bags, Case, Recipe
from beph_store.store.durable import sync_folder, write_json
from beph_store.store.layout import Layout
from beph_store.store.registry import Registry, SlideRow
from beph_store.store.tables import lance_errors, open_table

#: Version of the files of a cache; another one is simply made again.
_FORMAT = 1
#: What one batch of vectors may take; Lance reads a few of them ahead.
_BATCH_BYTES = 8 << 20
_READ_AHEAD_BYTES = 64 << 20
#: How often a build starts again because slides were replaced and compacted away under it.
_TRIES = 3
#: Names of caches: finished, in the making, and on their way out.
_OURS = re.compile(r"[0-9a-f]{16}|\.[0-9a-f]{16}\.[0-9a-f]+|\.[0-9a-f]{32}")

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class FlatVectors:
    """Every readable tile of every finished slide of a recipe, slides by id, tiles in their order.

    ``slide_ids`` (S,) with ``spans`` (S, 2) int64, the [start, stop) rows of each, equal where a slide has no tile
    to read; ``tile_index`` (T,) int32; ``origin_l0`` (T, 2) int32, (x, y) in level-0 px; ``vectors`` (T, D) float16.
    The last three are read-only memory maps.
    """

    recipe_key: str
    slide_ids: tuple[str, ...]
    spans: NDArray[np.int64]
    tile_index: NDArray[np.int32]
    origin_l0: NDArray[np.int32]
    vectors: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.tile_index)

    def bag_spans(self, slide_ids: Iterable[str]) -> tuple[tuple[int, int], ...]:
        """The (start, stop) rows of those slides, in their order; a slide without tiles gives none.

        An id may lack its suffix where that is unique, as in ``Store.slide``. Raises UnknownSlide for a slide
        that is not finished under this recipe.
        """
        return tuple(span for span in map(_Finder(self), slide_ids) if span[0] < span[1])


class _Finder:
    """Span of a slide by its id, or by its id without the suffix."""

    def __init__(self, flat: FlatVectors) -> None:
        self._flat = flat
        self._number = {slide_id: i for i, slide_id in enumerate(flat.slide_ids)}
        self._stems: dict[str, list[int]] = {}
        for i, slide_id in enumerate(flat.slide_ids):
            self._stems.setdefault(str(Path(slide_id).with_suffix("")), []).append(i)

    def __call__(self, slide_id: str) -> tuple[int, int]:
        number = self._number.get(slide_id)
        if number is None:
            stems = self._stems.get(slide_id, [])
            if len(stems) != 1:
                raise UnknownSlide(
                    f"no finished slide {slide_id!r} under recipe {self._flat.recipe_key}: ingest it, or leave it "
                    "out of the table (`beph-store slides` lists what is there)",
                    slide_id=slide_id,
                )
            number = stems[0]
        start, stop = self._flat.spans[number]
        return int(start), int(stop)


def bags(flat: FlatVectors, cases: Sequence[Case]) -> Bags:
    """One bag a case: the spans of its slides, in their order, over the flat vectors; nothing is copied.

    Slides without tiles give no span; a case of none but such has an empty bag. Raises UnknownSlide for a slide
    that is not finished under this recipe, CohortError for a slide that a case lists twice.
    """
    find = _Finder(flat)
    spans = []
    for case in cases:
        own = tuple(span for span in map(find, case.slide_ids) if span[0] < span[1])
        if len(set(own)) < len(own):
            raise CohortError(f"case {case.case_id} lists a slide twice: remove one of the rows")
        spans.append(own)
    return Bags(tuple(case.case_id for case in cases), flat.vectors, tuple(spans))


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """What a cache of the registry as it is now would hold."""

    recipe: Recipe
    rows: tuple[SlideRow, ...]
    spans: NDArray[np.int64]

    @classmethod
    def make(cls, layout: Layout, recipe: Recipe) -> _Plan:
        rows = [row for row in Registry(layout.registry).rows(recipe.key) if row.complete]
        rows.sort(key=lambda row: row.slide_id)
        stops = np.cumsum([row.tiles - row.unreadable for row in rows], dtype=np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), stops])[: len(rows)]
        return cls(recipe, tuple(rows), np.stack([starts, stops], axis=1))

    @property
    def tiles(self) -> int:
        return int(self.spans[-1, 1]) if len(self.spans) else 0

    @property
    def digest(self) -> str:
        listed = json.dumps([(row.slide_id, row.ingest_id) for row in self.rows])
        return hashlib.sha256(listed.encode()).hexdigest()[:16]

    def columns(self) -> dict[str, tuple[type[np.generic], tuple[int, ...]]]:
        """Type and shape of each file."""
        n, dim = self.tiles, self.recipe.encoder.dim
        return {
            "tile_index": (np.int32, (n,)),
            "origin_l0": (np.int32, (n, 2)),
            "vectors": (np.float16, (n, dim)),
        }

    def to_json(self) -> dict[str, Any]:
        """What ``cache.json`` says, and must say to be used."""
        return {
            "format": _FORMAT,
            "recipe": self.recipe.key,
            "digest": self.digest,
            "slides": len(self.rows),
            "tiles": self.tiles,
            "dim": self.recipe.encoder.dim,
        }


def open_flat(layout: Layout, recipe: Recipe, progress: Progress | None = None) -> FlatVectors:
    """The flat cache of all that the registry lists under ``recipe``; made first where it is not there.

    ``progress`` is called with (tiles copied, tiles in all). Memory stays bounded however large the recipe is.
    Raises StoreError where the cache cannot be written or the tile table contradicts the registry.
    """
    tries = 0
    while True:
        plan = _Plan.make(layout, recipe)
        found = _open(layout, plan)
        if found is not None:
            return found
        with _builder(layout, recipe.key) as alone:
            if not alone:
                continue
            # Again, now that nobody else builds: an older list must not replace a newer cache.
            plan = _Plan.make(layout, recipe)
            found = _open(layout, plan)
            try:
                return found or _build(layout, plan, progress)
            except StoreError:
                tries += 1
                # In a bucket another machine may have compacted the table meanwhile, which changes no digest.
                same = not layout.is_remote and _Plan.make(layout, recipe).digest == plan.digest
                if tries == _TRIES or same:
                    raise


def _open(layout: Layout, plan: _Plan) -> FlatVectors | None:
    """The cache that is there, or None: absent, damaged, or removed by another process while we look."""
    folder = layout.cache(plan.recipe.key) / plan.digest
    try:
        if json.loads((folder / "cache.json").read_bytes()) != plan.to_json():
            return None
        columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in plan.columns()}
    except (OSError, ValueError):
        return None
    if {name: (column.dtype.type, column.shape) for name, column in columns.items()} != plan.columns():
        return None
    return FlatVectors(plan.recipe.key, tuple(row.slide_id for row in plan.rows), plan.spans, **columns)


@contextmanager
def _builder(layout: Layout, key: str) -> Iterator[bool]:
    """Hold the lock of those who build; False, after a moment, while another process has it."""
    lock = FileLock(layout.cache_lock(key), timeout=0, thread_local=False)
    try:
        with FileLock(
            layout.commit_lock
        ):  # as every claim: `compact` holds it, and must not meet a new builder
            lock.acquire()
    except Timeout:
        time.sleep(0.2)
        yield False
        return
    except OSError as error:
        raise StoreError(
            f"the flat cache needs a store that can be written: {error}", path=layout.work
        ) from error
    try:
        yield True
    finally:
        lock.release()


def _build(layout: Layout, plan: _Plan, progress: Progress | None) -> FlatVectors:
    home = layout.cache(plan.recipe.key)
    folder, aside = home / plan.digest, home / f".{plan.digest}.{uuid.uuid4().hex}"
    try:
        aside.mkdir(parents=True)
        _export(layout, plan, aside, progress)
        write_json(aside / "cache.json", plan.to_json())
        for other in set(home.iterdir()) - {aside}:
            if _OURS.fullmatch(other.name):  # the folder may be a link to one that is not ours
                _remove(
                    other
                )  # of an older registry, damaged, or left by a killed build: we alone build here
        aside.rename(folder)
        sync_folder(home)
    except OSError as error:
        size = plan.tiles * (plan.recipe.encoder.dim * 2 + 12) / 1e9
        raise StoreError(
            f"the flat cache cannot be written: {error}; it takes {size:.1f} GB under {home}", path=home
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    found = _open(layout, plan)
    if found is None:
        raise StoreError(f"the flat cache at {folder} cannot be read back: check the disk", path=folder)
    return found


def _remove(folder: Path) -> None:
    """Out of the way at once, then gone; whoever maps it keeps it (where the system cannot, it stays)."""
    away = folder.with_name(f".{uuid.uuid4().hex}")
    with suppress(OSError):
        folder.rename(away)
        shutil.rmtree(away, ignore_errors=True)


class _Column:
    """An ``.npy`` file written in any order, by plain writes: a full disk is an error, not a signal."""

    def __init__(self, path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
        self._dtype, self._shape = np.dtype(dtype).newbyteorder("<"), shape
        self._row = self._dtype.itemsize * int(np.prod(shape[1:]))
        self._file = path.open("w+b")
        np.lib.format.write_array_header_1_0(
            self._file, {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
        )
        self._start = self._file.tell()

    def put(self, at: int, rows: NDArray[Any]) -> None:
        self._file.seek(self._start + at * self._row)
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)

    def get(self, at: int, n: int) -> NDArray[Any]:
        self._file.seek(self._start + at * self._row)
        return np.frombuffer(self._file.read(n * self._row), self._dtype).reshape(n, *self._shape[1:])

    def sync(self) -> None:
        """Flush to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _export(layout: Layout, plan: _Plan, folder: Path, progress: Progress | None) -> None:
    """Copy the tiles of the plan out of Lance, in one pass in whatever order they lie there."""
    with ExitStack() as files:
        columns = {}
        for name, kind in plan.columns().items():
            columns[name] = _Column(folder / f"{name}.npy", *kind)
            files.callback(columns[name].close)
        for slide in _copy(layout, plan, columns, progress):
            _sort(plan.rows[slide], columns, *plan.spans[slide].tolist())
        for column in columns.values():
            column.sync()


def _copy(layout: Layout, plan: _Plan, columns: dict[str, _Column], progress: Progress | None) -> set[int]:
    """Fill the columns; returns the slides whose tiles came in another order than theirs."""
    number = {row.ingest_id: i for i, row in enumerate(plan.rows) if row.status == "done"}
    cursor, stops = plan.spans[:, 0].copy(), plan.spans[:, 1]
    last = np.full(len(plan.rows), -1, np.int64)
    disordered: set[int] = set()
    copied = 0
    for ingest_id, rows in _runs(layout, plan) if plan.tiles else ():
        slide, tile = number.get(ingest_id), rows["tile_index"]
        if slide is None or not len(tile):
            continue
        at = int(cursor[slide])
        cursor[slide] += len(tile)
        if cursor[slide] > stops[slide]:
            break
        for name, column in columns.items():
            column.put(at, rows[name])
        if tile[0] <= last[slide] or (np.diff(tile) <= 0).any():
            disordered.add(slide)
        last[slide] = tile[-1]
        copied += len(tile)
        if progress:
            progress(copied, plan.tiles)
    _check_counts(plan, cursor)
    return disordered


def _runs(layout: Layout, plan: _Plan) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    """The readable rows of the tile table as runs of one ingest each, not copied where they need not be."""
    batch = max(64, _BATCH_BYTES // (plan.recipe.encoder.dim * 2))
    try:
        scanner = open_table(layout.tiles(plan.recipe.key)).scanner(
            columns=["ingest_id", "tile", "x", "y", "embedding"],
            batch_size=batch,
            batch_readahead=2,
            fragment_readahead=2,
            io_buffer_size=_READ_AHEAD_BYTES,
        )
        with lance_errors(layout.root):
            for part in scanner.to_batches():
                yield from _split(part)
    except (OSError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise StoreError(
            f"the tiles of recipe {plan.recipe.key} cannot be read: {why}; run `beph-store verify`"
        ) from error


def _split(part: pa.RecordBatch) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    ingest = part.column("ingest_id").dictionary_encode()
    codes = ingest.indices.to_numpy(zero_copy_only=False)
    embedding = part.column("embedding")
    dim = embedding.type.list_size
    values = embedding.values.to_numpy(zero_copy_only=False)
    vectors = values[embedding.offset * dim :][: len(embedding) * dim].reshape(-1, dim)
    ok = np.asarray(embedding.is_valid().to_numpy(zero_copy_only=False), bool)
    tile, x, y = (part.column(name).to_numpy(zero_copy_only=False) for name in ("tile", "x", "y"))
    borders = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
    for start, stop in pairwise(borders):
        if start == stop:
            continue
        keep: Any = slice(start, stop)
        if not ok[keep].all():
            keep = start + np.flatnonzero(ok[keep])
        rows = {
            "tile_index": tile[keep],
            "origin_l0": np.stack([x[keep], y[keep]], 1),
            "vectors": vectors[keep],
        }
        yield ingest.dictionary[codes[start]].as_py(), rows


def _check_counts(plan: _Plan, cursor: NDArray[np.int64]) -> None:
    wrong = np.flatnonzero(cursor != plan.spans[:, 1])
    if len(wrong):
        row = plan.rows[wrong[0]]
        raise StoreError(
            f"slide {row.slide_id}: its tiles in the table are not the {row.tiles - row.unreadable} that the registry "
            "lists: run `beph-store verify`",
            slide_id=row.slide_id,
        )


def _sort(row: SlideRow, columns: dict[str, _Column], start: int, stop: int) -> None:
    """Put one slide's tiles into their order."""
    order = np.argsort(columns["tile_index"].get(start, stop - start), kind="stable")
    for column in columns.values():
        column.put(start, column.get(start, stop - start)[order])
    if (np.diff(columns["tile_index"].get(start, stop - start)) <= 0).any():
        raise StoreError(
            f"slide {row.slide_id} has a tile twice: run `beph-store verify`", slide_id=row.slide_id
        )
