"""Inference runtimes: an ordered table, and one small protocol that all of them keep.

No runtime is imported before it is opened.
"""

from beph_store.runtimes.protocol import Runtime, RuntimeEntry, RuntimeOptions
from beph_store.runtimes.table import RUNTIMES, RuntimeState, list_runtimes, select_runtime

__all__ = [
    "RUNTIMES",
    "Runtime",
    "RuntimeEntry",
    "RuntimeOptions",
    "RuntimeState",
    "list_runtimes",
    "select_runtime",
]
