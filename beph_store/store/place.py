"""A place is a path on a disk, or one in a bucket: `ObjectPath` has what the store uses of a path, over obstore.

Object storage has no folders: one is there while an object lies under it, ``mkdir`` does nothing and nothing can be
renamed. It has what a disk lacks: a whole object is put at once or not at all, and a put can be made to fail where
the object exists already or has changed (``put_new``, ``swap``). Errors are FileNotFoundError and ObjectStorageError,
an OSError.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from beph_store.errors import UsageError
from beph_store.objects import address_in, open_bucket, parse, translated

#: Requests that are under way at once where many objects are moved.
_AT_ONCE = 8
#: What Lance would not find again: it reads an address as a URL.
_UNSAFE = re.compile(r"[#?%\x00-\x1f]")


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """``st_size`` in bytes, ``st_mtime_ns`` by the server's clock, ``e_tag`` and ``version`` for `ObjectPath.swap`."""

    st_size: int
    st_mtime_ns: int
    e_tag: str | None = None
    version: str | None = None

    @property
    def st_mtime(self) -> float:
        """Seconds since 1970, by the server's clock."""
        return self.st_mtime_ns / 1e9


@dataclass(frozen=True, slots=True, order=True)
class ObjectPath:
    """An address as a path: ``str()`` is what Lance takes. Cheap to make and to pickle; holds no connection."""

    url: str
    #: What a listing said of the object, so that its size costs no further request.
    _listed: ObjectStat | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, other: str | PurePosixPath | Path) -> ObjectPath:
        below = PurePosixPath(other).as_posix()
        return ObjectPath(f"{self.url.rstrip('/')}/{below}")

    @property
    def name(self) -> str:
        """The last part; the bucket at the top."""
        return self.url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """``name`` without its last suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The last suffix of ``name``."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> ObjectPath:
        """The folder; the bucket is its own."""
        return self if self.url.count("/") == 2 else ObjectPath(self.url.rpartition("/")[0])

    def with_name(self, name: str) -> ObjectPath:
        """Beside this, under another name."""
        return self.parent / name

    def with_suffix(self, suffix: str) -> ObjectPath:
        """With another last suffix."""
        return self.with_name(self.stem + suffix)

    def resolve(self) -> ObjectPath:
        """Itself: an address is absolute."""
        return self

    def relative_to(self, other: ObjectPath) -> PurePosixPath:
        """The parts below ``other``."""
        return PurePosixPath(self.url).relative_to(PurePosixPath(other.url))

    def is_file(self) -> bool:
        """Whether there is such an object."""
        try:
            self._head()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Whether an object lies below."""
        return any(True for _ in self._below(chunk=1))

    def exists(self) -> bool:
        """Whether it is an object or a folder."""
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator[ObjectPath]:
        """Objects and folders directly below; nothing where there is none."""
        import obstore

        store, key = open_bucket(self.url)
        with translated(self.url):
            found = obstore.list_with_delimiter(store, f"{key}/" if key else None)
        for folder in found["common_prefixes"]:
            yield self / str(folder).rpartition("/")[2]
        for meta in found["objects"]:
            yield self._child(meta)

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        """As of a path, without ``**``."""
        first, _, rest = pattern.partition("/")
        for path in self.iterdir():
            if fnmatch.fnmatchcase(path.name, first):
                if rest:
                    yield from path.glob(rest)
                else:
                    yield path

    def rglob(self, pattern: str) -> Iterator[ObjectPath]:
        """Every object below whose name matches; folders are none."""
        for path in self._below():
            if fnmatch.fnmatchcase(path.name, pattern):
                yield path

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder is there as soon as something is in it."""

    def stat(self) -> ObjectStat:
        """Size, time and tag; FileNotFoundError where there is no such object."""
        return self._listed or self._head()

    def read_bytes(self) -> bytes:
        """The whole object."""
        return self.read_tagged()[0]

    def read_tagged(self) -> tuple[bytes, ObjectStat]:
        """The whole object, and what `swap` needs to replace exactly this state of it."""
        import obstore

        store, key = open_bucket(self.url)
        with translated(self.url):
            found = obstore.get(store, key)
            return bytes(found.bytes()), _stat(found.meta)

    def read_range(self, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``."""
        import obstore

        store, key = open_bucket(self.url)
        with translated(self.url):
            return bytes(obstore.get_range(store, key, start=start, length=length))

    def read_text(self, encoding: str = "utf-8") -> str:
        """The whole object as text."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, data: bytes) -> int:
        """Put the object: afterwards it is there whole, or as it was before."""
        self._put(data)
        return len(data)

    def write_text(self, text: str, encoding: str = "utf-8") -> int:
        """Put the object."""
        return self.write_bytes(text.encode(encoding))

    def put_new(self, data: bytes) -> bool:
        """Put the object unless there is one; whether ``data`` is what is there now.

        Where an answer was lost the client's second try finds its own object: give every writer other bytes.
        """
        from obstore.exceptions import AlreadyExistsError

        try:
            self._put(data, mode="create")
        except AlreadyExistsError:
            with suppress(FileNotFoundError):
                return self.read_bytes() == data
            return False
        return True

    def swap(self, data: bytes, seen: ObjectStat) -> bool:
        """Put the object if it is still as it was ``seen``; whether ``data`` is what is there now."""
        from obstore.exceptions import PreconditionError

        tags = {"e_tag": seen.e_tag, "version": seen.version}
        try:
            self._put(data, mode={name: tag for name, tag in tags.items() if tag is not None})
        except (PreconditionError, FileNotFoundError):
            with suppress(FileNotFoundError):
                return self.read_bytes() == data
            return False
        return True

    def upload(self, path: Path) -> None:
        """Put a file, in parts where it is large; it is there when all of it is."""
        import obstore

        store, key = open_bucket(self.url)
        with translated(self.url), path.open("rb") as file:
            obstore.put(store, key, file)

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object; one that is not there is deleted already, whatever ``missing_ok`` says."""
        import obstore

        store, key = open_bucket(self.url)
        with translated(self.url), suppress(FileNotFoundError):
            obstore.delete(store, key)

    def _put(self, data: bytes, **options: Any) -> None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        store, key = open_bucket(self.url)
        with translated(self.url, but=(AlreadyExistsError, PreconditionError)):
            obstore.put(store, key, data, use_multipart=False, **options)

    def _head(self) -> ObjectStat:
        import obstore

        store, key = open_bucket(self.url)
        if not key:
            raise FileNotFoundError(2, "a bucket is no object", self.url)
        with translated(self.url):
            return _stat(obstore.head(store, key))

    def _below(self, chunk: int = 1000) -> Iterator[ObjectPath]:
        import obstore

        store, key = open_bucket(self.url)
        with translated(self.url):
            for part in obstore.list(store, f"{key}/" if key else None, chunk_size=chunk):
                for meta in part:
                    yield self._child(meta)

    def _child(self, meta: Any) -> ObjectPath:
        address = parse(self.url)
        return ObjectPath(f"{address.scheme}://{address.bucket}/{meta['path']}", _stat(meta))

    def remove_below(self) -> None:
        """Delete every object below."""
        import obstore

        store, _ = open_bucket(self.url)
        keys = [parse(path.url).key for path in self._below()]
        with translated(self.url), suppress(FileNotFoundError):
            for at in range(0, len(keys), 1000):
                obstore.delete(store, keys[at : at + 1000])


