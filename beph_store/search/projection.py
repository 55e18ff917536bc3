"""Embeddings laid out in the plane, an even sample of them, and how far the picture can be trusted."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from beph_store.errors import MissingExtra, SearchError, UsageError

Float32 = NDArray[np.float32]

#: Fewer tiles have no neighbourhoods to keep.
MIN_TILES = 8
#: Neighbours that the layout tries to keep, and that `judge` asks after.
NEIGHBOURS = 15
_BLOCK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class MethodRow:
    """A way to lay vectors out: ``title`` for people, ``package`` whose version belongs beside the picture."""

    title: str
    package: str
    module: str
    run: Callable[[Float32, int], Float32]
    #: What a reader must not take from the picture.
    caution: str
    #: The extra that brings the package; None where the base install has it.
    extra: str | None = None

    def check(self) -> None:
        """MissingExtra where the package is not installed."""
        if self.extra and find_spec(self.module) is None:
            raise MissingExtra(
                f"{self.title} needs {self.package}, which is not installed: pip install 'beph-store[{self.extra}]', "
                "or --method tsne, which takes longer"
            )


@dataclass(frozen=True, slots=True)
class MapQuality:
    """How much of the neighbourhoods survives.

    ``trustworthiness`` (Venna and Kaski 2001): 1 where no tile has a neighbour here that is far in the space of the
    embeddings; about 0.5 for a random layout. ``kept``: share of the ``neighbours`` nearest tiles here that are
    among as many nearest by cosine.
    """

    trustworthiness: float
    kept: float
    neighbours: int


def project(vectors: NDArray[np.floating], method: str, seed: int = 0) -> Float32:
    """(n, 2) float32 for ``vectors`` (n, D) by cosine, within 0–1 and centred, both axes of one scale.

    The same again for the same seed, machine and versions. UsageError for an unknown method, MissingExtra where its
    package is absent, SearchError for fewer than ``MIN_TILES`` rows.
    """
    row = method_row(method)
    row.check()
    if len(vectors) < MIN_TILES:
        raise SearchError(
            f"{len(vectors)} tiles are too few for a map, {MIN_TILES} the least: widen --where or --sample"
        )
    points = row.run(_unit(vectors), seed).astype(np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    span = max(float((high - low).max()), 1e-12)
    return np.asarray((points - (low + high) / 2) / span + 0.5, np.float32)


def method_row(name: str) -> MethodRow:
    """The row of that name; UsageError lists the names."""
    if name not in METHODS:
        raise UsageError(f"--method {name!r}: choose from {', '.join(METHODS)}")
    return METHODS[name]


def default_method() -> str:
    """UMAP where its extra is installed, else t-SNE, which keeps neighbours as well and takes longer."""
    return "tsne" if find_spec(METHODS["umap"].module) is None else "umap"


def version_of(row: MethodRow) -> str:
    """Package and version, as ``umap-learn 0.5``."""
    return f"{row.package} {metadata.version(row.package)}"


def judge(
    vectors: NDArray[np.floating], points: NDArray[np.floating], neighbours: int = NEIGHBOURS
) -> MapQuality:
    """How well ``points`` (n, 2) keep the neighbourhoods by cosine of ``vectors`` (n, D), all n asked.

    At most a third of the tiles are taken for neighbours. Memory stays at some 100 MB whatever n.
    """
    n = len(vectors)
    k = max(1, min(neighbours, n // 3))
    near = NearestNeighbors(n_neighbors=k).fit(points).kneighbors(return_distance=False)
    unit = _unit(vectors)
    excess, kept = 0, 0
    step = max(1, _BLOCK_BYTES // (4 * n))
    for start in range(0, n, step):
        rows = np.arange(start, min(n, start + step))
        alike = unit[rows] @ unit.T
        alike[np.arange(len(rows)), rows] = -np.inf
        theirs = np.take_along_axis(alike, near[rows], axis=1)
        alike.sort(axis=1)
        for sims, own in zip(alike, theirs, strict=True):
            rank = n + 1 - np.searchsorted(sims, own, side="right")  # 1 = the nearest of all
            excess += int(np.maximum(rank - k, 0).sum())
            kept += int((rank <= k).sum())
    worst = n * k * (2 * n - 3 * k - 1) / 2
    return MapQuality(1 - excess / worst, kept / (n * k), k)


def sample_evenly(group: NDArray[np.integer], size: int, seed: int = 0) -> NDArray[np.int64]:
    """Rows, ascending: ``size`` of the (n,) rows, or all of them, as evenly over the groups as these are large enough.

    A group smaller than its share gives all it has and the others give more. With fewer rows wanted than there are
    groups, each gives one or none.
    """
    if size < 1:
        raise UsageError("--sample must be at least 1")
    rng = np.random.default_rng(seed)
    groups, counts = np.unique(group, return_counts=True)
    quotas = _quotas(counts, min(size, len(group)), rng)
    order = np.argsort(group, kind="stable")
    starts = np.cumsum(counts) - counts
    chosen = [
        order[start + rng.choice(count, quota, replace=False)]
        for start, count, quota in zip(starts, counts, quotas, strict=True)
    ]
    return np.sort(np.concatenate(chosen)).astype(np.int64) if len(groups) else np.empty(0, np.int64)


def _quotas(counts: NDArray[np.int64], total: int, rng: np.random.Generator) -> NDArray[np.int64]:
    quotas = np.zeros(len(counts), np.int64)
    while total:
        room = np.flatnonzero(counts > quotas)
        share = total // len(room)
        if not share:
            quotas[rng.choice(room, total, replace=False)] += 1
            break
        more = np.minimum(share, (counts - quotas)[room])
        quotas[room] += more
        total -= int(more.sum())
    return quotas


def _unit(vectors: NDArray[np.floating]) -> Float32:
    wide = np.asarray(vectors, np.float32)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12), np.float32)


def _pca(vectors: Float32, seed: int) -> Float32:
    with np.errstate(invalid="ignore"):  # the share of a variance of 0, where all tiles are equal
        return np.asarray(PCA(2, svd_solver="full", random_state=seed).fit_transform(vectors), np.float32)


def _tsne(vectors: Float32, seed: int) -> Float32:
    """t-SNE (van der Maaten 2014), Barnes–Hut."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    layout = TSNE(perplexity=min(30.0, (len(vectors) - 1) / 3), init="pca", random_state=seed)
    # Threads meet several times in each of 1,000 steps: with few tiles that is all they do.
    with threadpool_limits(1 if len(vectors) < 1000 else None):
        return np.asarray(layout.fit_transform(vectors), np.float32)


