"""One reading of slides for several runs: where they meet, and what each gets of it.

When all runs that are not over have said what they lack, one pool of readers is started for the union, and a thread
hands out what it reads. A chunk's slot is filled again when the last of them has used it, so the slowest sets the pace.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from beph_store.engine.intake import Intake
from beph_store.engine.messages import Closed, Failed, Opened
from beph_store.engine.options import IngestOptions, default_workers
from beph_store.engine.plan import SlideTask
from beph_store.engine.readers import Event, ReaderPool, Tiles
from beph_store.engine.staging import FetchAhead
from beph_store.records import TileSpec

_NONE = np.empty(0, np.int32)


class Stopped(Exception):
    """Another run of the pass failed, or the caller was interrupted."""


class Meeting:
    """Where the runs wait for each other: a pass begins when all that are not over have said what they lack."""

    def __init__(self, runs: int, options: IngestOptions) -> None:
        self._runs = runs
        self._options = options
        self._changed = threading.Condition()
        self._waiting: list[Share] = []
        self._pass: Pass | None = None
        self._spec: TileSpec | None = None
        self._error: BaseException | None = None

    def arrive(self, tasks: list[SlideTask], spec: TileSpec, intake: Intake) -> Share:
        """The run's part of the next pass, once it has begun. Raises Stopped, or why no pass can begin."""
        share = Share({task.slide_id: task for task in tasks}, intake)
        with self._changed:
            self._spec = spec
            self._waiting.append(share)
            self._begin_if_all()
            self._changed.wait_for(lambda: self._error is not None or share.begun)
            if self._error is not None:
                raise self._error
        return share

    def leave(self) -> None:
        """A run is over: nobody waits for it any more."""
        with self._changed:
            self._runs -= 1
            self._begin_if_all()

    def stop(self) -> None:
        """End the pass, whatever is unfinished, and begin no other."""
        with self._changed:
            self._error = self._error or Stopped()
            if self._pass is not None:
                self._pass.stop()
            self._changed.notify_all()

    def _begin_if_all(self) -> None:
        if (
            self._error is not None
            or self._spec is None
            or not self._waiting
            or len(self._waiting) < self._runs
        ):
            return
        shares, self._waiting = self._waiting, []
        try:
            self._pass = Pass(shares, self._spec, self._options)
            self._pass.start()
        except BaseException as error:  # noqa: BLE001 - carried to the threads that wait
            self._error = error
        self._changed.notify_all()


@dataclass(slots=True)
class _Slide:
    """Whose slide it is, how many tiles it has once it is open, and which of them each lacks, (tiles,) bool."""

    shares: list[Share]
    tiles: int = 0
    lacking: dict[int, NDArray[np.bool_]] = field(default_factory=dict)


