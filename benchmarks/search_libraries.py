"""What `bench_search` compares: each method as a builder and as askers. No main: run `bench_search.py`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.search import Searcher, TileIndex, ann, dots, top_k

DIM, SLIDE, K = 768, 5000, 10


@dataclass(frozen=True)
class Flat:
    """What the store's flat vectors are."""

    slide_ids: tuple[str, ...]
    spans: NDArray[np.int64]
    tile_index: NDArray[np.int32]
    vectors: NDArray[np.float16]


@dataclass(frozen=True)
class Place:
    """Where the data of one size lies."""

    root: Path
    rows: int

    @property
    def table(self) -> Path:
        """The Lance table of tiles."""
        return self.root / "tiles.lance"

    def flat(self) -> Flat:
        """The vectors, mapped."""
        vectors = np.load(self.root / "vectors.npy", mmap_mode="r")
        starts = np.arange(0, self.rows, SLIDE, dtype=np.int64)
        ids = tuple(f"slide-{number:05d}" for number in range(len(starts)))
        spans = np.stack([starts, np.minimum(starts + SLIDE, self.rows)], 1)
        return Flat(ids, spans, (np.arange(self.rows) % SLIDE).astype(np.int32), vectors)

    def array(self, name: str) -> Any:
        """Queries or truth."""
        return np.load(self.root / f"{name}.npy")


# -- builders: (place, rows) -> seconds and bytes ------------------------------------------------------------------


def build_lance(place: Place, rows: int) -> dict[str, Any]:
    """The index of this library, whatever the size."""
    plan = ann.IndexPlan("IVF_RQ", max(16, round(rows / 8192)))
    vectors = place.flat().vectors
    began = time.perf_counter()
    ann.centroids(ann.sample(vectors, plan), plan.partitions)
    learned = time.perf_counter() - began
    began = time.perf_counter()
    info = ann.build(place.table, plan, ann.sample(vectors, plan))
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "centroid_seconds": learned,
        "bytes": info.bytes,
        "partitions": plan.partitions,
    }


def unit32(block: NDArray[np.float16]) -> NDArray[np.float32]:
    """Rows at length 1, as faiss wants them."""
    wide = block.astype(np.float32)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def build_faiss(
    factory: str, set_up: Callable[[Any], None] | None = None
) -> Callable[[Place, int], dict[str, Any]]:
    """A builder of the index that a faiss factory string names; LISTS becomes about rows / 1000."""

    def build(place: Place, rows: int) -> dict[str, Any]:
        import faiss

        vectors = place.flat().vectors[:rows]
        wanted = factory.replace("LISTS", str(max(64, 2 ** round(np.log2(rows / 1000)))))
        index = faiss.index_factory(DIM, wanted, faiss.METRIC_INNER_PRODUCT)
        if set_up:
            set_up(index)
        began = time.perf_counter()
        if not index.is_trained:
            index.train(
                unit32(vectors[np.sort(np.random.default_rng(0).choice(rows, min(rows, 60000), False))])
            )
        for at in range(0, rows, 20000):
            index.add(unit32(vectors[at : at + 20000]))
        seconds = time.perf_counter() - began
        path = place.root / "faiss.index"
        faiss.write_index(index, str(path))
        return {"seconds": seconds, "bytes": path.stat().st_size, "factory": wanted}

    return build


def build_usearch(place: Place, rows: int) -> dict[str, Any]:
    """HNSW on float16."""
    from usearch.index import Index

    index = Index(ndim=DIM, metric="cos", dtype="f16", connectivity=16, expansion_add=80)
    vectors = place.flat().vectors
    began = time.perf_counter()
    for at in range(0, rows, 20000):
        block = np.ascontiguousarray(vectors[at : min(rows, at + 20000)])
        index.add(np.arange(at, at + len(block)), block)
    seconds = time.perf_counter() - began
    index.save(str(place.root / "usearch.index"))
    return {"seconds": seconds, "bytes": (place.root / "usearch.index").stat().st_size}


