"""How well and how fast are neighbours found: all rows compared, by index, filtered, and beside other libraries?

    python benchmarks/bench_search.py [--sizes 100000 1000000] [--queries 500] [--hnsw-rows 200000] [--name search]
                                      [--methods exact lance …]

Vectors are drawn: 64 kinds of tissue on a curved 32-dimensional surface in 768 dimensions, a shift for every slide of
5,000 tiles, a little noise; float16. Queries come from slides that are not in the table. Each method is built in one
process and asked in another, which is bound to one core and then to two before anything is loaded, so that no
library's own threads escape it. Recall is against the float64 ranking of the stored values; settings are not tuned to
the same recall, so latencies compare only where it is alike. 10^7 rows need 15 GB of disk for the vectors and as much
for the Lance table: pass --sizes 10000000 where there is room.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from common import command_line, conditions, write
from numpy.typing import NDArray
from search_libraries import DIM, METHODS, SLIDE, K, Place

from beph_store.search import Searcher, TileIndex, top_k

KINDS, LATENT = 64, 32
CASE = 2  # slides a case


def world(seed: int = 0) -> Callable[[int, int], NDArray[np.float16]]:
    """A function that draws the first n tiles of a slide, the same on every call."""
    rng = np.random.default_rng(seed)
    lift = rng.standard_normal((2 * LATENT, DIM)).astype(np.float32) / np.sqrt(LATENT)
    kinds = rng.standard_normal((KINDS, LATENT)).astype(np.float32) * 1.2
    centre = rng.standard_normal(DIM).astype(np.float32)

    def slide(number: int, tiles: int = SLIDE) -> NDArray[np.float16]:
        own = np.random.default_rng((seed, number))
        mix = own.dirichlet(np.full(KINDS, 0.15))
        z = kinds[own.choice(KINDS, tiles, p=mix)] + 0.6 * own.standard_normal((tiles, LATENT)).astype(
            np.float32
        )
        shift = 0.25 * own.standard_normal(DIM).astype(np.float32)
        noise = 0.1 * own.standard_normal((tiles, DIM), dtype=np.float32)
        return (centre + np.concatenate([z, np.sin(2 * z)], 1) @ lift + shift + noise).astype(np.float16)

    return slide


def prepare(place: Place, queries: int) -> dict[str, Any]:
    """Draw vectors, table and queries, and rank the truth."""
    draw = world()
    vectors = np.lib.format.open_memmap(place.root / "vectors.npy", "w+", np.float16, (place.rows, DIM))
    for number, at in enumerate(range(0, place.rows, SLIDE)):
        vectors[at : at + SLIDE] = draw(number, min(SLIDE, place.rows - at))
    asked = np.concatenate([draw(10**6 + number, 10) for number in range(-(-queries // 10))])[:queries]
    np.save(place.root / "queries.npy", asked.astype(np.float32))
    schema = pa.schema(
        [
            pa.field("slide_id", pa.string(), nullable=False),
            pa.field("tile", pa.int32(), nullable=False),
            pa.field("ingest_id", pa.string(), nullable=False),
            pa.field("embedding", pa.list_(pa.float16(), DIM)),
        ]
    )

    def batches() -> Iterator[pa.RecordBatch]:
        flat = place.flat()
        for slide_id, (start, stop) in zip(flat.slide_ids, flat.spans, strict=True):
            column = pa.FixedSizeListArray.from_arrays(pa.array(flat.vectors[start:stop].ravel()), DIM)
            tiles = pa.array(flat.tile_index[start:stop])
            names = pa.array([slide_id] * (stop - start))
            yield pa.record_batch([names, tiles, names, column], schema=schema)

    began = time.perf_counter()
    lance.write_dataset(
        batches(), place.table, schema=schema, max_rows_per_file=SLIDE, data_storage_version="2.2"
    )
    written = time.perf_counter() - began
    np.save(place.root / "truth.npy", top_k(place.array("queries"), vectors, K).index)
    return {"table_seconds": written, "vector_bytes": int(vectors.nbytes)}


def asked(place: Place, name: str, cores: int, queries: int) -> dict[str, Any]:
    """Recall and latency of every setting of a method."""
    _, _, asker, most, _ = METHODS[name]
    truth, questions = place.array("truth"), place.array("queries")[: min(queries, most)]
    results = {}
    for setting, ask in asker(place, cores).items():
        for q in questions[:5]:
            ask(q)
        seconds, hits = [], 0
        for q, right in zip(questions, truth, strict=False):
            began = time.perf_counter()
            rows = ask(q)
            seconds.append(time.perf_counter() - began)
            hits += len(set(rows.tolist()) & set(right.tolist()))
        results[setting] = latency(seconds) | {"recall": hits / K / len(questions), "queries": len(questions)}
    return results


def latency(seconds: list[float]) -> dict[str, float]:
    """Median and 95th percentile, ms of wall time."""
    return {"median_ms": 1e3 * statistics.median(seconds), "p95_ms": 1e3 * float(np.quantile(seconds, 0.95))}


def rates(place: Place, cores: int) -> dict[str, Any]:
    """Exact search against copying the same bytes, alternating, in this process."""
    flat = place.flat()
    vectors = np.ascontiguousarray(flat.vectors[: min(place.rows, 200_000)])
    other, questions = np.empty_like(vectors), place.array("queries")
    times: dict[str, list[float]] = {"copy": [], "one_query": [], "hundred_queries": []}
    for number in range(7):
        began = time.perf_counter()
        np.copyto(other, vectors)
        times["copy"].append(time.perf_counter() - began)
        for name, some in (
            ("one_query", questions[number : number + 1]),
            ("hundred_queries", questions[:100]),
        ):
            began = time.perf_counter()
            top_k(some, vectors, K, threads=cores)
            times[name].append(time.perf_counter() - began)
    best = {name: min(values) for name, values in times.items()}
    return {
        "rows": len(vectors),
        "copy_gb_per_s": vectors.nbytes / best["copy"] / 1e9,
        "one_query_gb_per_s": vectors.nbytes / best["one_query"] / 1e9,
        "one_query_over_copy": best["copy"] / best["one_query"],
        "hundred_queries_gflop_per_s": 200 * vectors.size / best["hundred_queries"] / 1e9,
        "hundred_queries_ms_a_query": 10 * best["hundred_queries"],
    }


def filters(place: Place, cores: int, queries: int) -> dict[str, Any]:
    """Filters before ranking: as the searcher decides, and by the index alone."""
    flat, index = place.flat(), TileIndex(place.table)
    searcher = Searcher(flat, index, threads=cores)
    rng = np.random.default_rng(1)
    some = max(1, len(flat.slide_ids) // 100)
    chosen = [flat.slide_ids[number] for number in rng.choice(len(flat.slide_ids), some, replace=False)]
    in_chosen = np.isin(np.repeat(flat.slide_ids, SLIDE)[: place.rows], chosen)
    own = rng.choice(place.rows, queries)
    questions, inside = place.array("queries")[:queries], np.asarray(flat.vectors[own], np.float32)
    cases = [
        [flat.slide_ids[n] for n in (row // SLIDE // CASE * CASE, row // SLIDE // CASE * CASE + 1)]
        for row in own
    ]
    cases = [[s for s in case if s in flat.slide_ids] for case in cases]
    every = [[] for _ in questions]
    listed = "slide_id IN (" + ", ".join(f"'{slide}'" for slide in chosen) + ")"
    alone = lambda q, _: searcher.rows_of(index.candidates(q, K, nprobes=16, where=listed))  # noqa: E731
    plan: list[tuple[str, Any, Any, Any, Any]] = [
        ("1 % of tiles", rng.random(place.rows) < 0.01, questions, every, None),
        ("half of the tiles", rng.random(place.rows) < 0.5, questions, every, None),
        ("1 % of slides", in_chosen, questions, every, None),
        ("1 % of slides, by the index alone", in_chosen, questions, every, alone),
        ("not the own case", None, inside, cases, None),
    ]
    results = {}
    for name, mask, some_queries, left_out, ask in plan:
        seconds, hits, by_index = [], 0, 0
        for q, out in zip(some_queries, left_out, strict=True):
            right = searcher.search(q[None], K, mask=mask, exclude=out, exact=True).index[0]
            began = time.perf_counter()
            if ask:
                rows, exact = ask(q, out), False
            else:
                found = searcher.search(q[None], K, mask=mask, exclude=out)
                rows, exact = found.index[0], found.exact
            seconds.append(time.perf_counter() - began)
            by_index += not exact
            hits += len(set(rows.tolist()) & set(right.tolist()) - {-1})
        results[name] = latency(seconds) | {
            "recall": hits / K / len(seconds),
            "by_index": by_index / len(seconds),
            "queries": len(seconds),
        }
    return results


def in_process(root: Path, rows: int, cores: int, *job: str) -> Any:
    """Run one job in a process of its own, bound to so many cores."""
    threads = {name: str(cores) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LANCE_CPU_THREADS")}
    usable = sorted(os.sched_getaffinity(0))[-cores:]
    command = [sys.executable, __file__, "--job", json.dumps([str(root), rows, *job])]
    done = subprocess.run(
        command,
        # Passive: threads that spin while they wait are a disaster where cores are shared.
        env=os.environ | threads | {"RUST_LOG": "error", "OMP_WAIT_POLICY": "PASSIVE"},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, usable),
    )
    return json.loads(done.stdout.splitlines()[-1])


def run_job(root: str, rows: int, kind: str, *rest: Any) -> Any:
    """What the process made by `in_process` does."""
    place = Place(Path(root), rows)
    if kind == "prepare":
        return prepare(place, *rest)
    if kind == "build":
        return METHODS[rest[0]][1](place, rest[1])
    return {"ask": asked, "rates": rates, "filters": filters}[kind](place, *rest)


def measure(rows: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything at one size."""
    methods: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        root = Path(folder)
        data = in_process(root, rows, 2, "prepare", arguments.queries)
        speed = {str(cores): in_process(root, rows, cores, "rates", cores) for cores in (1, 2)}
        for name, (package, builder, _, _, limited) in METHODS.items():
            if not any(word in name for word in arguments.methods):
                methods[name] = {"left_out": "not among --methods"}
                continue
            if find_spec(package) is None:
                methods[name] = {"left_out": f"{package} is not installed"}
                continue
            if limited and rows > arguments.hnsw_rows:
                methods[name] = {"left_out": f"built up to {arguments.hnsw_rows} rows only: see --hnsw-rows"}
                continue
            print(f"{rows} rows: {name}", file=sys.stderr, flush=True)
            built = in_process(root, rows, 2, "build", name, rows) if builder else {}
            answers = {str(c): in_process(root, rows, c, "ask", name, c, arguments.queries) for c in (1, 2)}
            methods[name] = {"build": built, "cores": answers}
        filtered = in_process(root, rows, 1, "filters", 1, min(100, arguments.queries))
        shutil.rmtree(root / "tiles.lance")
    return {
        "rows": rows,
        "data": data,
        "exact_rates": speed,
        "methods": methods,
        "filters_one_core": filtered,
    }


