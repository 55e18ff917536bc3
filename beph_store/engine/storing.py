"""The last stage: from encoded tiles to sealed slides. Everything here runs in one thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from beph_store.engine.messages import Closed, Opened
from beph_store.engine.pipeline import Encoded, Kept, Stored
from beph_store.engine.plan import SlideTask
from beph_store.engine.report import Progress, ReadStats
from beph_store.errors import BephStoreError
from beph_store.records import SlideInfo, SlideOutcome
from beph_store.store import RecipeWriter, SlideRow
from beph_store.store.staging import Spool


class Readers(Protocol):
    """Who is told which tiles of an opened slide are wanted."""

    def read(self, slide_id: str, tile_index: NDArray[np.int32]) -> None:
        """Let an opened slide go on with these tiles; with none it is closed."""


@dataclass(slots=True)
class _Slide:
    opened: Opened
    spool: Spool
    remaining: int
    began: float
    closed: bool = False


class SlideSink:
    """Spools what arrives, seals a slide when its last tile is there, commits now and then."""

    def __init__(
        self,
        writer: RecipeWriter,
        pool: Readers,
        tasks: dict[str, SlideTask],
        *,
        replaced: dict[str, str | None],
        finish: Callable[[SlideOutcome], None],
        progress: Progress,
    ) -> None:
        self._writer = writer
        self._pool = pool
        self._tasks = tasks
        self._replaced = replaced
        self._finish = finish
        self._progress = progress
        self._slides: dict[str, _Slide] = {}
        self.stats = ReadStats()
        self.encoded = 0

    def take(self, item: Stored) -> None:
        """Handle one item. A slide's own trouble ends that slide; trouble of the store is raised."""
        try:
            if isinstance(item, Opened):
                self._opened(item)
            elif isinstance(item, Encoded):
                self._encoded(item)
            elif isinstance(item, Kept):
                self._kept(item)
            else:
                self.stats.add(item.stats)
                if isinstance(item, Closed):
                    self._closed(item)
                else:
                    self._failed(item.slide_id, item.error)
        except BephStoreError as error:
            self._failed(item.slide_id, str(error))
        self._writer.publish()

    def _opened(self, item: Opened) -> None:
        claim = self._writer.claimed(item.slide_id)
        spool = self._writer.open_spool(claim, item.info, item.tiles)
        todo = np.flatnonzero(~spool.done).astype(np.int32)
        self._slides[item.slide_id] = _Slide(item, spool, len(todo), time.perf_counter())
        self._progress.started(item.slide_id, len(item.tiles), spool.resumed)
        self._pool.read(item.slide_id, todo)

    def _kept(self, item: Kept) -> None:
        slide = self._slides.get(item.slide_id)
        if slide is not None:
            slide.spool.keep(item.tile_index, item.packed)

    def _encoded(self, item: Encoded) -> None:
        slide = self._slides.get(item.slide_id)
        if slide is None:  # it failed meanwhile
            return
        slide.spool.add(item.tile_index, item.ok, item.vectors)
        slide.remaining -= len(item.tile_index)
        self.encoded += int(item.ok.sum())
        self._progress.advanced(item.slide_id, len(item.tile_index))
        self._seal_if_whole(item.slide_id, slide)

    def _closed(self, item: Closed) -> None:
        slide = self._slides.get(item.slide_id)
        if slide is not None:
            slide.closed = True
            self._seal_if_whole(item.slide_id, slide)

    def _seal_if_whole(self, slide_id: str, slide: _Slide) -> None:
        if not slide.closed or slide.remaining:
            return
        seconds = time.perf_counter() - slide.began
        task = self._tasks[slide_id]
        row = finished_row(
            self._writer.key, task, slide.opened.backend, self._replaced.get(slide_id), seconds
        )
        row = self._writer.seal(self._writer.claimed(slide_id), slide.opened.rasters, row)
        del self._slides[slide_id]
        self._finish(SlideOutcome(slide_id, row.status, row.tiles, round(seconds, 3)))

    def _failed(self, slide_id: str, why: str) -> None:
        slide = self._slides.pop(slide_id, None)
        info: SlideInfo | None = slide.opened.info if slide else None
        self._writer.fail(slide_id, failed_row(self._writer.key, self._tasks[slide_id], why, info))
        self._finish(SlideOutcome(slide_id, "failed", error=why))


def finished_row(key: str, task: SlideTask, backend: str, replaces: str | None, seconds: float) -> SlideRow:
    """What the registry will say of a slide of recipe ``key`` that took ``seconds``, as far as the engine knows."""
    file_bytes, file_mtime_ns = task.file_state()
    return SlideRow(
        key,
        task.slide_id,
        "done",
        file_bytes=file_bytes,
        file_mtime_ns=file_mtime_ns,
        case_id=task.case_id,
        reader=backend,
        replaces=replaces,
        seconds=round(seconds, 3),
    )


def failed_row(key: str, task: SlideTask, why: str, info: SlideInfo | None) -> SlideRow:
    """What the registry will say of a slide that could not be done, with what is known of it."""
    row = SlideRow(key, task.slide_id, "failed", error=why, path=str(task.path), case_id=task.case_id)
    return row.with_info(info) if info else row
