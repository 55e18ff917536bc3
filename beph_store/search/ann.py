"""An approximate index on a Lance tile table: built, brought up to date, described, dropped, asked.

IVF: every vector belongs to the nearest of some centroids, and a query looks into few of these partitions. RQ: inside
them vectors are kept as a few bits a dimension (RaBitQ). Their ranking alone finds 97 % of the neighbours, so Lance
fetches ``refine`` times as many as asked and compares those as stored. Rows written after the index was made are
compared one by one, by Lance, until `update` takes them in.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beph_store.errors import SearchError
from beph_store.objects import explain, is_storage_error, storage_options
from beph_store.search.partitions import assigned, centroids

#: Names of the two indices a table gets: on the vectors, and on slide ids. Without the second, leaving out the own
#: case reads a million ids a query: 57 ms in place of 10.
NAME, SLIDE_NAME = "beph_ann", "beph_slide"
#: Below this many rows comparing all of them takes 20 ms at most on one core; see benchmarks/results/search.json.
MIN_ROWS = 200_000
COLUMN = "embedding"

#: Told what is going on, with (done, total) of it; total 0 where unknown.
Progress = Callable[[str, int, int], None]

_ROWS_PER_PARTITION = 8192
#: Vectors a centroid learns from.
_SAMPLE_PER_PARTITION = 256
_TRIES = 5


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """An index to build: Lance's ``kind`` and how many ``partitions``."""

    kind: str
    partitions: int

    @property
    def sample(self) -> int:
        """How many vectors to learn the centroids from."""
        return self.partitions * _SAMPLE_PER_PARTITION


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """``rows_unindexed`` were written after the last update and are searched one by one; ``bytes`` on disk."""

    kind: str
    rows_indexed: int
    rows_unindexed: int
    bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Rows that an index found for one query, best first: keys (n,) and cosine ``score`` (n,) float32."""

    slide_id: tuple[str, ...]
    tile: NDArray[np.int32]
    ingest_id: tuple[str, ...]
    score: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.tile)


def choose(rows: int, dim: int) -> IndexPlan | None:
    """The index for a table of ``rows`` vectors of ``dim``; None where exact search needs none."""
    if rows < MIN_ROWS:
        return None
    # RaBitQ packs its bits by eight dimensions; SQ (one byte a dimension) takes any.
    kind = "IVF_RQ" if dim % 8 == 0 else "IVF_SQ"
    return IndexPlan(kind, max(16, round(rows / _ROWS_PER_PARTITION)))


def sample(vectors: NDArray[np.float16], plan: IndexPlan, seed: int = 0) -> NDArray[np.float16]:
    """Random rows (n, D) of ``vectors`` (T, D), as many as the plan wants or all."""
    size = min(plan.sample, len(vectors))
    rows = np.random.default_rng(seed).choice(len(vectors), size, replace=False)
    return vectors[np.sort(rows)]


def build(
    path: str | Path, plan: IndexPlan, vectors: NDArray[np.float16], progress: Progress | None = None
) -> IndexInfo:
    """Make the index of ``plan`` over the table at ``path``, in place of one that is there.

    ``vectors`` (n, D) are a sample, see `sample`. Rows may be appended meanwhile; they are then not in it.
    """
    if progress:
        progress("centroids", 0, 0)
    means = centroids(vectors, plan.partitions)
    _until_not_overtaken(path, lambda: _make(path, plan, means, progress))
    info = describe(path)
    if info is None:
        raise SearchError(f"Lance made no index on {path}: check the disk and index again", path=path)
    return info


def _make(path: str | Path, plan: IndexPlan, means: NDArray[np.float32], progress: Progress | None) -> None:
    table = _open(path)
    with assigned(table, COLUMN, means, _told(progress, "partitions")) as partitions:
        table.create_index(
            COLUMN,
            plan.kind,
            name=NAME,
            metric="cosine",
            replace=True,
            num_partitions=len(means),
            ivf_centroids=pa.FixedSizeListArray.from_arrays(pa.array(means.ravel()), means.shape[1]),
            precomputed_partition_dataset=str(partitions),
            progress_callback=_listener(progress),
        )
        table.create_scalar_index("slide_id", "BITMAP", name=SLIDE_NAME, replace=True)


def _until_not_overtaken(path: str | Path, work: Callable[[], object]) -> None:
    """Once more where another process committed what changes the work (a compaction): it has to be read again."""
    for left in reversed(range(_TRIES)):
        try:
            work()
            return
        except (OSError, ValueError, RuntimeError) as error:
            if not left or "conflict" not in str(error).lower():
                raise _translate(error, path) from error
            time.sleep(0.1 * 2 ** (_TRIES - left))


def update(path: str | Path) -> IndexInfo:
    """Take rows written since the last build or update into the index; the centroids stay as they are.

    SearchError where there is no index.
    """
    if describe(path) is None:
        raise SearchError(f"no index on {path}: build one first", path=path)
    _until_not_overtaken(path, lambda: _open(path).optimize.optimize_indices(index_names=_ours(path)))
    info = describe(path)
    if info is None:
        raise SearchError(f"the index on {path} was dropped meanwhile: build it again", path=path)
    return info


def drop(path: str | Path) -> bool:
    """Remove the index; False where there is none. Its files go with the next compaction."""
    table = _open(path)
    with _translated(path):
        names = _ours(path)
        for name in names:
            table.drop_index(name)
    return NAME in names


def describe(path: str | Path) -> IndexInfo | None:
    """The index on the table at ``path``, or None."""
    return _info(_open(path))


class TileIndex:
    """An index being asked. Keeps the table open, with what it has read of the index; threads may share it.

    Sees every row committed before a call. A table rewritten under it (compacted, cleaned up) is opened again.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._table = _open(path)
        self._described: tuple[int, IndexInfo | None] | None = None

    def info(self) -> IndexInfo | None:
        """What the index covers now; None where it was dropped."""
        table = self._latest()
        described = self._described
        if described is None or described[0] != table.version:
            described = self._described = (table.version, _info(table))
        return described[1]

    def candidates(
        self,
        query: NDArray[np.float32],
        k: int,
        *,
        refine: int = 5,
        nprobes: int = 8,
        where: str | None = None,
    ) -> Candidates:
        """The ``k`` rows nearest to ``query`` (D,) among those that ``where`` (SQL on the table's columns) allows.

        The filter acts before the ranking, so that k rows are found wherever k are allowed in the ``nprobes``
        partitions looked into. ``refine`` × k rows are compared as stored.
        """
        nearest = {
            "column": COLUMN,
            "q": np.ascontiguousarray(query, np.float32),
            "k": k,
            "metric": "cosine",
            "nprobes": nprobes,
            "refine_factor": refine,
        }
        wanted: dict[str, Any] = {
            "columns": ["slide_id", "tile", "ingest_id", "_distance"],
            "nearest": nearest,
            "filter": where,
            "prefilter": True,  # Lance's default ranks first and filters what is left
        }
        try:
            found = self._latest().to_table(**wanted)
        except (OSError, RuntimeError):
            with _translated(self._path):
                found = self._reopened().to_table(**wanted)
        except ValueError as error:
            raise _translate(error, self._path) from error
        return Candidates(
            tuple(found["slide_id"].to_pylist()),
            found["tile"].to_numpy().astype(np.int32),
            tuple(found["ingest_id"].to_pylist()),
            1 - found["_distance"].to_numpy().astype(np.float32),
        )

    def _latest(self) -> Any:
        with self._lock:
            stale = self._table.latest_version != self._table.version
            if stale:
                # The session holds the index in memory: with it, a new version costs no second reading.
                self._table = _open(self._path, self._table.session())
            return self._table

    def _reopened(self) -> Any:
        with self._lock:
            self._table = _open(self._path)
            return self._table