Place = Path | ObjectPath


def place(where: str | Place) -> Place:
    """A path, or an `ObjectPath` for s3://, gs:// and az://. UsageError for an address that cannot be meant."""
    if isinstance(where, ObjectPath):
        return where
    url = address_in(where)
    if url is None:
        return Path(where)
    address = parse(url)
    if _UNSAFE.search(address.key):
        raise UsageError(f"{url}: a store's address must not have any of # ? % in it")
    return ObjectPath(str(address))


def is_remote(where: Place) -> bool:
    """Whether a place is in object storage."""
    return isinstance(where, ObjectPath)


def children(folder: Place, pattern: str) -> list[Place]:
    """What ``glob`` finds in a folder, in the order of the names."""
    found: list[Place] = [*folder.glob(pattern)]
    return sorted(found, key=str)


def measure(root: Place) -> tuple[int, int]:
    """Number of files under a folder and their bytes; what others remove meanwhile is passed over."""
    if isinstance(root, ObjectPath):
        sizes = [path.stat().st_size for path in root.rglob("*")]
    else:
        sizes = [size for file in _files_below(root) if (size := _size_of(file)) is not None]
    return len(sizes), sum(sizes)


def _files_below(folder: Path) -> Iterator[str]:
    for directory, _, names in os.walk(folder):  # unlike Path.rglob it bears folders that vanish
        yield from (os.path.join(directory, name) for name in names)  # noqa: PTH118 - bytes names stay as they are


def _size_of(file: str) -> int | None:
    try:
        return os.stat(file).st_size  # noqa: PTH116
    except FileNotFoundError:
        return None


def remove_tree(where: Place) -> None:
    """Delete a folder with all in it, as far as that can be done: leftovers are nobody's truth."""
    if isinstance(where, ObjectPath):
        with suppress(OSError):
            where.remove_below()
    else:
        shutil.rmtree(where, ignore_errors=True)


def local_copy(where: Place, folder: Path) -> Path:
    """The file itself, or a copy of the object in ``folder``, made once: for objects named by their content."""
    if isinstance(where, Path):
        return where
    path = folder / where.name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        aside.write_bytes(where.read_bytes())
        aside.replace(path)
    return path


def put_folder(local: Path, where: ObjectPath, *, last: str) -> None:
    """Put every file of a local folder below ``where``, the one called ``last`` when all others are there.

    What else is there goes afterwards.
    """
    before = set(where.rglob("*"))
    files = [path for path in sorted(local.rglob("*")) if path.is_file()]
    ends = [path for path in files if path.relative_to(local).as_posix() == last]
    each(lambda path: (where / path.relative_to(local)).upload(path), [p for p in files if p not in ends])
    for path in ends:
        (where / last).upload(path)
    for gone in before - {where / path.relative_to(local) for path in files}:
        gone.unlink()


def each(function: Any, items: Iterable[Any]) -> list[Any]:
    """``function`` of every item, several at once, in their order."""
    listed = list(items)
    if len(listed) < 2:
        return [function(item) for item in listed]
    with ThreadPoolExecutor(min(_AT_ONCE, len(listed))) as pool:
        return list(pool.map(function, listed))


def _stat(meta: Any) -> ObjectStat:
    changed = int(meta["last_modified"].timestamp() * 1e9)
    return ObjectStat(int(meta["size"]), changed, meta.get("e_tag"), meta.get("version"))
