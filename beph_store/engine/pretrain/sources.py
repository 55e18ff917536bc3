"""Several stores and folders as one source of tiles."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beph_store.engine.tile_source import ArchiveSource, FolderSource, open_source
from beph_store.errors import UsageError
from beph_store.store.place import place

Progress = Callable[[int, int], None]


class JoinedSource:
    """One after the other; see `pretrain.data.TileSource`."""

    def __init__(self, sources: Sequence[ArchiveSource | FolderSource]) -> None:
        self.sources = tuple(sources)
        self._starts = np.concatenate([[0], np.cumsum([len(source) for source in sources])]).astype(np.int64)

    @property
    def fingerprint(self) -> str:
        """Over those of all."""
        return hashlib.sha256("".join(source.fingerprint for source in self.sources).encode()).hexdigest()

    @property
    def mpp(self) -> float | None:
        """µm/px of the tiles, None where sources differ or a folder does not say."""
        found = {s.recipe.tile.mpp if isinstance(s, ArchiveSource) else None for s in self.sources}
        return found.pop() if len(found) == 1 else None

    @property
    def left_out(self) -> tuple[tuple[str, str], ...]:
        """What cannot be used, and why."""
        return tuple(pair for source in self.sources for pair in source.left_out)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, index: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """See `pretrain.data.TileSource`."""
        numbers = np.asarray(index, np.int64)
        owner = np.searchsorted(self._starts, numbers, side="right") - 1
        found: dict[int, NDArray[np.uint8]] = {}
        for at, source in enumerate(self.sources):
            mine = np.flatnonzero(owner == at)
            if len(mine):
                tiles = source.read(numbers[mine] - self._starts[at])
                found.update(zip(mine.tolist(), tiles, strict=True))
        return [found[at] for at in range(len(numbers))]


def open_sources(paths: Sequence[str | Path], recipe: str | None, progress: Progress | None) -> JoinedSource:
    """All of them; ``recipe`` is for the stores among them. Raises as ``open_source``."""
    if not paths:
        raise UsageError("name a store with kept tiles, or a folder of images, to train on")
    sources = []
    for path in paths:
        is_store = (place(path) / "store.json").exists()
        sources.append(open_source(path, recipe if is_store else None, progress=progress))
    return JoinedSource(sources)
