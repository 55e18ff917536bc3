"""How fast are tiles read, against a loop over OpenSlide on the same slide and core, with equal pixels?

    python benchmarks/bench_reader.py SLIDE [--mpp F] [--rounds 5] [--name reader]

All tissue tiles of the slide, row by row, by `TileReader` and by the loop that everyone writes first:
`read_region`, convert to RGB, NumPy. Rounds alternate in one process on one thread; times are CPU time, because
the machine may be shared; the ratio is the median over rounds. Every tile must be equal to the last bit.

The physical limit beside it: decoding each JPEG macro-tile that the tiles touch exactly once, with nothing else done.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import command_line, conditions, write
from numpy.typing import NDArray
from openslide import OpenSlide

from beph_store.records import TileSet, TileSpec
from beph_store.slides import TileReader, open_slide
from beph_store.slides.jpeg import JpegReader
from beph_store.slides.tiffdir import RGB, read_layout
from beph_store.tiling import tile_slide
from beph_store.tissue import find_tissue

_BATCH = 64

UInt8 = NDArray[np.uint8]


def plan(path: Path, mpp: float) -> TileSet:
    """The tissue tiles of the slide, 224 px at ``mpp``."""
    with open_slide(path) as slide:
        image, mpp_x, mpp_y = slide.overview()
        mask = find_tissue(image, mpp_x, mpp_y)
        return tile_slide(slide.info, TileSpec(224, mpp, 224, 0.25, mask.method), mask)


def ours(path: Path, tiles: TileSet, out: UInt8) -> tuple[float, float]:
    """CPU seconds and decode amplification of reading all tiles into ``out``."""
    with open_slide(path) as slide:
        reader = TileReader(slide, tiles)
        start = time.process_time()
        order = reader.order()
        for at in range(0, len(order), _BATCH):
            index = order[at : at + _BATCH]
            assert reader.read(index, out[at : at + _BATCH]).all()
        seconds = time.process_time() - start
        assert slide.backend == "tiled-jpeg", slide.note
        assert slide.decodes is not None
        return seconds, slide.decodes / (slide.distinct or 1)


def loop(path: Path, tiles: TileSet, out: UInt8) -> float:
    """CPU seconds of the plain loop; only where a level has the wanted scale."""
    with OpenSlide(str(path)) as slide:
        level = slide.get_best_level_for_downsample(tiles.footprint_l0 / 224 * 1.005)
        start = time.process_time()
        for position, (x, y) in enumerate(tiles.origin_l0.tolist()):
            out[position] = np.asarray(slide.read_region((x, y), level, (224, 224)).convert("RGB"))
        return time.process_time() - start


def decode_only(path: Path, tiles: TileSet) -> Callable[[], float]:
    """A function that decodes each macro-tile under the tiles once, and returns its CPU seconds."""
    page = read_layout(path).pages[0]
    cells = set()
    for x, y in tiles.origin_l0.tolist():
        for row in range(y // page.tile[1], (y + 223) // page.tile[1] + 1):
            for column in range(x // page.tile[0], (x + 223) // page.tile[0] + 1):
                cells.add(row * page.grid[0] + column)
    data = path.read_bytes()
    extents = [(int(page.offsets[cell]), int(page.counts[cell])) for cell in sorted(cells)]
    streams = [data[at : at + count] for at, count in extents if count]
    reader = JpegReader(page.tile, page.photometric == RGB, page.jpeg_tables)

    def run() -> float:
        start = time.process_time()
        for stream in streams:
            reader.decode(stream)
        return time.process_time() - start

    return run


def measure(path: Path, mpp: float | None, rounds: int) -> dict[str, Any]:
    """All figures of one slide."""
    with open_slide(path) as slide:
        native = slide.info.mpp
        size = slide.info.size_l0
    tiles = plan(path, mpp or native)
    if tiles.footprint_l0 != 224:
        raise SystemExit("the comparison is exact at the slide's own scale only: leave out --mpp")
    first, second = (np.empty((len(tiles), 224, 224, 3), np.uint8) for _ in range(2))
    limit = decode_only(path, tiles)
    times: dict[str, list[float]] = {"tile_reader": [], "openslide_loop": [], "decode_only": []}
    amplification = 0.0
    for _ in range(rounds):
        seconds, amplification = ours(path, tiles, first)
        times["tile_reader"].append(seconds)
        times["openslide_loop"].append(loop(path, tiles, second))
        times["decode_only"].append(limit())
        assert np.array_equal(first, second), "the pixels differ"
    ratios = [b / a for a, b in zip(times["tile_reader"], times["openslide_loop"], strict=True)]
    return {
        "slide": path.name,
        "size_l0": size,
        "tiles": len(tiles),
        "rounds": rounds,
        "tiles_per_cpu_second": {
            name: round(len(tiles) / statistics.median(values)) for name, values in times.items()
        },
        "ratio_to_openslide_loop": round(statistics.median(ratios), 2),
        "ratio_of_each_round": [round(ratio, 2) for ratio in ratios],
        "share_of_decode_limit": round(
            statistics.median(b / a for a, b in zip(times["tile_reader"], times["decode_only"], strict=True)),
            2,
        ),
        "decode_amplification": round(amplification, 3),
        "pixels_equal": True,
    }


def main() -> None:
    """See the top of the file."""
    parser = command_line(__doc__, "reader")
    parser.add_argument("slides", nargs="+", type=Path, metavar="SLIDE")
    parser.add_argument("--mpp", type=float)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    slides = [measure(path, options.mpp, options.rounds) for path in options.slides]
    write(options.name, conditions("openslide-python", "openslide-bin", "simplejpeg") | {"slides": slides})


if __name__ == "__main__":
    main()
