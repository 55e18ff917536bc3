"""How fast does ours embed slides, against the ways of CLAM, TRIDENT and slide2vec and against what PyPI serves?

    python benchmarks/compare_peers.py [SLIDES…] [--venvs FOLDER] [--repeats 3] [--only NAMES] [--name peers]

Everybody embeds the same tiles of the same slides with the same weights, on the same cores with the same number of
reader processes, each in a process of its own; rounds alternate, and figures are medians. CLAM, TRIDENT and slide2vec
stand for access patterns, written here from what they say of themselves (`peers/drive_*.py`); lazyslide, tiatoolbox and
wsinfer run by their own API in environments of their own, made under ``--venvs`` (about 2 GB; torch is linked, not
copied). What cannot be installed or run is told with its reason and left out.

Two encoders: ``vit_tiny`` shows what a CPU makes of it, where the encoder hides everything else; ``pooled`` costs
next to nothing and shows the pipeline alone, which is what feeds a GPU.

The clock runs from after the imports to the last file written. Ours also finds the tissue, cuts the grid and starts
its readers in that time; the others are handed the coordinates. Everyone's tiles must be at the same places and their
vectors must agree by centred cosine, or their row says why not.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import command_line, conditions, write
from peers import environments
from peers.agreement import Reference, compare, damaged, damaged_copy
from peers.bench import SYSTEMS, Bench, System
from peers.encoders import DIM, NAMES
from peers.facts import FACTS
from peers.job import TILE_PX, Job
from peers.weights import draw

from beph_store.engine.reader_process import survey
from beph_store.records import TileSpec
from beph_store.slides import open_slide
from beph_store.testing import synthetic

_DATA = Path(os.environ.get("BEPH_STORE_REALDATA", Path(__file__).parents[2] / "shared" / "data"))
_MPP = 0.5
#: Slides that the encoder of a CPU's speed is measured on: the first of the list and the last.
_FEW = (0, -1)


@dataclass
class Runs:
    """What came of one system with one encoder: ``told`` a dict a round, or ``failed`` with the reason."""

    system: System
    told: list[dict[str, Any]] = field(default_factory=list)
    failed: str | None = None
    check: dict[str, Any] = field(default_factory=dict)


def default_slides(folder: Path) -> list[Path]:
    """Real slides where they are at hand, drawn ones otherwise."""
    real = sorted((_DATA / "wsi_atlas").glob("*.tif"))
    real = [path for path in real if not path.name.startswith("ood_")]
    if real:
        return [*sorted(real, key=os.path.getsize), _DATA / "wsi_openslide" / "CMU-1-Small-Region.svs"]
    print("no real slides here: three are drawn", flush=True)
    return synthetic.demo_cohort(folder / "drawn", n=3)


def grid(slides: Sequence[Path], folder: Path) -> list[Path]:
    """The tiles that ingest will take of each slide, for those who need to be told."""
    folder.mkdir(exist_ok=True)
    spec = TileSpec(TILE_PX, _MPP, TILE_PX, 0.25, "otsu-saturation")
    files = []
    for path in slides:
        with open_slide(path, slide_id=path.name, mpp=_MPP) as slide:
            tiles, _ = survey(slide, spec)
        assert tiles.footprint_l0 == TILE_PX, "tiles must be read without resampling"
        files.append(folder / f"{path.stem}.npy")
        np.save(files[-1], tiles.origin_l0.astype(np.int64))
    return files


def prepare(venvs: Path, systems: Sequence[System]) -> tuple[dict[str, Path], dict[str, str]]:
    """Interpreters by environment, and the reasons of those that could not be made."""
    pythons, refused = {}, {}
    for name in dict.fromkeys(system.venv for system in systems if system.venv):
        try:
            pythons[name] = environments.environment(venvs.resolve(), name)
        except OSError as error:
            refused[name] = str(error)
            print(f"{name} cannot be installed: {error}", flush=True)
    return pythons, refused


def compare_all(
    bench: Bench, jobs: dict[str, Job], todo: Sequence[System], repeats: int
) -> dict[str, list[Runs]]:
    """Every system with every encoder, ``repeats`` rounds; the first checks the vectors."""
    found: dict[str, list[Runs]] = {}
    for encoder, job in jobs.items():
        runs = [Runs(system) for system in todo if encoder in system.encoders]
        for run in runs:
            if run.system.driver == "ours":  # a fast runtime's verdict is reached once and kept
                bench.run(run.system, replace(job, variant=run.system.variant))
        reference: Reference | None = None
        for number in range(repeats):
            for run in runs:
                if run.failed:
                    continue
                reference = once(bench, job, run, reference) or reference
                what = run.failed or f"{run.told[-1]['tiles'] / run.told[-1]['seconds']:.1f} tiles/s"
                print(f"{encoder}, round {number + 1}, {run.system.name}: {what}", flush=True)
        found[encoder] = runs
    return found


def once(bench: Bench, job: Job, run: Runs, reference: Reference | None) -> Reference | None:
    """Run it once; in its first round compare what it stored. Returns the reference if this one is it."""
    job = replace(job, variant=run.system.variant)
    try:
        told = bench.run(run.system, job)
        if not run.check:
            if reference is None:
                reference = Reference.read(Path(job.out))
                assert reference.places() == Reference.given(job.slides, job.coords).places(), (
                    "ours cut other tiles"
                )
            run.check = compare(reference, Path(job.out), run.system)
        run.told.append(told)
    except OSError as error:
        run.failed = str(error)
    return reference


def row(run: Runs, ours: Runs) -> dict[str, Any]:
    """The figures of one system with one encoder."""
    if run.failed or not run.told:
        return {"system": run.system.name, "failed": run.failed}
    pairs = list(zip(ours.told, run.told, strict=False))
    last = run.told[-1]
    more = {key: last[key] for key in ("runtime", "busy", "reader") if key in last}
    if last.get("steady_seconds"):
        more["steady_tiles_per_second"] = round(
            statistics.median(told["tiles"] / told["steady_seconds"] for told in run.told), 1
        )
    return {
        "system": run.system.name,
        "tiles": last["tiles"],
        "seconds": [round(told["seconds"], 3) for told in run.told],
        "tiles_per_second": round(statistics.median(t["tiles"] / t["seconds"] for t in run.told), 1),
        "ours_is_faster": round(statistics.median(b["seconds"] / a["seconds"] for a, b in pairs), 2),
        "ours_is_faster_each_round": [round(b["seconds"] / a["seconds"], 2) for a, b in pairs],
        "cpu_seconds_to_ours": round(
            statistics.median(b["cpu_seconds"] / a["cpu_seconds"] for a, b in pairs), 2
        ),
        "bytes_per_tile": round(last["bytes"] / last["tiles"]),
        **run.check,
        **more,
    }


def about(todo: Sequence[System], pythons: dict[str, Path]) -> dict[str, Any]:
    """Versions and licences from the packages' metadata, and what else is known of each."""
    told = {}
    for system in todo:
        python = pythons.get(system.venv or "", Path(sys.executable))
        told[system.name] = {"packages": environments.describe(python, system.packages), **FACTS[system.name]}
    return told


