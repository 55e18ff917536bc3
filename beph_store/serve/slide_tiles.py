"""Deep zoom: a slide's own pyramid as tiles of 256 px, in the frame of Deep Zoom images (DZI).

Level ``n`` of a Deep Zoom image has ⌈size / 2^(max − n)⌉ px; a tile is 254 px and one more on each inner side. Each
is read from the slide's smallest level that is not coarser, and averaged once where that level is finer.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from beph_store.engine.imported import FEATURES_ONLY
from beph_store.errors import ObjectStorageError, SlideError, SlideUnreadable
from beph_store.geometry import Size, level_for
from beph_store.objects import is_url
from beph_store.slides import BACKENDS, SlideReader, open_slide
from beph_store.slides.remote import head
from beph_store.store import SlideRow
from beph_store_kernels import reduce_area

UInt8 = NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""(x, y, width, height) in px of a Deep Zoom level."""

TILE_PX, OVERLAP = 254, 1
#: From this many times finer pixels a tile is cut from the overview instead: 8 × 256 px a side are 4 MP to read.
_FINEST = 8
#: Slides held open at once, decoded macro-tiles each of them may hold, and for how long a look at the file counts.
_OPEN, _CACHE_BYTES, _LOOK_SECONDS = 32, 12 << 20, 2.0


class SlideGone(Exception):
    """The slide's file is not where it was, or is another one; the message says which."""


def max_level(size: Size) -> int:
    """The level of a Deep Zoom image that is the slide itself."""
    return (max(size) - 1).bit_length()


def level_size(size: Size, level: int) -> Size:
    """(width, height) of a level."""
    shift = max_level(size) - level
    return -(-size[0] >> shift), -(-size[1] >> shift)


def tile_box(size: Size, level: int, column: int, row: int) -> Box | None:
    """Where a tile lies on its level, overlap included; None where there is none."""
    if not 0 <= level <= max_level(size):
        return None
    width, height = level_size(size, level)
    if not (0 <= column * TILE_PX < width and 0 <= row * TILE_PX < height):
        return None
    left, top = max(0, column * TILE_PX - OVERLAP), max(0, row * TILE_PX - OVERLAP)
    right = min(width, (column + 1) * TILE_PX + OVERLAP)
    bottom = min(height, (row + 1) * TILE_PX + OVERLAP)
    return left, top, right - left, bottom - top


