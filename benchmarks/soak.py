"""Does it lose anything, and does anything get in? Half an hour of faults, broken slides and crowds, counted.

``make soak`` runs it and writes ``results/reliability.json``, which docs/reliability.md quotes. It ends with exit
code 1 at the first broken promise. ``--minutes`` scales every part; slides come from BEPH_STORE_REALDATA, or are drawn
where it is absent.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.common import conditions, write  # noqa: E402
from beph_store.testing.synthetic import SlidePlan, write_slide  # noqa: E402
from tests.faults.harness import Trial  # noqa: E402
from tests.faults.operations import OPERATIONS  # noqa: E402
from tests.faults.together import together  # noqa: E402
from tests.fuzz.corpus import broken, impostors, strange_files  # noqa: E402
from tests.fuzz.harness import Findings, ingest_folder, run  # noqa: E402

#: Share of the minutes that each part may take.
SHARES = {
    "ingest": 0.11,
    "import": 0.05,
    "import-clam": 0.06,
    "compact": 0.05,
    "index": 0.04,
    "train": 0.05,
    "pretrain": 0.08,
}
#: Parts with servers, clusters, disks and limits of their own, whose tests that are too long for every change are run.
SUITES = (
    "tests/store",
    "tests/engine/cluster",
    "tests/attacks",
    "tests/engine/test_memory.py",
    "tests/faults/test_full_disk.py",
)
ROLES = ["write", "write", "write", "tidy", "index", "read", "read"]


def faults(folder: Path, minutes: float) -> dict[str, Any]:
    """Points drawn over every site, for as long as each job's share lasts."""
    counts: dict[str, Any] = {}
    for name in OPERATIONS:
        trial = Trial.begin(name, folder / name)
        until, done, sites = time.monotonic() + 60 * minutes * SHARES[name], 0, Counter[str]()
        for fault in trial.drawn(len(trial.points()), seed=0):
            if time.monotonic() > until and done >= len({f.site for f in trial.points()}):
                break
            trial.interrupt(fault)
            done += 1
            sites[f"{fault.site} {fault.action}"] += 1
        counts[name] = {"points": len(trial.points()), "tried": done, "by_kind": dict(sorted(sites.items()))}
        say(f"faults, {name}: {done} of {len(trial.points())} points, nothing lost")
    return counts


def good_slides(folder: Path) -> list[tuple[Path, float | None]]:
    """(slide, µm/px to state) of what is broken; a slide without a scale is given one, or its pixels are never read."""
    data = Path(os.environ.get("BEPH_STORE_REALDATA") or ROOT.parent / "shared" / "data") / "wsi_openslide"
    if data.is_dir():
        names = {
            "CMU-1-Small-Region.svs": None,
            "TCGA-CR-7395-01A-01-TS1.svs": None,
            "kidney-48-5.tif": 0.25,
            "pathml_small_dicom.dcm": None,
        }
        return [(data / name, mpp) for name, mpp in names.items()]
    drawn = folder / "drawn.tif"
    write_slide(drawn, SlidePlan(size=(2048, 2048), seed=1))
    return [(drawn, None)]


def fuzz(folder: Path, seeds: int) -> dict[str, Any]:
    """Every way to break every good slide, ``seeds`` times with other dice."""
    found = Findings()
    slides = good_slides(folder)
    strange = folder / "strange"
    strange.mkdir()
    strange_files(strange, slides[0][0])
    ingest_folder(strange, folder / "strange-store", found)
    run(impostors(), folder / "impostors", found)
    for seed in range(seeds):
        for slide, mpp in slides:
            run(broken(slide, seed), folder / f"{slide.stem}-{seed}", found, slide_mpp=mpp)
    for broken_promise in (found.hangs, found.blank, found.silent):
        assert not broken_promise, found
    say(f"broken slides: {found.total}, {dict(found.inputs)}, {found.crashes} readers lost")
    return {
        "inputs": found.total,
        "ended": dict(found.inputs),
        "readers_crashed": found.crashes,
        "readers_hung": found.hangs,
        "ended_by_the_memory_limit": found.limited,
        "blank_tiles": len(found.blank),
        "failures_without_reason": len(found.silent),
        "distinct_reasons": len(found.reasons),
        "peak_reader_mb": round(found.peak_reader_mb),
        "slides": [slide.name for slide, _ in slides],
    }


def crowd(folder: Path, minutes: float) -> dict[str, Any]:
    """Seven processes on one store."""
    did = together(folder, 60 * minutes, ROLES)
    say(f"together for {minutes:.1f} minutes: {dict(did)}")
    return {"minutes": round(minutes, 1), "processes": len(ROLES), **did}


def suites() -> dict[str, str]:
    """The closing line of each of ``SUITES``."""
    closing = {}
    for name in SUITES:
        command = [sys.executable, "-m", "pytest", "-q", "--soak", "-m", "soak", name]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        closing[name] = done.stdout.strip().splitlines()[-1]
        say(f"{name}: {closing[name]}")
        assert done.returncode == 0, done.stdout[-3000:]
    return closing


def say(what: str) -> None:
    """A line of progress."""
    print(f"[{time.strftime('%H:%M:%S')}] {what}", file=sys.stderr, flush=True)


def main() -> None:
    """Parse, run, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seeds", type=int, default=2, help="how often every slide is broken anew")
    parser.add_argument(
        "--no-suites", action="store_true", help="leave out the soak tests with servers and clusters"
    )
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="beph-soak-") as name:
        folder = Path(name)
        result = {
            "faults": faults(folder / "faults", options.minutes),
            "slides": fuzz(_made(folder / "fuzz"), options.seeds),
            "together": crowd(_made(folder / "together"), options.minutes * 0.15),
            "suites": {},
        }
        keep(result, began)  # should the long tests be stopped
        if not options.no_suites:
            result["suites"] = suites()
            keep(result, began)


def keep(result: dict[str, Any], began: float) -> None:
    """Write what there is."""
    minutes = round((time.monotonic() - began) / 60, 1)
    write("reliability", {**conditions("pylance", "openslide-bin"), "minutes": minutes, **result})


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    main()
