"""The store as its users see it: recipes, slides, tiles, bags. Only what the registry lists is there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lance
import numpy as np
import polars as pl
import pyarrow as pa

from beph_store.errors import (
    BephStoreError,
    FormatUnknown,
    NotAStore,
    ObjectStorageError,
    RecipeMismatch,
    UnknownSlide,
)
from beph_store.records import Embeddings, Rasters, Recipe
from beph_store.regular import require_regular
from beph_store.store.cache import FlatVectors, open_flat
from beph_store.store.conditional import require_conditional_puts
from beph_store.store.durable import write_json
from beph_store.store.kept import KeptTiles
from beph_store.store.layout import FORMAT, Layout, is_dataset, quoted
from beph_store.store.links import refuse_links
from beph_store.store.locks import held
from beph_store.store.place import Place, measure, place
from beph_store.store.rasters import read_rasters
from beph_store.store.registry import Registry, SlideRow
from beph_store.store.tables import newest, open_table
from beph_store.store.vectors import SlideRows
from beph_store.store.writer import RecipeWriter


@dataclass(frozen=True, slots=True)
class RecipeRecord:
    """A recipe as the store keeps it, with where its encoder came from and how faithful its graph was."""

    recipe: Recipe
    encoder_source: str
    parity: dict[str, Any]
    created_at: str


@dataclass(frozen=True, slots=True)
class RecipeSummary:
    """What ``info`` tells of a recipe. ``bytes`` is the size of its tile table on disk.

    ``kept_slides`` have their tiles' pixels kept, in ``kept_bytes`` on disk.
    """

    key: str
    encoder: str
    variant: str
    mpp: float
    tile_px: int
    stride_px: int
    dim: int
    slides: int
    empty: int
    failed: int
    tiles: int
    unreadable: int
    bytes: int
    kept_slides: int
    kept_bytes: int


@dataclass(frozen=True, slots=True)
class Store:
    """An opened store. Cheap to make; holds no file open."""

    layout: Layout

    @classmethod
    def open(cls, path: str | Place) -> Store:
        """The store at a path or at s3://, gs://, az://; NotAStore or FormatUnknown when it cannot be one of ours."""
        layout = Layout(place(path))
        path = str(layout.root)
        try:
            marker = json.loads(_record(layout.marker))
        except FileNotFoundError:
            raise NotAStore(
                f"no store at {path}: `beph-store ingest … --store {path}` makes one", path=path
            ) from None
        except ObjectStorageError:
            raise
        except (OSError, ValueError, RecursionError) as error:
            raise NotAStore(f"{layout.marker} cannot be read: {error}", path=path) from error
        if not isinstance(marker, dict):
            raise NotAStore(f"{layout.marker} cannot be read: it is no record", path=path)
        if type(marker.get("format")) is not int or marker["format"] != FORMAT:
            raise FormatUnknown(
                f"the store at {path} has format {marker.get('format')!r}, this version reads {FORMAT}: "
                f"install the beph-store that wrote it ({marker.get('written_by', 'unknown')})",
                path=path,
            )
        return cls(layout)

    @classmethod
    def create(cls, path: str | Place, *, written_by: str) -> Store:
        """The store at ``path``, made if the folder is absent or empty; safe from several processes."""
        layout = Layout(place(path))
        path = str(layout.root)
        if layout.root.exists() and not layout.root.is_dir():
            raise NotAStore(f"{path} is a file: choose a folder", path=path)
        if not layout.marker.exists():
            strangers = (
                [p.name for p in layout.root.iterdir() if p.name != "locks"] if layout.root.exists() else []
            )
            if strangers and "slides.lance" not in strangers:
                raise NotAStore(
                    f"{path} holds other things ({strangers[0]}, …): choose an empty or a new folder",
                    path=path,
                )
            layout.locks.mkdir(parents=True, exist_ok=True)
            with held(layout, "create"):
                Registry(layout.registry).create()
                if not layout.marker.exists():
                    write_json(
                        layout.marker, {"format": FORMAT, "written_by": written_by, "created_at": _now()}
                    )
        return cls.open(path)

    @property
    def registry(self) -> Registry:
        """The keyed table of slides."""
        return Registry(self.layout.registry)

    def recipes(self) -> list[RecipeRecord]:
        """Every recipe of the store, oldest first; FormatUnknown for one that this version cannot read."""
        records = [_read_recipe(path) for path in self.layout.recipes.glob("*.json")]
        return sorted(records, key=lambda record: (record.created_at, record.recipe.key))

    def filled(self) -> list[RecipeRecord]:
        """The recipes that have tiles, oldest first; all of them where none has.

        An ingest at a wrong scale leaves a recipe without a tile behind: where others have some, nobody means that one.
        """
        return self._filled(self.recipes())

    def _filled(self, records: list[RecipeRecord]) -> list[RecipeRecord]:
        with_tiles = self.registry.recipes_with_tiles() if len(records) > 1 else ()
        return [record for record in records if record.recipe.key in with_tiles] or records

    def recipe(self, key: str | None = None) -> RecipeRecord:
        """The recipe of that key (or of a prefix of it), or the only one that has tiles.

        RecipeMismatch when there is none, or more than one to choose from.
        """
        records = self._filled([r for r in self.recipes() if r.recipe.key.startswith(key or "")])
        if len(records) == 1:
            return records[0]
        have = ", ".join(f"{r.recipe.key} ({r.recipe.encoder.name})" for r in self.filled()) or "none"
        what = "no recipe" if not records else "more than one recipe"
        asked = f" begins with {key!r}" if key else ""
        raise RecipeMismatch(f"{what}{asked}; pass --recipe with one of: {have}")

    def writer(
        self,
        recipe: Recipe,
        *,
        run: str,
        encoder_source: str,
        parity: dict[str, Any],
        keep_tiles: bool = False,
    ) -> RecipeWriter:
        """A writer of slides under ``recipe``, of their pixels too if asked; the recipe is recorded first."""
        require_conditional_puts(self.layout.root)
        refuse_links(self.layout)
        if self.registry.missing_columns():
            with held(self.layout, "commit"):
                self.registry.add_missing_columns()
        path = self.layout.recipe(recipe.key)
        if not path.exists():
            record = {
                "format": FORMAT,
                "recipe": recipe.to_json(),
                "encoder_source": encoder_source,
                "parity": parity,
                "created_at": _now(),
            }
            write_json(path, record)
        _read_recipe(path)
        return RecipeWriter(self.layout, recipe, run, keep_tiles)

    def record_parity(self, key: str, figures: dict[str, Any]) -> None:
        """Add a runtime's figures of the parity gate to those that the recipe's record has."""
        path = self.layout.recipe(key)
        with held(self.layout, "recipe"):
            record = json.loads(_record(path))
            parity = {**record["parity"], **figures}
            if parity != record["parity"]:
                write_json(path, {**record, "parity": parity})

    def slides(self, key: str | None = None) -> pl.DataFrame:
        """The registry as a table, of one recipe or of all."""
        return pl.from_arrow(self.registry.table(key))  # type: ignore[return-value]

    def rows(self, key: str) -> list[SlideRow]:
        """The registry rows of one recipe, by slide id."""
        return self.registry.rows(key)

    def dataset(self, key: str) -> lance.LanceDataset:
        """The Lance table of a recipe's tiles, invisible rows included: prefer ``tiles`` or ``bag``."""
        return open_table(self._table(key))

    def _table(self, key: str) -> Place:
        path = self.layout.tiles(key)
        if not is_dataset(path):
            raise UnknownSlide("the recipe has no finished slide yet", path=str(path))
        return path

    def tiles(self, key: str) -> pl.LazyFrame:
        """Every visible tile row of a recipe, lazily; columns as in ``store.layout.tiles_schema``."""
        live = [row.ingest_id for row in self.rows(key) if row.status == "done"]
        return pl.scan_pyarrow_dataset(self.dataset(key)).filter(pl.col("ingest_id").is_in(live))

    def slide_rows(self, row: SlideRow) -> SlideRows:
        """All tile rows of a finished slide, read from Lance."""
        return SlideRows.from_table(self.slide_table(row))

    def slide_table(self, row: SlideRow, columns: list[str] | None = None) -> pa.Table:
        """The rows of a finished slide as stored, in no particular order; all columns unless some are named."""
        where = f"slide_id = {quoted(row.slide_id)} AND ingest_id = {quoted(row.ingest_id)}"
        return newest(self._table(row.recipe), lambda table: table.to_table(columns=columns, filter=where))

    def slide(self, key: str, slide_id: str) -> SlideRow:
        """The registry row of a slide, by its id or by its id without the suffix if that is unique."""
        exact = self.registry.get(key, slide_id)
        if exact is not None:
            return exact
        stems = [row for row in self.rows(key) if str(Path(row.slide_id).with_suffix("")) == slide_id]
        if len(stems) == 1:
            return stems[0]
        raise UnknownSlide(
            f"no slide {slide_id!r} in the store: `beph-store slides` lists them", slide_id=slide_id
        )

    def bag(self, key: str, slide_id: str) -> Embeddings:
        """The embeddings of one finished slide, unreadable tiles left out."""
        row = self.slide(key, slide_id)
        if row.status == "empty":
            dim = self.recipe(key).recipe.encoder.dim
            none = np.empty(0, np.int32)
            return Embeddings(
                row.slide_id,
                key,
                none,
                none.reshape(0, 2),
                np.empty(0, np.float32),
                np.empty((0, dim), np.float16),
            )
        if row.status != "done":
            raise UnknownSlide(f"slide {row.slide_id} was not ingested: {row.error}", slide_id=row.slide_id)
        return bag_of(row, self.slide_rows(row))

    def flat(self, key: str, *, progress: Callable[[int, int], None] | None = None) -> FlatVectors:
        """Every readable tile of the recipe as memory maps; copied out of Lance once for each state of the registry.

        ``progress`` is called with (tiles copied, tiles in all) while the copy is made. RecipeMismatch for a key
        that names no recipe; StoreError where the copy cannot be written.
        """
        return open_flat(self.layout, self.recipe(key).recipe, progress)

    def pixels(self, key: str) -> KeptTiles:
        """The tiles that ``ingest --keep-tiles`` kept under a recipe: which slides, and their pixels by number."""
        recipe = self.recipe(key).recipe
        return KeptTiles.find(self.layout, recipe, self.rows(recipe.key))

    def rasters(self, key: str, slide_id: str) -> Rasters:
        """Thumbnail and tissue mask of a slide."""
        return read_rasters(self.layout.raster(key, self.slide(key, slide_id).slide_id))

    def summaries(self) -> Iterator[RecipeSummary]:
        """One summary a recipe."""
        for record in self.recipes():
            recipe, rows = record.recipe, self.rows(record.recipe.key)
            done = [row for row in rows if row.status == "done"]
            kept = KeptTiles.find(self.layout, recipe, rows)
            yield RecipeSummary(
                key=recipe.key,
                encoder=recipe.encoder.name,
                variant=recipe.encoder.variant,
                mpp=recipe.tile.mpp,
                tile_px=recipe.tile.tile_px,
                stride_px=recipe.tile.stride_px,
                dim=recipe.encoder.dim,
                slides=len(done),
                empty=sum(row.status == "empty" for row in rows),
                failed=sum(row.status == "failed" for row in rows),
                tiles=sum(row.tiles for row in done),
                unreadable=sum(row.unreadable for row in done),
                bytes=measure(self.layout.tiles(recipe.key))[1],
                kept_slides=len(kept.rows),
                kept_bytes=kept.nbytes,
            )


