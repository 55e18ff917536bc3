"""Slides in object storage, opened: as a whole copy, or of a tiled TIFF only what is read of it."""

from __future__ import annotations

from beph_store.errors import SlideUnreadable
from beph_store.slides.backend import Backend
from beph_store.slides.copies import Copy
from beph_store.slides.reader import SlideReader
from beph_store.slides.remote import Remote, Staging, current
from beph_store.slides.table import Ask, examine, first_that_opens
from beph_store.slides.tiffdir import JPEG

#: The one backend that asks for every byte before it reads it, and decodes strictly: a hole is never taken for pixels.
IN_PARTS = "tiled-jpeg"


def open_staged(address: str | Remote, ask: Ask, cache_bytes: int, staging: Staging) -> SlideReader:
    """See ``opening.open_slide``. The copy stays pinned until the slide is closed."""
    slide = current(address) if isinstance(address, str) else address
    copy = Copy(slide, staging)
    try:
        if copy.in_parts and ask.prefer in (None, IN_PARTS) and not copy.complete:
            found = _open_in_parts(copy, ask, cache_bytes)
            if found is not None:
                return found
        info, backend = first_that_opens(examine(copy.whole(), cache_bytes), ask)
        return SlideReader(info, backend, after=copy.close)
    except BaseException as error:
        copy.close()
        if isinstance(error, SlideUnreadable) and str(copy.path) in str(error):
            raise SlideUnreadable(str(error).replace(str(copy.path), slide.url)) from error
        raise


def _open_in_parts(copy: Copy, ask: Ask, cache_bytes: int) -> SlideReader | None:
    """None where the file has to be read by a library that does not ask for what it reads."""
    probe = examine(copy.path, cache_bytes, copy)
    first = probe.tiff.pages[0] if probe.tiff is not None and probe.tiff.pages else None
    if first is None or not first.tiled or first.compression != JPEG:
        return None
    backend: Backend | None = None
    try:
        info, backend = first_that_opens(probe, ask)
    except SlideUnreadable:
        return None  # with all of it there the reason will be the file's own
    if backend.name != IN_PARTS:
        backend.close()
        return None
    return SlideReader(info, backend, in_parts=True, after=copy.close)
