"""The store as search sees it: one flat table of vectors, with what is known of each row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from beph_store.cohort.ids import tcga_patient
from beph_store.errors import QueryError, UnknownSlide, UsageError
from beph_store.records import Hit
from beph_store.search import Searcher, TileIndex
from beph_store.search.ann import describe
from beph_store.sqlguard import LONGEST_OWN, check_condition
from beph_store.store import FlatVectors, SlideRow, Store
from beph_store.store.reader import RecipeRecord

#: What to tell who leaves out a query's own case, or looks for tissue that two cases share, where `lacks_cases`.
NO_CASES = (
    "no case ids are known: each slide counts as a case of its own, two of one patient too; --labels, a table with "
    "slide_id and case_id, tells them, and so does --manifest at an ingest"
)


@dataclass(frozen=True)
class SearchTable:
    """Every visible readable tile of a recipe; ``slide_of`` (T,) int32 is the slide's place in ``flat.slide_ids``."""

    store: Store
    record: RecipeRecord
    flat: FlatVectors
    rows: Mapping[str, SlideRow]
    labels: pl.DataFrame | None

    @cached_property
    def slide_of(self) -> NDArray[np.int32]:
        """(T,) which slide each row is of."""
        lengths = self.flat.spans[:, 1] - self.flat.spans[:, 0]
        return np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)

    @cached_property
    def _told(self) -> tuple[str | None, ...]:
        """Case of each slide as the labels, the registry or a TCGA barcode say; None where nothing does."""
        given: dict[str, str] = {}
        if self.labels is not None and "case_id" in self.labels.columns:
            given = dict(self.labels.select("slide_id", "case_id").drop_nulls().iter_rows())
        return tuple(
            given.get(name) or self.rows[name].case_id or tcga_patient(name) for name in self.flat.slide_ids
        )

    @cached_property
    def case_of(self) -> tuple[str, ...]:
        """Case of each slide: what was told of it, else the slide itself."""
        return tuple(case or name for case, name in zip(self._told, self.flat.slide_ids, strict=True))

    @property
    def lacks_cases(self) -> bool:
        """Whether nothing says which of several slides are of one case."""
        return len(self._told) > 1 and not any(self._told)

    @cached_property
    def searcher(self) -> Searcher:
        """The search over these vectors, by the index where the store has one."""
        path = str(self.store.layout.tiles(self.record.recipe.key))
        known = len(self.flat) and describe(path) is not None
        return Searcher(self.flat, TileIndex(path) if known else None)

    def slide(self, slide_id: str) -> int:
        """Place of a slide by its id, or by its id without the suffix where that is unique."""
        ids = self.flat.slide_ids
        found = [i for i, name in enumerate(ids) if name == slide_id]
        found = found or [i for i, name in enumerate(ids) if str(Path(name).with_suffix("")) == slide_id]
        if len(found) != 1:
            raise UnknownSlide(
                f"no finished slide {slide_id!r} under recipe {self.record.recipe.key}: `beph-store slides` lists them",
                slide_id=slide_id,
            )
        return found[0]

    def span(self, slide: int) -> slice:
        """Rows of a slide."""
        start, stop = self.flat.spans[slide]
        return slice(int(start), int(stop))

    def footprint(self, slide: int) -> int:
        """Side of the slide's tiles in level-0 px."""
        return self.rows[self.flat.slide_ids[slide]].footprint_l0 or 1

    def hit(self, row: int, score: float) -> Hit:
        """A row as a result."""
        slide = int(self.slide_of[row])
        x, y = (int(v) for v in self.flat.origin_l0[row])
        tile = int(self.flat.tile_index[row])
        return Hit(
            self.flat.slide_ids[slide], self.case_of[slide], tile, (x, y), self.footprint(slide), score, row
        )

    def where(self, expression: str) -> NDArray[np.bool_]:
        """(T,) which rows satisfy an SQL expression over slide_id, case_id, tile, x, y, tissue, the registry's and the
        labels' columns. QueryError with the columns there are, where it cannot be understood.
        """
        frame = self._frame("tissue" in expression)
        said = f"--where {expression[:200]!r}"
        check_condition(expression, frame.columns[1:], name=said, longest=LONGEST_OWN)
        try:
            kept = pl.SQLContext(rows=frame).execute(f"SELECT row FROM rows WHERE {expression}", eager=True)
        except (pl.exceptions.PolarsError, ValueError, TypeError) as error:
            why = (str(error).splitlines() or ["?"])[0]
            raise QueryError(f"{said}: {why}; columns: {', '.join(frame.columns[1:])}") from error
        mask = np.zeros(len(self.flat), bool)
        mask[kept["row"].to_numpy()] = True
        return mask

    def _frame(self, tissue: bool) -> pl.DataFrame:
        slides = self.slide_frame()
        frame = pl.DataFrame(
            {
                "row": np.arange(len(self.flat), dtype=np.int64),
                "tile": np.asarray(self.flat.tile_index),
                "x": np.asarray(self.flat.origin_l0[:, 0]),
                "y": np.asarray(self.flat.origin_l0[:, 1]),
                "_slide": self.slide_of,
            }
        ).join(slides, on="_slide", how="left", maintain_order="left")
        if tissue:
            stored = self.store.tiles(self.record.recipe.key).select("slide_id", "tile", "tissue").collect()
            frame = frame.join(stored, on=["slide_id", "tile"], how="left", maintain_order="left")
        return frame.drop("_slide")

    def slide_frame(self) -> pl.DataFrame:
        """One row a slide, in their order: the registry's and the labels' columns."""
        known = self.store.slides(self.record.recipe.key).filter(pl.col("status") == "done")
        frame = pl.DataFrame(
            {
                "_slide": np.arange(len(self.flat.slide_ids), dtype=np.int32),
                "slide_id": list(self.flat.slide_ids),
                "case_id": list(self.case_of),
            }
        ).join(known.drop("case_id", "recipe", "status"), on="slide_id", how="left", maintain_order="left")
        if self.labels is None:
            return frame
        by = "slide_id" if "slide_id" in self.labels.columns else "case_id"
        extra = [name for name in self.labels.columns if name == by or name not in frame.columns]
        return frame.join(self.labels.select(extra), on=by, how="left", maintain_order="left")


