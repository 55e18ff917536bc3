"""A table of one feature vector a slide (CSV, TSV, gzipped or not, or Parquet): bags of one."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from beph_store.errors import UsageError
from beph_store.objects import require_disk

#: The largest finite float16: what a store can hold.
_LARGEST = 65504.0


@dataclass(frozen=True, slots=True, eq=False)
class FeatureTable:
    """``vectors`` (N, D) float32, row i of slide ``slide_ids[i]``; ``columns`` (D,) their names.

    ``refused`` names each row that cannot be used, with its reason; ``sha256`` is over the file and the names.
    """

    path: Path
    slide_ids: tuple[str, ...]
    vectors: NDArray[np.float32]
    columns: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]
    sha256: str

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.vectors.shape[1])


def read_feature_table(path: Path, *, columns: str, id_column: str = "slide_id") -> FeatureTable:
    """The numeric columns whose whole name matches the regular expression ``columns``, one row a slide.

    Nothing is filled in: a row with a missing or non-finite value, or one beyond float16, is refused with its
    reason. Raises UsageError for a file, an id column or an expression that cannot be meant.
    """
    frame = _read(path)
    if id_column not in frame.columns:
        have = ", ".join(frame.columns[:8])
        raise UsageError(
            f"{path.name} has no column {id_column!r} (it begins with {have}): pass --slide-column"
        )
    try:
        wanted = re.compile(columns)
    except re.error as error:
        raise UsageError(f"--columns {columns!r} is no regular expression: {error}") from None
    names = [name for name in frame.columns if name != id_column and wanted.fullmatch(name)]
    if not names:
        raise UsageError(
            f"no column of {path.name} matches --columns {columns!r}; it has {frame.width} columns"
        )
    schema = frame.schema  # made anew by every access
    texts = [name for name in names if not schema[name].is_numeric()]
    if texts:
        raise UsageError(f"column {texts[0]!r} of {path.name} is not numeric: narrow --columns {columns!r}")
    ids = frame[id_column].cast(pl.String).to_list()
    values = frame.select(names).cast(pl.Float32).fill_null(float("nan")).to_numpy()
    refused = {row: why for row in range(len(ids)) if (why := _why_not(ids, row, values[row]))}
    for row, why in _repeated(ids):
        refused.setdefault(row, why)
    keep = [row for row in range(len(ids)) if row not in refused]
    return FeatureTable(
        path,
        tuple(ids[row] for row in keep),
        np.ascontiguousarray(values[keep]),
        tuple(names),
        tuple((ids[row] or f"row {row + 2}", why) for row, why in sorted(refused.items())),
        hashlib.sha256(path.read_bytes() + "\0".join(names).encode()).hexdigest(),
    )


def _read(path: Path) -> pl.DataFrame:
    require_disk(path, "a table of features is read")
    if not path.is_file():
        raise UsageError(f"no such table: {path}", path=path)
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
        plain = path.with_suffix("") if path.suffix == ".gz" else path
        return pl.read_csv(
            path,
            separator="\t" if plain.suffix in (".tsv", ".txt") else ",",
            infer_schema_length=None,
            null_values=["", "NA", "NaN", "nan", "null"],
        )
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read as a table: {str(error).splitlines()[0]}", path=path
        ) from error


def _why_not(ids: list[str | None], row: int, vector: NDArray[np.float32]) -> str | None:
    if not ids[row]:
        return "the row names no slide"
    bad = int((~np.isfinite(vector)).sum())
    if bad:
        return f"{bad} of {len(vector)} values are missing or not finite: fill them before the import"
    if float(np.abs(vector).max()) > _LARGEST:
        return f"a value of {np.abs(vector).max():g} is beyond float16: scale the columns before the import"
    return None if vector.any() else "all values are zero"


def _repeated(ids: list[str | None]) -> list[tuple[int, str]]:
    counts = Counter(ids)
    return [(row, f"{counts[name]} rows have this id") for row, name in enumerate(ids) if counts[name] > 1]
