"""What does the store's bookkeeping cost when it lists a thousand, ten thousand, a hundred thousand slides?

Rows and fragments are drawn: a registry row is as an ingest writes it, a fragment is the record of one real, small data
file under other names, so that the manifest is as long as it would be and the disk is not filled. All is done by the
product's own functions on a local disk. The cost of a tile (bytes, seconds to seal, seconds to copy flat) is measured
on whole slides of 768-d vectors.

    python benchmarks/bench_scale.py [--rows 1000,10000,100000] [--name scale]
"""

from __future__ import annotations

import json
import resource
import shutil
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from common import command_line, conditions, seconds, write

from beph_store.engine.plan import SlideTask
from beph_store.records import EncoderSpec, Rasters, Recipe, SlideInfo, TileSet, TileSpec, TissueMask
from beph_store.store import RecipeWriter, SlideRow, Store
from beph_store.store.known import Known
from beph_store.store.layout import LANCE_VERSION, REGISTRY, tiles_schema
from beph_store.store.sealing import ensure_table
from beph_store.store.staging import Ready
from beph_store.store.tables import write_rows

BATCH = 64  # slides a commit, as the writer makes them
SPEC = TileSpec(tile_px=224, mpp=0.5, stride_px=224, tissue_min=0.0, tissue_method="none")


def recipe(dim: int) -> Recipe:
    """Of a drawn encoder."""
    encoder = EncoderSpec(
        "drawn", "test", "0" * 64, 224, 0.5, dim, "none", (0.0,) * 3, (1.0,) * 3, "fp32", "none"
    )
    return Recipe(SPEC, encoder)


def row(key: str, number: int) -> SlideRow:
    """A row as an ingest leaves it."""
    return SlideRow(
        key,
        f"site{number % 40:02d}/TCGA-{number:08d}-01Z-00-DX1.svs",
        "done",
        tiles=11_000 + number % 7_000,
        case_id=f"TCGA-{number:08d}",
        path=f"/archive/site{number % 40:02d}/TCGA-{number:08d}-01Z-00-DX1.svs",
        fingerprint=uuid.uuid4().hex * 2,
        file_bytes=1_000_000_000 + number,
        file_mtime_ns=1_700_000_000_000_000_000 + number,
        width_l0=98_000,
        height_l0=76_000,
        mpp_x=0.2525,
        mpp_y=0.2525,
        mpp_source="tiff",
        footprint_l0=448,
        reader="tiff",
        ingest_id=uuid.uuid4().hex,
        sha256=uuid.uuid4().hex * 2,
        seconds=12.5,
        run="20261126T000000-abcdef",
    )


def median_seconds(work: Callable[[], Any], times: int = 3) -> float:
    """Median wall seconds."""
    return statistics.median(seconds(work) for _ in range(times))


def after(first: Callable[[], Any], work: Callable[[], Any]) -> float:
    """Wall seconds of ``work`` alone."""
    first()
    return seconds(work)


def fill(writer: RecipeWriter, template: dict[str, Any], start: int, stop: int) -> None:
    """List slides ``start`` to ``stop`` in the registry and their fragments in the table, a few commits in all."""
    for at in range(start, stop, 20_000):
        rows = [row(writer.key, i) for i in range(at, min(at + 20_000, stop))]
        table = pa.Table.from_pylist(
            [{**{f: getattr(r, f) for f in r.__slots__}, "key": r.key} for r in rows], schema=REGISTRY
        )
        lance.write_dataset(
            table, str(writer.layout.registry), mode="append", data_storage_version=LANCE_VERSION
        )
        where = str(writer.layout.tiles(writer.key))
        named = [lance.FragmentMetadata.from_json(json.dumps(renamed(template))) for _ in rows]
        version = lance.dataset(where).version
        lance.LanceDataset.commit(where, lance.LanceOperation.Append(named), read_version=version)


def renamed(template: dict[str, Any]) -> dict[str, Any]:
    """The record of a fragment under another file name."""
    fragment = json.loads(json.dumps(template))
    fragment["files"][0]["path"] = f"{uuid.uuid4().hex}{uuid.uuid4().hex[:16]}.lance"
    return dict(fragment)


def bookkeeping(folder: Path, sizes: list[int]) -> list[dict[str, Any]]:
    """The costs of the registry and the table at each size."""
    space = recipe(768)
    store = Store.create(folder / "S", written_by="bench")
    writer = store.writer(space, run="bench", encoder_source="bench", parity={})
    where = ensure_table(store.layout, space)
    rows = pa.Table.from_pylist(drawn_tiles(16), schema=tiles_schema(768))
    template = write_rows(where, rows)[0]
    found, have = [], 0
    for size in sizes:
        fill(writer, template, have, size)
        writer.registry.tidy()
        have = size
        found.append({"slides": size, **costs(writer, template, size)})
        print(json.dumps(found[-1]), flush=True)
        have += 2 * BATCH * 3
    return found


