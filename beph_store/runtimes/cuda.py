"""CUDA's side of the overlap, shared by every runtime that computes on an NVIDIA GPU.

torch gives the memory, the streams, the events and the graphs; what computes is handed over. Needs torch with CUDA,
so only runtimes that have found it import this module.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beph_store.errors import RuntimeUnavailable
from beph_store.runtimes import gpus
from beph_store.runtimes.overlap import Lane, Overlapped

#: Batches under way while one is filled: one copied in, one computed, one copied out.
DEPTH = 3
_WARM_UPS = 3

#: (batch, H, W, 3) uint8 on the device → (batch, D) float32 there, queued in torch's current stream; the result may be
#: overwritten by the next call. The tiles are always the same tensor.
Compute = Callable[[Tensor], Tensor]


def device_of(number: int | None) -> tuple[torch.device, str]:
    """The device of torch for a GPU's number, the first for None, and its name in words. Raises RuntimeUnavailable."""
    try:
        found = gpus.gpu(number)
    except LookupError as error:
        raise RuntimeUnavailable(str(error)) from error
    if not torch.cuda.is_available():
        raise RuntimeUnavailable(
            f"torch {torch.__version__} cannot use the GPU: install a build for a CUDA that the driver supports"
        )
    return torch.device("cuda", found.number), str(found)


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _event(**how: bool) -> torch.cuda.Event:
    return torch.cuda.Event(**how)  # type: ignore[no-untyped-call]


def usable() -> bool:
    """Whether this build of torch can use a GPU here."""
    return torch.cuda.is_available()


class Place:
    """Memory for one batch on a GPU, and the stream to compute it in, for libraries that write where they are told."""

    def __init__(self, number: int, tiles: tuple[int, ...], vectors: tuple[int, ...]) -> None:
        self.device = torch.device("cuda", number)
        self.stream = _stream(self.device)
        try:
            self.tiles = torch.zeros(tiles, dtype=torch.uint8, device=self.device)
            self.vectors = torch.zeros(vectors, device=self.device)
        except torch.OutOfMemoryError as error:
            raise RuntimeUnavailable(
                f"GPU {number} has too little memory for batches of {tiles[0]}: pass a smaller one"
            ) from error
        torch.cuda.synchronize(self.device)  # the zeros are written in the default stream

    def current(self) -> AbstractContextManager[object]:
        """Make this GPU the current one."""
        return torch.cuda.device(self.device)

    def current_stream(self) -> int:
        """The CUDA handle of the stream to queue in."""
        return int(torch.cuda.current_stream(self.device).cuda_stream)


