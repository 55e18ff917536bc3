"""What every inference runtime is and offers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import UsageError
from beph_store.records import EncoderSpec
from beph_store.runtimes.stream import Stream


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """``threads`` cores to use, all for None; ``batch`` tiles a call, the runtime's best for None; ``device`` the
    number of the GPU, the first for None; ``spin``: let idle threads wait busily, which is quicker on a machine of
    one's own and ruinous on a shared one.
    """

    threads: int | None = None
    batch: int | None = None
    device: int | None = None
    spin: bool = False

    def __post_init__(self) -> None:
        if (self.threads is not None and self.threads < 1) or (self.batch is not None and self.batch < 1):
            raise UsageError("threads and batch must be at least 1")
        if self.device is not None and self.device < 0:
            raise UsageError("a GPU's number is at least 0")


class Runtime(Protocol):
    """An encoder, loaded and ready."""

    @property
    def name(self) -> str:
        """Its row of the table."""
        ...

    @property
    def device(self) -> str:
        """Where it computes, in words."""
        ...

    @property
    def spec(self) -> EncoderSpec:
        """The encoder, with the precision in which it is computed."""
        ...

    @property
    def batch(self) -> int:
        """The number of tiles a call that suits it best; any number is taken."""
        ...

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeddings (B, D) float32 of tiles (B, H, W, 3) uint8 RGB; UsageError for anything else.

        Bit for bit, a tile's embedding depends neither on the tiles beside it nor on how many they are:
        a resumed ingest cuts its batches elsewhere and must write what an uninterrupted one would.
        """
        ...

    def stream(self) -> Stream:
        """Batch after batch with as many under way as keep the device busy; the same vectors as ``encode``."""
        ...

    def close(self) -> None:
        """Let go of memory and device; the runtime cannot be used afterwards."""
        ...


Open = Callable[[Path, EncoderSpec, RuntimeOptions], Runtime]


def _one() -> int:
    return 1


def _unknown() -> str:
    return ""


@dataclass(frozen=True, slots=True)
class RuntimeEntry:
    """One row of the table.

    ``is_available()`` says why it cannot be used here, in one line with the cure, or None when it can.
    ``open`` takes an ONNX graph, the spec with the precision wanted, and options. ``precisions`` that it computes in,
    the fastest first; ``version()`` of what decides its figures; ``devices()`` how many GPUs it may use.
    """

    name: str
    what: str
    is_available: Callable[[], str | None]
    open: Open
    precisions: tuple[str, ...] = ("fp32",)
    version: Callable[[], str] = _unknown
    devices: Callable[[], int] = _one


def check_tiles(pixels: NDArray[np.uint8], spec: EncoderSpec) -> NDArray[np.uint8]:
    """The same tiles, contiguous; UsageError unless (B, tile_px, tile_px, 3) uint8."""
    side = spec.tile_px
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (side, side, 3):
        raise UsageError(
            f"{spec.name} takes uint8 RGB tiles of shape (B, {side}, {side}, 3), not {pixels.dtype} of {pixels.shape}"
        )
    return np.ascontiguousarray(pixels)
