"""Run a protocol and write what it found."""

from __future__ import annotations

from pathlib import Path

from beph_store.engine.folders import check_folder
from beph_store.engine.protocols import slides, tiles
from beph_store.engine.protocols.options import RunOptions, Tell, settle
from beph_store.engine.protocols.report import render
from beph_store.engine.protocols.results import REPORT, RESULT, Outcome
from beph_store.engine.protocols.table import protocol
from beph_store.engine.provenance import WRITTEN_BY, machine, now, versions
from beph_store.store.durable import write_atomic, write_json

#: Names that a folder of ours may hold.
KNOWN = {RESULT, REPORT, "results", "encoders", "store", "splits", "slides.csv"}


def run(
    name: str, out: str | Path, options: RunOptions, tell: Tell = lambda what, done, total: None
) -> Outcome:
    """The protocol of that name on the user's slides or images, into ``out``; started again, it goes on.

    An encoder that cannot be had, and slides that cannot be read, are in ``Outcome.failed``; the rest of the run is
    there. Raises UsageError for options that cannot be meant, CohortError for labels, splits or images that cannot be
    used, StoreError.
    """
    job = settle(protocol(name), options, Path(out))
    check_folder(job.out, KNOWN)
    job.out.mkdir(parents=True, exist_ok=True)
    outcome = tiles.run(job, tell) if job.protocol.level == "tile" else slides.run(job, tell)
    (job.out / RESULT).unlink(missing_ok=True)
    write_atomic(job.out / REPORT, render(outcome).encode())
    write_json(job.out / RESULT, {**_made(), **outcome.to_json()})
    return outcome


def _made() -> dict[str, object]:
    packages = ("beph-store", "numpy", "scipy", "torch", "timm", "onnxruntime", "pylance")
    return {
        "written_by": WRITTEN_BY,
        "written_at": now(),
        "machine": machine(),
        "versions": versions(packages),
    }
