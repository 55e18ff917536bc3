"""What reader processes and the engine say to each other. Pixels travel beside, in a shared ring."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beph_store.engine.plan import SlideTask
from beph_store.engine.report import ReadStats
from beph_store.records import Rasters, SlideInfo, TileSet, TileSpec


@dataclass(frozen=True, slots=True)
class RingSpec:
    """A file mapped by both sides: ``slots`` chunks of ``chunk`` tiles of ``tile_px`` px, RGB uint8."""

    path: str
    slots: int
    chunk: int
    tile_px: int

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """(slots, chunk, H, W, 3)."""
        return self.slots, self.chunk, self.tile_px, self.tile_px, 3

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return int(np.prod(self.shape))


# engine -> reader ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Open:
    """Open a slide and cut it, or take ``tiles`` as another reader cut it and say nothing of it."""

    task: SlideTask
    spec: TileSpec
    tiles: TileSet | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """Read these tiles of the open slide, in any order, then close it; none closes it at once."""

    tile_index: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Give:
    """Give up half of what is left to read, for a reader that has nothing to do; or all of it, for good."""

    everything: bool = False


@dataclass(frozen=True, slots=True)
class Free:
    """A slot may be filled again."""

    slot: int


# reader -> engine ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready:
    """The reader has mapped its ring."""


@dataclass(frozen=True, slots=True)
class Alive:
    """The reader waits for the network, and is not hung."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A slide is open; the reader waits for ``Read``."""

    slide_id: str
    info: SlideInfo
    tiles: TileSet
    rasters: Rasters
    backend: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """A slot holds (n,) tiles of a slide; ``ok`` (n,) False where a tile could not be read."""

    slide_id: str
    slot: int
    tile_index: NDArray[np.int32]
    ok: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Given:
    """What a reader gave up of its slide; nothing where little was left."""

    slide_id: str
    tile_index: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Closed:
    """All tiles asked for were sent; the reader is free."""

    slide_id: str
    stats: ReadStats


@dataclass(frozen=True, slots=True)
class Failed:
    """The slide cannot be used; the reader is free."""

    slide_id: str
    error: str
    stats: ReadStats
