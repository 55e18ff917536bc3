"""OpenVINO on the CPU: bf16 where the processor multiplies in it, about twice as fast as fp32 within the gate.

The precision is always said outright: left to itself OpenVINO computes a float32 graph in bf16 wherever it can.
And ``import openvino`` reports itself to Google Analytics under an identity that it keeps in the user's home folder,
unless its telemetry package cannot be imported: so here it cannot.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import RuntimeUnavailable
from beph_store.records import EncoderSpec
from beph_store.runtimes.onnxruntime import allowed_cores, installed
from beph_store.runtimes.protocol import RuntimeEntry, RuntimeOptions, check_tiles
from beph_store.runtimes.stream import Direct, Stream

NAME = "openvino"
#: More tiles a call are not faster on a CPU.
_BATCH = 8


class OpenVino:
    """An ONNX graph compiled for the CPU; see ``Runtime``.

    One request at a time: two at once on a core each gained 2 % a core at most. And no copy of the compiled graph
    on disk: it would save a second of starting, for 340 MB a ViT-B.
    """

    def __init__(self, compiled: Any, spec: EncoderSpec, batch: int, threads: int) -> None:
        self.name = NAME
        self.device = f"{threads} CPU core{'s' if threads > 1 else ''}"
        self.spec = spec
        self.batch = batch
        self._request = compiled.create_infer_request()

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See ``Runtime.encode``."""
        tiles = check_tiles(pixels, self.spec)
        if self._request is None:
            raise RuntimeUnavailable(f"{self.name} was closed")
        if not len(tiles):
            return np.empty((0, self.spec.dim), np.float32)
        # The batch stays dynamic: unlike ONNX Runtime's, the bits came out the same for every size tried.
        found = self._request.infer({0: tiles}, share_inputs=True)[0]
        return np.asarray(found, np.float32)

    def stream(self) -> Stream:
        """See ``Runtime.stream``."""
        side = self.spec.tile_px
        return Direct(self.encode, (self.batch, side, side, 3))

    def close(self) -> None:
        """See ``Runtime.close``."""
        self._request = None


def available() -> str | None:
    """Why it cannot be used here, or None; bf16 may still be refused when it is opened."""
    return None if installed("openvino") else "OpenVINO is not installed: pip install 'beph-store[openvino]'"


def open_cpu(graph: Path, spec: EncoderSpec, options: RuntimeOptions) -> OpenVino:
    """Compile the graph for the CPU. Raises RuntimeUnavailable, also where the processor lacks the precision."""
    if reason := available():
        raise RuntimeUnavailable(reason)
    openvino = _import()
    threads = options.threads or allowed_cores()
    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": _hint(core, spec.precision),
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # Its own pinning ignores the cores that a container or taskset left to this process.
        "ENABLE_CPU_PINNING": False,
    }
    try:
        compiled = core.compile_model(str(graph), "CPU", settings)
    except Exception as error:
        first = next(filter(None, map(str.strip, reversed(str(error).splitlines()))), type(error).__name__)
        raise RuntimeUnavailable(f"OpenVINO cannot load {graph.name}: {first}", path=graph) from error
    return OpenVino(compiled, spec, options.batch or _BATCH, threads)


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
