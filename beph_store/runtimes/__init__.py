"""Inference runtimes: an ordered table, and one small protocol that all of them keep.

No runtime is imported before it is opened.
"""

from beph_store.runtimes.cache import cache_folder
from beph_store.runtimes.gpus import Gpu, visible_gpus
from beph_store.runtimes.gpus import why_none as why_no_gpu
from beph_store.runtimes.protocol import Runtime, RuntimeEntry, RuntimeOptions
from beph_store.runtimes.stream import Direct, Several, Stream
from beph_store.runtimes.table import (
    RUNTIMES,
    RuntimeState,
    entries,
    list_runtimes,
    open_runtime,
    select_runtime,
)

__all__ = [
    "Direct",
    "Gpu",
    "RUNTIMES",
    "Runtime",
    "RuntimeEntry",
    "RuntimeOptions",
    "RuntimeState",
    "Several",
    "Stream",
    "cache_folder",
    "entries",
    "list_runtimes",
    "open_runtime",
    "select_runtime",
    "visible_gpus",
    "why_no_gpu",
]
