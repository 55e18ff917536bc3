"""The torch runtimes themselves."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from beph_store.errors import RuntimeUnavailable
from beph_store.records import EncoderSpec
from beph_store.runtimes import cuda
from beph_store.runtimes.onnxruntime import allowed_cores
from beph_store.runtimes.overlap import Streamed
from beph_store.runtimes.protocol import RuntimeOptions, check_tiles
from beph_store.runtimes.stream import Direct, Stream
from beph_store.runtimes.torch.graph import rebuild

LOW = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_BATCH_CPU, _BATCH_CUDA = 8, 128


class TorchOnCpu:
    """The graph in torch on the CPU; see ``Runtime``.

    One tile at a time: with the same shapes in every call, a tile's bits cannot depend on its batch, and a ViT's 196
    tokens fill the cores as well as eight times as many.
    """

    name = "torch"

    def __init__(self, module: fx.GraphModule, spec: EncoderSpec, options: RuntimeOptions) -> None:
        self.spec = spec
        self.batch = options.batch or _BATCH_CPU
        self._threads = options.threads or allowed_cores()
        self.device = f"{self._threads} CPU core{'s' if self._threads > 1 else ''}"
        self._module: fx.GraphModule | None = module

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See ``Runtime.encode``."""
        tiles = check_tiles(pixels, self.spec)
        if self._module is None:
            raise RuntimeUnavailable(f"{self.name} was closed")
        if not len(tiles):
            return np.empty((0, self.spec.dim), np.float32)
        with torch.no_grad(), _threads(self._threads), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            parts = [self._module(torch.from_numpy(tiles[i : i + 1])) for i in range(len(tiles))]
        return np.asarray(torch.cat(parts).numpy(), np.float32)

    def stream(self) -> Stream:
        """See ``Runtime.stream``."""
        side = self.spec.tile_px
        return Direct(self.encode, (self.batch, side, side, 3))

    def close(self) -> None:
        """See ``Runtime.close``."""
        self._module = None


def open_cpu(graph: Path, spec: EncoderSpec, options: RuntimeOptions) -> TorchOnCpu:
    """See ``torch.open_cpu``."""
    return TorchOnCpu(rebuild(graph, 1, LOW[spec.precision]), spec, options)


def open_cuda(graph: Path, spec: EncoderSpec, options: RuntimeOptions) -> Streamed:
    """See ``torch.open_cuda``."""
    device, words = cuda.device_of(options.device)
    batch, side = options.batch or _BATCH_CUDA, spec.tile_px
    module = rebuild(graph, batch, LOW[spec.precision])
    try:
        place = cuda.Place(device.index, (batch, side, side, 3), (batch, spec.dim))
        module = module.to(device)
        torch.cuda.synchronize(device)  # the weights are copied in the default stream
        compute, note = _compiled(module, place.tiles, place.stream)
        engine = cuda.Engine(compute, place.tiles, place.stream, scope=exact)
    except torch.OutOfMemoryError as error:
        raise RuntimeUnavailable(
            f"{words} has too little memory for batches of {batch}: pass a smaller one"
        ) from error
    notes = "; ".join(n for n in (note, engine.note) if n)
    return Streamed(
        "torch-cuda",
        f"{words} ({notes})" if notes else words,
        spec,
        batch,
        engine.open_stream,
        engine.release,
    )


def _compiled(
    module: fx.GraphModule, tiles: Tensor, stream: torch.cuda.Stream
) -> tuple[Callable[[Tensor], Tensor], str]:
    """The module compiled and run once, or as it is with the reason.

    No mode that times kernels and takes the quickest: a resumed ingest would compute with other last digits.
    """
    if shutil.which(os.environ.get("CC", "cc")) is None and shutil.which("gcc") is None:
        return module, "not compiled: no C compiler"
    from torch._inductor import config

    options: Any = {"deterministic": True} if hasattr(config, "deterministic") else None
    try:
        compiled = torch.compile(module, fullgraph=True, dynamic=False, options=options)
        with torch.no_grad(), torch.cuda.device(tiles.device), torch.cuda.stream(stream), exact():
            compiled(tiles)
        stream.synchronize()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the compiler trips over, the module itself still runs
        torch._dynamo.reset()
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        return module, f"not compiled: {type(error).__name__} {first[:80]}".rstrip()
    return compiled, ""


@contextmanager
def exact() -> Iterator[None]:
    """Float32 is float32, and which kernel runs depends on shapes alone."""
    matmul = torch.backends.cuda.matmul
    before = (
        matmul.allow_tf32,
        matmul.allow_fp16_reduced_precision_reduction,
        matmul.allow_bf16_reduced_precision_reduction,
    )
    matmul.allow_tf32 = False
    matmul.allow_fp16_reduced_precision_reduction = False
    matmul.allow_bf16_reduced_precision_reduction = False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        (
            matmul.allow_tf32,
            matmul.allow_fp16_reduced_precision_reduction,
            matmul.allow_bf16_reduced_precision_reduction,
        ) = before


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many threads in here; torch's number is the whole process's, and heads are trained in it too."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
