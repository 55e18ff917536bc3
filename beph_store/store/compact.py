"""Maintenance: fewer, larger files, no leftovers. Never while something is being ingested."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import lance
from filelock import FileLock, Timeout

from beph_store.errors import StoreError
from beph_store.store.kept import orphan_archives
from beph_store.store.layout import is_dataset
from beph_store.store.reader import Store
from beph_store.store.staging import read_ready
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
    files_before, bytes_before = _measure(store.layout.root)
    removed = 0
    with ExitStack() as locks:
        _lock_everything(store, locks)
        for record in store.recipes():
            key = record.recipe.key
            if any(read_ready(folder) for folder in store.layout.staging(key).glob("*")):
                raise StoreError(
                    "an interrupted ingest left finished slides uncommitted: run the same ingest again, then compact"
                )
            if is_dataset(store.layout.tiles(key)):
                removed += _compact_tiles(store, key)
            for orphan in orphan_archives(store.layout, key, store.rows(key)):
                shutil.rmtree(orphan)
        _compact(store.layout.registry)
        # Nobody holds or awaits these: a claim takes the commit lock, ours, first.
        for path in set(store.layout.locks.glob("*.lock")) - {store.layout.commit_lock}:
            path.unlink()
    files_after, bytes_after = _measure(store.layout.root)
    return CompactReport(files_before, files_after, bytes_before, bytes_after, removed)


def _lock_everything(store: Store, locks: ExitStack) -> None:
    try:
        # The commit lock first: no slide can be claimed while we hold it, so the list below is all there is.
        locks.enter_context(FileLock(store.layout.commit_lock, timeout=0, thread_local=False))
        for path in set(store.layout.locks.glob("*.lock")) - {store.layout.commit_lock}:
            locks.enter_context(FileLock(path, timeout=0, thread_local=False))
    except Timeout:
        raise StoreError(
            "another process is writing to the store: compact it when the ingest has ended"
        ) from None


def _compact_tiles(store: Store, key: str) -> int:
    path = store.layout.tiles(key)
    dataset = lance.dataset(str(path))
    before = dataset.count_rows()
    live = [row.ingest_id for row in store.rows(key) if row.status == "done"]
    if before > sum(row.tiles for row in store.rows(key) if row.status == "done"):
        listed = ", ".join(f"'{ingest_id}'" for ingest_id in live) or "''"
        dataset.delete(f"ingest_id NOT IN ({listed})")
    after = lance.dataset(str(path)).count_rows()
    _compact(path)
    for orphan in orphan_files(store, key):
        orphan.unlink()
    return int(before - after)


def _compact(path: Path) -> None:
    dataset = lance.dataset(str(path))
    dataset.optimize.compact_files(target_rows_per_fragment=_ROWS_PER_FRAGMENT)
    lance.dataset(str(path)).cleanup_old_versions(
        older_than=timedelta(0), delete_unverified=True, error_if_tagged_old_versions=False
    )


def _measure(root: Path) -> tuple[int, int]:
    sizes = [path.stat().st_size for path in root.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)
