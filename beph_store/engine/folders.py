"""Folders that a command writes its results to."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from beph_store.errors import UsageError
from beph_store.objects import require_disk

#: What a process leaves that dies while it writes a file aside, see `store.durable.write_atomic`.
_ASIDE = re.compile(r"\.(.+)\.[0-9a-f]{32}")


def check_folder(out: Path, known: Collection[str]) -> None:
    """A folder that holds only ``known`` names may be written anew, an empty or absent one too; the rest is the user's.

    Files that a killed run was writing aside are removed. Raises UsageError for a folder that holds other things.
    """
    require_disk(out, "results are written", out=True)
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: choose a folder", path=out)
    names = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    aside = [name for name in names if (match := _ASIDE.fullmatch(name)) and match[1] in known]
    others = [name for name in names if name not in known and name not in aside]
    if others:
        raise UsageError(
            f"{out} holds other things ({others[0]}, …): choose an empty or a new folder", path=out
        )
    for name in aside:
        (out / name).unlink(missing_ok=True)
