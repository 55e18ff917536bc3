"""How fast and how faithful is each runtime and precision that this machine can run?

    python benchmarks/bench_runtimes.py [--prepare] [--work FOLDER] [--tiles FOLDER] [--seconds F] [--rounds N]

On beph-mini and on a ViT-B/16 in BEPH's shape with drawn weights (`vit_base.py`), each with an int8 graph by `encoder
quantise`; `--prepare` makes them and stops, so that the measuring itself takes five minutes. On one core and on two,
in a process each that has just these cores: tiles a second, the best of rounds that alternate, against ONNX Runtime in
fp32 and against matrix products by torch in the same process. On a busy machine the rate a CPU second, beside it, is
the one to believe.

Faithful to the fp32 reference on the 64 probe tiles, and to ONNX Runtime's fp32 on real fields (`--tiles`, EBHI-Seg):
mean and least centred cosine, and the share of the ten nearest neighbours that stay. Figures of the ViT-B say that a
runtime computes its graph, not how well it would keep BEPH's geometry: its weights are drawn.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import command_line, conditions, write
from numpy.typing import NDArray
from PIL import Image

from beph_store.encoders import Bundle, compare, kind_of, load_bundle, probe_tiles
from beph_store.encoders.torch_side.quantise import quantise
from beph_store.errors import BephStoreError
from beph_store.runtimes import RUNTIMES, Runtime, RuntimeOptions, cache_folder, open_runtime
from beph_store.runtimes.peak import matrix_rate

BATCH, REAL = 8, 32
ENCODERS = ("beph-mini", "vit-base")
BASE = ("onnxruntime", "fp32")
#: Emulated on a CPU, slower than fp32 and there to check a graph meant for GPUs; it would take a fifth of the time.
SLOW = ("onnxruntime", "fp16")

Tiles = NDArray[np.uint8]
Row = dict[str, Any]


def bundles(work: Path) -> dict[str, Bundle]:
    """Both encoders with an int8 graph, made unless they are there."""
    found = {}
    for name in ENCODERS:
        out = work / f"{name}-int8"
        if not (out / "encoder.json").is_file():
            source: str | Path = name
            if name == "vit-base":
                from vit_base import make_bundle

                source = make_bundle(work).path
            quantise(source, out, progress=lambda text, name=name: print(f"{name}: {text}", file=sys.stderr))
        found[name] = load_bundle(out)
    return found


def open_all(bundle: Bundle, cores: int) -> Iterator[tuple[str, str, Runtime | str]]:
    """Runtime, precision, and the runtime or why it cannot be used here."""
    for entry in RUNTIMES:
        for precision in entry.precisions:
            if not bundle.has(precision) or (entry.name, precision) == SLOW:
                continue
            spec = replace(bundle.spec, precision=precision)
            options = RuntimeOptions(threads=cores, batch=BATCH, device=0)
            try:
                graph = bundle.onnx_path(precision)
                yield entry.name, precision, open_runtime(entry, graph, spec, options)
            except BephStoreError as error:
                yield entry.name, precision, str(error)


def timed(runtime: Runtime, tiles: Tiles, seconds: float) -> tuple[float, float]:
    """Tiles a second and a CPU second, over whole batches for at least ``seconds``."""
    start, cpu, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        runtime.encode(tiles)
        done += len(tiles)
    return done / (time.perf_counter() - start), done / (time.process_time() - cpu)


def encode(runtime: Runtime, tiles: Tiles) -> NDArray[np.float32]:
    """All tiles, batch by batch."""
    return np.concatenate([runtime.encode(tiles[i : i + BATCH]) for i in range(0, len(tiles), BATCH)])


def fidelity(reference: NDArray[np.float32], found: NDArray[np.float32], precision: str) -> Row:
    """The gate's figures."""
    report = compare(reference, found, kind_of(precision))
    return {
        "centred_cosine": round(report.mean, 5),
        "least": round(report.minimum, 4),
        "same_neighbours": round(report.neighbours, 4),
        "passes_gate": report.passed,
    }


def real_tiles(folder: Path) -> Tiles | None:
    """Real fields (n, 224, 224, 3), evenly spread over the folder; None where there are none."""
    paths = sorted(folder.rglob("images/**/*.png"))
    if not paths:
        return None
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, REAL).astype(int)]
    return np.stack([np.asarray(Image.open(path).convert("RGB").resize((224, 224))) for path in chosen])


