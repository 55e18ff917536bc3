"""Bytes that survive a power cut. Lance neither syncs nor checks what it writes, so we do."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

from beph_store.store.place import Place


def sync_file(path: Path) -> None:
    """Flush a written file to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Flush the names in a folder to the disk (a no-op where folders cannot be opened)."""
    if os.name == "posix":
        sync_file(path)


def write_atomic(path: Place, data: bytes) -> None:
    """Write aside, flush, rename: afterwards the file is there whole, or as it was before; an object always is."""
    if not isinstance(path, Path):
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_json(path: Place, data: Any) -> None:
    """``write_atomic`` of indented JSON."""
    write_atomic(path, json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False).encode())


def sync_data(dataset: Place, data_files: list[str]) -> None:
    """Flush the named data files of a Lance dataset, and their names, to the disk; a bucket has them already."""
    if not isinstance(dataset, Path):
        return
    for name in data_files:
        sync_file(dataset / "data" / name)
    if data_files:
        sync_folder(dataset / "data")


def sync_lance(dataset: Place, data_files: list[str]) -> None:
    """`sync_data`, and the dataset's newest manifest."""
    if not isinstance(dataset, Path):
        return
    sync_data(dataset, data_files)
    versions = dataset / "_versions"
    newest = max(versions.glob("*.manifest"), key=lambda p: p.stat().st_mtime_ns, default=None)
    if newest is not None:
        sync_file(newest)
    for folder in (versions, dataset):
        if folder.is_dir():
            sync_folder(folder)
