"""ONNX Runtime sessions on an NVIDIA GPU, whichever provider runs them: fixed buffers, bound once.

With torch at hand the session computes in a stream of ours and overlaps with the copies; without it, it copies and
computes in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import RuntimeUnavailable
from beph_store.records import EncoderSpec
from beph_store.runtimes import gpus
from beph_store.runtimes.overlap import Streamed
from beph_store.runtimes.protocol import RuntimeOptions
from beph_store.runtimes.stream import Direct, Stream

BATCH = 128

#: Provider options → a session that really runs on that provider; RuntimeUnavailable.
Start = Callable[[Mapping[str, str]], Any]


@dataclass(frozen=True, slots=True)
class _Shape:
    batch: int
    side: int
    dim: int

    @property
    def tiles(self) -> tuple[int, int, int, int]:
        return self.batch, self.side, self.side, 3

    @property
    def vectors(self) -> tuple[int, int]:
        return self.batch, self.dim


def open_gpu(name: str, start: Start, spec: EncoderSpec, options: RuntimeOptions) -> Streamed:
    """A runtime over a session that ``start`` makes on the wanted GPU. Raises RuntimeUnavailable."""
    try:
        found = gpus.gpu(options.device)
    except LookupError as error:
        raise RuntimeUnavailable(str(error)) from error
    shape = _Shape(options.batch or BATCH, spec.tile_px, spec.dim)
    way = _overlapped if torch_has_cuda() else _in_turn
    return Streamed(name, str(found), spec, shape.batch, *way(start, shape, found.number))


def torch_has_cuda() -> bool:
    """Whether torch is here and can use a GPU. Loads it only where there is a GPU."""
    if gpus.why_none() or find_spec("torch") is None:
        return False
    from beph_store.runtimes import cuda

    return cuda.usable()


def _overlapped(start: Start, shape: _Shape, number: int) -> tuple[Callable[[], Stream], Callable[[], None]]:
    """``open_stream`` and ``release``: the session queues its kernels in our stream and does not wait for them."""
    from beph_store.runtimes import cuda

    place = cuda.Place(number, shape.tiles, shape.vectors)
    session = start({"has_user_compute_stream": "1", "user_compute_stream": str(place.stream.cuda_stream)})
    binding = session.io_binding()
    tiles, vectors = session.get_inputs()[0].name, session.get_outputs()[0].name
    binding.bind_input(tiles, "cuda", number, np.uint8, shape.tiles, place.tiles.data_ptr())
    binding.bind_output(vectors, "cuda", number, np.float32, shape.vectors, place.vectors.data_ptr())
    settings = _run_options()

    def compute(_: Any) -> Any:
        session.run_with_iobinding(binding, settings)
        return place.vectors

    engine = cuda.Engine(compute, place.tiles, place.stream, capture=False)
    return engine.open_stream, engine.release


def _in_turn(start: Start, shape: _Shape, number: int) -> tuple[Callable[[], Stream], Callable[[], None]]:
    """``open_stream`` and ``release``: device memory is ONNX Runtime's own, written and read by each call."""
    import onnxruntime

    session = start({})
    padded = np.zeros(shape.tiles, np.uint8)
    tiles = onnxruntime.OrtValue.ortvalue_from_numpy(padded, "cuda", number)
    vectors = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape.vectors, np.float32, "cuda", number)
    binding = session.io_binding()
    binding.bind_ortvalue_input(session.get_inputs()[0].name, tiles)
    binding.bind_ortvalue_output(session.get_outputs()[0].name, vectors)

    def encode(part: NDArray[np.uint8]) -> NDArray[np.float32]:
        padded[: len(part)] = part
        tiles.update_inplace(padded)
        session.run_with_iobinding(binding)
        return np.array(vectors.numpy()[: len(part)], np.float32)

    return lambda: Direct(encode, shape.tiles), lambda: None


def _run_options() -> Any:
    import onnxruntime

    settings = onnxruntime.RunOptions()
    settings.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return settings
