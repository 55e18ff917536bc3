"""The end of an import: a slide that is ready goes into the store, which is made when there is the first such."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.engine.provenance import WRITTEN_BY
from beph_store.errors import NotAStore
from beph_store.records import Rasters, Recipe, SlideInfo, SlideOutcome, TileSet
from beph_store.store import RecipeWriter, SlideRow, Store
from beph_store.store.sealing import Sealing, seal_rows
from beph_store.store.staging import Ready as Sealed
from beph_store.store.vectors import SlideRows

#: Slides that are sealed at once, and bytes of their vectors, unless one alone has more.
_AT_ONCE, _BYTES_AT_ONCE = 3, 1 << 30


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """A slide to be stored: ``vectors`` (N, D) float16 and ``ok`` (N,) of all its tiles; ``row`` what only we know.

    ``source`` and ``parity`` go into the record of the recipe where it is a new one. ``restored``: it came back from an
    export of ours; ``rounding`` the greatest change that float16 made to a value.
    """

    recipe: Recipe
    source: str
    parity: Mapping[str, Any]
    info: SlideInfo
    tiles: TileSet
    vectors: NDArray[np.float16]
    ok: NDArray[np.bool_]
    rasters: Rasters
    row: SlideRow
    restored: bool = False
    rounding: float = 0.0

    def rows(self) -> SlideRows:
        """What a reader of the store will see."""
        return SlideRows(self.tiles.origin_l0, self.tiles.tissue, self.ok, self.vectors)


@dataclass(frozen=True, slots=True)
class _Sealed:
    """A slide on its way into the store: what will be committed, from another thread, and when that began."""

    writer: RecipeWriter
    tiles: int
    nbytes: int
    began: float
    result: Future[Sealed]


class Keeper:
    """Writers of all the recipes of one run, and what the store knew before; ``close`` commits everything.

    Sealing a slide is half waiting for the disk, so a few slides are sealed at once; one thread claims and commits.
    """

    def __init__(self, path: str) -> None:
        self.run = f"import-{uuid.uuid4().hex[:12]}"
        self._path = path
        self._writers: dict[str, RecipeWriter] = {}
        self._known: dict[str, dict[str, SlideRow]] = {}
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="seal")
        self._sealing: deque[_Sealed] = deque()
        try:
            self._store: Store | None = Store.open(path)
        except NotAStore:
            self._store = None

    def known(self, recipe: Recipe) -> dict[str, SlideRow]:
        """What the store had of that recipe when it was first asked, by slide id."""
        if recipe.key not in self._known:
            rows = [] if self._store is None else self._store.rows(recipe.key)
            self._known[recipe.key] = {row.slide_id: row for row in rows}
        return self._known[recipe.key]

    def keep(self, ready: Ready) -> Iterator[SlideOutcome]:
        """Begin to store the slide, which replaces what the store has of it; slides of which it has come out meanwhile.

        Waits while as many are under way as may be.
        """
        writer = self._writer(ready)
        slide_id = ready.info.slide_id
        claim = writer.claim(slide_id)
        if claim is None:
            why = "another process is importing this slide: run it again"
            yield SlideOutcome(slide_id, "failed", error=why)
            return
        if writer.recover(claim) is not None:  # an earlier run had it sealed
            writer.publish()
            yield SlideOutcome(slide_id, "done", len(ready.tiles))
            return
        while self._sealing and (len(self._sealing) >= _AT_ONCE or self._bytes(ready) > _BYTES_AT_ONCE):
            yield self._next()
        have = self.known(ready.recipe).get(slide_id)
        replaces = have.ingest_id if have is not None and have.complete else None
        row = dataclasses.replace(ready.row, replaces=replaces)
        sealing = Sealing(ready.info, ready.tiles, ready.rasters, row, self.run)
        result = self._pool.submit(seal_rows, writer.layout, writer.recipe, sealing, ready.rows())
        began = time.perf_counter()
        self._sealing.append(_Sealed(writer, len(ready.tiles), ready.vectors.nbytes, began, result))

    def rest(self) -> Iterator[SlideOutcome]:
        """What was begun and has not come out yet."""
        while self._sealing:
            yield self._next()

    def _next(self) -> SlideOutcome:
        one = self._sealing.popleft()
        sealed = one.result.result()
        row = one.writer.take(sealed)
        one.writer.publish()
        seconds = round(time.perf_counter() - one.began, 3)
        return SlideOutcome(row.slide_id, "done" if one.tiles else "empty", one.tiles, seconds)

    def _bytes(self, ready: Ready) -> int:
        return ready.vectors.nbytes + sum(one.nbytes for one in self._sealing)

    def _writer(self, ready: Ready) -> RecipeWriter:
        key = ready.recipe.key
        if key not in self._writers:
            if self._store is None:
                self._store = Store.create(self._path, written_by=WRITTEN_BY)
            self._writers[key] = self._store.writer(
                ready.recipe, run=self.run, encoder_source=ready.source, parity=dict(ready.parity)
            )
        return self._writers[key]

    def close(self) -> None:
        """Commit what has come out. What has not, after an error, the next run finds sealed or does again."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        for writer in self._writers.values():
            writer.close()
