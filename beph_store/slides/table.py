"""Which backend opens a file: the first of an ordered table that takes it."""

from __future__ import annotations

import importlib
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from beph_store.errors import ObjectStorageError, SlideError, SlideUnreadable
from beph_store.geometry import Size, check_mpp
from beph_store.records import MppSource, SlideInfo
from beph_store.slides.backend import CACHE_BYTES, Backend, Declined, Fetcher, Kind, Probe, UInt8
from beph_store.slides.find import fingerprint
from beph_store.slides.remote import sampled
from beph_store.slides.tiffdir import read_layout
from beph_store_kernels import reduce_area


@dataclass(frozen=True, slots=True)
class Row:
    """A backend: its name, the kinds of file it is asked about, its class (imported when asked)."""

    name: str
    kinds: tuple[Kind, ...]
    module: str
    factory: str

    def open(self, probe: Probe) -> Backend:
        """Raises Declined or SlideUnreadable."""
        backend: Backend = getattr(importlib.import_module(self.module), self.factory)(probe)
        return backend


#: Asked from top to bottom. A new format is one file and one row.
BACKENDS: tuple[Row, ...] = (
    Row("tiled-jpeg", ("tiff",), "beph_store.slides.tiled_jpeg", "TiledJpeg"),
    Row("openslide", ("tiff", "dicom", "other"), "beph_store.slides.openslide", "OpenSlideBackend"),
    Row("tiff", ("tiff",), "beph_store.slides.tiff", "TiffBackend"),
    Row("dicom", ("dicom",), "beph_store.slides.dicom", "DicomBackend"),
    Row("image", ("image",), "beph_store.slides.image", "ImageBackend"),
)

#: Where OpenSlide itself resamples, means of blocks are compared: part of a px hardly moves them.
_BLOCK_PX = 16
_BLOCK_TOLERANCE = 2.0
#: Of a copy that is not all there these are fetched first: directories lie at either end.
_HEAD_BYTES, _TAIL_BYTES = 64 << 10, 128 << 10


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of a slide beside its pixels: see ``open_slide``; ``path`` as it is to be told."""

    slide_id: str
    path: str
    mpp: float | tuple[float, float] | None = None
    mpp_source: MppSource = "declared"
    prefer: str | None = None


def first_that_opens(probe: Probe, ask: Ask) -> tuple[SlideInfo, Backend]:
    """Through the first backend of the table that takes the file. Raises as ``open_slide`` does."""
    rows = [row for row in BACKENDS if ask.prefer in (None, row.name)]
    backend = _open_first(rows, probe)
    try:
        if ask.prefer is None and backend.name == "tiled-jpeg":
            backend = _verified(backend, probe)
        return _info(backend, probe, ask), backend
    except BaseException:
        backend.close()
        raise


def examine(path: Path, cache_bytes: int = CACHE_BYTES, fetcher: Fetcher | None = None) -> Probe:
    """Look at a file without trusting it: a regular file, its kind by content, its TIFF directories checked.

    Of a copy that is not all there ``fetcher`` brings what is looked at. Raises SlideUnreadable.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise SlideUnreadable(f"{path.name} is {what}", path=path)
        if fetcher is not None:
            fetcher.want(
                [(0, min(status.st_size, _HEAD_BYTES)), (max(0, status.st_size - _TAIL_BYTES), _TAIL_BYTES)]
            )
        with path.open("rb") as file:
            head = file.read(132)
    except ObjectStorageError:
        raise
    except OSError as error:
        raise SlideUnreadable(f"{path.name}: {error.strerror or error}", path=path) from error
    if not head:
        raise SlideUnreadable(f"{path.name} is empty", path=path)
    kind = _kind(head, path.suffix.lower())
    layout = (
        read_layout(path, _more(fetcher, status.st_size) if fetcher else None) if kind == "tiff" else None
    )
    return Probe(path, kind, layout, cache_bytes, fetcher)


def _more(fetcher: Fetcher, size: int) -> Callable[[int, int], None]:
    """Fetches what follows too: a directory and the values of its tags lie together, and each request costs time."""
    return lambda offset, count: fetcher.ensure(offset, min(max(count, _HEAD_BYTES), max(1, size - offset)))


def _kind(head: bytes, suffix: str) -> Kind:
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if head[128:132] == b"DICM":
        return "dicom"
    # A MIRAX slide is a JPEG with a folder beside it.
    if head[:8] == b"\x89PNG\r\n\x1a\n" or (head[:3] == b"\xff\xd8\xff" and suffix != ".mrxs"):
        return "image"
    return "other"


