"""The keyed registry: the one table that decides which slides are complete.

Lance appends are not idempotent (the same fragments committed twice are there twice), but a
``merge_insert`` on a declared primary key is. So tile rows are appended first and count for
nothing until one registry row names their ``ingest_id``; of any number of writers that race for
a slide, exactly one gets that row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import lance
import pyarrow as pa

from beph_store.errors import ObjectStorageError, StoreError
from beph_store.records import SlideInfo, Status
from beph_store.store.durable import sync_lance
from beph_store.store.layout import REGISTRY, is_dataset, quoted, registry_key
from beph_store.store.place import Place
from beph_store.store.tables import again, create_table, lance_errors, newest, open_table

_T = TypeVar("_T")
#: A finished slide is never overwritten, except by a row that names what it replaces.
_MAY_UPDATE = "target.status = 'failed' OR target.ingest_id = source.replaces"


#: Fragments of the registry at which it is compacted.
TIDY_AT = 32
#: Versions of a table younger than this are kept for whoever may be reading them.
_KEEP = timedelta(hours=1)


def forget_versions(path: Place) -> None:
    """Drop a Lance table's old versions, but tagged ones; manifests otherwise grow with the square of the commits."""
    with lance_errors(path):
        open_table(path).cleanup_old_versions(older_than=_KEEP, error_if_tagged_old_versions=False)


