"""An open slide, whatever opened it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType

import numpy as np

from beph_store.errors import SlideUnreadable
from beph_store.geometry import Size, downsamples, level_for
from beph_store.records import SlideInfo
from beph_store.slides.backend import Backend, UInt8
from beph_store_kernels import reduce_area

#: An overview is read in strips of about this many pixels, so that a slide of one level fits in memory.
_STRIP_PX = 4 << 20
#: Where even the lowest strip is larger, the size in the header is not true.
_STRIP_MAX_PX = 1 << 27
#: Decoded macro-tiles held meanwhile: at least two rows of them, of up to 512 px.
_STRIP_CACHE_BYTES = 32 << 20
_CACHED_ROWS = 512
#: What an overview shows where the file is damaged. It looks like stain, so that the tiles there are planned,
#: tried, and told off one by one: left white, they would never be missed.
DAMAGED = (200, 80, 160)


class SlideReader:
    """One open slide. Usable from several threads; close it, or use it as a context.

    ``info`` what is known of it; ``backend`` the name of what reads it; ``note`` what the user should know
    about that choice, often empty. ``after`` is called when it is closed.
    """

    def __init__(
        self,
        info: SlideInfo,
        backend: Backend,
        *,
        in_parts: bool = False,
        after: Callable[[], None] | None = None,
    ) -> None:
        #: Whether it is read from object storage as far as it is needed; see ``want``.
        self.in_parts = in_parts
        self._after = after
        self.info = info
        self.downsamples = downsamples(info.level_sizes)
        self._backend = backend
        self._closed = False

    @property
    def backend(self) -> str:
        """Name of the backend in the table."""
        return self._backend.name

    @property
    def note(self) -> str:
        """What the user should know about the choice of backend; one line, often empty."""
        return self._backend.note

    @property
    def cache_bytes(self) -> int:
        """Decoded macro-tiles that may be held."""
        return self._backend.cache_bytes

    @property
    def decodes(self) -> int | None:
        """Macro-tiles decoded for regions so far, overviews apart; None where the backend cannot know."""
        counts = self._backend.counts
        return None if counts is None else counts[0]

    @property
    def distinct(self) -> int | None:
        """Distinct macro-tiles among ``decodes``; the quotient is the decode amplification."""
        counts = self._backend.counts
        return None if counts is None else counts[1]

    def macro_tile(self, level: int) -> Size | None:
        """(width, height) px of what the file compresses as one; None where the backend cannot know."""
        return self._backend.macro_tile(level)

    def hold(self, most_bytes: int) -> None:
        """Hold at most so many bytes of decoded macro-tiles from now on, and never more than ``cache_bytes``."""
        self._backend.hold(most_bytes)

    def want(
        self, level: int, macro_tiles: Iterable[tuple[int, int]] | None = None, *, wait: bool = True
    ) -> None:
        """Fetch (column, row) of a level, all if None, where the slide is read ``in_parts``; otherwise nothing.

        Not needed for reading, which fetches what is missing; many at once are quicker.
        """
        self._backend.want(level, macro_tiles, wait=wait)

    def read_level(self, level: int, x: int, y: int, w: int, h: int) -> UInt8:
        """(h, w, 3) uint8 RGB of the region at (x, y), all in px of ``level``; white where there is nothing.

        The region may lie partly or wholly outside. Raises SlideUnreadable where the file is damaged, and
        stays usable; ValueError for a level that is not there, an empty region, a closed slide.
        """
        out = np.empty((h, w, 3), np.uint8)
        self.read_into(level, x, y, out)
        return out

    def read_into(self, level: int, x: int, y: int, out: UInt8) -> None:
        """``read_level`` into ``out`` (h, w, 3) uint8, whose shape is the size of the region."""
        if self._closed:
            raise ValueError("the slide is closed")
        if not 0 <= level < len(self.info.level_sizes):
            raise ValueError(f"level {level} of {len(self.info.level_sizes)}")
        h, w = out.shape[:2]
        if h < 1 or w < 1:
            raise ValueError(f"a region of {w} × {h} px")
        width, height = self.info.level_sizes[level]
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + w, width), min(y + h, height)
        if (left, top, right, bottom) == (x, y, x + w, y + h):
            self._backend.read(level, x, y, out)
            return
        out[...] = 255
        if right > left and bottom > top:
            inside = out[top - y : bottom - y, left - x : right - x]
            self._backend.read(level, left, top, inside)

    def overview(self, mpp: float = 8.0, max_px: int = 4096) -> tuple[UInt8, float, float]:
        """The whole slide, small: image (h, w, 3) uint8 RGB and the µm per px of its two axes.

        From the smallest level not coarser than ``mpp``, averaged over whole blocks; so the scale is what
        comes nearest to ``mpp``, and coarser where a side would exceed ``max_px``. A block that hangs
        over the right or lower edge is the mean of what the slide has of it. Damaged places show `DAMAGED`.
        Raises SlideUnreadable where nothing else is left.
        """
        level = level_for(mpp / self.info.mpp, self.info.level_sizes)
        width, height = self.info.level_sizes[level]
        mpp_x = self.info.mpp_x * self.info.size_l0[0] / width
        mpp_y = self.info.mpp_y * self.info.size_l0[1] / height
        factor = max(1, round(mpp / ((mpp_x + mpp_y) / 2)), -(-max(width, height) // max_px))
        if width * factor > _STRIP_MAX_PX:
            raise SlideUnreadable(f"{self.info.slide_id}: {width} × {height} px without a smaller level")
        image = np.empty((-(-height // factor), -(-width // factor), 3), np.uint8)
        rows = max(1, _STRIP_PX // (width * factor)) * factor
        strip = np.empty((rows, width, 3), np.uint8)
        whole = False
        self.want(level)
        self._backend.counting = False
        for top in range(0, height, rows):
            self._backend.trim(max(_STRIP_CACHE_BYTES, width * _CACHED_ROWS * 4))
            part = strip[: height - top]
            whole |= self._read_what_can_be(level, top, part)
            image[top // factor : -(-(top + len(part)) // factor)] = reduce_area(part, factor)
        self._backend.trim(0)
        self._backend.counting = True
        if not whole:
            raise SlideUnreadable(f"{self.info.slide_id}: level {level} is damaged everywhere")
        return image, mpp_x * factor, mpp_y * factor

    def _read_what_can_be(self, level: int, top: int, out: UInt8) -> bool:
        """Read a strip, macro-tile by macro-tile where it is damaged; whether any of it could be read."""
        try:
            self.read_into(level, 0, top, out)
        except SlideUnreadable:
            pass
        else:
            return True
        wide, tall = self.macro_tile(level) or (256, 256)
        bottom, right = top + len(out), out.shape[1]
        readable = False
        for y in (top, *range(top - top % tall + tall, bottom, tall)):
            for x in range(0, right, wide):
                block = out[y - top : y - y % tall + tall - top, x : x + wide]
                try:
                    self.read_into(level, x, y, block)
                    readable = True
                except SlideUnreadable:
                    block[...] = DAMAGED
        return readable

    def close(self) -> None:
        """Let go of the file; again is harmless."""
        if not self._closed:
            self._closed = True
            self._backend.close()
            if self._after is not None:
                self._after()

    def __enter__(self) -> SlideReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