def costs(writer: RecipeWriter, template: dict[str, Any], size: int) -> dict[str, Any]:
    """What each step takes while ``size`` slides are listed."""
    layout, registry = writer.layout, writer.registry
    where = layout.tiles(writer.key)
    number = iter(range(size, size + 100_000))
    known = Known(registry, writer.key)
    absent = [SlideTask(f"new{i}.svs", Path(f"/archive/new{i}.svs")) for i in range(20)]

    def sealed() -> None:
        for _ in range(BATCH):
            writer.take(Ready(row(writer.key, next(number)), [renamed(template)]))

    def publish() -> None:
        sealed()
        writer.publish(force=True)

    manifests = sorted((where / "_versions").glob("*.manifest"), key=lambda p: p.stat().st_mtime)
    told: dict[str, Any] = {
        "manifest_bytes": manifests[-1].stat().st_size,
        "manifest_bytes_a_slide": round(manifests[-1].stat().st_size / size, 1),
        "registry_bytes_a_slide": round(
            sum(p.stat().st_size for p in (layout.registry / "data").iterdir()) / size, 1
        ),
        "open_table_s": median_seconds(lambda: lance.dataset(str(where))),
        "list_fragments_s": median_seconds(lambda: lance.dataset(str(where)).get_fragments()),
        "known_s": median_seconds(writer.known),
        "get_one_row_s": median_seconds(lambda: registry.get(writer.key, f"{size // 2}"), 5),
        "put_64_rows_s": median_seconds(
            lambda: registry.put(row(writer.key, next(number)) for _ in range(BATCH))
        ),
        "publish_64_slides_s": median_seconds(publish),
        "read_registry_once_s": seconds(known.rows),
        "claim_and_release_s": median_seconds(
            lambda: [one_claim(writer, known, task.slide_id) for task in absent]
        )
        / 20,
        "catch_up_after_a_commit_s": after(publish, lambda: known.get("none")),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in told.items()}


def one_claim(writer: RecipeWriter, known: Known, slide_id: str) -> None:
    """What admitting a slide costs before a byte of it is read."""
    claim = writer.claim(slide_id)
    assert claim is not None
    known.get(slide_id)
    writer.recover(claim)
    writer.release(slide_id)


def drawn_tiles(count: int) -> list[dict[str, Any]]:
    """Rows of a tile table."""
    vector = np.ones(768, np.float16)
    return [
        {
            "slide_id": "s", "tile": i, "x": i, "y": 0, "tissue": 1.0, "read_status": "ok",
            "embedding": vector, "ingest_id": "i",
        }
        for i in range(count)
    ]  # fmt: skip


def slides(folder: Path, dim: int, tiles: int, count: int) -> dict[str, Any]:
    """Whole slides through spool, seal and commit, and the flat copy of them all."""
    store = Store.create(folder / f"D{dim}", written_by="bench")
    writer = store.writer(recipe(dim), run="bench", encoder_source="bench", parity={})
    rng = np.random.default_rng(0)
    spool_s, seal_s = [], []
    for number in range(count):
        vectors = rng.normal(size=(tiles, dim)).astype(np.float32)
        name = f"slide{number:04d}.svs"
        side = int(np.ceil(np.sqrt(tiles)))
        y, x = np.divmod(np.arange(tiles), side)
        origin = np.stack([x * 448, y * 448], axis=1).astype(np.int32)
        info = SlideInfo(
            name, "nowhere", (side * 448,) * 2, 0.25, 0.25, "declared", ((side * 448,) * 2,), "0" * 64
        )
        claim = writer.claim(name)
        assert claim is not None
        spool = writer.open_spool(claim, info, TileSet(name, SPEC, origin, 448, np.ones(tiles, np.float32)))
        start = time.perf_counter()
        for at in range(0, tiles, 64):
            index = np.arange(at, min(at + 64, tiles), dtype=np.int32)
            spool.add(index, np.ones(len(index), bool), vectors[index])
        spool.flush()
        spool_s.append(time.perf_counter() - start)
        mask = TissueMask(np.ones((side * 14, side * 14), bool), 32.0, 32.0, "none")
        rasters = Rasters(np.full((side * 14, side * 14, 3), 230, np.uint8), mask)
        start = time.perf_counter()
        writer.seal(claim, rasters, replace(row(writer.key, number), slide_id=name))
        seal_s.append(time.perf_counter() - start)
    start = time.perf_counter()
    writer.close()
    publish_s = time.perf_counter() - start
    start = time.perf_counter()
    store.flat(writer.key)
    flat_s = time.perf_counter() - start
    size = sum(p.stat().st_size for p in store.layout.tiles(writer.key).rglob("*") if p.is_file())
    flat = sum(p.stat().st_size for p in store.layout.cache(writer.key).rglob("*") if p.is_file())
    rasters_bytes = sum(p.stat().st_size for p in (store.layout.root / "rasters").rglob("*") if p.is_file())
    n = tiles * count
    return {
        "dim": dim,
        "tiles_a_slide": tiles,
        "slides": count,
        "table_bytes_a_tile": round(size / n, 1),
        "flat_bytes_a_tile": round(flat / n, 1),
        "raster_bytes_a_slide": round(rasters_bytes / count),
        "spool_s_a_slide": round(statistics.median(spool_s), 4),
        "seal_s_a_slide": round(statistics.median(seal_s), 4),
        "commit_s": round(publish_s, 4),
        "flat_copy_s": round(flat_s, 3),
        "flat_copy_tiles_a_s": round(n / flat_s),
    }


def main() -> None:
    """See the top of the file."""
    asked = command_line(__doc__, "scale")
    asked.add_argument("--rows", default="1000,10000,100000")
    options = asked.parse_args()
    sizes = [int(part) for part in options.rows.split(",")]
    folder = Path(tempfile.mkdtemp(prefix="scale-"))
    try:
        whole = [slides(folder, dim, 5_000, 24) for dim in (256, 768)]
        for one in whole:
            print(json.dumps(one), flush=True)
        found = bookkeeping(folder, sizes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    write(
        options.name,
        {
            "question": "What does the store's bookkeeping cost, by the number of slides that it lists?",
            "conditions": conditions("pylance", "pyarrow"),
            "how": "median wall seconds of 3, local disk, one process; rows and fragments drawn, see the script",
            "slides_a_commit": BATCH,
            "bookkeeping": found,
            "whole_slides": whole,
        },
    )


if __name__ == "__main__":
    main()