@dataclass(frozen=True, slots=True)
class SlideRow:
    """One row of the registry: what the store knows of a slide under one recipe."""

    recipe: str
    slide_id: str
    status: Status
    tiles: int = 0
    unreadable: int = 0
    error: str | None = None
    case_id: str | None = None
    path: str | None = None
    fingerprint: str | None = None
    file_bytes: int | None = None
    file_mtime_ns: int | None = None
    width_l0: int | None = None
    height_l0: int | None = None
    mpp_x: float | None = None
    mpp_y: float | None = None
    mpp_source: str | None = None
    footprint_l0: int | None = None
    reader: str | None = None
    ingest_id: str | None = None
    replaces: str | None = None
    sha256: str | None = None
    seconds: float | None = None
    run: str | None = None
    created_at: datetime = dataclasses.field(default_factory=lambda: datetime.now(UTC))
    pixels_sha256: str | None = None

    @property
    def key(self) -> str:
        """Primary key."""
        return registry_key(self.recipe, self.slide_id)

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do for this slide."""
        return self.status in ("done", "empty")

    def settles(self, other: SlideRow) -> bool:
        """Whether this row is a finished result that the other, of the same slide, does not replace."""
        return self.complete and self.ingest_id != other.replaces

    def with_info(self, info: SlideInfo) -> SlideRow:
        """The row with what a reader found out about the file."""
        return dataclasses.replace(
            self,
            path=info.path,
            fingerprint=info.fingerprint,
            width_l0=info.size_l0[0],
            height_l0=info.size_l0[1],
            mpp_x=info.mpp_x,
            mpp_y=info.mpp_y,
            mpp_source=info.mpp_source,
        )

    def to_json(self) -> dict[str, Any]:
        """JSON data; the time as ISO 8601."""
        return {**dataclasses.asdict(self), "created_at": self.created_at.isoformat()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SlideRow:
        """The inverse of ``to_json``."""
        return cls(**{**data, "created_at": datetime.fromisoformat(data["created_at"])})


@dataclass(frozen=True, slots=True)
class Registry:
    """The registry at ``path``; every call sees the newest version."""

    path: Place

    def create(self) -> None:
        """Make the empty table unless it is there."""
        if not is_dataset(self.path):
            create_table(self.path, REGISTRY)

    def missing_columns(self) -> list[pa.Field]:
        """Columns that a registry written by an earlier version lacks."""
        have = set(self.dataset().schema.names)
        return [field for field in REGISTRY if field.name not in have]

    def add_missing_columns(self) -> None:
        """Give an earlier version's registry the columns of this one, null throughout. Call under the commit lock."""
        missing = self.missing_columns()
        if missing:
            again(self.path, lambda: self.dataset().add_columns(self.missing_columns()))

    def tidy(self) -> None:
        """Keep the table small: every ``put`` leaves a fragment and a version. Call under the commit lock."""
        if len(self.dataset().get_fragments()) > TIDY_AT:
            compact_files = self.dataset().optimize.compact_files
            again(self.path, lambda: compact_files(target_rows_per_fragment=1 << 20))
            forget_versions(self.path)

    def dataset(self) -> lance.LanceDataset:
        """The newest version."""
        return open_table(self.path)

    def table(self, recipe: str | None = None) -> pa.Table:
        """All rows, or those of one recipe, in the order of slide ids."""
        return self._table(None if recipe is None else f"recipe = {quoted(recipe)}")

    def _table(self, where: str | None) -> pa.Table:
        order = [("recipe", "ascending"), ("slide_id", "ascending")]
        return self.look(lambda table: table.to_table(filter=where).sort_by(order))

    def look(self, read: Callable[[lance.LanceDataset], _T]) -> _T:
        """``read`` of the newest version, whatever `compact` does meanwhile; StoreError where it is damaged."""
        with _readable(self.path):
            return newest(self.path, read)

    def rows(self, recipe: str | None = None) -> list[SlideRow]:
        """``table`` as records."""
        return _records(self.table(recipe))

    def recipes_with_tiles(self) -> set[str]:
        """Keys of the recipes under which at least one slide has tiles; one column is read."""
        return set(self._column("recipe", "status = 'done' AND tiles > 0"))

    def slide_ids(self) -> set[str]:
        """The ids of all slides, whatever their recipe; one column is read."""
        return set(self._column("slide_id"))

    def _column(self, name: str, where: str | None = None) -> list[str]:
        return self.look(lambda table: table.to_table(columns=[name], filter=where).column(name).to_pylist())

    def some(self, recipe: str, slide_ids: Iterable[str]) -> dict[str, SlideRow]:
        """The rows of those slides, by id, where there are any; reading all of them takes seconds from 100,000 on."""
        listed = ", ".join(quoted(registry_key(recipe, slide_id)) for slide_id in slide_ids)
        rows = _records(self._table(f"key IN ({listed})")) if listed else []
        return {row.slide_id: row for row in rows}

    def get(self, recipe: str, slide_id: str) -> SlideRow | None:
        """One row, or None."""
        return next(iter(_records(self._table(f"key = {quoted(registry_key(recipe, slide_id))}"))), None)

    def rows_in(
        self, table: lance.LanceDataset, fragments: Sequence[lance.LanceFragment], recipe: str
    ) -> list[SlideRow]:
        """The rows of one recipe in those fragments of a version of the table, for `look`."""
        if not fragments:
            return []
        where = f"recipe = {quoted(recipe)}"
        return _records(table.scanner(fragments=list(fragments), filter=where).to_table())

    def put(self, rows: Iterable[SlideRow]) -> None:
        """Insert or update rows by key, in one version.

        A row that says done or empty stays, unless the new row ``replaces`` its ingest id: calling
        this twice, or from two processes, has the effect of calling it once.
        """
        data = [{**dataclasses.asdict(row), "key": row.key} for row in rows]
        if not data:
            return
        new = pa.Table.from_pylist(data, schema=REGISTRY)
        again(
            self.path,
            lambda: (
                self.dataset()
                .merge_insert("key")
                .when_matched_update_all(_MAY_UPDATE)
                .when_not_matched_insert_all()
                .execute(new)
            ),
        )
        newest = self.dataset().get_fragments()
        sync_lance(self.path, [f.path for f in newest[-1].data_files()] if newest else [])


@contextmanager
def _readable(path: Place) -> Iterator[None]:
    """What Lance says of a damaged table as StoreError, one line."""
    try:
        with lance_errors(path):
            yield
    except ObjectStorageError:
        raise
    except (OSError, ValueError, KeyError) as error:
        why = (str(error).splitlines() or ["?"])[0]
        raise StoreError(
            f"the registry slides.lance cannot be read: {why[:300]}; put it back from a copy of the store",
            path=str(path),
        ) from error


def _records(table: pa.Table) -> list[SlideRow]:
    names = [field.name for field in dataclasses.fields(SlideRow) if field.name in table.schema.names]
    try:
        return [SlideRow(**row) for row in table.select(names).to_pylist()]
    except TypeError as error:
        raise StoreError(f"the registry slides.lance lacks columns of its format: {error}") from error
