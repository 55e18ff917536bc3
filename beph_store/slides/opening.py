"""Opening a slide, wherever it lies."""

from __future__ import annotations

from pathlib import Path

from beph_store.errors import SlideUnreadable, UsageError
from beph_store.objects import is_url
from beph_store.records import MppSource
from beph_store.slides.backend import CACHE_BYTES
from beph_store.slides.reader import SlideReader
from beph_store.slides.remote import Remote, Staging
from beph_store.slides.staged import open_staged
from beph_store.slides.table import BACKENDS, Ask, examine, first_that_opens


def open_slide(
    path: str | Path | Remote,
    *,
    slide_id: str | None = None,
    mpp: float | tuple[float, float] | None = None,
    mpp_source: MppSource = "declared",
    prefer: str | None = None,
    cache_bytes: int = CACHE_BYTES,
    staging: Staging | None = None,
) -> SlideReader:
    """Open a slide: a file, or an address in object storage (s3://, gs://, az://).

    ``mpp`` (µm per level-0 px, one value or x and y) goes before what the file says; ``mpp_source``
    says whose it is. ``prefer`` names the one backend that may open the file; ``cache_bytes`` bounds
    the decoded macro-tiles held; ``staging`` is of use for addresses only. The id is the file's name unless
    ``slide_id`` is given.

    Raises SlideUnreadable, MppMissing or MppImplausible, with the slide's id and path;
    UsageError for a ``prefer`` that is in no row of the table. For an address also ObjectStorageError, SlideChanged,
    and SlideError where local disk is short.
    """
    if prefer not in (None, *(row.name for row in BACKENDS)):
        raise UsageError(f"no backend {prefer!r}: have {', '.join(row.name for row in BACKENDS)}")
    address = path.url if isinstance(path, Remote) else str(path)
    ask = Ask(slide_id or Path(address).name, address, mpp, mpp_source, prefer)
    try:
        if isinstance(path, Remote) or (isinstance(path, str) and is_url(path)):
            return open_staged(path, ask, cache_bytes, staging or Staging())
        return SlideReader(*first_that_opens(examine(Path(path), cache_bytes), ask))
    except SlideUnreadable as error:
        raise SlideUnreadable(str(error), slide_id=ask.slide_id, path=address) from error