def estimate(results: dict[str, Any]) -> dict[str, str]:
    """What 10^9 rows would take, from the largest size measured: arithmetic, not a measurement."""
    rate = results["exact_rates"]["1"]["one_query_gb_per_s"]
    built = results["methods"]["lance IVF_RQ"].get("build")
    said = {
        "exact": f"seconds a query = rows x {DIM} x 2 bytes / (cores x {rate:.1f} GB/s) = "
        f"{1e9 * DIM * 2 / rate / 1e9:.0f} s on one core at 10^9 rows, all in memory (1.5 TB)",
        "exact, 1 % kept": f"a hundredth of it: {1e7 * DIM * 2 / rate / 1e9:.1f} s",
    }
    if built:
        rows, flops = results["rows"], results["exact_rates"]["2"]["hundred_queries_gflop_per_s"] * 1e9
        per_row = built["seconds"] / rows - 2 * DIM * built["partitions"] / flops
        assigning = 2 * DIM * 1e9 / 8192 / flops
        said["index"] = (
            f"build seconds (two cores) = rows x {1e6 * per_row:.0f} us + rows x partitions x 2 x {DIM} flop at "
            f"{flops / 1e9:.0f} GFLOP/s = {1e9 * per_row / 3600:.0f} h + {1e9 * assigning / 3600:.0f} h at 10^9, where "
            "assigning to 122,070 partitions is nearly all: larger partitions, or centroids of centroids; "
            f"bytes = rows x {built['bytes'] / rows:.0f} = "
            f"{1e9 * built['bytes'] / rows / 1e9:.0f} GB; a query compares rows / partitions x nprobes codes: "
            "at 8,192 rows a partition 65,536 of them at any size, after 10^9 / 8,192 = 122,070 centroids, "
            "as many again: about three times the latency measured. One table a cohort keeps builds in parallel."
        )
    return said


def main() -> None:
    """Measure, print, write."""
    parser = command_line(__doc__, "search")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--hnsw-rows", type=int, default=200_000)
    parser.add_argument(
        "--methods", nargs="+", default=[""], help="only those whose names hold one of these words"
    )
    parser.add_argument("--folder", help="where to put the data; default: the system's temporary folder")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        print(json.dumps(run_job(*json.loads(arguments.job))))
        return
    began = time.perf_counter()
    results = [measure(rows, arguments) for rows in arguments.sizes]
    packages = ("pylance", "numkong", "faiss-cpu", "usearch", "scikit-learn")
    write(
        arguments.name,
        {
            "question": __doc__.splitlines()[0],
            "conditions": conditions(*packages) | {"load_before": os.getloadavg()[0]},
            "data": f"{DIM} dimensions float16, {KINDS} kinds on a {LATENT}-d surface, slides of {SLIDE}; drawn",
            "sizes": results,
            "estimate_for_1e9": estimate(results[-1]),
            "seconds": time.perf_counter() - began,
        },
    )


if __name__ == "__main__":
    main()
