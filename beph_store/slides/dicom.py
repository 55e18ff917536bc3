"""DICOM whole-slide images (VL WSI) that OpenSlide refuses, and which files make one series.

The files of one folder and one SeriesInstanceUID are one slide, each a pyramid level. Frames are found
by their position in the file and decoded one by one.
"""

from __future__ import annotations

import functools
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import SlideUnreadable
from beph_store.geometry import Size
from beph_store.slides.backend import Declined, Probe, StatedMpp, UInt8
from beph_store.slides.jpeg import JpegError, JpegReader, has_jfif
from beph_store.slides.macrotiles import BlockFile, Grid, MacroTiled
from beph_store.slides.tiffdir import MAX_SIDE_PX, MAX_TILE_PX

VL_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
_JPEG2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
_JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
_RAW = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")
_USED = [
    "SOPClassUID",
    "ImageType",
    "TotalPixelMatrixColumns",
    "TotalPixelMatrixRows",
    "Columns",
    "Rows",
    "BitsAllocated",
    "NumberOfFrames",
    "ConcatenationUID",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
]
_SERIES = 0x0020000E
_UNDEFINED = 0xFFFFFFFF


class DicomBackend(MacroTiled):
    """See `Backend`."""

    name = "dicom"

    def __init__(self, probe: Probe) -> None:
        if probe.kind != "dicom":
            raise Declined("not a DICOM file")
        named = _header(probe.path)
        if named is None:
            raise SlideUnreadable(f"{probe.path.name}: its DICOM header cannot be read", path=probe.path)
        files = [probe.path] if not _is_volume(named) else files_of_series(probe.path)
        levels = _levels(files, probe.path)
        self.stated_mpp = levels[0].mpp
        self._levels = levels
        self._files = [BlockFile(level.path) for level in levels]
        self._open(tuple(Grid(level.size, level.frame) for level in levels), probe.cache_bytes)

    def _decode(self, level: int, column: int, row: int) -> UInt8 | None:
        instance = self._levels[level]
        index = instance.frame_at.get((column, row))
        if index is None:
            return None
        offset, count = instance.extents[index]
        try:
            return instance.decode(self._files[level].read(offset, count))
        except JpegError as error:
            raise SlideUnreadable(str(error)) from error

    def close(self) -> None:
        """See `Backend.close`."""
        for file in self._files:
            file.close()
        self.trim(0)


@dataclass(frozen=True, slots=True, eq=False)
class _Level:
    """One file of the series: ``frame_at`` (column, row) → frame; ``extents`` (offset, bytes) of a frame."""

    path: Path
    size: Size
    frame: Size
    mpp: StatedMpp | None
    frame_at: dict[tuple[int, int], int]
    extents: list[tuple[int, int]]
    decode: Callable[[bytes], UInt8]


def series_of(path: Path) -> str | None:
    """SeriesInstanceUID; None where the file is not readable DICOM. Reads no further than that."""
    try:
        with path.open("rb") as file:
            return series_in(file)
    except OSError:
        return None


def series_in(file: BinaryIO) -> str | None:
    """``series_of`` an open file."""
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = pydicom.filereader.read_partial(file, lambda tag, vr, length: tag > _SERIES)
            return str(data.get("SeriesInstanceUID", "")) or None
    except Exception:  # noqa: BLE001 - pydicom raises what comes on a damaged header
        return None


def files_of_series(path: Path) -> list[Path]:
    """The .dcm files of the folder that share the series of ``path``, sorted; at least ``path`` itself."""
    series = series_of(path)
    if series is None:
        return [path]
    beside = sorted(p for p in path.parent.iterdir() if p.suffix.lower() == ".dcm" and p.is_file())
    return [other for other in beside if other == path or series_of(other) == series] or [path]


