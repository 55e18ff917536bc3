"""Make the Nth call of something fail, or end the process there.

A *site* is a kind of call that leaves traces on the disk; every call of it is counted. A *fault* names a site, which
call of it, and what happens there. Without a fault the calls are only counted, which is how the points are enumerated.
"""

import errno
import functools
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Action = Literal["kill", "kill-after", "term", "int", "eio", "enospc", "lost"]

#: What may happen at a call. "lost" does it and then says that it failed: the lost acknowledgement.
ACTIONS: dict[str, tuple[Action, ...]] = {
    "rename": ("kill", "kill-after", "eio", "lost"),
    "fsync": ("kill", "eio", "enospc"),
    "fragment": ("kill", "kill-after", "enospc", "lost"),
    "commit": ("kill", "kill-after", "eio", "lost"),
    "merge": ("kill", "kill-after", "eio", "lost"),
    "delete": ("kill", "kill-after", "eio", "lost"),
    "compact": ("kill", "kill-after", "eio"),
    "cleanup": ("kill", "kill-after", "eio"),
    "index": ("kill", "kill-after", "eio"),
    "unlink": ("kill", "kill-after"),
}


@dataclass(frozen=True)
class Fault:
    """The ``nth`` call (from 1) of ``site`` ends as ``action`` says."""

    site: str
    nth: int
    action: Action

    def __str__(self) -> str:
        return f"{self.action} at {self.site} {self.nth}"


def inject(fault: Fault | None) -> Counter[str]:
    """Patch every site of this process; the counter goes on counting. There is no way back: use it in a child."""
    counts: Counter[str] = Counter()
    for site, owner, name in _sites():
        setattr(owner, name, _wrapped(site, getattr(owner, name), counts, fault))
    return counts


def _sites() -> Iterator[tuple[str, Any, str]]:
    import lance

    from beph_store.store import tables

    module = sys.modules["lance.dataset"]  # lance.dataset is a function
    yield "rename", os, "replace"
    yield "rename", os, "rename"
    yield "fsync", os, "fsync"
    yield "unlink", os, "unlink"
    yield "fragment", tables, "write_fragments"
    yield "commit", lance.LanceDataset, "commit"
    yield "merge", module.MergeInsertBuilder, "execute"
    yield "delete", lance.LanceDataset, "delete"
    yield "compact", module.DatasetOptimizer, "compact_files"
    yield "cleanup", lance.LanceDataset, "cleanup_old_versions"
    yield "index", lance.LanceDataset, "create_index"


def _wrapped(
    site: str, call: Callable[..., Any], counts: Counter[str], fault: Fault | None
) -> Callable[..., Any]:
    @functools.wraps(call)
    def counted(*args: Any, **kwargs: Any) -> Any:
        counts[site] += 1
        if fault is None or (site, counts[site]) != (fault.site, fault.nth):
            return call(*args, **kwargs)
        if fault.action in ("lost", "kill-after"):
            call(*args, **kwargs)
        _happen(fault.action)
        return None  # after SIGTERM or SIGINT that somebody handles

    return counted


def _happen(action: Action) -> None:
    signals = {
        "kill": signal.SIGKILL,
        "kill-after": signal.SIGKILL,
        "term": signal.SIGTERM,
        "int": signal.SIGINT,
    }
    if action in signals:
        os.kill(os.getpid(), signals[action])
        return
    code = errno.ENOSPC if action == "enospc" else errno.EIO
    raise OSError(code, f"injected: {os.strerror(code)}")
