"""A store for a notebook: lazy tables of tiles, slides, labels and predictions, bags as tensors, and how it looks.

>>> import beph_store
>>> store = beph_store.open("S")
>>> store.slides().select("slide_id", "tiles").collect()
>>> for bag in store.bags():
...     model(bag.vectors)
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import polars as pl
import pyarrow as pa

from beph_store.cohort.ids import SlideIndex, tcga_patient
from beph_store.engine.active.labels import Label
from beph_store.engine.annotate import book_of
from beph_store.engine.looks import html, text
from beph_store.engine.study.applied import Applied
from beph_store.errors import HeadError, MissingExtra, UnknownSlide, UsageError
from beph_store.records import Embeddings
from beph_store.store import Store, query
from beph_store.store.finding import SlideFinder
from beph_store.store.reader import RecipeRecord

Table = Literal["tiles", "slides", "labels", "slide_labels", "predictions"]
TABLES: tuple[Table, ...] = get_args(Table)
Precision = Literal["float16", "bfloat16", "float32"]

_VECTOR = "embedding"
_TILE_LABELS = pl.Schema(
    {
        "slide_id": pl.String,
        "tile": pl.Int32,
        "x": pl.Int32,
        "y": pl.Int32,
        "label": pl.String,
        "who": pl.String,
        "at": pl.String,
    }
)
_SLIDE_LABELS = pl.Schema(dict.fromkeys(("slide_id", "column", "label", "who", "at"), pl.String))


@dataclass(frozen=True, slots=True, eq=False)
class Bag:
    """The readable tiles of a slide as tensors.

    ``vectors`` (N, D); ``origin_l0`` (N, 2) int32 top-left (x, y) in level-0 px; ``tile`` (N,) int32 their numbers.
    """

    slide_id: str
    case_id: str
    vectors: Any
    origin_l0: Any
    tile: Any

    def __len__(self) -> int:
        return len(self.tile)


@dataclass(frozen=True, slots=True)
class OpenStore:
    """A store and one of its recipes; None is the only one. Nothing is read before it is asked for."""

    store: Store
    key: str | None = None

    @property
    def recipe(self) -> RecipeRecord:
        """The feature space; RecipeMismatch, which lists them, where there are several and none was named."""
        return self.store.recipe(self.key)

    def tiles(self) -> pl.LazyFrame:
        """A row a tile: slide_id, tile, x, y, tissue, read_status, embedding (Array of float16, null if unreadable)."""
        return self.store.tiles(self.recipe.recipe.key).drop("ingest_id")

    def slides(self) -> pl.LazyFrame:
        """A row a slide: what the registry knows of it, its status and its case among that."""
        return self.store.slides(self.recipe.recipe.key).lazy()

    def labels(self, target: str | None = None) -> pl.LazyFrame:
        """A row a tile that was labelled on the page or by `annotate`, or of another ``target``: by whom and when."""
        held = book_of(self.store, self.recipe.recipe.key, target).labels().tiles
        return pl.LazyFrame(list(map(_flat, held.values())), schema=_TILE_LABELS)

    def slide_labels(self) -> pl.LazyFrame:
        """A row a slide and column that was labelled on the page."""
        held = book_of(self.store, self.recipe.recipe.key).labels().slides
        return pl.LazyFrame(list(map(_flat, held.values())), schema=_SLIDE_LABELS)

    def heads(self) -> list[str]:
        """Heads that were applied to this recipe, by the names under which the store keeps what they said."""
        key, home = self.recipe.recipe.key, self.store.layout.predictions
        names = sorted(path.name for path in home.iterdir()) if home.is_dir() else []
        found = ((name, Applied.find(self.store, name)) for name in names)
        return [name for name, one in found if one is not None and one.about.get("recipe") == key]

    def predictions(self, head: str | None = None, *, by: Literal["slide", "case"] = "slide") -> pl.LazyFrame:
        """A row a slide, or a case, and head: what the heads applied to the store said. HeadError where none was."""
        names = self.heads() if head is None else [head]
        frames = []
        for name in names:
            one = Applied.find(self.store, name)
            if one is None:
                raise HeadError(
                    f"no head {name!r} was applied to the store: {', '.join(self.heads()) or 'none was'}"
                )
            frames.append(one.frame(by).with_columns(head=pl.lit(name)))
        if not frames:
            raise HeadError("no head was applied to the store: the page does it, or apply_head in Python")
        return pl.concat(frames, how="diagonal_relaxed").lazy()

    def table(self, name: str) -> pl.LazyFrame:
        """One of ``TABLES`` by its name."""
        if name not in TABLES:
            raise UsageError(f"no table {name!r}: {', '.join(TABLES)}")
        return getattr(self, name)()  # type: ignore[no-any-return]

    def arrow(self, name: str, *, vectors: bool = True) -> pa.Table:
        """A table in memory as Arrow; without ``vectors`` the tiles come without their embeddings."""
        return self._chosen(name, vectors).collect().to_arrow()

    def pandas(self, name: str, *, vectors: bool = False) -> Any:
        """A table in memory as a pandas DataFrame. MissingExtra where pandas is not installed."""
        _needs("pandas")
        return self._chosen(name, vectors).collect().to_pandas()

    def duckdb(self, *, vectors: bool = False) -> Any:
        """A DuckDB connection in memory in which the tables have their names; those without rows too.

        With ``vectors`` the tiles' embeddings are there as FLOAT[D], held in memory: DuckDB has no float16.
        MissingExtra where DuckDB is not installed.
        """
        _needs("duckdb")
        import duckdb

        made = duckdb.connect()
        for name in TABLES:
            if name == "predictions" and not self.heads():
                continue
            frame = self._chosen(name, vectors)
            if name == "tiles" and vectors:
                dim = self.recipe.recipe.encoder.dim
                frame = frame.with_columns(pl.col(_VECTOR).cast(pl.Array(pl.Float32, dim)))
            made.register(name, frame.collect().to_arrow())
        return made

    def _chosen(self, name: str, vectors: bool) -> pl.LazyFrame:
        frame = self.table(name)
        return frame if vectors or name != "tiles" else frame.drop(_VECTOR)

    def query(self, sql: str, **tables: str | Path) -> pl.DataFrame:
        """SQL over tiles, slides and CSV or Parquet files by the names they are given, as `beph-store query`."""
        named = {name: Path(path) for name, path in tables.items()}
        return query(self.store, sql, recipe=self.recipe.recipe.key, tables=named)

    def bag(self, slide_id: str, *, dtype: Precision = "float32") -> Bag:
        """One slide's tiles as tensors. UnknownSlide; MissingExtra where torch is not installed."""
        key = self.recipe.recipe.key
        row = self.store.slide(key, slide_id)
        return _tensors(self.store.bag(key, row.slide_id), row.case_id, dtype)

    def bags(self, slide_ids: Iterable[str] | None = None, *, dtype: Precision = "float32") -> Iterator[Bag]:
        """A bag a slide, all finished ones or those of a list, which may lack suffixes; one in memory at a time."""
        key = self.recipe.recipe.key
        rows = {row.slide_id: row for row in self.store.rows(key) if row.status == "done"}
        wanted = list(rows) if slide_ids is None else _find(rows, slide_ids)
        finder = SlideFinder(self.store, key)
        return (_tensors(finder.bag(rows[name]), rows[name].case_id, dtype) for name in wanted)

    def __repr__(self) -> str:
        return text(self.store, self.key)

    def _repr_html_(self) -> str:
        return html(self.store, self.key)


