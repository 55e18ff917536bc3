"""Does ingest run at the encoder's own rate, and does its memory stay flat?

    python benchmarks/bench_ingest.py SLIDES… [--encoder beph-mini] [--name ingest]

Every slide by itself, and then all of them together, are ingested in a process of its own, as a user would.
Around each ingest the same encoder, with the same threads and the same batch, is timed on tiles of those slides
lying in memory: before and after, so that a drift of the machine shows. The ratio is tiles/s of the ingest ÷ the
mean of the two.

``whole`` counts everything from the command's first work to its last commit, starting reader processes and finding
the first slide's tissue included: one to two seconds that weigh on a run of a few and vanish in a real one, so
``--strides 0 112`` runs all slides a second time with four times as many tiles, overlapping.
``steady`` counts from the first batch to the last. The physical limit of the ratio is 1.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import command_line, conditions, write
from numpy.typing import NDArray

from beph_store.encoders import load_bundle
from beph_store.engine.bench.encoder import rate
from beph_store.engine.ingest import IngestOptions, make_recipe
from beph_store.engine.reader_process import survey
from beph_store.runtimes import select_runtime
from beph_store.slides import TileReader, open_slide

_TILES = 256
#: For each timing of the encoder alone.
SECONDS = 15.0


def tiles_in_memory(slides: Sequence[Path], encoder: str) -> NDArray[np.uint8]:
    """(n, H, W, 3) uint8, some tissue tiles of the slides, n at most 256."""
    return np.concatenate([_tiles_of(slide, encoder, _TILES // len(slides)) for slide in slides])


def _tiles_of(slide: Path, encoder: str, most: int) -> NDArray[np.uint8]:
    spec = make_recipe(load_bundle(encoder), IngestOptions()).tile
    with open_slide(slide, slide_id=slide.name) as opened:
        tiles, _ = survey(opened, spec)
        index = np.linspace(0, len(tiles) - 1, min(most, len(tiles))).astype(np.int32)
        pixels = np.empty((len(index), spec.tile_px, spec.tile_px, 3), np.uint8)
        TileReader(opened, tiles).read(index, pixels)
    return pixels


_CHILD = """
import json, sys
sys.path.insert(0, sys.argv[4])
from common import children_watched, high_water_mb
from beph_store.engine.ingest import IngestOptions, ingest
stride = int(sys.argv[3]) or None
with children_watched() as readers:
    report = ingest(sys.argv[5:], sys.argv[1], options=IngestOptions(encoder=sys.argv[2], stride_px=stride))
assert not report.failed, report.failed
print(json.dumps({**report.to_json(), "peak_mb": [high_water_mb(), max(readers)]}))
"""


def ingest_once(slides: Sequence[Path], encoder: str, stride: int | None = None) -> dict[str, Any]:
    """The report of one ingest into a fresh store, with the peak memory (engine, largest reader) in MB."""
    here = str(Path(__file__).parent)
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                _CHILD,
                f"{folder}/store",
                encoder,
                str(stride or 0),
                here,
                *map(str, slides),
            ],
            check=True,
            capture_output=True,
            text=True,
        )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def measure(slides: Sequence[Path], encoder: str, stride: int | None = None) -> dict[str, Any]:
    """All figures of one ingest of these slides; tiles overlap where ``stride`` px is less than their side."""
    bundle = load_bundle(encoder)
    pixels = tiles_in_memory(slides, encoder)
    runtime = select_runtime("auto", bundle.onnx_path(), bundle.spec)
    before, _ = rate(runtime.stream(), pixels, SECONDS)
    report = ingest_once(slides, encoder, stride)
    after, _ = rate(runtime.stream(), pixels, SECONDS)
    alone = (before + after) / 2
    steady = report["tiles"] / report["steady_seconds"]
    return {
        "slides": slides[0].name if len(slides) == 1 else f"all {len(slides)} in one run",
        "stride_px": stride,
        "tiles": report["tiles"],
        "encoder_alone_tiles_per_second": [round(before, 1), round(after, 1)],
        "ingest_tiles_per_second": round(report["tiles_per_second"], 1),
        "ratio_whole": round(report["tiles_per_second"] / alone, 3),
        "ratio_steady": round(steady / alone, 3),
        "busy": {stage: value["busy"] for stage, value in report["stages"].items()},
        "bottleneck": report["bottleneck"],
        "decode_amplification": report["decode_amplification"],
        "peak_mb_engine": round(report["peak_mb"][0]),
        "peak_mb_reader": round(report["peak_mb"][1]),
    }


def main() -> None:
    """Measure every slide and write the result file."""
    parser = command_line(__doc__, "ingest")
    parser.add_argument("slides", nargs="+", type=Path)
    parser.add_argument("--encoder", default="beph-mini")
    parser.add_argument("--only-all", action="store_true", help="leave the single slides out")
    parser.add_argument(
        "--strides", type=int, nargs="+", default=[0], help="px, for all slides in one run; 0 the tile's side"
    )
    parser.add_argument("--repeats", type=int, default=1, help="of all slides in one run")
    args = parser.parse_args()
    slides = sorted(args.slides, key=os.path.getsize)
    runs = [([slide], None) for slide in slides if not args.only_all]
    if len(slides) > 1:
        runs += [(slides, stride) for stride in args.strides for _ in range(args.repeats)]
    rows = [measure(run, args.encoder, stride or None) for run, stride in runs]
    write(
        args.name,
        {**conditions("onnxruntime", "pylance", "openslide-bin"), "encoder": args.encoder, "runs": rows},
    )


if __name__ == "__main__":
    main()
