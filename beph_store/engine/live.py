"""How far a running ingest is, for others to see: a small file beside its record, renewed every two seconds.

``S/runs/<run>.progress`` holds it and ``S/runs/<run>.lock`` is locked while the run's process lives, so that a run that
was killed is told from one that computes. Both go when the run ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from filelock import FileLock, Timeout

from beph_store.engine.pipeline import Clocks
from beph_store.engine.report import Progress
from beph_store.records import SlideOutcome
from beph_store.store.layout import Layout

SECONDS = 2.0
#: Rates are those of the last half minute; a stage that works for so much of it does not wait for another.
_WINDOW_SECONDS = 30.0
_HARDLY_WAITS = 0.8
#: Where a lock cannot be asked about, a run that has written within so many seconds is taken for alive.
_HEARD_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class RunProgress:
    """``done`` of ``total`` tiles; slides that were not opened yet are taken for average ones, None before the first.

    ``per_second`` and ``bottleneck`` (read, encode, keep or write) are of the last half minute, None before anything
    was encoded. ``slides`` in all, ``ended`` of them, by how they ended.
    """

    done: int
    total: int | None
    per_second: float | None
    eta_seconds: float | None
    bottleneck: str | None
    slides: int
    ended: dict[str, int]
    unit: str = "tiles"


@runtime_checkable
class Follower(Protocol):
    """A ``Progress`` that also wants to hear every two seconds how far the run is."""

    def measured(self, progress: RunProgress) -> None:
        """Told from a thread of its own."""


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    done: int
    busy: dict[str, float]


@dataclass(slots=True)
class Meter:
    """Counts what it is told, and tells ``inner`` the same."""

    inner: Progress
    clocks: Clocks = field(default_factory=Clocks)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _slides: int = 0
    _left: int = 0  # slides whose tiles are not known yet
    _open: dict[str, tuple[int, int]] = field(default_factory=dict)  # tiles to encode, and encoded
    _opened: list[int] = field(default_factory=list)  # tiles to encode of every slide that was opened
    _over: int = 0  # tiles encoded of slides that are over
    _ended: dict[str, int] = field(default_factory=dict)
    _samples: deque[_Sample] = field(default_factory=deque)

    def planned(self, slides: int, skipped: int) -> None:
        """So many slides in all; some may have ended already."""
        with self._lock:
            self._slides = slides
            self._left = slides - sum(self._ended.values())
        self.inner.planned(slides, skipped)

    def started(self, slide_id: str, tiles: int, resumed: int) -> None:
        """The tiles of a slide are known."""
        with self._lock:
            self._open[slide_id] = (tiles - resumed, 0)
            self._opened.append(tiles - resumed)
            self._left -= 1
        self.inner.started(slide_id, tiles, resumed)

    def advanced(self, slide_id: str, tiles: int) -> None:
        """More of them are encoded."""
        with self._lock:
            if slide_id in self._open:
                todo, done = self._open[slide_id]
                self._open[slide_id] = (todo, done + tiles)
        self.inner.advanced(slide_id, tiles)

    def finished(self, outcome: SlideOutcome) -> None:
        """A slide is over; of one that failed the rest is not awaited any more."""
        with self._lock:
            self._ended[outcome.status] = self._ended.get(outcome.status, 0) + 1
            known = self._open.pop(outcome.slide_id, None)
            if known is None:
                self._left -= 1
            else:
                self._over += known[1]
        self.inner.finished(outcome)

    def measure(self) -> RunProgress:
        """How far it is now; call it every now and then, for the rates."""
        with self._lock:
            done = self._over + sum(encoded for _, encoded in self._open.values())
            known = self._over + sum(todo for todo, _ in self._open.values())
            left, slides, ended = max(0, self._left), self._slides, dict(self._ended)
            mean = sum(self._opened) / len(self._opened) if self._opened else None
        total = known if not left else None if mean is None else round(known + left * mean)
        first, last = self._sampled(done)
        seconds = last.at - first.at
        rate = (last.done - first.done) / seconds if seconds > 0 and last.done > first.done else None
        eta = (total - done) / rate if rate and total is not None else None
        return RunProgress(done, total, rate, eta, _bottleneck(first, last), slides, ended)

    def _sampled(self, done: int) -> tuple[_Sample, _Sample]:
        """The oldest sample that still counts, and one of now."""
        clocks = self.clocks
        busy = {"encode": clocks.encode, "keep": clocks.keep.busy, "write": clocks.write.busy}
        now = _Sample(time.monotonic(), done, busy)
        samples = self._samples
        while len(samples) > 1 and samples[1].at < now.at - _WINDOW_SECONDS:
            samples.popleft()
        samples.append(now)
        return samples[0], now


def _bottleneck(first: _Sample, last: _Sample) -> str | None:
    """The stage of ours that hardly waits; where each of them does, the readers are what is waited for."""
    seconds = last.at - first.at
    if seconds <= 0 or last.done == first.done:
        return None
    shares = {stage: (spent - first.busy[stage]) / seconds for stage, spent in last.busy.items()}
    busiest = max(shares, key=lambda stage: shares[stage])
    return busiest if shares[busiest] >= _HARDLY_WAITS else "read"


@contextlib.contextmanager
def shown(layout: Layout, run: str, meter: Meter) -> Iterator[None]:
    """While inside, the run can be seen from outside: see ``look``."""
    layout.live.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as lock:
        with contextlib.suppress(OSError, NotImplementedError):  # a file system without locks: see `look`
            lock.enter_context(FileLock(_lock(layout, run), timeout=5, thread_local=False))
        ended = threading.Event()
        thread = threading.Thread(target=_tell, args=(layout, run, meter, ended), name="live", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            _file(layout, run).unlink(missing_ok=True)
    _lock(layout, run).unlink(missing_ok=True)


def _tell(layout: Layout, run: str, meter: Meter, ended: threading.Event) -> None:
    while True:
        over = ended.is_set()
        progress = meter.measure()
        # A full disk will be told by those who write embeddings; here it only hides how far they are.
        with contextlib.suppress(OSError):
            _write(_file(layout, run), dataclasses.asdict(progress) | {"at": time.time()})
        if isinstance(meter.inner, Follower):
            meter.inner.measured(progress)
        if over:
            return
        ended.wait(SECONDS)


def _write(path: Path, data: dict[str, Any]) -> None:
    """Whole or not at all, but not flushed to the disk: after a power cut nobody asks for it."""
    aside = path.with_name(f".{path.name}")
    aside.write_text(json.dumps(data), encoding="utf-8")
    aside.replace(path)


def look(layout: Layout, run: str) -> tuple[bool, dict[str, Any] | None]:
    """Whether the process of a run lives, and what it last wrote: ``RunProgress`` and ``at``, Unix time."""
    try:
        told = json.loads(_file(layout, run).read_bytes())
    except (OSError, ValueError):
        told = None
    return _lives(layout, run), told if isinstance(told, dict) else None


def _lives(layout: Layout, run: str) -> bool:
    path = _lock(layout, run)
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0, thread_local=False):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):  # not ours to lock
        with contextlib.suppress(OSError):
            return time.time() - _file(layout, run).stat().st_mtime < _HEARD_SECONDS
        return False


def _file(layout: Layout, run: str) -> Path:
    return layout.live / f"{run}.progress"


def _lock(layout: Layout, run: str) -> Path:
    return layout.live / f"{run}.lock"