def bag_of(row: SlideRow, rows: SlideRows) -> Embeddings:
    """The embeddings among all tile rows of a finished slide."""
    index = np.flatnonzero(rows.ok).astype(np.int32)
    return Embeddings(
        row.slide_id, row.recipe, index, rows.origin_l0[index], rows.tissue[index], rows.vectors[index]
    )


def _record(path: Place) -> bytes:
    if isinstance(path, Path):
        require_regular(path)
    return path.read_bytes()


def _read_recipe(path: Place) -> RecipeRecord:
    try:
        data = json.loads(_record(path))
        if type(data["format"]) is not int or data["format"] != FORMAT:
            raise FormatUnknown(
                f"recipe {path.stem} has format {data['format']}, this version reads {FORMAT}"
            )
        recipe = Recipe.from_json(data["recipe"])
        record = RecipeRecord(recipe, data["encoder_source"], data["parity"], data["created_at"])
    except (FormatUnknown, ObjectStorageError):
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError, BephStoreError) as error:
        raise FormatUnknown(f"recipe record {path.name} cannot be read: {error}", path=str(path)) from error
    if recipe.key != path.stem:
        raise FormatUnknown(
            f"recipe record {path.name} was altered: its content has the key {recipe.key}", path=str(path)
        )
    return record


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
