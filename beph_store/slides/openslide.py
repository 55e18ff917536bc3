"""OpenSlide: the reference for vendor formats. The only file that imports it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from beph_store.errors import SlideUnreadable
from beph_store.slides.backend import Backend, Declined, Probe, StatedMpp, UInt8
from beph_store.slides.mpp import stated_in_tiff


class OpenSlideBackend(Backend):
    """See `Backend`. Its regions start at whole level-0 px: on smaller levels up to half of one aside."""

    name = "openslide"

    def __init__(self, probe: Probe) -> None:
        if probe.tiff is not None and any(page.tiled and page.reduced for page in probe.tiff.sub_pages):
            raise Declined("the levels lie in sub-directories, which OpenSlide does not see")
        self._path = probe.path
        # OpenSlide keeps four bytes a pixel and by default 32 MB, less than two rows of a wide slide.
        self.cache_bytes = probe.cache_bytes
        self._held_bytes = self.cache_bytes
        self._lock = threading.Lock()
        self._handle = self._opened()
        self.level_sizes = tuple((int(w), int(h)) for w, h in self._handle.level_dimensions)
        self.stated_mpp = _stated(self._handle.properties, probe)

    def _opened(self) -> Any:
        from openslide import OpenSlide, OpenSlideCache, OpenSlideError

        try:
            handle = OpenSlide(str(self._path))
            handle.set_cache(OpenSlideCache(self._held_bytes))
        except (OpenSlideError, OSError) as error:
            raise SlideUnreadable(f"OpenSlide: {_one_line(error, self._path)}", path=self._path) from error
        return handle

    def read(self, level: int, x: int, y: int, out: UInt8) -> None:
        """See `Backend.read`."""
        from openslide import OpenSlideError

        downsample = self._handle.level_downsamples[level]
        corner = round(x * downsample), round(y * downsample)
        handle = self._handle
        try:
            picture = handle.read_region(corner, level, (out.shape[1], out.shape[0]))
        except (OpenSlideError, OSError) as error:
            self._reopen(handle)
            raise SlideUnreadable(f"OpenSlide: {_one_line(error, self._path)}", path=self._path) from error
        _onto_white(np.asarray(picture), out)

    def _reopen(self, failed: Any) -> None:
        """After one bad tile every later call on a handle fails: take a new one."""
        with self._lock:
            if self._handle is failed:
                self._handle = self._opened()
                # Not closed: another thread may be inside it. It goes with its last reference.

    def trim(self, keep_bytes: int) -> None:
        """See `Backend.trim`; a new cache is an empty one. It stays as small until told to keep nothing."""
        from openslide import OpenSlideCache

        wanted = min(keep_bytes, self.cache_bytes) or self.cache_bytes
        if wanted != self._held_bytes:
            self._held_bytes = wanted
            self._handle.set_cache(OpenSlideCache(wanted))

    def close(self) -> None:
        """See `Backend.close`."""
        self._handle.close()


def vendor(path: Path) -> str | None:
    """What OpenSlide takes the file for ('aperio', 'generic-tiff', …); None if for nothing."""
    from openslide import OpenSlide, OpenSlideError

    try:
        found = OpenSlide.detect_format(str(path))
    except (OpenSlideError, OSError):
        return None
    return None if found is None else str(found)


def bounds(path: Path) -> tuple[int, int, int, int] | None:
    """(x, y, width, height) in level-0 px of the part that was scanned, as the file states it; None where it does not.

    SlideUnreadable where OpenSlide does not open the file.
    """
    from openslide import OpenSlide, OpenSlideError

    try:
        with OpenSlide(str(path)) as handle:
            given = [
                handle.properties.get(f"openslide.bounds-{name}") for name in ("x", "y", "width", "height")
            ]
    except (OpenSlideError, OSError) as error:
        raise SlideUnreadable(f"OpenSlide: {_one_line(error, path)}", path=path) from error
    if None in given:
        return None
    x, y, width, height = (int(value) for value in given)
    return x, y, width, height


def _stated(properties: Any, probe: Probe) -> StatedMpp | None:
    """OpenSlide's reading of the vendor's field; of plain TIFF the tags, which it passes on unchecked."""
    if properties.get("openslide.vendor") == "generic-tiff" and probe.tiff is not None and probe.tiff.pages:
        return stated_in_tiff(probe.tiff.pages[0])
    x, y = properties.get("openslide.mpp-x"), properties.get("openslide.mpp-y")
    if x and y:
        return StatedMpp(float(x), float(y), "dicom" if probe.kind == "dicom" else "vendor")
    if probe.tiff is not None and probe.tiff.pages:
        return stated_in_tiff(probe.tiff.pages[0])
    return None


def _onto_white(rgba: UInt8, out: UInt8) -> None:
    alpha = rgba[..., 3]
    if alpha.min() == 255:
        out[...] = rgba[..., :3]
        return
    share = alpha[..., None].astype(np.uint16)
    out[...] = (rgba[..., :3] * share + 255 * (255 - share) + 127) // 255


def _one_line(error: Exception, path: Path) -> str:
    """What OpenSlide says, without the folders it names, and with a cure where it knows nothing."""
    said = (str(error).splitlines() or [type(error).__name__])[0].replace(f"{path.parent}/", "")
    if not said.startswith("Unsupported or missing image file"):
        return said
    beside = ", or without the folder that belongs beside it" if path.suffix.lower() == ".mrxs" else ""
    return f"not a slide of any format it reads, or copied in part{beside}: compare it with the original"
