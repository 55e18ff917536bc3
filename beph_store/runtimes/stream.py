"""Batches on their way through a device: the caller fills a buffer, submits it, and collects vectors in that order.

On a CPU encoding is the work and happens in ``submit``. On a GPU a batch is copied in, computed and copied back while
the caller fills the next ones; ``depth`` says how many it pays to have under way.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Stream(Protocol):
    """See the module. One thread uses it."""

    @property
    def depth(self) -> int:
        """Batches to have under way: with so many, collect the oldest before submitting another."""
        ...

    @property
    def busy(self) -> float:
        """Seconds in which the device computed, so far."""
        ...

    def buffer(self) -> NDArray[np.uint8]:
        """(batch, H, W, 3) uint8 to fill for the next ``submit``, the same one until then."""
        ...

    def submit(self, count: int) -> None:
        """Encode the first ``count`` ≥ 1 tiles of the buffer last given."""
        ...

    def collect(self) -> NDArray[np.float32]:
        """(count, D) float32 of the oldest batch not collected; waits for it. The caller's to keep."""
        ...


class Direct:
    """For runtimes that compute in the caller's thread."""

    depth = 1

    def __init__(
        self,
        encode: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
        shape: tuple[int, int, int, int],
    ) -> None:
        self.busy = 0.0
        self._encode = encode
        self._shape = shape
        self._buffer: NDArray[np.uint8] | None = None
        self._done: deque[NDArray[np.float32]] = deque()

    def buffer(self) -> NDArray[np.uint8]:
        """See ``Stream.buffer``."""
        if self._buffer is None:
            self._buffer = np.empty(self._shape, np.uint8)
        return self._buffer

    def submit(self, count: int) -> None:
        """See ``Stream.submit``."""
        start = time.perf_counter()
        self._done.append(self._encode(self.buffer()[:count]))
        self.busy += time.perf_counter() - start

    def collect(self) -> NDArray[np.float32]:
        """See ``Stream.collect``."""
        return self._done.popleft()


class Several:
    """Streams of several devices as one: a batch goes to the one that has least to do, and comes back in order.

    Whichever device is quicker simply gets more batches; they cross slides, so no device waits for a slide's end.
    """

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = list(streams)
        self._under_way = [0] * len(self._streams)
        self._order: deque[int] = deque()
        self._next = 0

    @property
    def depth(self) -> int:
        """See ``Stream.depth``."""
        return sum(stream.depth for stream in self._streams)

    @property
    def busy(self) -> float:
        """Mean over the devices."""
        return sum(stream.busy for stream in self._streams) / len(self._streams)

    def buffer(self) -> NDArray[np.uint8]:
        """See ``Stream.buffer``."""
        self._next = min(range(len(self._streams)), key=lambda i: self._under_way[i] / self._streams[i].depth)
        return self._streams[self._next].buffer()

    def submit(self, count: int) -> None:
        """See ``Stream.submit``."""
        self._streams[self._next].submit(count)
        self._under_way[self._next] += 1
        self._order.append(self._next)

    def collect(self) -> NDArray[np.float32]:
        """See ``Stream.collect``."""
        number = self._order.popleft()
        self._under_way[number] -= 1
        return self._streams[number].collect()
