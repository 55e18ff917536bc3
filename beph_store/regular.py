"""What is opened to be read must be a file: a pipe in its place would keep whoever opens it waiting for ever."""

from __future__ import annotations

import stat
from pathlib import Path


def require_regular(path: str | Path) -> None:
    """OSError for a pipe, a socket or a device. A folder, or nothing, is for the opening to refuse."""
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(f"{path} is a pipe, a socket or a device: save what comes of it as a file")
