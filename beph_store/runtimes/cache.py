"""What is worth keeping between runs on this machine: verdicts and built engines. Deleting it is always safe."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(*parts: str) -> Path:
    """A folder below ``BEPH_STORE_CACHE``, else the user's cache; made if absent."""
    base = os.environ.get("BEPH_STORE_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "beph-store"
    folder = (Path(base) if base else home).joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