# -- askers: (place, cores) -> {setting: one query -> row numbers} -------------------------------------------------

Ask = Callable[[NDArray[np.float32]], NDArray[np.int64]]


def ask_exact(place: Place, cores: int) -> dict[str, Ask]:
    """All rows, by the fastest kernel."""
    vectors = place.flat().vectors
    return {"": lambda q: top_k(q[None], vectors, K, threads=cores).index[0]}


def ask_numpy(place: Place, cores: int) -> dict[str, Ask]:
    """All rows, as where numkong is not installed."""
    dots.fast_numkong = lambda: None
    return ask_exact(place, cores)


def ask_lance(place: Place, cores: int) -> dict[str, Ask]:
    """The index alone, without the searcher's choices."""
    flat = place.flat()
    index = TileIndex(place.table)
    rows_of = Searcher(flat, index, threads=cores).rows_of

    def at(nprobes: int, refine: int) -> Ask:
        return lambda q: rows_of(index.candidates(q, K, refine=refine, nprobes=nprobes))

    return {f"nprobes {p}, refine {r}": at(p, r) for p, r in ((4, 5), (8, 5), (16, 5), (8, 1))}


def ask_faiss(settings: dict[str, str]) -> Callable[[Place, int], dict[str, Ask]]:
    """An asker with each of the settings."""

    def ask(place: Place, cores: int) -> dict[str, Ask]:
        import faiss

        faiss.omp_set_num_threads(cores)
        index = faiss.read_index(str(place.root / "faiss.index"))

        def at(parameters: str) -> Ask:
            def one(q: NDArray[np.float32]) -> NDArray[np.int64]:
                if parameters:
                    faiss.ParameterSpace().set_index_parameters(index, parameters)
                return np.asarray(index.search(q[None] / np.linalg.norm(q), K)[1][0])

            return one

        return {name: at(parameters) for name, parameters in settings.items()}

    return ask


def ask_usearch(place: Place, cores: int) -> dict[str, Ask]:
    """Two widths of search."""
    from usearch.index import Index

    index = Index.restore(str(place.root / "usearch.index"))

    def at(expansion: int) -> Ask:
        def one(q: NDArray[np.float32]) -> NDArray[np.int64]:
            index.expansion_search = expansion
            return index.search(q.astype(np.float16), K).keys.astype(np.int64)

        return one

    return {f"expansion {e}": at(e) for e in (64, 256)}


# 96 bytes a vector, as PQ96 has: but its training takes a second where that of 8-bit codes took four minutes here.
IVFPQ = {
    f"nprobe {probes}, refine {refine}": f"nprobe={probes},k_factor_rf={refine}"
    for probes, refine in ((8, 10), (32, 20), (64, 50), (128, 200))
}
#: name -> (package, builder, asker, queries at most, limited to --hnsw-rows)
METHODS: dict[str, tuple[str, Any, Any, int, bool]] = {
    "exact (numkong)": ("numkong", None, ask_exact, 200, False),
    "exact (NumPy)": ("numpy", None, ask_numpy, 20, False),
    "lance IVF_RQ": ("lance", build_lance, ask_lance, 500, False),
    "faiss Flat": ("faiss", build_faiss("Flat"), ask_faiss({"": ""}), 50, False),
    "faiss IVF-PQ4 + fp16": (
        "faiss",
        build_faiss("IVFLISTS,PQ192x4fs,Refine(SQfp16)"),
        ask_faiss(IVFPQ),
        500,
        False,
    ),
    "faiss HNSW32": (
        "faiss",
        build_faiss("HNSW32", lambda index: setattr(index.hnsw, "efConstruction", 80)),
        ask_faiss({"ef 64": "efSearch=64", "ef 256": "efSearch=256"}),
        500,
        True,
    ),
    "usearch HNSW f16": ("usearch", build_usearch, ask_usearch, 500, True),
}
