"""SQL over tiles, slides and the user's own tables, through polars."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pyarrow as pa

from beph_store.errors import QueryError
from beph_store.sqlguard import check_query
from beph_store.store.reader import Store


def query(
    store: Store, sql: str, *, recipe: str | None = None, tables: Mapping[str, Path] | None = None
) -> pl.DataFrame:
    """Run ``sql`` with the tables ``tiles`` (visible tile rows of one recipe) and ``slides`` (the registry).

    ``tables`` names further CSV or Parquet files, such as ``{"labels": Path("labels.csv")}``. Raises
    QueryError with the reason in one line; RecipeMismatch when the store has several recipes and none is named.
    """
    key = store.recipe(recipe).recipe.key
    others = {name: _scan(path) for name, path in (tables or {}).items()}
    version = store.dataset(key).version
    frames: dict[str, pl.LazyFrame] = {
        "tiles": store.tiles(key),
        "slides": store.slides(key).lazy(),
        **others,
    }
    try:
        return pl.SQLContext(frames).execute(check_query(sql), eager=True)
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError) as error:
        if "not found" in str(error).lower() and store.dataset(key).version != version:
            return query(
                store, sql, recipe=recipe, tables=tables
            )  # `compact` took that version away meanwhile
        names = ", ".join(
            f"{name}({', '.join(frame.collect_schema().names())})" for name, frame in frames.items()
        )
        raise QueryError(f"{str(error).splitlines()[0]} — tables: {names}") from error


def write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Write a result; float16 vectors stay float16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(path)


def _scan(path: Path) -> pl.LazyFrame:
    if not path.is_file():
        raise QueryError(f"no such table file: {path}", path=path)
    packed = path.suffix == ".parquet"
    frame = pl.scan_parquet(path) if packed else pl.scan_csv(path, infer_schema_length=None)
    try:
        frame.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        why = f"{path} cannot be read as a table: {str(error).splitlines()[0]}"
        raise QueryError(why, path=path) from error
    return frame