class Engine:
    """One encoder on one GPU: fixed memory for a batch, and the encoding of it captured as a CUDA graph.

    ``scope()`` surrounds every call of ``compute``; ``capture`` False for libraries that launch in ways a graph cannot
    hold. ``note`` says why there is no graph, if one was wanted and failed.
    """

    def __init__(
        self,
        compute: Compute,
        tiles: Tensor,
        stream: torch.cuda.Stream,
        *,
        capture: bool = True,
        scope: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.tiles = tiles
        self.stream = stream
        self.note = ""
        self._compute = compute
        self._scope = scope
        self._graph: torch.cuda.CUDAGraph | None = None
        with torch.no_grad(), torch.cuda.device(tiles.device), torch.cuda.stream(stream), scope():
            for _ in range(_WARM_UPS if capture else 1):
                self.vectors = compute(tiles)
            stream.synchronize()
        if capture:
            self._capture()

    def __call__(self) -> Tensor:
        """Queue the encoding of ``tiles`` in ``stream``; returns the tensor that will hold the vectors."""
        with torch.no_grad(), torch.cuda.stream(self.stream), self._scope():
            if self._graph is not None:
                self._graph.replay()
            else:
                self.vectors = self._compute(self.tiles)
        return self.vectors

    def open_stream(self) -> Overlapped:
        """A new stream over this engine."""
        return Overlapped(CudaLanes(self))

    def release(self) -> None:
        """Let go of the graph and the device memory."""
        self.stream.synchronize()
        self._graph = None
        del self.vectors, self.tiles, self._compute
        torch.cuda.empty_cache()

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        device = torch.cuda.device(self.tiles.device)
        try:
            with torch.no_grad(), self._scope(), device, torch.cuda.graph(graph, stream=self.stream):
                self.vectors = self._compute(self.tiles)
        except RuntimeError as error:
            self.note = f"no CUDA graph: {str(error).splitlines()[0]}"
            warnings.warn(self.note, RuntimeWarning, stacklevel=2)
            torch.cuda.synchronize(self.tiles.device)
            with torch.no_grad(), torch.cuda.stream(self.stream), self._scope():
                self.vectors = self._compute(self.tiles)
        else:
            self._graph = graph


class CudaLanes:
    """See ``Lanes``: pinned memory, one CUDA stream a lane, events between them.

    All lanes over one engine compute in the engine's own stream, so two of them cannot disturb each other.
    """

    def __init__(self, engine: Engine, slots: int = DEPTH + 1) -> None:
        self.slots = slots
        self._engine = engine
        device, shape, dim = engine.tiles.device, engine.tiles.shape, engine.vectors.shape[1]
        self._streams: dict[Lane, torch.cuda.Stream] = {
            "upload": _stream(device),
            "compute": engine.stream,
            "download": _stream(device),
        }
        self._host_tiles = [torch.zeros(shape, dtype=torch.uint8, pin_memory=True) for _ in range(slots)]
        self._host_vectors = [torch.zeros((shape[0], dim), pin_memory=True) for _ in range(slots)]
        self._views = [tensor.numpy() for tensor in self._host_tiles]
        self._tiles = [torch.zeros(shape, dtype=torch.uint8, device=device) for _ in range(slots)]
        self._vectors = [torch.zeros((shape[0], dim), device=device) for _ in range(slots)]
        torch.cuda.synchronize(device)  # the zeros are written in the default stream
        for tensor in (*self._tiles, *self._vectors):
            for stream in self._streams.values():
                tensor.record_stream(stream)  # not reused while a lane may still touch it
        self._begun = [_event(enable_timing=True) for _ in range(slots)]
        self._done: dict[Lane, list[torch.cuda.Event]] = {
            "upload": [_event() for _ in range(slots)],
            "compute": [_event(enable_timing=True) for _ in range(slots)],
            # The host sleeps on this one: readers need its core.
            "download": [_event(blocking=True) for _ in range(slots)],
        }

    def tiles(self, slot: int) -> NDArray[np.uint8]:
        """See ``Lanes.tiles``."""
        return self._views[slot]

    def upload(self, slot: int, count: int) -> None:
        """See ``Lanes.upload``."""
        with torch.cuda.stream(self._streams["upload"]):
            self._tiles[slot][:count].copy_(self._host_tiles[slot][:count], non_blocking=True)
        self._record("upload", slot)

    def compute(self, slot: int) -> None:
        """See ``Lanes.compute``. Two copies within the device, a hundred times quicker than the encoder, are the
        price of one captured graph for all slots.
        """
        stream = self._streams["compute"]
        self._begun[slot].record(stream)
        with torch.cuda.stream(stream):
            self._engine.tiles.copy_(self._tiles[slot], non_blocking=True)
            self._vectors[slot].copy_(self._engine(), non_blocking=True)
        self._record("compute", slot)

    def download(self, slot: int, count: int) -> None:
        """See ``Lanes.download``."""
        with torch.cuda.stream(self._streams["download"]):
            self._host_vectors[slot][:count].copy_(self._vectors[slot][:count], non_blocking=True)
        self._record("download", slot)

    def hold(self, lane: Lane, after: Lane, slot: int) -> None:
        """See ``Lanes.hold``."""
        self._streams[lane].wait_event(self._done[after][slot])

    def finish(self, slot: int, count: int) -> tuple[NDArray[np.float32], float]:
        """See ``Lanes.finish``."""
        self._done["download"][slot].synchronize()
        seconds = self._begun[slot].elapsed_time(self._done["compute"][slot]) / 1000
        return self._host_vectors[slot][:count].numpy().copy(), seconds

    def _record(self, lane: Lane, slot: int) -> None:
        self._done[lane][slot].record(self._streams[lane])
