"""Slides in object storage: which there are, which version of each, and byte ranges of that version.

A slide is read at the version that was listed: every request names its ETag, so that no slide is put together
from two. Several files that are one slide (MIRAX, VMS, a DICOM series) come together, see ``parts``.
"""

from __future__ import annotations

import functools
import hashlib
import io
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal, TypeVar

from beph_store.errors import BephStoreError, ObjectStorageError, SlideChanged, SlideUnreadable, UsageError
from beph_store.objects import name_of, open_bucket, parse, translated

#: Requests under way at once. On 80 ms of latency eight of 2 MiB keep 200 MB/s busy.
PARALLEL = 8
#: An answer that breaks off is asked for again, unless the client itself has tried for so many seconds.
TRIES, PAUSE_S, PATIENCE_S = 4, 0.3, 45.0
_REFUSAL = re.compile("refuses these credentials|has no bucket|another region")

Reads = Literal["auto", "whole", "ranges"]
_In, _Out = TypeVar("_In"), TypeVar("_Out")


@dataclass(frozen=True, slots=True)
class Remote:
    """One version of an object: its address, bytes, last change (ns since 1970, whole seconds) and ETag."""

    url: str
    size: int
    mtime_ns: int
    etag: str | None

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
        return _remote(url, obstore.head(store, key))


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


def _remote(url: str, meta: Any) -> Remote:
    return Remote(url, int(meta["size"]), int(meta["last_modified"].timestamp()) * 10**9, meta.get("e_tag"))


# Which there are -------------------------------------------------------------------------------


def find(url: str) -> list[tuple[str, Remote]]:
    """(slide_id, object) of every slide that an address means: an object, a folder, or a pattern with ``*``.

    By the rules of ``find_slides``: ids are relative to the folder, or to what stands before the first wildcard.
    Raises UsageError where there is nothing, ObjectStorageError where the bucket cannot be read.
    """
    address = parse(url)
    if any(c in address.key for c in "*?["):
        return _matching(f"{address.scheme}://{address.bucket}", address.key)
    if address.key and not url.endswith("/"):
        try:
            found = head(str(address))
            return [(found.name, found)]
        except FileNotFoundError:
            pass
    objects = dict(_under(str(address)))
    if not objects:
        raise UsageError(f"nothing at {address}: no such object or folder")
    return _slides_among(objects)


def _under(folder: str) -> Iterator[tuple[str, Remote]]:
    """(path relative to the folder, object) of everything below an address."""
    import obstore

    store, key = open_bucket(folder)
    start = len(key) + 1 if key else 0
    with translated(folder):
        for page in obstore.list(store, prefix=f"{key}/" if key else None):
            for meta in page:
                name = meta["path"][start:]
                if name:
                    yield name, _remote(f"{folder.rstrip('/')}/{name}", meta)


def _matching(bucket: str, pattern: str) -> list[tuple[str, Remote]]:
    """As ``Path.glob``: ``*`` stays within a folder, ``**`` does not; a folder that matches stands for its slides."""
    parts = pattern.split("/")
    first = next(i for i, part in enumerate(parts) if any(c in part for c in "*?["))
    base = "/".join([bucket, *parts[:first]])
    wanted = re.compile("".join(map(_expression, parts[first:])))
    found: list[tuple[str, Remote]] = []
    folders: dict[str, dict[str, Remote]] = {}
    for name, item in _under(base):
        ends = [len(m) for m in _ancestors(name) if wanted.fullmatch(f"{m}/")]
        if not ends:
            continue
        if ends[-1] == len(name):
            found.append((name, item))
        else:
            folders.setdefault(name[: ends[0]], {})[name[ends[0] + 1 :]] = item
    for folder, objects in folders.items():
        found += [(f"{folder}/{name}", item) for name, item in _slides_among(objects)]
    if not found:
        raise UsageError(f"nothing matches {bucket}/{pattern}")
    return sorted(found, key=lambda pair: pair[0])


def _ancestors(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]


def _expression(part: str) -> str:
    if part == "**":
        return "(?:[^/]+/)*"
    bits = re.split(r"(\*|\?|\[!?[^\]]*\])", part)
    special = {"*": "[^/]*", "?": "[^/]"}
    return (
        "".join(
            special.get(b)
            or (b.replace("[!", "[^") if b.startswith("[") and b.endswith("]") else re.escape(b))
            for b in bits
        )
        + "/"
    )


