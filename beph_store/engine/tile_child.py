"""A few tiles of one slide after another, read in a process of its own: decoders crash, and hang, on bad files."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from beph_store.engine.memory import for_want_of_memory, limit_bytes, memory_limit, too_much
from beph_store.errors import SlideChanged, SlideError, SlideUnreadable
from beph_store.objects import is_url
from beph_store.records import MppSource, TileSet
from beph_store.slides import TileReader, open_slide
from beph_store.store import SlideRow

#: Seconds that opening a slide and reading its tiles may take, and what each tile adds.
_OPENING, _PER_TILE = 120.0, 5.0

Tiles = tuple[NDArray[np.uint8], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, eq=False)
class TileAsked:
    """``index`` (n,) of the ``tiles`` of the slide at ``path``, which must still have that ``fingerprint``."""

    path: str
    tiles: TileSet
    index: NDArray[np.int32]
    mpp: tuple[float, float]
    mpp_source: MppSource
    fingerprint: str

    @classmethod
    def of(cls, row: SlideRow, tiles: TileSet, index: NDArray[np.int32]) -> TileAsked:
        """What the registry knows of the slide; SlideUnreadable where that is not enough, or the file is gone."""
        if row.path is None or row.mpp_x is None or row.mpp_y is None or row.fingerprint is None:
            raise SlideUnreadable("the registry does not say where its file is", slide_id=row.slide_id)
        if not is_url(row.path) and not Path(row.path).exists():
            raise SlideUnreadable(f"the file is no longer at {row.path}", slide_id=row.slide_id)
        source: MppSource = row.mpp_source or "declared"  # type: ignore[assignment]
        return cls(row.path, tiles, index, (row.mpp_x, row.mpp_y), source, row.fingerprint)


class TileChild:
    """The process; it is started with the first slide, and again after one that it died of.

    >>> with TileChild() as child:
    ...     pixels, ok = child.read(asked)
    """

    def __init__(self, *, opening: float = _OPENING) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._opening = opening

    def __enter__(self) -> TileChild:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def read(self, asked: TileAsked) -> Tiles:
        """(n, H, W, 3) uint8 RGB, and (n,) False where a tile could not be read.

        Raises SlideChanged where another file is there now, SlideUnreadable where nothing can be read, the process
        dies of it, or it takes too long.
        """
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        slide_id = asked.tiles.slide_id
        try:
            return self._pool.submit(_read, asked).result(self._opening + _PER_TILE * len(asked.index))
        except TimeoutError:
            self._stop()
            raise SlideUnreadable("reading it took too long and was ended", slide_id=slide_id) from None
        except BrokenProcessPool:
            self._stop()
            raise SlideUnreadable("the reader crashed on the file", slide_id=slide_id) from None

    def _stop(self) -> None:
        if self._pool is None:
            return
        processes = list((self._pool._processes or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
            process.join()
        self._pool = None


def _read(asked: TileAsked) -> Tiles:
    try:
        with memory_limit(limit_bytes()):
            return _tiles(asked)
    except Exception as error:
        if for_want_of_memory(error):
            raise SlideUnreadable(too_much(limit_bytes()), slide_id=asked.tiles.slide_id) from None
        if isinstance(error, SlideError):
            raise
        raise SlideUnreadable(f"{type(error).__name__}: {error}", slide_id=asked.tiles.slide_id) from None


def _tiles(asked: TileAsked) -> Tiles:
    side = asked.tiles.spec.tile_px
    with open_slide(
        asked.path, slide_id=asked.tiles.slide_id, mpp=asked.mpp, mpp_source=asked.mpp_source
    ) as slide:
        if slide.info.fingerprint != asked.fingerprint:
            raise SlideChanged(
                f"another file is at {asked.path} now: its fingerprint differs", slide_id=asked.tiles.slide_id
            )
        right, lower = asked.tiles.origin_l0[asked.index].max(axis=0).tolist()
        if (
            asked.tiles.origin_l0[asked.index].min() < 0
            or right >= slide.info.size_l0[0]
            or lower >= slide.info.size_l0[1]
        ):
            raise SlideChanged("the stored tiles lie outside of the slide", slide_id=asked.tiles.slide_id)
        out = np.empty((len(asked.index), side, side, 3), np.uint8)
        return out, TileReader(slide, asked.tiles).read(asked.index, out)
