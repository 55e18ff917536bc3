"""Which of uvicorn's protocols is watched: see `patience`."""

from __future__ import annotations

import asyncio

from beph_store.serve.patience import Patience


def watched(patience: Patience) -> type[asyncio.Protocol]:
    """The class for ``uvicorn.Config(http=…)``: over httptools where that is installed, over h11 otherwise."""
    try:
        from beph_store.serve.patience_httptools import WatchedHttpTools as Made
    except ImportError:
        from beph_store.serve.patience_h11 import WatchedH11 as Made  # type: ignore[assignment]
    return type(Made.__name__, (Made,), {"patience": patience})
