"""How fast does a store become other tools' files, and is the table read once or once a slide?

    python benchmarks/bench_export.py [--small 200x100] [--large 8x12000] [--dim 768] [--out DIR] [--name export]

Drawn features are imported into a store, many small slides and then a few large ones; the store is exported to
TRIDENT's files three times, and the best counts. ``ratio`` is the time in which those files are copied and flushed to
the disk ÷ that of the export: 1 is an export at the disk's own rate.

``read_seconds`` is what an export reads of the table: every slide, from where it lies. ``by_filter_seconds`` is the
same by a filter for each slide, as one slide alone is read, and ``times`` how many times as long that takes;
``compacted_…`` are both again after `compact`, with all slides in one fragment.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from bench_import import copied, fresh, lay_out
from common import command_line, conditions, seconds, write

from beph_store.engine.exporting import export_features
from beph_store.engine.importing import ImportOptions, import_features
from beph_store.store import Store, compact
from beph_store.store.finding import SlideFinder

_REPEATS = 3
_KIND = "trident"


def reading(path: Path) -> dict[str, float]:
    """Seconds to read every slide of the store, both ways, the best of three taken in turn."""
    store = Store.open(path)
    key = store.recipe().recipe.key
    rows = store.rows(key)
    found, filtered = [], []

    def by_place() -> None:
        finder = SlideFinder(store, key)
        for row in rows:
            finder.rows(row)

    def by_filter() -> None:
        for row in rows:
            store.slide_rows(row)

    for _ in range(_REPEATS):
        found.append(seconds(by_place))
        filtered.append(seconds(by_filter))
    return {
        "read_seconds": min(found),
        "by_filter_seconds": min(filtered),
        "times": min(filtered) / min(found),
    }


def measure(work: Path, slides: int, tiles: int, dim: int) -> dict[str, Any]:
    """Figures of a store of ``slides`` slides."""
    source, store, out, target = work / "in", work / "S", work / "out", work / "copy"
    lay_out(source, _KIND, slides, tiles, dim)
    import_features(_KIND, source, store, options=ImportOptions(mpp=0.5))
    shutil.rmtree(source)
    exported = [fresh(out, lambda: export_features(_KIND, store, out)) for _ in range(_REPEATS)]
    again = min(seconds(lambda: export_features(_KIND, store, out)) for _ in range(_REPEATS))
    files = [path for path in out.rglob("*") if path.is_file()]
    copies = [fresh(target, lambda: copied(files, out, target)) for _ in range(_REPEATS)]
    nbytes = sum(path.stat().st_size for path in files)
    figures = {
        "slides": slides,
        "tiles_a_slide": tiles,
        "mb": nbytes / 1e6,
        "export_seconds": min(exported),
        "copy_seconds": min(copies),
        "ratio": min(copies) / min(exported),
        "again_seconds": again,
        **reading(store),
    }
    compact(Store.open(store))
    figures |= {f"compacted_{name}": value for name, value in reading(store).items()}
    for folder in (store, out, target):
        shutil.rmtree(folder)
    return {name: round(value, 3) for name, value in figures.items()}


def main() -> None:
    """Measure and write."""
    parser = command_line(__doc__, "export")
    parser.add_argument("--small", default="200x100", help="SLIDESxTILES")
    parser.add_argument("--large", default="8x12000", help="SLIDESxTILES")
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--out", type=Path, help="folder on the disk to measure [a temporary one]")
    asked = parser.parse_args()
    stores = {}
    with tempfile.TemporaryDirectory(dir=asked.out) as folder:
        for name in ("small", "large"):
            slides, tiles = map(int, getattr(asked, name).split("x"))
            stores[name] = measure(Path(folder), slides, tiles, asked.dim)
            print(name, stores[name], flush=True)
    about = {"conditions": conditions("pylance", "h5py"), "dim": asked.dim, "format": _KIND}
    write(asked.name, {**about, "stores": stores})


if __name__ == "__main__":
    main()