def not_in(column: str, values: Sequence[str]) -> str | None:
    """SQL that leaves out ``values``; None for none."""
    if not values:
        return None
    listed = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    return f"{column} NOT IN ({listed})"


def _open(path: str | Path, session: Any = None) -> Any:
    with _translated(path):
        return lance.dataset(str(path), session=session, storage_options=storage_options(str(path)))


def _described(table: Any) -> dict[str, Any]:
    return {index.name: index for index in table.describe_indices() if index.name in (NAME, SLIDE_NAME)}


def _ours(path: str | Path) -> list[str]:
    return list(_described(_open(path)))


def _info(table: Any) -> IndexInfo | None:
    ours = _described(table)
    if NAME not in ours:
        return None
    indexed = int(ours[NAME].num_rows_indexed)
    # Deleted rows stay in an index until the next update: never fewer than none is missing.
    missing = max(0, int(table.count_rows()) - indexed)
    size = sum(int(index.total_size_bytes or 0) for index in ours.values())
    return IndexInfo(str(ours[NAME].index_type), indexed, missing, size)


def _told(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(what, done, total)


def _listener(progress: Progress | None) -> Callable[[Any], None] | None:
    if progress is None:
        return None

    def hear(event: Any) -> None:
        progress(
            str(getattr(event, "stage", "index")),
            int(getattr(event, "completed", 0) or 0),
            int(getattr(event, "total", 0) or 0),
        )

    return hear


@contextmanager
def _translated(path: str | Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        raise _translate(error, path) from error


def _translate(error: Exception, path: str | Path) -> SearchError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    if is_storage_error(error):
        first = explain(error, str(path))
    return SearchError(f"the tile table cannot be searched or indexed: {first}", path=path)
