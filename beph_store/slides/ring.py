"""Local disk that slides from object storage pass through: bounded, shared by processes, safe to kill.

    R/lock                    held for a moment by whoever changes what is below
    R/<digest>/entry.json     which version of which slide, since which boot of the machine
    R/<digest>/pin            locked (shared) by all who use it; whoever gets it alone may remove it
    R/<digest>/fill           locked by the one who fetches
    R/<digest>/reserved       bytes that it may take
    R/<digest>/unread         fetched ahead, and not asked for yet
    R/<digest>/files/…, map-… see ``sparse``

The kernel frees the locks of a killed process. What it had fetched stays, and the next one that wants the slide goes on
from there; after a restart of the machine nothing is believed, because the disk may have lost what was not synced.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from beph_store.errors import SlideError, UsageError
from beph_store.slides.remote import Remote

VARIABLE = "BEPH_STORE_SLIDE_CACHE"
#: Share of the free disk that is taken if nothing is said.
SHARE = 0.25
#: What nobody has used for so long goes, whether there is room or not.
KEEP_S = 24 * 3600.0
#: So long a slide waits for others to make room.
WAIT_S = 1800.0
#: What an entry is counted for before it is known how much of it is needed.
LEAST = 1 << 20


def ring_folder() -> Path:
    """$BEPH_STORE_SLIDE_CACHE, or a folder of this user's in $TMPDIR, /var/tmp (on disk, /tmp often is not) or /tmp."""
    if not hasattr(os, "getuid"):
        raise UsageError("slides are read from object storage on Linux and macOS only")
    named = os.environ.get(VARIABLE)
    if named:
        folder = Path(named).expanduser().absolute()
    else:
        disk = "/var/tmp" if os.access("/var/tmp", os.W_OK) else tempfile.gettempdir()
        folder = Path(os.environ.get("TMPDIR") or disk, f"beph-store-slides-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.lstat().st_uid
    except OSError as error:
        raise UsageError(f"the slide cache {folder}: {error.strerror}; set {VARIABLE}") from error
    if not named and owner != os.getuid():
        raise UsageError(
            f"the slide cache {folder} is another user's: set {VARIABLE} to a folder of your own"
        )
    return folder


def digest(files: Sequence[Remote]) -> str:
    """Names versions of objects."""
    said = [(item.url, item.size, item.mtime_ns, item.etag) for item in files]
    return hashlib.sha256(repr(said).encode()).hexdigest()[:24]


@dataclass(slots=True, eq=False)
class Entry:
    """A slide's place in the ring, pinned until ``release``."""

    folder: Path
    ring: Ring
    ahead: bool
    pin: BinaryIO | None
    reserved: int = 0

    def reserve(self, nbytes: int, alive: Callable[[], None] | None = None) -> None:
        """Make room for ``nbytes`` in all. Raises SlideError where there cannot be any."""
        if nbytes > self.reserved:
            self.ring.make_room(self, nbytes, alive)

    @contextlib.contextmanager
    def filling(self) -> Iterator[bool]:
        """Whether it is ours alone to fetch now; False: somebody else is at it."""
        with (self.folder / "fill").open("ab") as file:
            yield _lock(file, alone=True)

    def release(self) -> None:
        """Others may remove it from now on; again is harmless."""
        if self.pin is not None:
            with contextlib.suppress(OSError):
                os.utime(self.folder / "pin")
            self.pin.close()
            self.pin = None


class Ring:
    """The ring in ``folder``, of at most ``limit`` bytes (None: a quarter of the free disk)."""

    def __init__(self, limit: int | None = None, folder: Path | None = None) -> None:
        self.folder = folder or ring_folder()
        self._boot = _boot()
        with self._locked():
            self._sweep()
            free = shutil.disk_usage(self.folder).free
            self.limit = limit if limit is not None else int(SHARE * (free + self._taken()))

    def take(self, name: str, files: Sequence[tuple[str, int]], *, ahead: bool = False) -> Entry:
        """Pin the entry ``name``, made now with empty ``files`` (path, bytes) unless it is there."""
        folder = self.folder / name
        with self._locked():
            if folder.exists() and not self._believed(folder):
                self._remove(folder)
            if not folder.exists():
                self._make(folder, files, ahead)
            pin = (folder / "pin").open("ab")
            _lock(pin, alone=False)
            if not ahead:
                (folder / "unread").unlink(missing_ok=True)
        return Entry(folder, self, ahead, pin, _reserved(folder))

    def make_room(self, entry: Entry, nbytes: int, alive: Callable[[], None] | None) -> None:
        """See ``Entry.reserve``."""
        if nbytes > self.limit:
            raise SlideError(
                f"it needs {gb(nbytes)} of local disk, and the slide cache {self.folder} may take {gb(self.limit)}: "
                "pass a larger --slide-cache-gb"
            )
        end = time.monotonic() + WAIT_S
        while not self._room(entry, nbytes):
            if alive is not None:
                alive()
            if time.monotonic() > end:
                raise SlideError(
                    f"the slide cache {self.folder} of {gb(self.limit)} is full of slides in use: pass a larger "
                    "--slide-cache-gb"
                )
            time.sleep(0.1)

    def _room(self, entry: Entry, nbytes: int) -> bool:
        with self._locked():
            now = _reserved(entry.folder)
            short = self._taken() - now + nbytes - self.limit
            for other in self._removable(spare_unread=entry.ahead):
                if short <= 0:
                    break
                held = _reserved(other)
                if other != entry.folder and self._remove(other):
                    short -= held
            if short > 0:
                return False
            entry.reserved = max(now, nbytes)
            half = entry.folder / "reserved.new"
            half.write_text(str(entry.reserved))
            half.replace(entry.folder / "reserved")
            return True

    def give_disk(self) -> None:
        """Remove all that nobody uses: the disk is full before the ring is."""
        with self._locked():
            for folder in self._removable(spare_unread=False):
                self._remove(folder)

    def forget(self, beginnings: Sequence[str]) -> None:
        """Remove the entries whose names begin so, but those in use."""
        with self._locked():
            for folder in self._entries():
                if folder.name.startswith(tuple(beginnings)):
                    self._remove(folder)

    def taken(self) -> int:
        """Bytes that are reserved."""
        with self._locked():
            return self._taken()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / "lock").open("ab") as file:
            while not _lock(file, alone=True):
                time.sleep(0.005)
            yield

    def _entries(self) -> list[Path]:
        return [
            path.parent for path in self.folder.glob("*/entry.json") if not path.parent.name.startswith("~")
        ]

    def _taken(self) -> int:
        return sum(map(_reserved, self._entries()))

    def _removable(self, *, spare_unread: bool) -> list[Path]:
        """Entries in the order in which they should go: read ones first, the longest unused of them first."""
        unread = {folder: (folder / "unread").exists() for folder in self._entries()}
        chosen = [folder for folder in unread if not (spare_unread and unread[folder])]
        return sorted(chosen, key=lambda folder: (unread[folder], _last_used(folder)))

    def _make(self, folder: Path, files: Sequence[tuple[str, int]], ahead: bool) -> None:
        """Under a name that ``_sweep`` removes, until it is whole."""
        new = self.folder / f"~new-{uuid.uuid4().hex}"
        for path, size in files:
            file = new / "files" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as empty:
                empty.truncate(size)
        (new / "pin").touch()
        (new / "reserved").write_text(str(LEAST))
        if ahead:
            (new / "unread").touch()
        (new / "entry.json").write_text(json.dumps({"boot": self._boot, "files": list(files)}))
        new.rename(folder)

    def _believed(self, folder: Path) -> bool:
        try:
            said = json.loads((folder / "entry.json").read_text())["boot"]
        except (OSError, ValueError, KeyError):
            return False
        return bool(said) and said == self._boot

    def _remove(self, folder: Path) -> bool:
        """Unless somebody uses it. Renamed first: half of an entry is never seen."""
        try:
            with (folder / "pin").open("ab") as pin:
                if not _lock(pin, alone=True):
                    return False
                gone = self.folder / f"~gone-{uuid.uuid4().hex}"
                folder.rename(gone)
        except OSError:
            gone = folder
        shutil.rmtree(gone, ignore_errors=True)
        return True

    def _sweep(self) -> None:
        for left in self.folder.glob("~*"):
            shutil.rmtree(left, ignore_errors=True)
        for folder in self._entries():
            if not self._believed(folder) or time.time() - _last_used(folder) > KEEP_S:
                self._remove(folder)


def gb(nbytes: float) -> str:
    """For messages."""
    return f"{nbytes / 1e9:.2g} GB" if nbytes < 1e10 else f"{nbytes / 1e9:.0f} GB"


def _lock(file: BinaryIO, *, alone: bool) -> bool:
    """Whether the kernel's lock on an open file is ours now; it goes with the file or the process."""
    import fcntl  # not on Windows, where ``ring_folder`` says so

    try:
        fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _reserved(folder: Path) -> int:
    try:
        return int((folder / "reserved").read_text() or LEAST)
    except (OSError, ValueError):
        return LEAST


def _last_used(folder: Path) -> float:
    try:
        return (folder / "pin").stat().st_mtime
    except OSError:
        return 0.0


def _boot() -> str:
    """Names this boot of the machine; this process where the system does not say, so that it trusts itself alone."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return _PROCESS


_PROCESS = uuid.uuid4().hex
