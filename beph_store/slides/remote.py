"""Objects in object storage: which version is there, and byte ranges of that version.

A slide is read at the version that was listed: every request names its ETag, so that no slide is put together
from two.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from beph_store.errors import ObjectStorageError, SlideChanged, SlideUnreadable
from beph_store.objects import name_of, open_bucket, translated
from beph_store.slides.names import BLOCK, BLOCKS

#: Requests under way at once. On 80 ms of latency eight of 2 MiB keep 200 MB/s busy.
PARALLEL = 8
#: An answer that breaks off is asked for again, unless the client itself has tried for so many seconds.
TRIES, PAUSE_S, PATIENCE_S = 4, 0.3, 45.0
_REFUSAL = re.compile("refuses these credentials|has no bucket|another region")

Reads = Literal["auto", "whole", "ranges"]
_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True, slots=True)
class Remote:
    """One version of an object: its address, bytes, last change (ns since 1970, whole seconds) and ETag."""

    url: str
    size: int
    mtime_ns: int
    etag: str | None

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part of the address."""
        return name_of(self.url)


@dataclass(frozen=True, slots=True)
class Staging:
    """How slides come from object storage.

    ``cache_bytes`` of local disk they may take, None for a quarter of what is free; ``reads`` whole files, or of a
    tiled TIFF only what is needed, or what is quicker; ``ahead``: for a later reader, so it may not push out what
    waits for one; ``alive`` is called while something is waited for.
    """

    cache_bytes: int | None = None
    reads: Reads = "auto"
    ahead: bool = False
    alive: Callable[[], None] | None = field(default=None, compare=False)


def head(url: str) -> Remote:
    """The object as it is now. Raises FileNotFoundError, ObjectStorageError, UsageError."""
    import obstore

    store, key = open_bucket(url)
    with translated(url):
        return of_meta(url, obstore.head(store, key))


def current(url: str) -> Remote:
    """``head``, with SlideUnreadable where there is no such object."""
    try:
        return head(url)
    except FileNotFoundError:
        raise SlideUnreadable(f"no such object: {url}", path=url) from None


def heads(urls: Sequence[str]) -> list[Remote | Exception]:
    """``head`` of many at once; what went wrong in its place."""

    def one(url: str) -> Remote | Exception:
        try:
            return head(url)
        except (FileNotFoundError, ObjectStorageError) as error:
            return error

    return side_by_side(one, urls)


def side_by_side(function: Callable[[_In], _Out], items: Sequence[_In]) -> list[_Out]:
    """``function`` of each in threads, in order; the first error is raised."""
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(PARALLEL, len(items))) as threads:
        return list(threads.map(function, items))


def of_meta(url: str, meta: Any) -> Remote:
    """From what obstore says of an object."""
    return Remote(url, int(meta["size"]), int(meta["last_modified"].timestamp()) * 10**9, meta.get("e_tag"))


# Its bytes -------------------------------------------------------------------------------------


def read_range(item: Remote, start: int, end: int) -> bytes:
    """Bytes ``start`` to ``end`` of this version of the object, all of them.

    Raises SlideChanged where it is another one by now, SlideUnreadable where it is gone, ObjectStorageError.
    """
    began = time.monotonic()
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE_S * 2**attempt)
        try:
            data = _get(item, start, end)
        except ObjectStorageError as error:
            late = time.monotonic() - began > PATIENCE_S
            if late or attempt == TRIES - 1 or _REFUSAL.search(str(error)):
                raise
            continue
        if len(data) == end - start:
            return data
    raise ObjectStorageError(f"{item.name}: its server sends fewer bytes than it says", path=item.url)


def _get(item: Remote, start: int, end: int) -> bytes:
    import obstore
    from obstore.exceptions import PreconditionError

    store, key = open_bucket(item.url)
    options: Any = {"range": (start, end), **({"if_match": item.etag} if item.etag else {})}
    try:
        with translated(item.url):
            try:
                answer = obstore.get(store, key, options=options)
                if answer.meta["size"] != item.size or answer.meta.get("e_tag") != item.etag:
                    raise _changed(item)
                return bytes(answer.bytes())
            except PreconditionError:
                raise _changed(item) from None
    except FileNotFoundError:
        raise SlideUnreadable(f"{item.name} is gone from {_place(item)}", path=item.url) from None


def _changed(item: Remote) -> SlideChanged:
    return SlideChanged(
        f"{item.name} was replaced in {_place(item)} after it was listed: run again to take it as it is now",
        path=item.url,
    )


def _place(item: Remote) -> str:
    return item.url.rpartition("/")[0]


def sampled(size: int) -> Iterable[tuple[int, int]]:
    """(offset, bytes) of what a fingerprint is made of."""
    if size <= BLOCK * BLOCKS:
        return [(0, size)] if size else []
    return [((size - BLOCK) * index // (BLOCKS - 1), BLOCK) for index in range(BLOCKS)]
