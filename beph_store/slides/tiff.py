"""TIFF and OME-TIFF that OpenSlide refuses: strips, other compressions, levels in sub-directories.

Only 8-bit grey, RGB and RGBA. Anything else (16 bits, palettes, channels kept apart) is refused by name:
squeezing it into RGB would be a guess.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from beph_store.errors import SlideUnreadable
from beph_store.slides.backend import Probe, UInt8
from beph_store.slides.jpeg import JpegError, JpegReader
from beph_store.slides.macrotiles import BlockFile, Grid, MacroTiled
from beph_store.slides.mpp import stated_in_tiff
from beph_store.slides.tiffdir import JPEG, RGB, Page, TiffLayout

#: A compressed strip is decoded as one; beyond this it is not.
MAX_STRIP_BYTES = 512 << 20
#: Uncompressed strips are read in blocks of about this size, whatever their own.
_BLOCK_BYTES = 4 << 20
_UNCOMPRESSED = 1
_PHOTOMETRICS = {
    0: "white is zero",
    1: "grey",
    2: "RGB",
    3: "palette",
    5: "CMYK",
    6: "YCbCr",
    8: "CIE L*a*b*",
}


class TiffBackend(MacroTiled):
    """See `Backend`."""

    name = "tiff"

    def __init__(self, probe: Probe) -> None:
        if probe.tiff is None or not probe.tiff.pages:
            raise SlideUnreadable("a TIFF variant that only OpenSlide reads")
        check_pixels(probe.tiff)
        self._pages = [_in_blocks(page) for page in level_pages(probe.tiff)]
        self.stated_mpp = stated_in_tiff(probe.tiff.pages[0])
        self._decoders = [_Decoder(probe, page) for page in self._pages]
        self._file = BlockFile(probe.path)
        self._open(tuple(Grid(page.size, page.tile) for page in self._pages), probe.cache_bytes)

    def _decode(self, level: int, column: int, row: int) -> UInt8 | None:
        page, decoder = self._pages[level], self._decoders[level]
        columns, rows = page.grid
        index = row * columns + column
        planes = page.samples if page.planar == 2 else 1
        parts = []
        for plane in range(planes):
            at = index + plane * columns * rows
            if page.counts[at] == 0:
                return None
            parts.append(
                decoder.pixels(self._file.read(int(page.offsets[at]), int(page.counts[at])), at, row)
            )
        return _as_rgb(parts[0] if planes == 1 else np.concatenate(parts, axis=2), page)

    def close(self) -> None:
        """See `Backend.close`."""
        self._file.close()
        self.trim(0)


class _Decoder:
    """Bytes of one tile or strip of a page to (h, w, samples) uint8."""

    def __init__(self, probe: Probe, page: Page) -> None:
        self._page = page
        self._name = probe.path.name
        self._codec: Any = None
        if page.compression not in (_UNCOMPRESSED, JPEG) or (page.compression == JPEG and page.samples != 3):
            self._codec = self._tifffile_page(probe)

    def pixels(self, data: bytes, index: int, row: int) -> UInt8:
        width = self._page.tile[0]
        height = self._page.tile[1]
        if not self._page.tiled:
            height = min(height, self._page.size[1] - row * height)
        samples = 1 if self._page.planar == 2 else self._page.samples
        if self._codec is not None:
            return self._by_codec(data, index)
        if self._page.compression == JPEG:
            try:
                reader = JpegReader((width, height), self._page.photometric == RGB, self._page.jpeg_tables)
                return reader.decode(data)
            except JpegError as error:
                raise SlideUnreadable(str(error)) from error
        if len(data) < height * width * samples:
            raise SlideUnreadable("fewer bytes than pixels")
        return np.frombuffer(data, np.uint8, height * width * samples).reshape(height, width, samples)

    def _by_codec(self, data: bytes, index: int) -> UInt8:
        try:
            decoded, _, _ = self._codec.decode(data, index, jpegtables=self._page.jpeg_tables or None)
        except MemoryError:  # no damage of this tile
            raise
        except Exception as error:
            raise SlideUnreadable(f"{type(error).__name__}: {str(error).splitlines()[:1]}") from error
        if decoded is None:
            raise SlideUnreadable("nothing decoded")
        pixels: UInt8 = np.asarray(decoded)[0]
        return pixels

    def _tifffile_page(self, probe: Probe) -> Any:
        import tifffile

        try:
            with _unsaid("tifffile"), tifffile.TiffFile(probe.path) as file:
                everything = [*file.pages, *(file.pages[0].pages or ())]
                for page in everything:
                    offsets = page.dataoffsets
                    if len(offsets) and offsets[0] == int(self._page.offsets[0]):
                        page.decode  # noqa: B018 - built while the file is open; refuses unknown codecs
                        return page
        except MemoryError:  # no damage of this file
            raise
        except Exception as error:
            raise SlideUnreadable(
                f"tifffile: {(str(error).splitlines() or [type(error).__name__])[0]}"
            ) from error
        raise SlideUnreadable("tifffile does not find the image that the directories name")


@contextmanager
def _unsaid(library: str) -> Iterator[None]:
    """What a library logs of a broken file stays out of the terminal: our error says it, once."""
    logger = logging.getLogger(library)
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def level_pages(layout: TiffLayout) -> list[Page]:
    """The first image and its reduced copies, largest first; pages of another shape are not levels."""
    first = layout.pages[0]
    levels = [first]
    for page in (*layout.sub_pages, *layout.pages[1:]):
        shrink = first.size[0] / page.size[0], first.size[1] / page.size[1]
        alike = abs(shrink[0] - shrink[1]) <= 0.02 * max(shrink) + 2 * max(shrink) / min(page.size)
        same_pixels = (page.bits, page.samples) == (first.bits, first.samples)
        if page.reduced and alike and same_pixels and page.size[0] < min(level.size[0] for level in levels):
            levels.append(page)
    return levels


def check_pixels(layout: TiffLayout) -> None:
    """Raise SlideUnreadable, by name, where the first image is not 8-bit grey, RGB or RGBA."""
    page = layout.pages[0]
    cure = "only 8-bit RGB, RGBA and grey slides are read"
    if set(page.bits) != {8}:
        raise SlideUnreadable(f"{max(page.bits)}-bit samples: {cure}")
    colour = _PHOTOMETRICS.get(page.photometric, f"photometric {page.photometric}")
    expected = {1: (1, 2), 2: (3, 4), 6: (3,)}.get(page.photometric, ())
    if page.samples not in expected:
        raise SlideUnreadable(f"{page.samples} samples of {colour}: {cure}")
    found = re.search(r'<(?:\w+:)?Pixels\s[^>]*SizeC="(\d+)"', page.description)
    stacked = found is not None and int(found[1]) > page.samples
    same_size = [other for other in layout.pages[1:] if other.size == page.size and not other.reduced]
    if stacked or (page.samples == 1 and same_size) or "\nchannels=" in page.description:
        raise SlideUnreadable(f"its channels are separate images (fluorescence?): {cure}")


def _in_blocks(page: Page) -> Page:
    """An uncompressed page in strips, seen as strips of a few MiB; others as they are, if not too large."""
    if page.tiled:
        return page
    row = page.size[0] * (1 if page.planar == 2 else page.samples)
    if page.compression != _UNCOMPRESSED or page.planar == 2:
        if row * page.tile[1] > MAX_STRIP_BYTES:
            raise SlideUnreadable(
                "compressed as one piece that is too large to decode: convert it to a tiled TIFF"
            )
        return page
    ends = page.offsets[:-1] + page.counts[:-1]
    if not np.array_equal(ends, page.offsets[1:]):
        return page
    rows = min(max(1, _BLOCK_BYTES // row), page.size[1])
    tops = np.arange(0, page.size[1], rows)
    heights = np.minimum(rows, page.size[1] - tops)
    return dataclasses.replace(
        page,
        tile=(page.size[0], rows),
        offsets=(page.offsets[0] + (tops * row).astype(np.uint64)),
        counts=(heights * row).astype(np.uint64),
    )


def _as_rgb(image: UInt8, page: Page) -> UInt8:
    """(h, w, 1…4) to RGB on white."""
    if page.samples == 3:
        return image
    colour = image[..., :3] if page.samples == 4 else image[..., :1].repeat(3, axis=2)
    if page.samples == 4 and page.alpha:
        alpha, colour = image[..., 3:].astype(np.uint32), colour.astype(np.uint32)
        weight = 255 if page.alpha == 1 else alpha  # 1: the colours are multiplied by alpha already
        colour = np.minimum((colour * weight + 255 * (255 - alpha) + 127) // 255, 255).astype(np.uint8)
    return colour
