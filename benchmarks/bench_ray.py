"""What does `ingest --ray local` cost against the plain pipeline on the same machine?

    python benchmarks/bench_ray.py SLIDES… [--encoder beph-mini] [--repeats 3] [--stride-px 112] [--name ray]

The same slides are ingested by turns without and with Ray, each time by a command of its own into a fresh store.
``steady`` counts from the first encoded batch to the last, which leaves out the start: Ray's processes need some
seconds for theirs, ``whole`` has them. Asked is a steady rate of at least 0.9 of the plain one; the limit is 1, since
both run the same stages on the same cores. The stores are compared: they must be equal, bit for bit.

Ray listens on the loopback device only. To be sure of it: unshare -n -p -f --mount-proc sh -c 'ip link set lo up; …'.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import command_line, conditions, write
from polars.testing import assert_frame_equal

from beph_store.store import Store


def ingest_once(slides: Sequence[Path], store: Path, more: Sequence[str]) -> dict[str, Any]:
    """The report of one command, with the seconds that it took in all."""
    began = time.perf_counter()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "beph_store_cli",
            "ingest",
            *map(str, slides),
            "--store",
            str(store),
            "--json",
            *more,
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    return {**json.loads(done.stdout), "command_seconds": time.perf_counter() - began}


def figures(report: dict[str, Any]) -> dict[str, Any]:
    """What is kept of one ingest."""
    return {
        "tiles": report["tiles"],
        "steady_tiles_per_second": round(report["tiles"] / report["steady_seconds"], 2),
        "steady_seconds": report["steady_seconds"],
        "command_seconds": round(report["command_seconds"], 2),
        "busy": {stage: value["busy"] for stage, value in report["stages"].items()},
        "bottleneck": report["bottleneck"],
        "decode_amplification": report["decode_amplification"],
        "runtime": report["runtime"],
        "device": report["device"],
        "cluster": report["cluster"],
    }


def require_equal(ours: Path, theirs: Path) -> None:
    """AssertionError unless the tiles of both stores are the same, bit for bit."""
    tables = []
    for store in (ours, theirs):
        opened = Store.open(store)
        tiles = opened.tiles(opened.recipe().recipe.key).drop("ingest_id").collect()
        tables.append(tiles.sort("slide_id", "tile"))
    assert_frame_equal(*tables)


def measure(slides: Sequence[Path], more: Sequence[str], repeats: int) -> dict[str, Any]:
    """Both by turns, ``repeats`` times, and their ratio."""
    runs: dict[str, list[dict[str, Any]]] = {"plain": [], "ray": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            for name, added in (("plain", []), ("ray", ["--ray", "local"])):
                report = ingest_once(slides, Path(folder) / name, [*more, *added])
                runs[name].append(figures(report))
                print(name, runs[name][-1], file=sys.stderr)
            require_equal(Path(folder) / "ray", Path(folder) / "plain")
    steady, command = (
        {name: statistics.median(row[key] for row in rows) for name, rows in runs.items()}
        for key in ("steady_tiles_per_second", "command_seconds")
    )
    return {
        "steady_tiles_per_second": steady,
        "ratio_steady": round(steady["ray"] / steady["plain"], 3),
        "start_up_seconds_more": round(
            statistics.median(r["command_seconds"] - r["steady_seconds"] for r in runs["ray"])
            - statistics.median(r["command_seconds"] - r["steady_seconds"] for r in runs["plain"]),
            2,
        ),
        "command_seconds": command,
        "equal": True,
        "runs": runs,
    }


def main() -> None:
    """Measure and write the result file."""
    parser = command_line(__doc__, "ray")
    parser.add_argument("slides", nargs="+", type=Path)
    parser.add_argument("--encoder", default="beph-mini")
    parser.add_argument("--stride-px", type=int, help="less than the tile's side for more tiles")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    more = ["--encoder", args.encoder]
    more += ["--stride-px", str(args.stride_px)] if args.stride_px else []
    result = measure(args.slides, more, args.repeats)
    write(
        args.name,
        {
            **conditions("ray", "onnxruntime", "openvino", "pylance"),
            "encoder": args.encoder,
            "slides": [slide.name for slide in args.slides],
            "stride_px": args.stride_px,
            "asked": "ratio_steady of at least 0.9",
            **result,
        },
    )


if __name__ == "__main__":
    main()