def _header(path: Path) -> Any | None:
    """The data set up to the pixels, or None. Cached by what `stat` says of the file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return _read_header(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _read_header(path: Path, size: int, changed: int) -> Any | None:
    import pydicom

    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # values that are too long or odd; what we use is checked below
            header = pydicom.dcmread(file, stop_before_pixels=True)
            header.pixels_at = file.tell()
            for name in _USED:  # values are parsed, and warned of, at first use
                header.get(name)
            return header
    except MemoryError:  # no damage of this file
        raise
    except Exception:  # noqa: BLE001 - pydicom raises what comes on a damaged header
        return None


def _is_volume(header: Any) -> bool:
    """Whether the file is part of the pyramid: not a label, an overview or a thumbnail."""
    kinds = list(header.get("ImageType", ()))
    return len(kinds) < 3 or kinds[2] == "VOLUME"


def _levels(files: list[Path], named: Path) -> list[_Level]:
    levels: dict[Size, _Level] = {}
    for path in files:
        header = _header(path)
        if header is None or not _is_volume(header):
            continue
        try:
            level = _level(header, path)
        except (SlideUnreadable, MemoryError):  # want of memory is no damage of this file
            raise
        except Exception as error:  # pydicom parses at first use, and raises what comes
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise SlideUnreadable(f"{path.name}: {reason}", path=named) from error
        if level.size in levels:
            raise SlideUnreadable(
                f"{path.name} and {levels[level.size].path.name} are one level twice", path=named
            )
        levels[level.size] = level
    if not levels:
        raise SlideUnreadable(f"{named.name} is a {_image_kind(named)}, not a slide", path=named)
    return sorted(levels.values(), key=lambda level: -level.size[0])


def _image_kind(path: Path) -> str:
    header = _header(path)
    kinds = [] if header is None else list(header.get("ImageType", ()))
    return str(kinds[2]).lower() if len(kinds) > 2 else "picture"


def _level(header: Any, path: Path) -> _Level:
    def refuse(reason: str) -> SlideUnreadable:
        return SlideUnreadable(f"{path.name}: {reason}", path=path)

    if str(header.get("SOPClassUID", "")) != VL_WHOLE_SLIDE:
        kind = getattr(header.get("SOPClassUID", None), "name", "unknown")
        raise refuse(f"DICOM, but not a whole slide ({kind})")
    size = int(header.get("TotalPixelMatrixColumns", 0)), int(header.get("TotalPixelMatrixRows", 0))
    frame = int(header.get("Columns", 0)), int(header.get("Rows", 0))
    if not all(1 <= side <= MAX_SIDE_PX for side in size) or not all(
        1 <= side <= MAX_TILE_PX for side in frame
    ):
        raise refuse(f"an image of {size[0]} × {size[1]} px in frames of {frame[0]} × {frame[1]}")
    if int(header.get("BitsAllocated", 0)) != 8:
        raise refuse(f"{header.get('BitsAllocated')}-bit samples: only 8-bit RGB and grey slides are read")
    for name in ("TotalPixelMatrixFocalPlanes", "NumberOfOpticalPaths"):
        if int(header.get(name, 1)) > 1:
            raise refuse(f"{name} is {header.get(name)}: only one plane and one optical path are read")
    if header.get("ConcatenationUID") is not None:
        raise refuse("one level in several files (a concatenation) is not read")
    frames = int(header.get("NumberOfFrames", 1))
    positions = _positions(header, Grid(size, frame), frames)
    extents = _extents(path, header, frames, frame)
    decode = _decoder(header, path, frame, extents)
    return _Level(path, size, frame, _stated(header), positions, extents, decode)


def _stated(header: Any) -> StatedMpp | None:
    """PixelSpacing (row, column) in mm of the shared functional groups."""
    try:
        measures = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        down, across = (float(value) * 1000 for value in measures.PixelSpacing)
    except (AttributeError, IndexError, TypeError, ValueError):
        return None
    return StatedMpp(across, down, "dicom")


def _positions(header: Any, grid: Grid, frames: int) -> dict[tuple[int, int], int]:
    """(column, row) → frame number. ValueError where the file does not say: no order is guessed."""
    groups = header.get("PerFrameFunctionalGroupsSequence")
    if groups is not None and header.get("DimensionOrganizationType") != "TILED_FULL":
        found = {}
        for number, group in enumerate(groups):
            place = group.PlanePositionSlideSequence[0]
            x = int(place.ColumnPositionInTotalImagePixelMatrix) - 1
            y = int(place.RowPositionInTotalImagePixelMatrix) - 1
            if x % grid.tile[0] or y % grid.tile[1]:
                raise ValueError("frames that do not lie on a grid")
            found[(x // grid.tile[0], y // grid.tile[1])] = number
        return found
    if header.get("DimensionOrganizationType") != "TILED_FULL":
        raise ValueError("it does not say where its frames lie (neither TILED_FULL nor positions)")
    if frames != grid.columns * grid.rows:
        raise ValueError(f"{frames} frames for a grid of {grid.columns} × {grid.rows}")
    return {(number % grid.columns, number // grid.columns): number for number in range(frames)}


def _extents(path: Path, header: Any, frames: int, frame: Size) -> list[tuple[int, int]]:
    """(offset, bytes) of each frame in the file."""
    if str(header.file_meta.TransferSyntaxUID) in _RAW:
        explicit = str(header.file_meta.TransferSyntaxUID) == _RAW[1]
        start = header.pixels_at + (12 if explicit else 8)
        count = frame[0] * frame[1] * int(header.SamplesPerPixel)
        return [(start + number * count, count) for number in range(frames)]
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(header.pixels_at + 8)
        if struct.unpack("<I", file.read(4))[0] != _UNDEFINED:
            raise ValueError("compressed pixels of fixed length")
        table = _item(file, size)
        if table is None:
            raise ValueError("no offset table")
        offsets = np.frombuffer(file.read(table), "<u4")
        first = file.tell()
        fragments = []
        while (length := _item(file, size)) is not None:
            fragments.append((file.tell(), length))
            file.seek(length, 1)
    return _grouped(fragments, offsets, first, frames)


def _item(file: Any, size: int) -> int | None:
    """Length of the item that starts here; None at the end of the sequence."""
    head = file.read(8)
    if len(head) < 8 or head[:4] == b"\xfe\xff\xdd\xe0":
        return None
    length = int(struct.unpack("<I", head[4:])[0])
    if head[:4] != b"\xfe\xff\x00\xe0" or file.tell() + length > size:
        raise ValueError("truncated in its pixel data")
    return length


def _grouped(
    fragments: list[tuple[int, int]], offsets: NDArray[np.uint32], first: int, frames: int
) -> list[tuple[int, int]]:
    """A frame is one fragment; frames of several fragments are not joined here."""
    if len(fragments) == frames:
        return fragments
    if len(offsets) == frames:
        known = {at - 8 - first: (at, length) for at, length in fragments}
        chosen = [known.get(int(offset)) for offset in offsets]
        if None not in chosen and len(fragments) == frames:
            return [extent for extent in chosen if extent is not None]
    raise ValueError(f"{len(fragments)} fragments for {frames} frames")


def _decoder(
    header: Any, path: Path, frame: Size, extents: list[tuple[int, int]]
) -> Callable[[bytes], UInt8]:
    """Bytes of a frame to (h, w, 3) uint8, by the transfer syntax. ValueError for one that is not read."""
    syntax, colour = str(header.file_meta.TransferSyntaxUID), str(header.get("PhotometricInterpretation", ""))
    samples = int(header.SamplesPerPixel)
    if colour not in ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "MONOCHROME2"):
        raise ValueError(f"photometric interpretation {colour or 'not stated'}")
    if syntax in _JPEG:
        return JpegReader(frame, colour == "RGB" and not _first_is_jfif(path, extents)).decode
    if syntax in (*_JPEG2000, *_JPEG_LS):
        if colour == "YBR_FULL" or colour == "YBR_FULL_422":
            raise ValueError(f"{colour} in JPEG 2000 or JPEG-LS")
        return functools.partial(
            _by_imagecodecs, "jpeg2k_decode" if syntax in _JPEG2000 else "jpegls_decode", frame
        )
    if syntax in _RAW:
        if colour not in ("RGB", "MONOCHROME2"):
            raise ValueError(f"uncompressed {colour}")
        return functools.partial(_raw, frame, samples, int(header.get("PlanarConfiguration", 0)))
    raise ValueError(f"transfer syntax {header.file_meta.TransferSyntaxUID.name} is not read")


def _first_is_jfif(path: Path, extents: list[tuple[int, int]]) -> bool:
    """A writer's usual slip: RGB in the header, JFIF in the frames. JFIF is YCbCr by definition."""
    with path.open("rb") as file:
        file.seek(extents[0][0])
        return has_jfif(file.read(16))


def _by_imagecodecs(codec: str, frame: Size, data: bytes) -> UInt8:
    import imagecodecs

    try:
        image = np.asarray(getattr(imagecodecs, codec)(data))
    except MemoryError:  # no damage of this frame
        raise
    except Exception as error:
        raise SlideUnreadable(f"{codec}: {(str(error).splitlines() or [''])[0]}") from error
    return _shaped(image, frame)


def _raw(frame: Size, samples: int, planar: int, data: bytes) -> UInt8:
    width, height = frame
    flat = np.frombuffer(data, np.uint8)
    if planar and samples > 1:
        return _shaped(np.moveaxis(flat.reshape(samples, height, width), 0, 2), frame)
    return _shaped(flat.reshape(height, width, samples), frame)


def _shaped(image: NDArray[Any], frame: Size) -> UInt8:
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8 or image.shape[:2] != (frame[1], frame[0]) or image.shape[2] not in (1, 3):
        raise SlideUnreadable(f"a frame of {image.dtype} {image.shape}")
    return image.repeat(3, axis=2) if image.shape[2] == 1 else image
