"""TensorRT's own API, 10.14 or newer and 11: an engine built once for each graph, version and GPU, and kept.

Strongly typed: the graph says what is computed in fp16, the builder does not guess (engines of vision transformers
narrowed by the builder have been seen to give noise). Without a driver TensorRT does not fail, it crashes the process;
so the driver is asked for first, and TensorRT is tried in a process of its own.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from beph_store.errors import RuntimeUnavailable
from beph_store.records import EncoderSpec
from beph_store.runtimes import gpus
from beph_store.runtimes.cache import cache_folder
from beph_store.runtimes.gpus import Gpu
from beph_store.runtimes.onnxruntime_gpu import torch_has_cuda
from beph_store.runtimes.overlap import Streamed
from beph_store.runtimes.protocol import RuntimeEntry, RuntimeOptions

_BATCH = 128
_TILES, _VECTORS = "tiles", "embeddings"
_PROBE = "import tensorrt as t; t.Runtime(t.Logger(t.Logger.ERROR)); t.Builder(t.Logger(t.Logger.ERROR))"
_PROBE_SECONDS = 120
_OLDEST = (10, 14)
#: Raised when engines are built otherwise, so that none built before is used.
_REVISION = 1


def available() -> str | None:
    """Why TensorRT cannot be used here, or None. Loads none of it into this process."""
    if find_spec("tensorrt") is None:
        return "TensorRT is not installed: pip install 'beph-store[tensorrt]', from NVIDIA's package index"
    if reason := gpus.why_none():
        return reason
    if reason := _too_old(_version()):
        return reason
    if find_spec("torch") is None:
        return "TensorRT computes in torch's device memory: pip install 'beph-store[tensorrt]', which brings torch"
    return probe()


@cache
def probe(code: str = _PROBE) -> str | None:
    """Why TensorRT does not start, found out in a process of its own, or None."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"TensorRT does not start within {_PROBE_SECONDS} s"
    if done.returncode < 0:
        return f"TensorRT crashes when it starts (signal {-done.returncode}): driver and TensorRT may not fit"
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return f"TensorRT does not start: {said[-1] if said else f'exit {done.returncode}'}"
    return None


def open_tensorrt(graph: Path, spec: EncoderSpec, options: RuntimeOptions) -> Streamed:
    """Build the engine or take the one built before, on one GPU. Raises RuntimeUnavailable."""
    if not torch_has_cuda():
        raise RuntimeUnavailable("TensorRT computes in torch's device memory, and torch cannot use the GPU")
    import tensorrt as trt

    from beph_store.runtimes import cuda

    device, words = cuda.device_of(options.device)
    batch, side = options.batch or _BATCH, spec.tile_px
    place = cuda.Place(device.index, (batch, side, side, 3), (batch, spec.dim))
    logger = trt.Logger(trt.Logger.ERROR)
    with place.current():
        engine = _engine(trt, logger, graph, spec, batch, gpus.gpu(options.device))
        context = engine.create_execution_context()
    if context is None or not context.set_input_shape(_TILES, tuple(place.tiles.shape)):
        raise RuntimeUnavailable(
            f"{words} has too little memory for TensorRT at batches of {batch}", path=graph
        )
    context.set_tensor_address(_TILES, place.tiles.data_ptr())
    context.set_tensor_address(_VECTORS, place.vectors.data_ptr())

    def compute(_: Any) -> Any:
        if not context.execute_async_v3(place.current_stream()):
            raise RuntimeError(f"TensorRT could not run {graph.name}")
        return place.vectors

    try:
        running = cuda.Engine(compute, place.tiles, place.stream)
    except RuntimeError as error:
        raise RuntimeUnavailable(str(error).splitlines()[0], path=graph) from error
    words = f"{words} ({running.note})" if running.note else words
    return Streamed("tensorrt", words, spec, batch, running.open_stream, running.release)


def plan_file(graph: Path, precision: str, batch: int, gpu: Gpu, built_with: str) -> Path:
    """Where the engine of a graph is kept: under all that it depends on."""
    with graph.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    what = (digest, precision, batch, gpu.name, gpu.capability, built_with, _REVISION)
    return cache_folder("tensorrt") / f"{hashlib.sha256(repr(what).encode()).hexdigest()[:32]}.plan"


def keep(plan: bytes, file: Path) -> None:
    """Write whole or not at all: another process may be reading, and this one may be stopped."""
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=".plan-")
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(plan)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _engine(trt: Any, logger: Any, graph: Path, spec: EncoderSpec, batch: int, gpu: Gpu) -> Any:
    file = plan_file(graph, spec.precision, batch, gpu, str(trt.__version__))
    runtime = trt.Runtime(logger)
    if file.is_file() and (engine := runtime.deserialize_cuda_engine(file.read_bytes())) is not None:
        return engine
    plan = _build(trt, logger, graph, spec, batch)
    keep(plan, file)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise RuntimeUnavailable(
            f"TensorRT {trt.__version__} does not load the engine it has built", path=graph
        )
    return engine


def _build(trt: Any, logger: Any, graph: Path, spec: EncoderSpec, batch: int) -> bytes:
    builder = trt.Builder(logger)
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # 11 knows no other kind
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        why = str(parser.get_error(0)).splitlines()[0] if parser.num_errors else "no reason given"
        raise RuntimeUnavailable(f"TensorRT {trt.__version__} does not take {graph.name}: {why}", path=graph)
    config = builder.create_builder_config()
    tf32 = getattr(trt.BuilderFlag, "TF32", None)
    if tf32 is not None:
        config.clear_flag(tf32)  # what the graph calls float32 is to be float32
    profile = builder.create_optimization_profile()
    side = (spec.tile_px, spec.tile_px, 3)
    profile.set_shape(_TILES, (1, *side), (batch, *side), (batch, *side))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeUnavailable(f"TensorRT {trt.__version__} cannot build {graph.name}", path=graph)
    return bytes(plan)


def _version() -> str:
    for name in ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""


def _too_old(found: str) -> str | None:
    numbers = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
    if len(numbers) == 2 and numbers < _OLDEST:
        return f"TensorRT {found} is too old: install 10.14 or newer, which knows ONNX's Attention"
    return None


ENTRY = RuntimeEntry(
    "tensorrt",
    "TensorRT on an NVIDIA GPU",
    available,
    open_tensorrt,
    ("fp16", "fp32"),
    lambda: f"TensorRT {_version()}, {_REVISION}",
    gpus.count,
)