def open(path: str | Path, recipe: str | None = None) -> OpenStore:
    """The store at ``path``, and which of its recipes is meant where it has several: its key or how that begins.

    Raises NotAStore and FormatUnknown, RecipeMismatch for a key that names none.
    """
    store = Store.open(path)
    return OpenStore(store, None if recipe is None else store.recipe(recipe).recipe.key)


def _flat(label: Label) -> dict[str, Any]:
    return {**dataclasses.asdict(label.mark), "who": label.who, "at": label.at}


def _find(have: Iterable[str], slide_ids: Iterable[str]) -> list[str]:
    index = SlideIndex(have)
    found = []
    for name in slide_ids:
        fits = index.find(name)
        if len(fits) != 1:
            what = f"{len(fits)} finished slides are called" if fits else "no finished slide is called"
            raise UnknownSlide(f"{what} {name!r}: store.slides() lists them", slide_id=name)
        found.append(fits[0])
    return found


def _tensors(bag: Embeddings, case_id: str | None, dtype: Precision) -> Bag:
    if dtype not in get_args(Precision):
        raise UsageError(f"dtype {dtype!r}: choose from {', '.join(get_args(Precision))}")
    _needs("torch")
    from beph_store.heads.torch_side.tensors import as_tensor

    return Bag(
        bag.slide_id,
        case_id or tcga_patient(bag.slide_id) or bag.slide_id,
        as_tensor(bag.vectors, dtype),
        as_tensor(bag.origin_l0),
        as_tensor(bag.tile_index),
    )


def _needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        extra = {"torch": "beph-store[torch]"}.get(package, package)
        raise MissingExtra(f"{package} is not installed: pip install '{extra}'")
