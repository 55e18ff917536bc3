"""Broken slides through the real `ingest`: each has to end as done, empty or failed with a reason, and soon."""

import contextlib
import itertools
import multiprocessing
import re
import shutil
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from beph_store.engine import readers
from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.store import Store, verify

#: Slides of one `ingest`; afterwards their files are deleted again.
BATCH = 100
TILES = 3


@dataclass
class Findings:
    """``inputs`` by how they ended, ``limited`` of them by the memory that a reader may take.

    ``blank`` tiles were taken for read and are of one colour.
    """

    inputs: Counter[str] = field(default_factory=Counter)
    crashes: int = 0
    hangs: int = 0
    limited: int = 0
    blank: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    peak_reader_mb: float = 0.0

    @property
    def total(self) -> int:
        return sum(self.inputs.values())


def run(
    inputs: Iterable[tuple[str, bytes]],
    folder: Path,
    found: Findings,
    *,
    slide_mpp: float | None = None,
    patience: float = 30.0,
) -> None:
    """Ingest every input, a batch at a time; a reader that does nothing for ``patience`` seconds counts as hung."""
    readers.STALL_SECONDS = patience
    for number, batch in enumerate(_batches(inputs)):
        slides = folder / f"slides-{number}"
        slides.mkdir(parents=True)
        for at, (name, data) in enumerate(batch):
            (slides / f"{at:03d}-{name}").write_bytes(data)
        ingest_folder(slides, folder / f"S-{number}", found, slide_mpp)
        shutil.rmtree(slides)
        shutil.rmtree(folder / f"S-{number}")


def ingest_folder(slides: Path, store: Path, found: Findings, slide_mpp: float | None = None) -> None:
    """One run over a folder, and what came of it into ``found``."""
    options = IngestOptions(limit_tiles=TILES, keep_tiles=True, workers=2)
    with _peak_of_readers(found):
        report = ingest([slides], store, options=options, slide_mpp=slide_mpp)
    for outcome in report.slides:
        found.inputs[outcome.status] += 1
        if outcome.status == "failed":
            _judge(outcome.slide_id, outcome.error, found)
    opened = Store.open(store)
    checked = verify(opened)
    assert checked.ok, checked.problems
    kept = opened.pixels(report.recipe)
    for slide, count in zip(kept.slides, kept.counts, strict=True):
        good = np.flatnonzero(opened.slide_rows(opened.slide(report.recipe, slide)).ok[: int(count)])
        tiles = kept.read(slide, good.tolist()) if len(good) else ()
        found.blank += [slide for tile in tiles if np.ptp(tile.reshape(-1, 3), axis=0).max() == 0]


@contextlib.contextmanager
def _peak_of_readers(found: Findings) -> Iterator[None]:
    """The most that a reader held. Not ``ru_maxrss`` of children: there a child begins with what its parent held."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            for process in multiprocessing.active_children():
                with contextlib.suppress(OSError):
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    held = re.search(r"VmHWM:\s+(\d+) kB", status)
                    found.peak_reader_mb = max(found.peak_reader_mb, int(held[1]) / 1024 if held else 0.0)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _judge(slide: str, error: str | None, found: Findings) -> None:
    if not error or "\n" in error:
        found.silent.append(slide)
        return
    found.crashes += "signal" in error or "exit code" in error
    found.hangs += "did nothing for" in error
    found.limited += "of memory that a reader may use" in error
    found.reasons[_kind(error, slide)] += 1


def _kind(error: str, slide: str) -> str:
    """A reason without what is the slide's own: its name, and numbers."""
    return re.sub(r"\d+", "N", error.replace(Path(slide).name, "SLIDE"))[:90]


def _batches(inputs: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    iterator = iter(inputs)
    while batch := list(itertools.islice(iterator, BATCH)):
        yield batch
