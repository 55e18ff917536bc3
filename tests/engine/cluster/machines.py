"""A Ray cluster of several nodes on this machine, and ways to lose parts of it; for use in a namespace only."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TOKEN = secrets.token_hex(32)
# Ray reads them once, when it is imported.
os.environ |= {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": TOKEN,
    "RAY_USAGE_STATS_ENABLED": "0",
    # A node that is gone is noticed within seconds, not within half a minute.
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "4",
}


@contextlib.contextmanager
def cluster(*cores: int) -> Iterator[Any]:
    """One node for each, the head first; with so many cores."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": cores[0], "include_dashboard": False})
    try:
        for count in cores[1:]:
            made.add_node(num_cpus=count)
        yield made
    finally:
        made.shutdown()


def processes(title: str) -> list[int]:
    """Of the processes here those whose title begins so; Ray's workers have titles of what they do."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cmdline").read_bytes().startswith(title.encode()):
                found.append(int(entry.name))
    return sorted(found)


def kill_one(title: str, chance: random.Random, *, seconds: float = 20.0) -> bool:
    """Kill -9 one of those processes, waiting for one to be there. False if none came."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        there = processes(title)
        if there:
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(there), signal.SIGKILL)
                return True
        time.sleep(0.05)
    return False
