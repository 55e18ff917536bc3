"""Which files are slides, and how one is told from another; in object storage `listing` does the same."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from beph_store.errors import SlideUnreadable
from beph_store.objects import is_url
from beph_store.slides.listing import fingerprint as remote_fingerprint
from beph_store.slides.names import BLOCK, BLOCKS, SLIDE_SUFFIXES, is_slide
from beph_store.slides.remote import Remote


def find_slides(root: str | Path) -> list[tuple[str, Path]]:
    """(slide_id, path) of every slide at or under ``root``, sorted by id.

    The id is the path relative to ``root``, with "/" and with the suffix; of a file named directly, its name.
    The files of one DICOM series are one slide, named after the first. Left out are hidden files and folders,
    and anything but regular files. A link to a file is followed, a link to a folder is not.

    Raises SlideUnreadable where ``root`` is not there, or is named directly and is no regular file.
    """
    root = Path(root)
    try:
        mode = root.stat().st_mode
    except OSError as error:
        raise SlideUnreadable(f"{root}: {error.strerror or error}", path=root) from error
    if stat.S_ISREG(mode):
        return [(root.name, root)]
    if not stat.S_ISDIR(mode):
        raise SlideUnreadable(f"{root} is not a regular file", path=root)
    files = sorted((path.relative_to(root).as_posix(), path) for path in _walk(root) if is_slide(path))
    slides = [(name, path) for name, path in files if path.suffix.lower() in SLIDE_SUFFIXES]
    return _one_of_each_series(slides or files)


def _walk(folder: Path) -> Iterator[Path]:
    for directory, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(directory, name)
            if not name.startswith(".") and path.is_file():
                yield path


def _one_of_each_series(files: list[tuple[str, Path]]) -> list[tuple[str, Path]]:
    if not any(path.suffix.lower() == ".dcm" for _, path in files):
        return files
    from beph_store.slides.dicom import series_of

    kept, seen = [], set()
    for name, path in files:
        series = series_of(path) if path.suffix.lower() == ".dcm" else None
        key = (path.parent, series)
        if series is None or key not in seen:
            kept.append((name, path))
            seen.add(key)
    return kept


def fingerprint(path: str | Path | Remote) -> str:
    """SHA-256, hex, over the size, the head, the tail and evenly spaced blocks of 64 KiB between them.

    A file of up to 1 MiB is hashed whole. Of a DICOM series all files are. Finds a file that was replaced,
    cut or edited; not a change of a few bytes between two blocks. Of an object in object storage it is that of the
    same file on disk. Raises SlideUnreadable, for an object also ObjectStorageError and SlideChanged.
    """
    if isinstance(path, Remote) or (isinstance(path, str) and is_url(path)):
        return remote_fingerprint(path)
    path = Path(path)
    digest = hashlib.sha256()
    try:
        for file in _files_of(path):
            _add(file, digest)
    except OSError as error:
        raise SlideUnreadable(f"{path.name}: {error.strerror or error}", path=path) from error
    return digest.hexdigest()


def _files_of(path: Path) -> list[Path]:
    if path.suffix.lower() != ".dcm":
        return [path]
    from beph_store.slides.dicom import files_of_series

    return files_of_series(path)


def _add(path: Path, digest: hashlib._Hash) -> None:
    if not stat.S_ISREG(path.stat().st_mode):
        raise SlideUnreadable(f"{path.name} is not a regular file", path=path)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(size.to_bytes(8, "big"))
        if size <= BLOCK * BLOCKS:
            digest.update(file.read())
            return
        for index in range(BLOCKS):
            file.seek((size - BLOCK) * index // (BLOCKS - 1))
            digest.update(file.read(BLOCK))