class Pass:
    """One pool of readers for the union of what several runs lack; a thread hands out what it reads."""

    def __init__(self, shares: Sequence[Share], spec: TileSpec, options: IngestOptions) -> None:
        self._shares = list(shares)
        self._lock = threading.Lock()
        self._slides: dict[str, _Slide] = {}
        self.error: BaseException | None = None
        tasks = list({name: task for share in shares for name, task in share.tasks.items()}.values())
        workers = options.workers or default_workers()
        self._ahead = FetchAhead(tasks, spec, workers=workers, ahead=options.slides_ahead, admit=self._admit)
        self._pool = ReaderPool(tasks, spec, workers=workers, admit=self._ahead.admit)

    def start(self) -> None:
        """Begin to read."""
        for share in self._shares:
            share.of = self
        threading.Thread(target=self._hand_out, name="several").start()

    def stop(self) -> None:
        """End soon, whatever is unfinished: for all of them."""
        self.error = self.error or Stopped()
        self._pool.stop()

    def ask(self, share: Share, slide_id: str, tile_index: NDArray[np.int32]) -> None:
        """A run lacks these tiles; the slide goes on once all have said theirs."""
        with self._lock:
            slide = self._slides.get(slide_id)
            if slide is None or id(share) in slide.lacking:
                return
            slide.lacking[id(share)] = mask = np.zeros(slide.tiles, bool)
            mask[tile_index] = True
            if len(slide.lacking) < len(slide.shares):
                return
            union = np.logical_or.reduce(list(slide.lacking.values()))
        self._pool.read(slide_id, np.flatnonzero(union).astype(np.int32))

    def give_back(self, lease: _Lease) -> None:
        """One of those who had the chunk has used it."""
        with self._lock:
            lease.left -= 1
            if lease.left == 0:
                self._pool.give_back(lease.tiles)

    def _admit(self, task: SlideTask) -> bool:
        """Claimed for all that lack it; one of them is enough to read it."""
        shares = [share for share in self._shares if share.admits(task)]
        if shares:
            with self._lock:
                self._slides[task.slide_id] = _Slide(shares)
        return bool(shares)

    def _hand_out(self) -> None:
        try:
            reading = cast(
                "Generator[Event, None, None]", self._pool.events()
            )  # closed, it ends its processes
            with contextlib.closing(reading) as events:
                for event in events:
                    self._handle(event)
        except BaseException as error:  # noqa: BLE001 - carried to the threads of the runs
            self.error = self.error or error
        finally:
            self._ahead.close()
            for share in self._shares:
                share.put(None)

    def _handle(self, event: Event) -> None:
        if isinstance(event, Tiles):
            self._share_out(event)
            return
        with self._lock:
            slide = self._slides[event.slide_id]
            if isinstance(event, Opened):
                slide.tiles = len(event.tiles)
            elif isinstance(event, Closed | Failed):
                del self._slides[event.slide_id]
        for share in slide.shares:
            share.put(event)

    def _share_out(self, tiles: Tiles) -> None:
        slide = self._slides.get(tiles.slide_id)  # none where it failed while other readers had a part of it
        lacking = [(share, slide.lacking[id(share)]) for share in slide.shares] if slide else []
        parts = [(share, mask[tiles.tile_index]) for share, mask in lacking]
        parts = [(share, wanted) for share, wanted in parts if wanted.any()]
        lease = _Lease(tiles, max(1, len(parts)))
        for share, wanted in parts:
            share.put(_part(tiles, wanted, lease))
        if not parts:
            self.give_back(lease)


@dataclass(slots=True)
class _Lease:
    """A chunk that ``left`` runs have still to use."""

    tiles: Tiles
    left: int


def _part(tiles: Tiles, wanted: NDArray[np.bool_], lease: _Lease) -> Tiles:
    """The chunk as one of them gets it; pixels are copied only where it lacks a part of it."""
    if wanted.all():
        return replace(tiles, source=lease)
    return Tiles(
        tiles.slide_id, tiles.tile_index[wanted], tiles.ok[wanted], tiles.pixels[wanted], lease, tiles.slot
    )


class Share:
    """A run's part of a pass: its `pipeline.Pool`, and where its sink asks for tiles."""

    def __init__(self, tasks: dict[str, SlideTask], intake: Intake) -> None:
        self.tasks = tasks
        self.of: Pass | None = None
        self._intake = intake
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()  # bounded by the rings

    @property
    def begun(self) -> bool:
        """Whether the pass has begun."""
        return self.of is not None

    def admits(self, task: SlideTask) -> bool:
        """Whether the run lacks the slide and has claimed it now."""
        return task.slide_id in self.tasks and self._intake.admit(task)

    def put(self, event: Event | None) -> None:
        """Hand on an event; None is the end."""
        self._queue.put(event)

    def events(self) -> Iterator[Event]:
        """See ``pipeline.Pool``. Raises what ended the pass early."""
        while (event := self._queue.get()) is not None:
            yield event
        if self.of is not None and self.of.error is not None:
            raise self.of.error

    def read(self, slide_id: str, tile_index: NDArray[np.int32]) -> None:
        """Let an opened slide go on with these tiles, as far as this run is concerned."""
        if self.of is not None:
            self.of.ask(self, slide_id, tile_index)

    def decline(self, slide_id: str) -> None:
        """Nothing of that slide, unless ``read`` has said otherwise."""
        self.read(slide_id, _NONE)

    def give_back(self, tiles: Tiles) -> None:
        """See ``pipeline.Pool``."""
        if self.of is not None:
            self.of.give_back(tiles.source)

    def stop(self) -> None:
        """See ``pipeline.Pool``; ends the pass for all."""
        if self.of is not None:
            self.of.stop()
