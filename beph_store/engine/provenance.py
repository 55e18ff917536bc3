"""What a result was made with: written beside every run, head and report."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

VERSION = version("beph-store")
WRITTEN_BY = f"beph-store {VERSION}"


def versions(names: Iterable[str]) -> dict[str, str | None]:
    """The installed version of each distribution, None where it is absent."""
    return {name: _version(name) for name in names}


def machine() -> dict[str, str | int | None]:
    """Where it ran."""
    return {
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def now() -> str:
    """ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
