"""How many tiles a second does pre-training learn from, and does it ever wait for them?

    python benchmarks/bench_pretrain.py STORE|FOLDER… [--sizes mini tiny base] [--name pretrain]

A short run of both stages for each size, in a process of its own: tiles/s and the share of the time that a step waited
for its batch, from the log's own rows, the first row of each stage left out (workers start in it).
The goal is a share below 0.05; the limit of tiles/s is the matrix rate of the processor.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import command_line, conditions, write


def measure(paths: list[Path], size: str, args: argparse.Namespace) -> dict[str, Any]:
    """Rates of one size."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "beph_store_cli", "pretrain", *map(str, paths), "--out", folder]
        command += [
            "--steps",
            str(args.steps),
            "--tokenizer-steps",
            str(args.steps),
            "--batch",
            str(args.batch),
        ]
        command += ["--log-every", "4", "--save-every", "1000000", "--mpp", "0.5", "--codes", "8192"]
        command += ["--precision", args.precision, "--workers", str(args.workers), "--device", args.device]
        command += ["--init", "beph-mini"] if size == "mini" else ["--size", size]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        rows = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    found: dict[str, Any] = {"size": size}
    for stage in ("tokenizer", "masked"):
        own = [row for row in rows if row["stage"] == stage][1:]
        seconds = [4 * args.batch / row["tiles_per_second"] for row in own]
        waited = sum(row["waiting"] * s for row, s in zip(own, seconds, strict=True))
        found[stage] = {
            "tiles_per_second": round(4 * args.batch * len(own) / sum(seconds), 2),
            "waiting": round(waited / sum(seconds), 4),
        }
    return found


def main() -> None:
    """Measure and write."""
    parser = command_line(__doc__, "pretrain")
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--sizes", nargs="+", default=["mini", "tiny"])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    sizes = [measure(args.paths, size, args) for size in args.sizes]
    told = {key: getattr(args, key) for key in ("steps", "batch", "precision", "workers", "device")}
    write(args.name, {**conditions("torch", "timm", "torchvision"), **told, "sizes": sizes})


if __name__ == "__main__":
    main()