def jobs_of(folder: Path, slides: list[Path], args: argparse.Namespace) -> dict[str, Job]:
    """What is asked of everybody, by encoder."""
    coords = grid(slides, folder / "coords")
    few = sorted({index % len(slides) for index in _FEW})
    jobs = {}
    for encoder in args.encoders:
        files = draw(folder / "weights", encoder)
        some = few if encoder == "vit_tiny" else range(len(slides))
        jobs[encoder] = Job(
            slides=[str(slides[index].resolve()) for index in some],
            coords=[str(coords[index].resolve()) for index in some],
            encoder=encoder,
            weights=str(files.weights),
            script=str(files.script),
            bundle=str(files.bundle),
            dim=DIM,
            out=str(folder / "out"),
            mpp=_MPP,
            workers=args.workers,
            threads=args.cores,
            batch=args.batch,
        )
    return jobs


def after_damage(bench: Bench, folder: Path, job: Job, todo: Sequence[System]) -> dict[str, Any]:
    """What each does with a slide of which one macro-tile is zeros; not timed."""
    bad, places = damaged_copy(Path(job.slides[0]), Path(job.coords[0]), folder / "damaged")
    if bad is None:
        return {}
    told = {}
    for system in todo:
        asked = replace(job, slides=[str(bad)], coords=job.coords[:1], variant=system.variant)
        if job.encoder in system.encoders:
            told[system.name] = damaged(bench, system, asked, places)
            print(f"one macro-tile of zeros, {system.name}: {told[system.name]}", flush=True)
    return told


def options() -> argparse.Namespace:
    """The command line."""
    parser = command_line(__doc__, "peers")
    parser.add_argument("slides", nargs="*", type=Path)
    parser.add_argument("--venvs", type=Path, default=Path(tempfile.gettempdir()) / "beph-store-peers")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--cores", type=int, default=2, help="cores, and threads of the encoder, for everyone"
    )
    parser.add_argument("--workers", type=int, default=2, help="reader processes, for everyone")
    parser.add_argument("--batch", type=int, default=32, help="tiles a batch, for all but ours")
    parser.add_argument("--encoders", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--only", nargs="+", metavar="NAME", help="drivers, such as ours clam lazyslide")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one process")
    return parser.parse_args()


def main() -> None:
    """See the top of the file."""
    args, start = options(), time.perf_counter()
    load = [os.getloadavg()[0]]
    todo = [s for s in SYSTEMS if not args.only or s.driver in args.only or s.driver == "ours"]
    pythons, refused = prepare(args.venvs, todo)
    left_out = [{"system": s.name, "failed": refused[s.venv]} for s in todo if s.venv in refused]
    todo = [s for s in todo if s.venv not in refused]
    with tempfile.TemporaryDirectory(prefix="beph-store-peers-") as scratch:
        folder = Path(scratch)
        slides = args.slides or default_slides(folder)
        jobs = jobs_of(folder, slides, args)
        bench = Bench(folder, pythons, args.cores, args.limit)
        begin = time.perf_counter()
        found = compare_all(bench, jobs, todo, args.repeats)
        broken = after_damage(bench, folder, jobs[args.encoders[-1]], todo)
    write(
        args.name,
        {
            **conditions("torch", "onnxruntime", "openvino", "openslide-bin"),
            "slides": {name: [Path(s).name for s in job.slides] for name, job in jobs.items()},
            "cores_used": args.cores,
            "workers": args.workers,
            "batch": args.batch,
            "rounds": args.repeats,
            "load_average": [
                round(value, 1) for value in (*load, os.getloadavg()[0])
            ],  # of the whole machine
            "minutes": [
                round((now - since) / 60, 1) for now in [time.perf_counter()] for since in (start, begin)
            ],
            "encoders": {name: [row(run, runs[0]) for run in runs] for name, runs in found.items()},
            "not_installed": left_out,
            "one_macro_tile_of_zeros": broken,
            "about": about(todo, pythons),
        },
    )


if __name__ == "__main__":
    main()
