"""A store that came from elsewhere may hold links: what writes to a store follows none that leads out of it.

Reading through a link shows a file that its reader may read anyway. Writing and deleting through one would do to
another folder what was meant for the store: `compact` removes what nothing refers to, and there nothing is referred to.
"""

from __future__ import annotations

import os
from pathlib import Path

from beph_store.errors import StoreError
from beph_store.store.layout import Layout

#: Set to 1 by those who put part of a store on another disk by links of their own.
VARIABLE = "BEPH_STORE_FOLLOW_LINKS"
#: What is only ever made anew under it, by names that are nobody else's.
_FREE = {"cache"}


def refuse_links(layout: Layout) -> None:
    """StoreError for a link out of the store among its folders and what lies directly in them. Nothing for a bucket."""
    root = layout.root
    if not isinstance(root, Path) or os.environ.get(VARIABLE) == "1":
        return
    inside = root.resolve()
    for top in _entries(root):
        if top.name in _FREE:
            continue
        below = [] if top.is_symlink() else _entries(Path(top.path))
        for entry in (
            top,
            *below,
            *(deep for one in below if one.name.endswith(".lance") for deep in _deep(one)),
        ):
            if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(inside):
                raise StoreError(
                    f"{Path(entry.path).relative_to(root)} is a link out of the store: nothing is written through "
                    f"it; put the folder itself there, or set {VARIABLE}=1 if the link is yours",
                    path=root,
                )


def _deep(entry: os.DirEntry[str]) -> list[os.DirEntry[str]]:
    return [] if entry.is_symlink() else _entries(Path(entry.path))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except (NotADirectoryError, FileNotFoundError, PermissionError):
        return []