def read_tile(slide: SlideReader, level: int, box: Box, overview: Callable[[], UInt8]) -> UInt8:
    """(h, w, 3) uint8 RGB of ``box`` on a Deep Zoom level. ``overview`` gives the whole slide, small.

    Raises SlideUnreadable where the file is damaged.
    """
    size = slide.info.size_l0
    scale = 1 << (max_level(size) - level)
    source = level_for(scale, slide.info.level_sizes)
    if scale / slide.downsamples[source] > _FINEST:
        small = overview()
        whole = (small.shape[1], small.shape[0])
        return _resampled(lambda x, y, w, h: small[y : y + h, x : x + w], whole, size, scale, box)
    have = slide.info.level_sizes[source]
    factor = round(scale / slide.downsamples[source])
    # The level's size is rounded to whole px: within one of them its pixels lie exactly on ours.
    exact = all(abs(h * scale - s * factor) <= scale for h, s in zip(have, size, strict=True))
    if not exact:
        return _resampled(lambda x, y, w, h: slide.read_level(source, x, y, w, h), have, size, scale, box)
    x, y, w, h = box
    width, height = min(w * factor, have[0] - x * factor), min(h * factor, have[1] - y * factor)
    if width < 1 or height < 1:  # our last column, of less than one px of theirs
        x, width = (x, width) if width >= 1 else (max(0, have[0] // factor - 1), factor)
        y, height = (y, height) if height >= 1 else (max(0, have[1] // factor - 1), factor)
    pixels = slide.read_level(source, x * factor, y * factor, width, height)
    return _filled(pixels if factor == 1 else reduce_area(pixels, factor), (w, h))


def _resampled(
    read: Callable[[int, int, int, int], UInt8], have: Size, size: Size, scale: int, box: Box
) -> UInt8:
    """``box`` from a picture of the whole slide whose scale is no whole fraction of ours."""
    ratio = [h * scale / s for h, s in zip(have, size, strict=True)]
    x0, y0 = box[0] * ratio[0], box[1] * ratio[1]
    x1 = min(have[0], (box[0] + box[2]) * ratio[0])
    y1 = min(have[1], (box[1] + box[3]) * ratio[1])
    # As many px around as the filter reaches: neighbouring tiles then agree where they overlap.
    margin = 1 + int(np.ceil(max(ratio)))
    left, top = max(0, int(x0) - margin), max(0, int(y0) - margin)
    right, bottom = (min(h, int(np.ceil(v)) + margin) for h, v in zip(have, (x1, y1), strict=True))
    part = Image.fromarray(read(left, top, right - left, bottom - top))
    inner = (x0 - left, y0 - top, x1 - left, y1 - top)
    return np.asarray(part.resize((box[2], box[3]), Image.Resampling.BILINEAR, box=inner))


def _filled(pixels: UInt8, size: Size) -> UInt8:
    """``pixels`` with the last row and column repeated up to ``size``: never more than one of each."""
    right, below = size[0] - pixels.shape[1], size[1] - pixels.shape[0]
    return np.pad(pixels, ((0, below), (0, right), (0, 0)), "edge") if right or below else pixels


@dataclass(slots=True)
class _Held:
    """An open slide, or one about to be; ``users`` are reading it now."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    reader: SlideReader | None = None
    mark: tuple[object, ...] = ()
    looked: float = float("-inf")
    users: int = 0
    dropped: bool = False

    def close(self) -> None:
        if self.reader is not None:
            self.reader.close()
            self.reader = None


class OpenSlides:
    """The slides read last, at most ``most`` of them open; one that is being read is closed when that is over."""

    def __init__(self, most: int = _OPEN, cache_bytes: int = _CACHE_BYTES) -> None:
        self._most, self._cache_bytes = most, cache_bytes
        self._held: OrderedDict[tuple[str, str], _Held] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            return len(self._held)

    @contextmanager
    def lease(self, row: SlideRow) -> Iterator[SlideReader]:
        """The open slide of a registry row. SlideGone where its file has moved, changed, or opens no more."""
        key = (row.recipe, row.slide_id)
        held = self._take(key)
        try:
            reader = self._current(held, row)
            if reader is None:
                self._give_back(held, key)
                held = self._take(key)
                reader = self._current(held, row)
            if reader is None:
                raise SlideGone("the slide's file is being replaced; the stored thumbnail remains")
            yield reader
        except SlideGone:
            with self._lock:
                self._drop(key, held)
            raise
        except SlideUnreadable:
            raise  # damaged at one place
        except (SlideError, ObjectStorageError) as error:  # of a slide in object storage
            with self._lock:
                self._drop(key, held)
            raise SlideGone(f"the slide cannot be fetched: {error}") from error
        finally:
            self._give_back(held)

    def fresh(self, row: SlideRow) -> bool:
        """Whether the slide is open and its file was looked at just now. Never waits for a disk."""
        with self._lock:
            held = self._held.get((row.recipe, row.slide_id))
            return held is not None and time.monotonic() - held.looked < _LOOK_SECONDS

    def close(self) -> None:
        """Close all."""
        with self._lock:
            for key, held in list(self._held.items()):
                self._drop(key, held)

    def _take(self, key: tuple[str, str]) -> _Held:
        with self._lock:
            held = self._held.setdefault(key, _Held())
            held.users += 1
            self._held.move_to_end(key)
            while len(self._held) > self._most:
                self._drop(*next(iter(self._held.items())))
            return held

    def _give_back(self, held: _Held, drop: tuple[str, str] | None = None) -> None:
        with self._lock:
            if drop is not None:
                self._drop(drop, held)
            held.users -= 1
            if held.dropped and not held.users:
                held.close()

    def _drop(self, key: tuple[str, str], held: _Held) -> None:
        """Off the list, and closed as soon as nobody reads it. Call under the lock."""
        if self._held.get(key) is held:
            del self._held[key]
        held.dropped = True
        if not held.users:
            held.close()

    def _current(self, held: _Held, row: SlideRow) -> SlideReader | None:
        """The reader, opened now if it is not; None where the file is another one than that which was opened."""
        with held.lock:
            if held.reader is not None and time.monotonic() - held.looked < _LOOK_SECONDS:
                return held.reader
            mark = _mark(row)
            if held.reader is None:
                held.reader, held.mark = _opened(row, self._cache_bytes), mark
            elif mark != held.mark:
                return None
            held.looked = time.monotonic()
            return held.reader


def _mark(row: SlideRow) -> tuple[object, ...]:
    try:
        if row.path is not None and is_url(row.path):
            now = head(row.path)
            return now.size, now.mtime_ns, now.etag
        found = Path(row.path or "").stat()
    except ObjectStorageError as error:
        raise SlideGone(f"the slide cannot be fetched: {error}") from error
    except OSError:
        if (row.path or "").startswith(FEATURES_ONLY):
            raise SlideGone("only the slide's features were imported: --slides brings its picture") from None
        raise SlideGone("the slide's file is not where it was; the stored thumbnail remains") from None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _opened(row: SlideRow, cache_bytes: int) -> SlideReader:
    # By what read it at ingest, which was compared with OpenSlide then: not comparing again makes opening quick.
    try:
        reader = open_slide(
            row.path or "",
            slide_id=row.slide_id,
            mpp=row.mpp_x,
            mpp_source="declared",
            prefer=row.reader if any(row.reader == known.name for known in BACKENDS) else None,
            cache_bytes=cache_bytes,
        )
    except (SlideError, ObjectStorageError) as error:
        raise SlideGone(f"the slide cannot be opened: {error}") from error
    if row.fingerprint is not None and reader.info.fingerprint != row.fingerprint:
        reader.close()
        raise SlideGone("the slide's file has changed since it was ingested; the stored thumbnail remains")
    return reader


class Encoded:
    """Finished images, the least recently used dropped beyond ``most_bytes``."""

    def __init__(self, most_bytes: int = 256 << 20) -> None:
        self.most_bytes = most_bytes
        self.nbytes = 0
        self._held: OrderedDict[tuple[object, ...], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            return len(self._held)

    def get(self, key: tuple[object, ...]) -> bytes | None:
        """The image, if it is held."""
        with self._lock:
            data = self._held.get(key)
            if data is not None:
                self._held.move_to_end(key)
            return data

    def put(self, key: tuple[object, ...], data: bytes) -> None:
        """Hold an image, unless it alone is more than an eighth of all."""
        if len(data) > self.most_bytes // 8:
            return
        with self._lock:
            self.nbytes += len(data) - len(self._held.pop(key, b""))
            self._held[key] = data
            while self.nbytes > self.most_bytes:
                self.nbytes -= len(self._held.popitem(last=False)[1])
