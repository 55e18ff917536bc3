"""How fast are other tools' features imported, against a plain copy of the same bytes?

    python benchmarks/bench_import.py [--slides 12] [--tiles 6000] [--dim 1024] [--out DIR] [--name import]

Drawn features are laid out as each tool lays them out. Then, format by format and in turn: the files that an import
reads are copied and flushed to the disk, and imported into an empty store, which flushes what it writes as well;
three times each, the best counts. ``ratio`` is the time of the copy ÷ that of the import: 1 is an import at the
disk's own rate. A store keeps float16, so that an import of float32 writes half of what the copy writes.

``read`` is the reading alone, by ours and by h5py as it comes, both from files in memory. ``again`` is a second
import of what is in the store: the cost of finding that nothing is to be done.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from common import command_line, conditions, seconds, write

from beph_store.engine.importing import ImportOptions, import_features
from beph_store.interop import FORMATS, SlideFeatures

_REPEATS = 3
_ASKED = {
    "clam": ImportOptions(encoder_name="drawn", mpp=0.5),
    "trident": ImportOptions(mpp=0.5),
    "stamp": ImportOptions(mpp_l0=0.25),
    "slide2vec": ImportOptions(),
    "atlaspatch": ImportOptions(mpp=0.5),
    "bags": ImportOptions(encoder_name="drawn", mpp=0.5),
}
_VECTORS = {"clam": "features", "trident": "features", "stamp": "feats", "atlaspatch": "features/drawn"}


def lay_out(root: Path, kind: str, slides: int, tiles: int, dim: int) -> list[Path]:
    """Drawn features in one tool's layout; the files that an import reads."""
    rng = np.random.default_rng(0)
    side = int(np.ceil(np.sqrt(tiles)))
    places = (np.stack(np.divmod(np.arange(tiles), side), 1) * 512).astype(np.int32)
    form = FORMATS[kind]
    for number in range(slides):
        vectors = rng.standard_normal((tiles, dim), np.float32)
        slide = SlideFeatures(
            slide_id=f"slide-{number:04}",
            vectors=vectors,
            path=root,
            origin_l0=places,
            footprint_l0=512,
            tile_px=256,
            stride_px=256,
            mpp=0.5,
            mpp_l0=0.25,
            size_l0=(side * 512 + 512,) * 2,
            encoder="drawn",
        )
        form.write(root, slide)
    return sorted({path for found in form.find(root) for path in found.files})


def copied(files: list[Path], root: Path, to: Path) -> None:
    """Copy the files and flush each to the disk."""
    for path in files:
        target = to / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())


def fresh(folder: Path, what: Callable[[], object]) -> float:
    """Seconds of what makes ``folder``, from nothing and with nothing waiting to be written."""
    shutil.rmtree(folder, ignore_errors=True)
    os.sync()
    return seconds(what)


def measure(work: Path, kind: str, slides: int, tiles: int, dim: int) -> dict[str, Any]:
    """One format's figures."""
    root, target, store = work / kind, work / "copy", work / "S"
    files = lay_out(root, kind, slides, tiles, dim)
    nbytes = sum(path.stat().st_size for path in files)
    bring = lambda: import_features(kind, root, store, options=_ASKED[kind])  # noqa: E731
    copy, brought = [], []
    for _ in range(_REPEATS):
        copy.append(fresh(target, lambda: copied(files, root, target)))
        brought.append(fresh(store, bring))
    again = min(seconds(bring) for _ in range(_REPEATS))
    form = FORMATS[kind]
    every = form.find(root)
    ours = min(seconds(lambda: [form.open(found) for found in every]) for _ in range(_REPEATS))
    figures = {
        "mb": nbytes / 1e6,
        "copy_mb_per_s": nbytes / 1e6 / min(copy),
        "import_mb_per_s": nbytes / 1e6 / min(brought),
        "ratio": min(copy) / min(brought),
        "again_seconds": again,
        "read_mb_per_s": nbytes / 1e6 / ours,
    }
    if kind in _VECTORS:
        plain = min(
            seconds(lambda: [_by_h5py(f.path, _VECTORS[kind]) for f in every]) for _ in range(_REPEATS)
        )
        figures["h5py_mb_per_s"] = nbytes / 1e6 / plain
    for folder in (root, target, store):
        shutil.rmtree(folder, ignore_errors=True)
    return {name: round(value, 3) for name, value in figures.items()}


def _by_h5py(path: Path, name: str) -> None:
    with h5py.File(path) as file:
        file[name][()]
        file["coords"][()]


def main() -> None:
    """Measure and write."""
    parser = command_line(__doc__, "import")
    parser.add_argument("--slides", type=int, default=12)
    parser.add_argument("--tiles", type=int, default=6000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--out", type=Path, help="folder on the disk to measure [a temporary one]")
    asked = parser.parse_args()
    formats = {}
    with tempfile.TemporaryDirectory(dir=asked.out) as folder:
        for kind in _ASKED:
            formats[kind] = measure(Path(folder), kind, asked.slides, asked.tiles, asked.dim)
            print(kind, formats[kind], flush=True)
    size = {"slides": asked.slides, "tiles_a_slide": asked.tiles, "dim": asked.dim}
    write(asked.name, {"conditions": conditions("h5py", "pylance", "numpy"), **size, "formats": formats})


if __name__ == "__main__":
    main()
