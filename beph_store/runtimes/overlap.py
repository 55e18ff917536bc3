"""Batches that overlap on a device: while one computes, the next is copied in and the last is copied out.

Here is the order in which things may happen, and nothing of CUDA: a device has three lanes, each of which does its
work in the order given. What must not overtake what is said by ``hold``, so that the host never waits except for
the vectors it collects.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import RuntimeUnavailable
from beph_store.records import EncoderSpec
from beph_store.runtimes.protocol import check_tiles
from beph_store.runtimes.stream import Stream

Lane = Literal["upload", "compute", "download"]


class Lanes(Protocol):
    """A device with ``slots`` places for a batch, each with memory of its own on both sides.

    Nothing here waits but ``finish``. Work of one lane is done in the order given; lanes run beside each other.
    """

    slots: int

    def tiles(self, slot: int) -> NDArray[np.uint8]:
        """The slot's host memory (batch, H, W, 3) uint8."""
        ...

    def upload(self, slot: int, count: int) -> None:
        """Queue the copy of the first ``count`` tiles to the device."""
        ...

    def compute(self, slot: int) -> None:
        """Queue the encoding of the slot's whole batch; tiles beyond ``count`` are whatever was there before."""
        ...

    def download(self, slot: int, count: int) -> None:
        """Queue the copy of the first ``count`` vectors to the host."""
        ...

    def hold(self, lane: Lane, after: Lane, slot: int) -> None:
        """What is queued in ``lane`` from now on begins when the slot's last work in ``after`` is done."""
        ...

    def finish(self, slot: int, count: int) -> tuple[NDArray[np.float32], float]:
        """Wait for the slot's download: its vectors (count, D), the caller's to keep, and seconds of computing."""
        ...


class Overlapped:
    """See ``Stream``. A slot belongs to one batch from ``buffer`` to ``collect``, which is why lanes need no more
    than two holds a batch: whatever used the slot before was waited for when it was collected.
    """

    def __init__(self, lanes: Lanes) -> None:
        self.busy = 0.0
        self.depth = lanes.slots - 1  # one slot to fill while the others are under way
        self._lanes = lanes
        self._free = deque(range(lanes.slots))
        self._filling: int | None = None
        self._under_way: deque[tuple[int, int]] = deque()

    def buffer(self) -> NDArray[np.uint8]:
        """See ``Stream.buffer``."""
        if self._filling is None:
            if not self._free:
                raise RuntimeError("every slot is under way: collect the oldest batch before filling another")
            self._filling = self._free.popleft()
        return self._lanes.tiles(self._filling)

    def submit(self, count: int) -> None:
        """See ``Stream.submit``."""
        self.buffer()
        slot, self._filling = self._filling, None
        assert slot is not None
        lanes = self._lanes
        lanes.upload(slot, count)
        lanes.hold("compute", "upload", slot)
        lanes.compute(slot)
        lanes.hold("download", "compute", slot)
        lanes.download(slot, count)
        self._under_way.append((slot, count))

    def collect(self) -> NDArray[np.float32]:
        """See ``Stream.collect``."""
        slot, count = self._under_way.popleft()
        vectors, seconds = self._lanes.finish(slot, count)
        self.busy += seconds
        self._free.append(slot)
        return vectors


class Streamed:
    """A runtime whose streams do all the work; see ``Runtime``.

    ``open_stream`` gives a new stream each time; ``release`` lets go of the device. Every batch is computed whole,
    short ones padded, so that a tile's bits depend on nothing but the tile.
    """

    def __init__(
        self,
        name: str,
        device: str,
        spec: EncoderSpec,
        batch: int,
        open_stream: Callable[[], Stream],
        release: Callable[[], None],
    ) -> None:
        self.name = name
        self.device = device
        self.spec = spec
        self.batch = batch
        self._open_stream: Callable[[], Stream] | None = open_stream
        self._release = release
        self._own: Stream | None = None

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See ``Runtime.encode``."""
        tiles = check_tiles(pixels, self.spec)
        if self._own is None:
            self._own = self.stream()
        stream, parts, under_way = self._own, [], 0
        for start in range(0, len(tiles), self.batch):
            part = tiles[start : start + self.batch]
            stream.buffer()[: len(part)] = part
            stream.submit(len(part))
            under_way += 1
            if under_way == stream.depth:
                parts.append(stream.collect())
                under_way -= 1
        parts += [stream.collect() for _ in range(under_way)]
        return np.concatenate(parts) if parts else np.empty((0, self.spec.dim), np.float32)

    def stream(self) -> Stream:
        """See ``Runtime.stream``."""
        if self._open_stream is None:
            raise RuntimeUnavailable(f"{self.name} was closed")
        return self._open_stream()

    def close(self) -> None:
        """See ``Runtime.close``."""
        if self._open_stream is not None:
            self._open_stream = self._own = None
            self._release()
