"""Slides in object storage: which there are, and what belongs together.

Several files that are one slide (MIRAX, VMS, a DICOM series) come together, see ``parts``.
"""

from __future__ import annotations

import functools
import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from beph_store.errors import BephStoreError, UsageError
from beph_store.objects import open_bucket, parse, translated
from beph_store.slides.names import SLIDE_SUFFIXES, is_slide
from beph_store.slides.remote import Remote, current, head, of_meta, read_range, sampled, side_by_side


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


def find_files(url: str, suffixes: Sequence[str]) -> list[Remote]:
    """The object at an address, or those with these suffixes in the folder there, in order of their names.

    Raises UsageError where there is nothing, ObjectStorageError.
    """
    address = str(parse(url))
    if not url.endswith("/"):
        try:
            return [head(address)]
        except FileNotFoundError:
            pass
    found = sorted(_under(address), key=lambda pair: pair[0])
    if not found:
        raise UsageError(f"nothing at {address}: no such object or folder")
    return [item for name, item in found if name.lower().endswith(tuple(suffixes))]


def _under(folder: str) -> Iterator[tuple[str, Remote]]:
    """(path relative to the folder, object) of everything below an address."""
    import obstore

    store, key = open_bucket(folder)
    start = len(key) + 1 if key else 0
    with translated(folder):
        for page in obstore.list(store, prefix=f"{key}/" if key else None):
            for meta in page:
                name = meta["path"][start:]
                if name and not {"", ".", ".."} & set(
                    name.split("/")
                ):  # a key may be anything; a path may not
                    yield name, of_meta(f"{folder.rstrip('/')}/{name}", meta)


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
        self.name = item.name  # pydicom asks for it
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