def _slides_among(objects: dict[str, Remote]) -> list[tuple[str, Remote]]:
    from beph_store.slides.find import SLIDE_SUFFIXES, is_slide

    shown = sorted(
        (name, item)
        for name, item in objects.items()
        if is_slide(name) and not any(part.startswith(".") for part in name.split("/"))
    )
    slides = [pair for pair in shown if PurePosixPath(pair[0]).suffix.lower() in SLIDE_SUFFIXES]
    return _one_of_each_series(slides or shown)


def _one_of_each_series(files: list[tuple[str, Remote]]) -> list[tuple[str, Remote]]:
    dicom = [(name, item) for name, item in files if name.lower().endswith(".dcm")]
    if not dicom:
        return files
    series = dict(
        zip([n for n, _ in dicom], side_by_side(series_of, [item for _, item in dicom]), strict=True)
    )
    kept, seen = [], set()
    for name, item in files:
        key = (str(PurePosixPath(name).parent), series.get(name))
        if key[1] is None or key not in seen:
            kept.append((name, item))
            seen.add(key)
    return kept


# What belongs together -------------------------------------------------------------------------


def parts(slide: Remote) -> list[tuple[str, Remote]]:
    """(path beside the slide, object) of all files of a slide, the slide itself first.

    MIRAX: its folder; VMS and VMU: what the index file names; DICOM: the series.
    """
    suffix = PurePosixPath(slide.name).suffix.lower()
    folder = slide.url.rpartition("/")[0]
    if suffix == ".mrxs":
        stem = slide.name[: -len(suffix)]
        beside = [(f"{stem}/{name}", item) for name, item in _under(f"{folder}/{stem}")]
    elif suffix in (".vms", ".vmu"):
        named = {line.partition("=")[2].strip() for line in _text(slide).splitlines() if "=" in line}
        beside = [(name, item) for name, item in _under(folder) if name in named]
    elif suffix == ".dcm":
        others = [(item.name, item) for item in series(slide) if item.url != slide.url]
        beside = others
    else:
        beside = []
    return [(slide.name, slide), *sorted(beside, key=lambda pair: pair[0])]


def _text(item: Remote) -> str:
    return read_range(item, 0, min(item.size, 1 << 20)).decode("latin-1")


def series(slide: Remote) -> list[Remote]:
    """The .dcm objects of the same folder that share the series of ``slide``, in order of their names."""
    own = series_of(slide)
    if own is None:
        return [slide]
    folder = slide.url.rpartition("/")[0]
    beside = sorted(
        (name, item)
        for name, item in _under(folder)
        if "/" not in name and name.lower().endswith(".dcm") and item.url != slide.url
    )
    theirs = side_by_side(series_of, [item for _, item in beside])
    same = [pair for pair, other in zip(beside, theirs, strict=True) if other == own]
    return [item for _, item in sorted([*same, (slide.name, slide)], key=lambda pair: pair[0])]


def series_of(item: Remote) -> str | None:
    """SeriesInstanceUID of a DICOM object, None where it is not readable; reads its head only."""
    from beph_store.slides.dicom import series_in

    file = _Ranges(item)
    found = series_in(io.BufferedReader(file, 64 << 10))
    if file.error is not None:  # pydicom's own errors mean that it is no DICOM; the network's do not
        raise file.error
    return found


class _Ranges(io.RawIOBase):
    """An object as a file: every read is a request."""

    def __init__(self, item: Remote) -> None:
        self._item, self._at = item, 0
        self.error: BephStoreError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._item.size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._item.size)
        try:
            data = read_range(self._item, self._at, end) if end > self._at else b""
        except BephStoreError as error:
            self.error = error
            raise
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


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


def fingerprint(slide: Remote | str) -> str:
    """As ``find.fingerprint`` of the same files on disk, by a few small requests."""
    slide = current(slide) if isinstance(slide, str) else slide
    digest = hashlib.sha256()
    files = series(slide) if slide.name.lower().endswith(".dcm") else [slide]
    for item in files:
        digest.update(item.size.to_bytes(8, "big"))
        read = functools.partial(_span, item)
        for data in side_by_side(read, list(sampled(item.size))):
            digest.update(data)
    return digest.hexdigest()


def _span(item: Remote, span: tuple[int, int]) -> bytes:
    return read_range(item, span[0], span[0] + span[1])


def sampled(size: int) -> Iterable[tuple[int, int]]:
    """(offset, bytes) of what a fingerprint is made of."""
    from beph_store.slides.find import BLOCK, BLOCKS

    if size <= BLOCK * BLOCKS:
        return [(0, size)] if size else []
    return [((size - BLOCK) * index // (BLOCKS - 1), BLOCK) for index in range(BLOCKS)]
