"""OpenVINO on the CPU: bf16 where the processor multiplies in it, about twice as fast as fp32 within the gate.

The precision is always said outright: left to itself OpenVINO computes a float32 graph in bf16 wherever it can.
And ``import openvino`` reports itself to Google Analytics under an identity that it keeps in the user's home folder,
unless its telemetry package cannot be imported: so here it cannot.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import RuntimeUnavailable
from beph_store.records import EncoderSpec
from beph_store.runtimes.onnxruntime import allowed_cores, installed
from beph_store.runtimes.protocol import RuntimeEntry, RuntimeOptions, check_tiles

NAME = "openvino"
#: More tiles a stream and call are not faster on a CPU.
_BATCH = 8
#: Each stream holds the activations of a batch of its own; beyond these a stream has several cores.
_MOST_STREAMS = 8


class OpenVino:
    """An ONNX graph compiled for the CPU; see ``Runtime``.

    A stream of its own for each core: nothing waits at a barrier for a core that is reading tiles meanwhile. With
    twentieths of one core taken away, two streams lose a thirtieth and one stream on both cores loses a tenth. No copy
    of the compiled graph on disk: it would save a second of starting, for 340 MB a ViT-B.
    """

    def __init__(self, compiled: Any, spec: EncoderSpec, batch: int, threads: int, streams: int) -> None:
        self.name = NAME
        self.device = f"{threads} CPU core{'s' if threads > 1 else ''}"
        self.spec = spec
        self.batch = batch
        self._streams = streams
        self._piece = -(-batch // streams)
        self._compiled = compiled
        self._own: Streams | None = None
        self._turn = threading.Lock()

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See ``Runtime.encode``. Threads take turns: a request is one caller's at a time."""
        tiles = check_tiles(pixels, self.spec)
        with self._turn:
            stream, self._own = self._own or self.stream(), None
            found = self._encode(stream, tiles)
            self._own = stream  # after an error, one with requests under way is not used again
        return found

    def _encode(self, stream: Streams, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = np.empty((len(tiles), self.spec.dim), np.float32)
        done = 0
        # The batch stays dynamic: unlike ONNX Runtime's, the bits came out the same for every size tried.
        piece = max(1, min(self._piece, -(-len(tiles) // self._streams)))
        waiting: deque[int] = deque()
        for at in range(0, len(tiles), piece):
            part = tiles[at : at + piece]
            stream.start(part)
            waiting.append(len(part))
            if len(waiting) == stream.depth:
                done = _take(stream, found, done, waiting.popleft())
        while waiting:
            done = _take(stream, found, done, waiting.popleft())
        return found

    def stream(self) -> Streams:
        """See ``Runtime.stream``."""
        if self._compiled is None:
            raise RuntimeUnavailable(f"{self.name} was closed")
        side = self.spec.tile_px
        return Streams(self._compiled, self._streams, (self._piece, side, side, 3))

    def close(self) -> None:
        """See ``Runtime.close``."""
        self._compiled = self._own = None


def _take(stream: Streams, found: NDArray[np.float32], at: int, count: int) -> int:
    found[at : at + count] = stream.collect()
    return at + count


class Streams:
    """See ``Stream``: a batch on each of OpenVINO's streams, and one that waits for whichever is free first."""

    def __init__(self, compiled: Any, streams: int, shape: tuple[int, int, int, int]) -> None:
        self.busy = 0.0
        self.depth = streams + 1
        self._streams = streams
        self._requests = [compiled.create_infer_request() for _ in range(self.depth)]
        self._shape = shape
        self._buffers: dict[int, NDArray[np.uint8]] = {}
        self._started: deque[tuple[int, float, Any]] = deque()  # the tiles stay alive until they are encoded
        self._ended: deque[float] = deque([0.0] * streams, maxlen=streams)
        self._next = 0

    def buffer(self) -> NDArray[np.uint8]:
        """See ``Stream.buffer``."""
        return self._buffers.setdefault(self._next, np.empty(self._shape, np.uint8))

    def submit(self, count: int) -> None:
        """See ``Stream.submit``."""
        self.start(self.buffer()[:count])

    def start(self, tiles: NDArray[np.uint8]) -> None:
        """Encode tiles that lie elsewhere; they must stay as they are until collected.

        RuntimeError with ``depth`` under way: the request whose turn it is has not been collected.
        """
        if len(self._started) == self.depth:
            raise RuntimeError(
                f"{self.depth} batches are under way: collect one before the next is submitted"
            )
        self._requests[self._next].start_async({0: tiles}, share_inputs=True)
        self._started.append((self._next, time.perf_counter(), tiles))
        self._next = (self._next + 1) % self.depth

    def collect(self) -> NDArray[np.float32]:
        """See ``Stream.collect``."""
        number, started, _ = self._started.popleft()
        request = self._requests[number]
        request.wait()
        # It began when a stream was free; the request counts its waiting as well.
        ended = started + request.latency / 1e3
        self.busy += max(0.0, ended - max(started, self._ended[0])) / self._streams
        self._ended.append(ended)
        return np.array(request.get_output_tensor(0).data, np.float32)


def available() -> str | None:
    """Why it cannot be used here, or None; bf16 may still be refused when it is opened."""
    return None if installed("openvino") else "OpenVINO is not installed: pip install 'beph-store[openvino]'"


def open_cpu(graph: Path, spec: EncoderSpec, options: RuntimeOptions) -> OpenVino:
    """Compile the graph for the CPU. Raises RuntimeUnavailable, also where the processor lacks the precision."""
    if reason := available():
        raise RuntimeUnavailable(reason)
    threads = options.threads or allowed_cores()
    streams = min(threads, _MOST_STREAMS)
    core = _core()
    settings = {
        "INFERENCE_PRECISION_HINT": _hint(core, spec.precision),
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": streams,
        # Its own pinning ignores the cores that a container or taskset left to this process.
        "ENABLE_CPU_PINNING": False,
    }
    try:
        compiled = core.compile_model(str(graph), "CPU", settings)
    except Exception as error:
        first = next(filter(None, map(str.strip, reversed(str(error).splitlines()))), type(error).__name__)
        raise RuntimeUnavailable(f"OpenVINO cannot load {graph.name}: {first}", path=graph) from error
    return OpenVino(compiled, spec, options.batch or streams * _BATCH, threads, streams)


@cache
def _core() -> Any:
    """OpenVINO itself, once and until the process ends.

    Its CPU plugin gives the thread that makes it a stack for signals, large enough for AMX, and takes that away with
    itself. Let go of in another thread, it leaves the first one with a stack that is gone: the next signal there, a
    Ctrl-C or the end of a child, ended the program.
    """
    return _import().Core()


def _import() -> Any:
    """The package, without its telemetry."""
    absent = "openvino_telemetry" not in sys.modules
    if absent:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # an import of it now fails
    try:
        import openvino
    finally:
        if absent:
            del sys.modules["openvino_telemetry"]
    return openvino


def _hint(core: Any, precision: str) -> str:
    """OpenVINO's word for the precision; what an int8 graph leaves in float is computed in bf16 where there is bf16.

    bf16 is refused where the processor would only emulate it: slower than fp32, and less exact.
    """
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and not has_bf16:
        what = core.get_property("CPU", "FULL_DEVICE_NAME").strip()
        raise RuntimeUnavailable(f"{what} has no bf16 (AVX512-BF16 or AMX): use --precision fp32")
    return "bf16" if precision != "fp32" and has_bf16 else "f32"


ENTRY = RuntimeEntry(
    NAME, "OpenVINO on the CPU", available, open_cpu, ("int8", "bf16", "fp32"), lambda: version("openvino")
)
