"""The end of an import: a slide that is ready goes into the store, which is made when there is the first such."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.engine.provenance import WRITTEN_BY
from beph_store.errors import NotAStore
from beph_store.records import Rasters, Recipe, SlideInfo, SlideOutcome, TileSet
from beph_store.store import ClaimedSlide, RecipeWriter, SlideRow, Store
from beph_store.store.vectors import SlideRows


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


class Keeper:
    """Writers of all the recipes of one run, and what the store knew before; ``close`` commits everything."""

    def __init__(self, path: str) -> None:
        self.run = f"import-{uuid.uuid4().hex[:12]}"
        self._path = path
        self._writers: dict[str, RecipeWriter] = {}
        self._known: dict[str, dict[str, SlideRow]] = {}
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

    def keep(self, ready: Ready) -> SlideOutcome:
        """Store the slide; it replaces what the store has of it, if anything."""
        start = time.perf_counter()
        have = self.known(ready.recipe).get(ready.info.slide_id)
        writer = self._writer(ready)
        claim = writer.claim(ready.info.slide_id)
        if claim is None:
            return SlideOutcome(
                ready.info.slide_id, "failed", error="another process is importing this slide: run it again"
            )
        if writer.recover(claim) is None:
            replaces = have.ingest_id if have is not None and have.complete else None
            _seal(writer, claim, ready, replaces)
        writer.publish()
        seconds = round(time.perf_counter() - start, 3)
        return SlideOutcome(
            ready.info.slide_id, "done" if len(ready.tiles) else "empty", len(ready.tiles), seconds
        )

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
        """Commit what is sealed."""
        for writer in self._writers.values():
            writer.close()


def _seal(writer: RecipeWriter, claim: ClaimedSlide, ready: Ready, replaces: str | None) -> None:
    spool = writer.open_spool(claim, ready.info, ready.tiles)
    todo = np.flatnonzero(~spool.done).astype(np.int32)
    if len(todo):
        spool.add(todo, ready.ok[todo], ready.vectors[todo])  # type: ignore[arg-type]
    writer.seal(claim, ready.rasters, dataclasses.replace(ready.row, replaces=replaces))
