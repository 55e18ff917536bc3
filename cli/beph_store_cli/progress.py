"""Progress of an ingest on stderr: bars with an ETA on a terminal, a plain line a slide elsewhere."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from beph_store.records import SlideOutcome
from beph_store_cli.render import console, spelled


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """One bar on stderr, moved by calling with (done, total); nothing where there is no terminal."""
    shown = console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


class IngestProgress:
    """Implements ``beph_store.engine.report.Progress``; a context manager."""

    def __init__(self) -> None:
        self._console = console(stderr=True)
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._lock = threading.Lock()
        self._slides: dict[str, TaskID] = {}
        self._total: TaskID | None = None
        self._left = 0  # slides whose tiles are not known yet
        self._tiles: list[int] = []  # tiles to encode of each slide that is known
        self._ended = 0
        self._planned = 0

    def __enter__(self) -> IngestProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def planned(self, slides: int, skipped: int) -> None:
        """Begin the bar of the whole run."""
        with self._lock:
            self._planned, self._left = slides, slides - self._ended
            if self._left:
                self._total = self._bars.add_task(f"all {slides} slides", total=1.0, unit="tiles", rate="")
            if skipped and slides > skipped:
                self._say(f"{skipped} of {slides} slides are in the store already")

    def started(self, slide_id: str, tiles: int, resumed: int) -> None:
        """Begin a slide's bar."""
        with self._lock:
            name = spelled(slide_id)
            name = name if len(name) <= 36 else f"…{name[-35:]}"
            self._slides[slide_id] = self._bars.add_task(
                name, total=tiles, completed=resumed, unit="tiles", rate=""
            )
            if resumed:
                self._say(f"{slide_id}: going on after {resumed:,} of {tiles:,} tiles")
            self._tiles.append(tiles - resumed)
            self._left -= 1
            self._estimate()

    def advanced(self, slide_id: str, tiles: int) -> None:
        """Move the bars on."""
        with self._lock:
            if slide_id in self._slides:
                self._bars.advance(self._slides[slide_id], tiles)
            if self._total is not None:
                self._bars.advance(self._total, tiles)
                speed = self._bars.tasks[self._bars.task_ids.index(self._total)].speed
                self._bars.update(self._total, rate=f"{speed:,.0f}/s" if speed else "")

    def finished(self, outcome: SlideOutcome) -> None:
        """End a slide's bar, and say how it went unless it was there before."""
        with self._lock:
            self._ended += 1
            task = self._slides.pop(outcome.slide_id, None)
            if task is not None:
                self._bars.remove_task(task)
            else:
                self._left -= 1
                self._estimate()
            if outcome.status == "failed":
                self._say(f"{outcome.slide_id}: failed: {outcome.error}")
            elif outcome.status != "skipped":
                self._say(
                    f"{outcome.slide_id}: {outcome.status}, {outcome.tiles:,} tiles, {outcome.seconds:.1f} s"
                )

    def _estimate(self) -> None:
        """Slides not opened yet are taken for average ones."""
        if self._total is not None and self._tiles:
            known = sum(self._tiles)
            self._bars.update(self._total, total=known + max(0, self._left) * known / len(self._tiles))

    def _say(self, line: str) -> None:
        line = spelled(line)
        if self._console.is_terminal:
            self._bars.console.print(line)
        else:
            sys.stderr.write(line + "\n")