def _open_first(rows: Sequence[Row], probe: Probe) -> Backend:
    reasons = []
    for row in rows:
        if probe.kind not in row.kinds:
            continue
        try:
            return row.open(probe)
        except Declined as error:
            if len(rows) == 1:
                reasons.append(str(error))
        except SlideUnreadable as error:
            reasons.append(str(error))
    raise SlideUnreadable(f"{probe.path.name}: {'; '.join(reasons) or 'no reader for this kind of file'}")


def _verified(direct: Backend, probe: Probe) -> Backend:
    """The direct reader if its pixels are OpenSlide's, else OpenSlide with a note that says why."""
    from beph_store.slides.openslide import OpenSlideBackend
    from beph_store.slides.tiled_jpeg import TiledJpeg

    assert isinstance(direct, TiledJpeg)
    try:
        reference = OpenSlideBackend(probe)
    except (Declined, SlideUnreadable) as error:
        direct.note = f"not compared with OpenSlide: {error}"
        return direct
    direct.counting = False
    why = differences(direct, reference, list(direct.samples()))
    direct.counting = True
    direct.trim(0)  # what was decoded here would be missing from the counts
    if why is None:
        reference.close()
        return direct
    reference.note = f"read directly, {why}"
    direct.close()
    return reference


def differences(
    backend: Backend, reference: Backend, regions: Sequence[tuple[int, int, int, Size]]
) -> str | None:
    """How ``backend`` differs from OpenSlide (``reference``) on (level, x, y, (w, h)); None: it does not.

    Equal to the last bit, except where OpenSlide itself resamples: on a level whose px do not fall on whole
    level-0 px. A region that neither can read is no difference.
    """
    if backend.level_sizes != reference.level_sizes:
        return f"its levels are {backend.level_sizes}, OpenSlide's {reference.level_sizes}"
    for level, x, y, (width, height) in regions:
        ours, theirs = (_read(each, level, x, y, (width, height)) for each in (backend, reference))
        where = f"level {level} at {x}, {y}"
        if ours is None or theirs is None:
            if (ours is None) != (theirs is None):
                return f"{where} is unreadable to {'it' if ours is None else 'OpenSlide'} only"
            continue
        exact = _on_whole_pixels(reference, level, x) and _on_whole_pixels(reference, level, y)
        if not exact:
            ours, theirs = reduce_area(ours, _BLOCK_PX), reduce_area(theirs, _BLOCK_PX)
        distance = np.abs(ours.astype(np.int16) - theirs)
        if (exact and distance.any()) or distance.mean() > _BLOCK_TOLERANCE:
            return f"{where} differs from OpenSlide by {distance.mean():.2g} on the mean"
    return None


def _read(backend: Backend, level: int, x: int, y: int, size: Size) -> UInt8 | None:
    out = np.empty((size[1], size[0], 3), np.uint8)
    try:
        backend.read(level, x, y, out)
    except SlideUnreadable:
        return None
    return out


def _on_whole_pixels(reference: Backend, level: int, position: int) -> bool:
    downsample = reference.level_sizes[0][0] / reference.level_sizes[level][0]
    exact = reference.level_sizes[0][1] / reference.level_sizes[level][1] == downsample
    return level == 0 or position == 0 or (exact and (position * downsample).is_integer())


def _info(backend: Backend, probe: Probe, ask: Ask) -> SlideInfo:
    source = ask.mpp_source
    if ask.mpp is not None:
        x, y = ask.mpp if isinstance(ask.mpp, tuple) else (ask.mpp, ask.mpp)
    elif backend.stated_mpp is not None:
        x, y, source = backend.stated_mpp.x, backend.stated_mpp.y, backend.stated_mpp.source
    else:
        x = y = 0.0
    try:
        mpp_x, mpp_y = check_mpp(x, y)
    except SlideError as error:
        tile = "; if the picture is a tile, not a slide: `beph-store embed`" if probe.kind == "image" else ""
        raise type(error)(f"{error}{tile}", slide_id=ask.slide_id, path=ask.path) from None
    if probe.fetcher is not None:
        probe.fetcher.want(list(sampled(probe.path.stat().st_size)))
    return SlideInfo(
        slide_id=ask.slide_id,
        path=ask.path,
        size_l0=backend.level_sizes[0],
        mpp_x=mpp_x,
        mpp_y=mpp_y,
        mpp_source=source,
        level_sizes=backend.level_sizes,
        fingerprint=fingerprint(probe.path),
    )
