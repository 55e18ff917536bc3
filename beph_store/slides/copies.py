"""Local copies of slides in object storage: files of full size of which only the needed blocks have been fetched.

A copy has each byte where the object has it, so that the same readers open it. Which blocks are there is written in a
map beside it, after they are: a process that is killed leaves a copy that another one goes on with.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import numpy as np

from beph_store.errors import BephStoreError, SlideError
from beph_store.slides.listing import parts
from beph_store.slides.remote import PARALLEL, Remote, Staging, current, read_range
from beph_store.slides.ring import Entry, Ring, digest

#: What is fetched at least, and what one request asks for at most.
BLOCK, REQUEST = 16 << 10, 2 << 20
#: Gaps up to this are fetched with what lies around them: a request costs more.
GAP = 64 << 10
#: With ``auto`` a slide is copied whole if it is no larger, or if more than this share of it is needed. Measured: up to
#: 24 MB whole copies were quicker, at 79 MB and above ranges (decision 19).
SMALL, RANGES_BELOW = 32 << 20, 0.9

Span = tuple[int, int]
"""(offset, bytes)."""


class SparseFile:
    """One object's copy: ``path`` has its size, ``map`` one byte a block, not 0 where that is there."""

    def __init__(self, item: Remote, path: Path, map_path: Path) -> None:
        self.item, self.path = item, path
        self.blocks = -(-item.size // BLOCK)
        self._file = os.open(path, os.O_RDWR)
        with map_path.open("ab") as empty:
            empty.truncate(max(1, self.blocks))
        with map_path.open("r+b") as file:
            self._mmap = mmap.mmap(file.fileno(), max(1, self.blocks))
        self._map = np.frombuffer(self._mmap, np.uint8)[: self.blocks]
        self._lock = threading.Lock()

    def has(self, offset: int, count: int) -> bool:
        """Whether these bytes are there."""
        return bool(self._map[offset // BLOCK : -(-(offset + count) // BLOCK)].all())

    @property
    def held(self) -> int:
        """Bytes that are there."""
        return int(np.count_nonzero(self._map)) * BLOCK

    def missing(self, spans: Sequence[Span]) -> list[tuple[int, int]]:
        """(start, end) of requests that bring what of ``spans`` is not there, in the order of the file."""
        wanted = np.zeros(self.blocks + 1, np.int32)
        for offset, count in spans:
            if count > 0:
                wanted[min(offset // BLOCK, self.blocks)] += 1
                wanted[min(-(-(offset + count) // BLOCK), self.blocks)] -= 1
        need = (np.cumsum(wanted[:-1]) > 0) & (self._map == 0)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], need.view(np.int8), [0]])))
        runs: list[list[int]] = []
        for start, end in edges.reshape(-1, 2).tolist():
            if runs and (start - runs[-1][1]) * BLOCK <= GAP:
                runs[-1][1] = end
            else:
                runs.append([start, end])
        step = REQUEST // BLOCK
        pieces = [(at, min(at + step, end)) for start, end in runs for at in range(start, end, step)]
        return [(a * BLOCK, min(b * BLOCK, self.item.size)) for a, b in pieces]

    def put(self, start: int, data: bytes) -> None:
        """Write what was fetched, then say so. Raises OSError."""
        done = 0
        with self._lock:  # a descriptor that was closed may be another file's by now
            while done < len(data) and self._file >= 0:
                done += os.pwrite(self._file, memoryview(data)[done:], start + done)
            self._map[start // BLOCK : -(-(start + len(data)) // BLOCK)] = 1

    def close(self) -> None:
        """Let go of the file and its map."""
        with self._lock:
            os.close(self._file)
            self._file = -1
            self._map = np.zeros(self.blocks, np.uint8)
        with suppress(BufferError):  # a thread looks at it still; it goes with that
            self._mmap.close()


class Copy:
    """A slide's files in the ring, pinned until ``close``. Usable from several threads."""

    def __init__(self, slide: Remote, staging: Staging, ring: Ring | None = None) -> None:
        self.slide = slide
        self._alive = staging.alive
        self._whole_only = staging.reads == "whole"
        self._ranges_only = staging.reads == "ranges"
        files = parts(slide)
        self._ring = ring or Ring(staging.cache_bytes)
        name = _name(slide, [item for _, item in files])
        sizes = [(path, item.size) for path, item in files]
        self._entry: Entry = self._ring.take(name, sizes, ahead=staging.ahead)
        self._files = [
            SparseFile(item, self._entry.folder / "files" / path, self._entry.folder / f"map-{number}")
            for number, (path, item) in enumerate(files)
        ]
        self.path = self._files[0].path
        self._closing = threading.Event()
        self._soon: threading.Thread | None = None

    @property
    def single(self) -> bool:
        """Whether the slide is one file."""
        return len(self._files) == 1

    @property
    def complete(self) -> bool:
        """Whether all of it is there."""
        return all(file.has(0, file.item.size) for file in self._files)

    @property
    def in_parts(self) -> bool:
        """Whether it may be read before all of it is there."""
        small = self.slide.size <= SMALL and not self._ranges_only
        return self.single and not small and not self._whole_only

    def whole(self) -> Path:
        """Fetch what is missing of all files; the path of the slide."""
        for file in self._files:
            self._fetch(file, [(0, file.item.size)])
        return self.path

    def want(self, spans: Sequence[Span]) -> None:
        """Have these bytes of the slide's file, or more, on disk.

        Raises SlideChanged, SlideError and ObjectStorageError.
        """
        file = self._files[0]
        if not self._ranges_only and sum(count for _, count in spans) > RANGES_BELOW * file.item.size:
            spans = [(0, file.item.size)]
        self._fetch(file, spans)

    def want_soon(self, spans: Sequence[Span]) -> None:
        """``want`` in a thread. What fails there is tried again by whoever needs it, and told there."""

        def fetch() -> None:
            with suppress(BephStoreError, OSError):
                self.want(spans)

        # Not waited for: it ends with the copy.
        self._soon = threading.Thread(target=fetch, name="fetch", daemon=True)
        self._soon.start()

    def ensure(self, offset: int, count: int) -> None:
        """``want`` one span, quick where it is there."""
        if not self._files[0].has(offset, count):
            self.want([(offset, count)])

    def close(self) -> None:
        """Unpin; what is being fetched ends soon."""
        self._closing.set()
        for file in self._files:
            file.close()
        self._entry.release()

    def __enter__(self) -> Copy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _fetch(self, file: SparseFile, spans: Sequence[Span]) -> None:
        while file.missing(spans):
            if self._closing.is_set():
                raise SlideError(f"{self.slide.name} was closed meanwhile", path=self.slide.url)
            if not self._comes_soon():
                with self._entry.filling() as ours:
                    if ours:
                        self._fill(file, file.missing(spans))
                        return
            self._tell()
            time.sleep(0.01)

    def _comes_soon(self) -> bool:
        """Whether another thread is about to fetch many: one by one we would always be first, and it never."""
        return (
            self._soon is not None and self._soon.is_alive() and self._soon is not threading.current_thread()
        )

    def _fill(self, file: SparseFile, requests: list[tuple[int, int]]) -> None:
        needed = sum(each.held for each in self._files) + sum(end - start for start, end in requests)
        most = sum(each.blocks for each in self._files) * BLOCK
        self._entry.reserve(min(needed, most), self._alive)
        if len(requests) < 2:
            for request in requests:
                self._bring(file, request)
            return
        failed = threading.Event()

        def bring(request: tuple[int, int]) -> None:
            if failed.is_set() or self._closing.is_set():
                return
            try:
                self._bring(file, request)
            except BaseException:
                failed.set()
                raise

        with ThreadPoolExecutor(min(PARALLEL, len(requests))) as threads:
            for _ in threads.map(bring, requests):
                self._tell()

    def _bring(self, file: SparseFile, request: tuple[int, int]) -> None:
        data = read_range(file.item, *request)
        try:
            file.put(request[0], data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._ring.give_disk()
            self._again(file, request[0], data)

    def _again(self, file: SparseFile, start: int, data: bytes) -> None:
        try:
            file.put(start, data)
        except OSError as error:
            raise SlideError(
                f"no space left for slides in {self._ring.folder}: make room there, or set BEPH_STORE_SLIDE_CACHE to "
                "a folder on another disk",
                path=self.slide.url,
            ) from error

    def _tell(self) -> None:
        if self._alive is not None:
            self._alive()


def _name(slide: Remote, files: Sequence[Remote]) -> str:
    """Begins with the slide's version, so that it is found without knowing its other files."""
    return f"{digest([slide])}-{digest(files)}"


def forget(slides: Sequence[Remote]) -> None:
    """Remove the copies of these slides, but those in use."""
    Ring(0).forget([digest([slide]) for slide in slides])


@contextmanager
def local_copy(path: str | Path | Remote, staging: Staging | None = None) -> Iterator[Path]:
    """A path that other tools can open: of an address in object storage a whole copy, kept until the end of the block.

    Raises SlideUnreadable, SlideError, ObjectStorageError and UsageError.
    """
    from beph_store.objects import is_url

    if isinstance(path, str) and is_url(path):
        path = current(path)
    if not isinstance(path, Remote):
        yield Path(path)
        return
    with Copy(path, staging or Staging()) as copy:
        yield copy.whole()
