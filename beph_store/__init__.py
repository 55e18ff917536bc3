"""An embedding feature-store and batch-inference engine for histopathology slides.

The public face: what is listed here is imported when first used, so ``import beph_store`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "BephStoreError": "beph_store.errors",
    "IngestOptions": "beph_store.engine.ingest",
    "Store": "beph_store.store",
    "embed": "beph_store.engine.embed",
    "ingest": "beph_store.engine.ingest",
    "load_bundle": "beph_store.encoders",
    "open": "beph_store.engine.frames",
    "open_slide": "beph_store.slides",
    "query": "beph_store.store",
    "verify": "beph_store.store",
}

if TYPE_CHECKING:
    from beph_store.encoders import load_bundle
    from beph_store.engine.embed import embed
    from beph_store.engine.frames import open
    from beph_store.engine.ingest import IngestOptions, ingest
    from beph_store.errors import BephStoreError
    from beph_store.slides import open_slide
    from beph_store.store import Store, query, verify

__all__ = [
    "BephStoreError",
    "IngestOptions",
    "Store",
    "embed",
    "ingest",
    "load_bundle",
    "open",
    "open_slide",
    "query",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'beph_store' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
