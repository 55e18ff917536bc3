"""The body of a reader process: opens slides, finds tissue, cuts, reads tiles into the shared ring.

A process of its own, because C decoders crash on bad files: that costs one slide, not the run.
It starts by spawn: Lance, ONNX Runtime and their threads do not survive a fork.
"""

from __future__ import annotations

import dataclasses
import mmap
import signal
import threading
import time
from collections import deque
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beph_store.engine.memory import for_want_of_memory, memory_limit, too_much
from beph_store.engine.messages import (
    Alive,
    Chunk,
    Closed,
    Failed,
    Free,
    Give,
    Given,
    Open,
    Opened,
    Read,
    Ready,
    RingSpec,
)
from beph_store.engine.report import ReadStats
from beph_store.errors import BephStoreError
from beph_store.records import Rasters, TileSet, TileSpec
from beph_store.slides import SlideReader, TileReader
from beph_store.tiling import tile_slide
from beph_store.tissue import find_tissue

#: Scale at which tissue is looked for, and the longest side of the thumbnail that is kept.
OVERVIEW_MPP = 8.0
THUMBNAIL_PX = 1024
#: With fewer tiles left a reader keeps them: another would take longer to open the slide.
GIVE_MIN_TILES = 256
#: How often a reader that waits for the network says that it is there.
ALIVE_SECONDS = 5.0


def run(connection: Connection, ring: RingSpec) -> None:
    """Serve until the other side hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the engine's to handle; it will hang up
    with Path(ring.path).open("r+b") as file:
        memory = mmap.mmap(file.fileno(), ring.nbytes)
    slots = np.frombuffer(memory, np.uint8).reshape(ring.shape)
    server = _Server(connection, slots)
    try:
        connection.send(Ready())
        while True:
            server.serve(connection.recv())
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the engine is gone


class _Server:
    def __init__(self, connection: Connection, slots: NDArray[np.uint8]) -> None:
        self._connection = connection
        self._slots = slots
        self._free = deque(range(len(slots)))
        self._asked: Give | None = None
        self._stats = ReadStats()
        self._told = 0.0

    def serve(self, message: Open | Free | Give) -> None:
        if isinstance(message, Free):
            self._free.append(message.slot)
        if not isinstance(message, Open):
            return  # what was asked of a slide that is closed is void: `Closed` answered it
        self._asked = None
        self._stats = ReadStats()
        slide_id = message.task.slide_id
        try:
            with memory_limit(message.task.memory_bytes):
                self._slide(message)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:  # noqa: BLE001 - a decoder's own error must cost this slide only
            self._connection.send(Failed(slide_id, reason_of(error, message.task.memory_bytes), self._stats))

    def _slide(self, message: Open) -> None:
        start = time.perf_counter()
        task, tiles = message.task, message.tiles
        with task.open(alive=self._tell_alive) as slide:
            if tiles is None:
                tiles, rasters = survey(slide, message.spec)
                self._connection.send(Opened(task.slide_id, slide.info, tiles, rasters, slide.backend))
            self._stats.busy += time.perf_counter() - start
            todo = self._wait_for_read().tile_index
            if len(todo):
                self._read(TileReader(slide, tiles), todo)
            self._stats.decodes += slide.decodes or 0
            self._stats.distinct += slide.distinct or 0
        self._connection.send(Closed(task.slide_id, self._stats))

    def _tell_alive(self) -> None:
        """Waiting for the network is no hanging. A pipe takes one thread's messages at a time: this one's."""
        if threading.current_thread() is not threading.main_thread():
            return
        if time.monotonic() - self._told > ALIVE_SECONDS:
            self._told = time.monotonic()
            self._connection.send(Alive())

    def _wait_for_read(self) -> Read:
        while True:
            message = self._connection.recv()
            if isinstance(message, Read):
                return message
            self._note(message)

    def _read(self, reader: TileReader, todo: NDArray[np.int32]) -> None:
        order = reader.order(todo)
        reader.fetch_ahead(order)
        size = self._slots.shape[1]
        start = 0
        while start < len(order):
            slot = self._take_slot()
            order = self._share(reader, order, start)
            index = order[start : start + size]
            if not len(index):
                self._free.append(slot)
                return
            began = time.perf_counter()
            ok = reader.read(index, self._slots[slot, : len(index)])
            self._stats.busy += time.perf_counter() - began
            self._connection.send(Chunk(reader.slide_id, slot, index, ok))
            start += size

    def _take_slot(self) -> int:
        while self._connection.poll() or not self._free:
            self._note(self._connection.recv())
        return self._free.popleft()

    def _note(self, message: Free | Give) -> None:
        if isinstance(message, Free):
            self._free.append(message.slot)
        else:
            self._asked = message

    def _share(self, reader: TileReader, order: NDArray[np.int32], start: int) -> NDArray[np.int32]:
        """``order`` without what was given up, which is its end: macro-tiles on the cut are decoded on both sides."""
        asked, self._asked = self._asked, None
        if asked is None:
            return order
        left = len(order) - start
        kept = 0 if asked.everything else left if left < GIVE_MIN_TILES else left - left // 2
        given = order[start + kept :]
        self._connection.send(Given(reader.slide_id, given))
        # Each side will count the macro-tiles on the cut as its own.
        self._stats.distinct -= reader.common_macro_tiles(order[: start + kept], given)
        return order[: start + kept]


def survey(slide: SlideReader, spec: TileSpec) -> tuple[TileSet, Rasters]:
    """The tiles of a slide under ``spec``, and what the store keeps to look at."""
    overview, mpp_x, mpp_y = slide.overview(OVERVIEW_MPP)
    mask = find_tissue(overview, mpp_x, mpp_y, spec.tissue_method)
    tiles = limited(tile_slide(slide.info, spec, mask))
    return tiles, Rasters(thumbnail(overview), mask)


def limited(tiles: TileSet) -> TileSet:
    """The tiles, thinned evenly over the slide where the spec sets a limit."""
    limit = tiles.spec.limit
    if limit is None or len(tiles) <= limit:
        return tiles
    keep = np.linspace(0, len(tiles) - 1, limit).round().astype(int)
    return dataclasses.replace(tiles, origin_l0=tiles.origin_l0[keep], tissue=tiles.tissue[keep])


def thumbnail(overview: NDArray[np.uint8], longest: int = THUMBNAIL_PX) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 with its longest side at most ``longest``, by whole steps of averaging."""
    step = -(-max(overview.shape[:2]) // longest)
    if step == 1:
        return overview
    h, w = (side // step * step for side in overview.shape[:2])
    blocks = overview[:h, :w].reshape(h // step, step, w // step, step, 3)
    small: NDArray[np.uint8] = blocks.mean(axis=(1, 3), dtype=np.float32).round().astype(np.uint8)
    return small


def reason_of(error: Exception, memory_bytes: int) -> str:
    """Why a slide cannot be used, of which this came while ``memory_bytes`` could be taken."""
    if for_want_of_memory(error):
        return too_much(memory_bytes)
    if isinstance(error, BephStoreError):
        return one_line(error)
    return f"the reader failed: {type(error).__name__}: {one_line(error)}"


def one_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return (str(error).splitlines() or [type(error).__name__])[0]