def open_table(
    store: str | Path,
    *,
    recipe: str | None = None,
    labels: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SearchTable:
    """The table of a store, its flat copy made first where it is not there. ``labels`` is a CSV or Parquet file with a
    slide_id or case_id column, one row each.
    """
    opened = Store.open(store)
    record = opened.recipe(recipe)
    flat = opened.flat(record.recipe.key, progress=progress)
    # After the vectors: an ingest that goes on meanwhile may add rows, and never takes one away.
    rows = {row.slide_id: row for row in opened.rows(record.recipe.key)}
    return SearchTable(
        opened, record, flat, rows, None if labels is None else read_slide_labels(Path(labels))
    )


def read_slide_labels(path: Path) -> pl.DataFrame:
    """A CSV or Parquet file with a slide_id or case_id column, one row each; UsageError for any other."""
    if not path.is_file():
        raise UsageError(f"no such table of labels: {path}", path=path)
    try:
        packed = path.suffix == ".parquet"
        frame = pl.read_parquet(path) if packed else pl.read_csv(path, infer_schema_length=None)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UsageError(
            f"{path} cannot be read as a table: {str(error).splitlines()[0]}", path=path
        ) from error
    by = next((name for name in ("slide_id", "case_id") if name in frame.columns), None)
    if by is None:
        raise UsageError(f"{path.name} has neither slide_id nor case_id: name its id column so", path=path)
    if frame[by].n_unique() < frame.height:
        raise UsageError(f"{path.name} names a {by} twice: give one row each", path=path)
    return frame.with_columns(pl.col(by).cast(pl.String))
