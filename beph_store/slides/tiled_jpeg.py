"""JPEG-tiled TIFF and Aperio SVS, decoded straight from the file: OpenSlide's pixels, several times its rate.

Takes only what it is sure of (OpenSlide calls the file Aperio or generic TIFF, every level is tiled 8-bit
JPEG) and leaves the rest to the next backends. `table` compares a sample of it with OpenSlide's own pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from beph_store.errors import SlideUnreadable
from beph_store.geometry import Size
from beph_store.slides import openslide
from beph_store.slides.backend import Declined, Probe, UInt8
from beph_store.slides.jpeg import JpegError, JpegReader
from beph_store.slides.macrotiles import BlockFile, Grid, MacroTiled
from beph_store.slides.mpp import stated_in_tiff
from beph_store.slides.tiffdir import JPEG, RGB, YCBCR, Page, TiffLayout


class TiledJpeg(MacroTiled):
    """See `Backend`."""

    name = "tiled-jpeg"

    def __init__(self, probe: Probe) -> None:
        if probe.tiff is None or not probe.tiff.pages:
            raise Declined("not a TIFF that is read directly")
        self._pages = level_pages(probe.tiff, openslide.vendor(probe.path))
        self.stated_mpp = stated_in_tiff(probe.tiff.pages[0])
        #: Levels kept in sub-directories, which OpenSlide does not see.
        self.hidden_levels = any(page in probe.tiff.sub_pages for page in self._pages)
        try:
            self._readers = [JpegReader(p.tile, p.photometric == RGB, p.jpeg_tables) for p in self._pages]
        except JpegError as error:
            raise Declined(str(error)) from error
        self._file = BlockFile(probe.path, probe.fetcher)
        self.in_parts = probe.fetcher is not None
        self._open(tuple(Grid(page.size, page.tile) for page in self._pages), probe.cache_bytes)

    def _decode(self, level: int, column: int, row: int) -> UInt8 | None:
        page = self._pages[level]
        index = row * page.grid[0] + column
        count = int(page.counts[index])
        if count == 0:
            return None
        try:
            return self._readers[level].decode(self._file.read(int(page.offsets[index]), count))
        except JpegError as error:
            raise SlideUnreadable(str(error)) from error

    def want(
        self, level: int, macro_tiles: Iterable[tuple[int, int]] | None = None, *, wait: bool = True
    ) -> None:
        """See `Backend.want`."""
        if self._file.fetcher is None:
            return
        page = self._pages[level]
        if macro_tiles is None:
            index = np.arange(len(page.counts))
        else:
            index = np.array([row * page.grid[0] + column for column, row in macro_tiles], np.int64)
        spans = list(zip(page.offsets[index].tolist(), page.counts[index].tolist(), strict=True))
        (self._file.fetcher.want if wait else self._file.fetcher.want_soon)(spans)

    def close(self) -> None:
        """See `Backend.close`."""
        self._file.close()
        self.trim(0)

    def samples(self) -> Iterator[tuple[int, int, int, Size]]:
        """(level, x, y, (w, h)) of macro-tiles worth comparing: full ones, the edges, one of each level."""
        picked: list[tuple[int, list[int]]] = []
        for level, page in enumerate(self._pages):
            by_size = np.argsort(page.counts, kind="stable")
            last = len(page.counts) - 1
            picks = (
                [by_size[-1]]
                if level
                else [by_size[-1], by_size[len(by_size) * 3 // 4], last, page.grid[0] - 1]
            )
            picked.append((level, list(dict.fromkeys(int(pick) for pick in picks))))
        self._fetch(picked)
        for level, indices in picked:
            page = self._pages[level]
            for index in indices:
                x, y = index % page.grid[0] * page.tile[0], index // page.grid[0] * page.tile[1]
                yield level, x, y, (min(page.tile[0], page.size[0] - x), min(page.tile[1], page.size[1] - y))

    def _fetch(self, picked: list[tuple[int, list[int]]]) -> None:
        """All at once: one by one each would wait for the network.

        On smaller levels their neighbours too: OpenSlide reads up to a px beside, and would take a hole for damage.
        """
        if self._file.fetcher is None:
            return
        spans = []
        for level, indices in picked:
            page = self._pages[level]
            columns, rows = page.grid
            reach = (-1, 0, 1) if level else (0,)
            near = {
                (index // columns + down) * columns + index % columns + right
                for index in indices
                for down in reach
                for right in reach
                if 0 <= index // columns + down < rows and 0 <= index % columns + right < columns
            }
            spans += [(int(page.offsets[i]), int(page.counts[i])) for i in sorted(near)]
        self._file.fetcher.want(spans)


def level_pages(layout: TiffLayout, vendor: str | None) -> list[Page]:
    """The pages that are pyramid levels, largest first, by OpenSlide's own rules. Raises Declined."""
    first, others = layout.pages[0], layout.pages[1:]
    if vendor == "aperio":
        # The thumbnail, label and macro image of an SVS are in strips.
        levels = [page for page in layout.pages if page.tiled]
    elif vendor == "generic-tiff":
        reduced = [page for page in (*others, *layout.sub_pages) if page.tiled and page.reduced]
        levels = [first, *reduced]
    else:
        raise Declined(f"{vendor or 'unknown'} is left to OpenSlide")
    for page in levels:
        _check(page)
    if vendor == "aperio" and any((page.counts == 0).any() for page in levels[1:]):
        raise Declined("OpenSlide fills gaps in the smaller levels of an SVS from the larger ones")
    return sorted(levels, key=lambda page: -page.size[0])


def _check(page: Page) -> None:
    if not page.tiled or page.compression != JPEG:
        raise Declined("not all levels are JPEG tiles")
    if page.samples != 3 or page.planar != 1 or set(page.bits) != {8} or page.photometric not in (RGB, YCBCR):
        raise Declined("not 8-bit colour")
