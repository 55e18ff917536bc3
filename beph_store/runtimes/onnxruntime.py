"""ONNX Runtime, on the CPU or on an NVIDIA GPU.

The packages onnxruntime and onnxruntime-gpu unpack into the same folder: with both installed, the GPU
provider vanishes without a word. So that is refused. And a provider counts only when a live session
reports it: ONNX Runtime falls back to the CPU silently when CUDA's libraries are missing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import RuntimeUnavailable
from beph_store.records import EncoderSpec
from beph_store.runtimes import gpus
from beph_store.runtimes.onnxruntime_gpu import open_gpu
from beph_store.runtimes.overlap import Streamed
from beph_store.runtimes.protocol import RuntimeEntry, RuntimeOptions, check_tiles
from beph_store.runtimes.stream import Direct, Stream

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_BATCH = 8
#: Memory in pieces as asked for, since batches are all alike; convolutions chosen by shape and not by a race, whose
#: winner differs from run to run, and so do the last digits; float32 that is float32.
_CUDA_OPTIONS = {
    "arena_extend_strategy": "kSameAsRequested",
    "cudnn_conv_algo_search": "HEURISTIC",
    "use_tf32": "0",
}
_BOTH = (
    "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: pip uninstall both, then "
    "install beph-store[cpu] or beph-store[gpu], never both"
)


class OnnxRuntime:
    """An ONNX graph in an ONNX Runtime session; see ``Runtime``."""

    def __init__(self, name: str, session: Any, spec: EncoderSpec, batch: int, device: str) -> None:
        self.name = name
        self.device = device
        self.spec = spec
        self.batch = batch
        self._session = session
        self._input = session.get_inputs()[0].name

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See ``Runtime.encode``."""
        tiles = check_tiles(pixels, self.spec)
        if self._session is None:
            raise RuntimeUnavailable(f"{self.name} was closed")
        if not len(tiles):
            return np.empty((0, self.spec.dim), np.float32)
        if len(tiles) == 1:  # other kernels run for one tile alone, with other last digits
            return self._run(np.repeat(tiles, 2, axis=0))[:1]
        return self._run(tiles)

    def stream(self) -> Stream:
        """See ``Runtime.stream``."""
        side = self.spec.tile_px
        return Direct(self.encode, (self.batch, side, side, 3))

    def close(self) -> None:
        """See ``Runtime.close``."""
        self._session = None

    def _run(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(self._session.run(None, {self._input: tiles})[0], np.float32)


def installed(distribution: str) -> bool:
    """Whether a distribution of that name is installed, importable or not."""
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def cpu_available() -> str | None:
    """Why the CPU runtime cannot be used here, or None."""
    cpu, gpu = installed("onnxruntime"), installed("onnxruntime-gpu")
    if cpu and gpu:
        return _BOTH
    if not cpu and not gpu:
        return "ONNX Runtime is not installed: pip install 'beph-store[cpu]'"
    return None


def cuda_available() -> str | None:
    """Why the CUDA runtime cannot be used here, or None; a session may still refuse to start."""
    if reason := cpu_available():
        return reason
    if not installed("onnxruntime-gpu"):
        return (
            "the GPU build of ONNX Runtime is not installed: pip uninstall onnxruntime, then beph-store[gpu]"
        )
    return gpus.why_none()


def open_cpu(graph: Path, spec: EncoderSpec, options: RuntimeOptions) -> OnnxRuntime:
    """Start a session on the CPU. Raises RuntimeUnavailable."""
    threads = options.threads or allowed_cores()
    session = _session(graph, CPU, {}, options, threads)
    cores = f"{threads} CPU core{'s' if threads > 1 else ''}"
    return OnnxRuntime("onnxruntime", session, spec, options.batch or _BATCH, cores)


def open_cuda(graph: Path, spec: EncoderSpec, options: RuntimeOptions) -> Streamed:
    """Start a session on one NVIDIA GPU. Raises RuntimeUnavailable, also when it would fall back to the CPU."""

    def start(wanted: Mapping[str, str]) -> Any:
        settings = {"device_id": str(options.device or 0), **_CUDA_OPTIONS, **wanted}
        session = _session(graph, CUDA, settings, options, options.threads or 1)
        if CUDA not in session.get_providers():
            raise RuntimeUnavailable(
                "ONNX Runtime fell back to the CPU: CUDA's or cuDNN's libraries do not load; install "
                "beph-store[gpu], which brings them, or pass --runtime onnxruntime"
            )
        return session

    return open_gpu("onnxruntime-cuda", start, spec, options)


def decided_by() -> str:
    """The version of whichever build is installed."""
    for distribution in ("onnxruntime-gpu", "onnxruntime"):
        if installed(distribution):
            return f"{distribution} {version(distribution)}"
    return ""


def _session(
    graph: Path, provider: str, wanted: Mapping[str, str], options: RuntimeOptions, threads: int
) -> Any:
    if reason := cpu_available():
        raise RuntimeUnavailable(reason)
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.intra_op.allow_spinning", "1" if options.spin else "0")
    if hasattr(onnxruntime, "preload_dlls") and provider == CUDA:
        onnxruntime.preload_dlls()
    try:
        return onnxruntime.InferenceSession(str(graph), settings, providers=[(provider, dict(wanted))])
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RuntimeUnavailable(f"ONNX Runtime cannot load {graph.name}: {first}", path=graph) from error


def allowed_cores() -> int:
    """Cores this process may use: a container or taskset may grant fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


ENTRIES = (
    RuntimeEntry(
        "onnxruntime-cuda",
        "ONNX Runtime on an NVIDIA GPU",
        cuda_available,
        open_cuda,
        ("fp16", "fp32"),
        decided_by,
        gpus.count,
    ),
    # The fp16 graph is slow on a CPU, and there to be checked.
    RuntimeEntry(
        "onnxruntime",
        "ONNX Runtime on the CPU",
        cpu_available,
        open_cpu,
        ("int8", "fp32", "fp16"),
        decided_by,
    ),
)
