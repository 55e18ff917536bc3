"""Maintenance: fewer, larger files, no leftovers. Never while something is being ingested."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import timedelta

from beph_store.errors import StoreError
from beph_store.store.kept import orphan_archives
from beph_store.store.layout import is_dataset, quoted
from beph_store.store.links import refuse_links
from beph_store.store.locks import alone
from beph_store.store.place import Place, measure, remove_tree
from beph_store.store.reader import Store
from beph_store.store.staging import discard, read_ready
from beph_store.store.tables import again, open_table
from beph_store.store.verify import orphan_files

_ROWS_PER_FRAGMENT = 1 << 20


@dataclass(frozen=True, slots=True)
class CompactReport:
    """Files and bytes of the whole store before and after, and how many invisible rows went."""

    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int
    rows_removed: int


def compact(store: Store) -> CompactReport:
    """Merge small files, drop rows and files that nothing refers to, and forget old versions.

    Raises StoreError while an ingest runs on the store or a sealed slide waits for its commit.
    """
    refuse_links(store.layout)
    files_before, bytes_before = measure(store.layout.root)
    removed = 0
    with alone(store.layout):
        for record in store.recipes():
            key = record.recipe.key
            _discard_settled(store, key)
            if any(read_ready(folder) for folder in store.layout.staging(key).glob("*")):
                raise StoreError(
                    "an interrupted ingest left finished slides uncommitted: run the same ingest again, then compact"
                )
            if is_dataset(store.layout.tiles(key)):
                removed += _compact_tiles(store, key)
            for orphan in orphan_archives(store.layout, key, store.rows(key)):
                remove_tree(orphan) if store.layout.is_remote else shutil.rmtree(str(orphan))
        _compact(store.layout.registry)
    files_after, bytes_after = measure(store.layout.root)
    return CompactReport(files_before, files_after, bytes_before, bytes_after, removed)


def _discard_settled(store: Store, key: str) -> None:
    """Drop what is staged of slides that are in the registry: a process that died while it cleaned up left it there.

    What an interrupted ``--replace`` has staged of a slide goes too, unless it is sealed: it is encoded again then.
    """
    for row in store.rows(key):
        folder = store.layout.slide_staging(key, row.slide_id)
        ready = read_ready(folder) if row.complete else None
        if row.complete and (ready is None or row.settles(ready.row)):
            discard(folder)


def _compact_tiles(store: Store, key: str) -> int:
    path = store.layout.tiles(key)
    before = open_table(path).count_rows()
    live = [row.ingest_id for row in store.rows(key) if row.status == "done"]
    if before > sum(row.tiles for row in store.rows(key) if row.status == "done"):
        listed = ", ".join(map(quoted, live)) or "''"
        again(path, lambda: open_table(path).delete(f"ingest_id NOT IN ({listed})"))
    after = open_table(path).count_rows()
    _compact(path)
    for orphan in orphan_files(store, key):
        orphan.unlink()
    return int(before - after)


def _compact(path: Place) -> None:
    again(path, lambda: open_table(path).optimize.compact_files(target_rows_per_fragment=_ROWS_PER_FRAGMENT))
    again(
        path,
        lambda: open_table(path).cleanup_old_versions(
            older_than=timedelta(0), delete_unverified=True, error_if_tagged_old_versions=False
        ),
    )