def measure(bundle: Bundle, cores: int, args: argparse.Namespace) -> list[Row]:
    """One row a runtime and precision; fidelity too when ``args.fidelity``."""
    rows: list[Row] = []
    running: list[tuple[Row, Runtime]] = []
    for name, precision, opened in open_all(bundle, cores):
        print(f"{cores} cores: {bundle.spec.name} in {name} {precision}", file=sys.stderr)
        row: Row = {"runtime": name, "precision": precision}
        rows.append(row)
        if isinstance(opened, str):
            row["not_run"] = opened
        else:
            running.append((row, opened))
    tiles = probe_tiles(bundle.spec.tile_px, BATCH)
    seconds = args.seconds if bundle.spec.name != "beph-mini" else args.seconds / 3
    rates: dict[int, list[tuple[float, float]]] = {i: [] for i in range(len(running))}
    for _, runtime in running:
        runtime.encode(tiles)
    for _ in range(args.rounds):
        for i, (_, runtime) in enumerate(running):
            rates[i].append(timed(runtime, tiles, seconds))
    for i, (row, _) in enumerate(running):
        wall, cpu = (max(column) for column in zip(*rates[i], strict=True))
        row |= {"tiles_per_second": round(wall, 2), "tiles_per_cpu_second": round(cpu, 2)}
    if args.fidelity:
        _fidelities(bundle, running, real_tiles(args.tiles))
    return rows


def _fidelities(bundle: Bundle, running: list[tuple[Row, Runtime]], real: Tiles | None) -> None:
    probe, reference = probe_tiles(bundle.spec.tile_px), bundle.reference()
    base = next(runtime for row, runtime in running if (row["runtime"], row["precision"]) == BASE)
    truth = None if real is None else encode(base, real)
    for row, runtime in running:
        row["probe"] = fidelity(reference, encode(runtime, probe), row["precision"])
        if real is not None and truth is not None and runtime is not base:
            row["real"] = fidelity(truth, encode(runtime, real), row["precision"])


def child(cores: int, args: argparse.Namespace) -> Row:
    """Everything on that many cores: this process has no others."""
    peaks = {p: matrix_rate(p, threads=cores) or 0.0 for p in ("fp32", "bf16")}
    found = {name: measure(bundle, cores, args) for name, bundle in bundles(args.work).items()}
    again = {p: matrix_rate(p, threads=cores) or 0.0 for p in peaks}
    peaks = {p: max(peaks[p], again[p]) for p in peaks}
    for name, rows in found.items():
        flop = load_bundle(args.work / f"{name}-int8").flop_per_tile
        base = next(r for r in rows if (r["runtime"], r["precision"]) == BASE)
        for row in rows:
            if "tiles_per_second" not in row:
                continue
            row["times_ort_fp32"] = round(row["tiles_per_second"] / base["tiles_per_second"], 2)
            row["times_ort_fp32_cpu"] = round(row["tiles_per_cpu_second"] / base["tiles_per_cpu_second"], 2)
            if flop:
                row["gflop_per_second"] = round(row["tiles_per_second"] * flop / 1e9, 1)
                if peak := peaks.get(row["precision"]):
                    row["share_of_peak"] = round(row["tiles_per_second"] * flop / peak, 3)
    return {"gemm_gflop_per_second": {p: round(v / 1e9, 1) for p, v in peaks.items()}, "encoders": found}


def main() -> None:
    """Command line."""
    parser = command_line(__doc__, "runtimes")
    parser.add_argument("--work", type=Path, help="where the bundles are kept [the cache folder]")
    parser.add_argument("--tiles", type=Path, default=Path("../shared/data/ebhi_seg"))
    parser.add_argument("--seconds", type=float, default=2.5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prepare", action="store_true", help="make the bundles, measure nothing")
    parser.add_argument("--cores", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--fidelity", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.work = args.work or cache_folder("bench")
    if args.cores:
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[-args.cores :])
        print(json.dumps(child(args.cores, args)))
        return
    bundles(args.work)
    if args.prepare:
        return
    load, start, found = os.getloadavg()[0], time.perf_counter(), {}
    cores = sorted({1, min(2, len(os.sched_getaffinity(0)))})
    for count in cores:
        command = [sys.executable, __file__, *sys.argv[1:], "--cores", str(count)]
        command += ["--fidelity"] * (count == cores[-1])
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found[f"{count}_core{'s' if count > 1 else ''}"] = json.loads(told.splitlines()[-1])
    packages = ("onnxruntime", "openvino", "torch", "timm")
    data = {"conditions": conditions(*packages), "load_before": round(load, 1), "batch": BATCH}
    write(args.name, {**data, "seconds": round(time.perf_counter() - start), **found})


if __name__ == "__main__":
    main()
