"""Which backend opens a file: the first of an ordered table that takes it."""

from __future__ import annotations

import importlib
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from beph_store.errors import SlideError, SlideUnreadable, UsageError
from beph_store.geometry import Size, check_mpp
from beph_store.records import MppSource, SlideInfo
from beph_store.slides.backend import CACHE_BYTES, Backend, Declined, Kind, Probe, UInt8
from beph_store.slides.find import fingerprint
from beph_store.slides.reader import SlideReader
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


def open_slide(
    path: str | Path,
    *,
    slide_id: str | None = None,
    mpp: float | tuple[float, float] | None = None,
    mpp_source: MppSource = "declared",
    prefer: str | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> SlideReader:
    """Open a slide.

    ``mpp`` (µm per level-0 px, one value or x and y) goes before what the file says; ``mpp_source``
    says whose it is. ``prefer`` names the one backend that may open the file; ``cache_bytes`` bounds
    the decoded macro-tiles held. The id is the file's name unless ``slide_id`` is given.

    Raises SlideUnreadable, MppMissing or MppImplausible, with the slide's id and path;
    UsageError for a ``prefer`` that is in no row of the table.
    """
    path = Path(path)
    slide_id = slide_id or path.name
    rows = [row for row in BACKENDS if prefer in (None, row.name)]
    if not rows:
        raise UsageError(f"no backend {prefer!r}: have {', '.join(row.name for row in BACKENDS)}")
    try:
        probe = examine(path, cache_bytes)
        backend = _open_first(rows, probe)
        try:
            if prefer is None and backend.name == "tiled-jpeg":
                backend = _verified(backend, probe)
            return SlideReader(_info(backend, path, slide_id, mpp, mpp_source), backend)
        except BaseException:
            backend.close()
            raise
    except SlideUnreadable as error:
        raise SlideUnreadable(str(error), slide_id=slide_id, path=path) from error


def examine(path: Path, cache_bytes: int = CACHE_BYTES) -> Probe:
    """Look at a file without trusting it: a regular file, its kind by content, its TIFF directories checked.

    Raises SlideUnreadable.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise SlideUnreadable(f"{path.name} is {what}", path=path)
        with path.open("rb") as file:
            head = file.read(132)
    except OSError as error:
        raise SlideUnreadable(f"{path.name}: {error.strerror or error}", path=path) from error
    if not head:
        raise SlideUnreadable(f"{path.name} is empty", path=path)
    kind = _kind(head, path.suffix.lower())
    return Probe(path, kind, read_layout(path) if kind == "tiff" else None, cache_bytes)


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


def _info(
    backend: Backend,
    path: Path,
    slide_id: str,
    mpp: float | tuple[float, float] | None,
    mpp_source: MppSource,
) -> SlideInfo:
    if mpp is not None:
        x, y = mpp if isinstance(mpp, tuple) else (mpp, mpp)
        source = mpp_source
    elif backend.stated_mpp is not None:
        x, y, source = backend.stated_mpp.x, backend.stated_mpp.y, backend.stated_mpp.source
    else:
        x = y = 0.0
        source = mpp_source
    try:
        mpp_x, mpp_y = check_mpp(x, y)
    except SlideError as error:
        raise type(error)(str(error), slide_id=slide_id, path=path) from None
    return SlideInfo(
        slide_id=slide_id,
        path=str(path),
        size_l0=backend.level_sizes[0],
        mpp_x=mpp_x,
        mpp_y=mpp_y,
        mpp_source=source,
        level_sizes=backend.level_sizes,
        fingerprint=fingerprint(path),
    )