def _umap(vectors: Float32, seed: int) -> Float32:
    """UMAP (McInnes, Healy and Melville 2018) over exact neighbours, which we have.

    Its own search for neighbours is approximate, and compiling that takes 30 s in every process.
    """
    from umap import UMAP

    k = min(NEIGHBOURS, len(vectors) - 1)
    away, near = NearestNeighbors(n_neighbors=k).fit(vectors).kneighbors(vectors)
    known = (near, away.astype(np.float32))
    layout = UMAP(n_neighbors=k, precomputed_knn=known, random_state=seed, n_jobs=1)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=r".*precomputed_knn\[2\]"
        )  # for transforming more, which is not done
        return np.asarray(layout.fit_transform(vectors), np.float32)


_NEIGHBOURHOODS = (
    "Read who lies beside whom; the size of a group and the distance between groups mean little."
)

METHODS: Mapping[str, MethodRow] = MappingProxyType(
    {
        "umap": MethodRow("UMAP", "umap-learn", "umap", _umap, _NEIGHBOURHOODS, "map"),
        "tsne": MethodRow("t-SNE", "scikit-learn", "sklearn", _tsne, _NEIGHBOURHOODS),
        "pca": MethodRow(
            "PCA",
            "scikit-learn",
            "sklearn",
            _pca,
            "Only the two directions of most variance are shown: groups that differ in others lie on each other.",
        ),
    }
)
