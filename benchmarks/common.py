"""What benchmarks share: the command line, what is written beside the figures, time and memory."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def command_line(doc: str | None, name: str) -> argparse.ArgumentParser:
    """The parser of a benchmark that explains itself by ``doc``; ``--name``, of the result file, is its only option."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default=name, help=f"of the file in results [{name}]")
    return parser


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds that it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def conditions(*packages: str) -> dict[str, Any]:
    """Machine, versions and date."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("beph-store", "numpy", *packages)},
    }


def write(name: str, data: dict[str, Any]) -> Path:
    """Write ``results/<name>.json`` and print it."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(data, indent=2) + "\n")
    print(json.dumps(data, indent=2))
    return path


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def high_water_mb(pid: int | str = "self") -> float:
    """The most memory that a living process has held, MB. Not ``ru_maxrss``, which begins with what its parent held."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 / 1e6 if found else 0.0


@contextmanager
def children_watched() -> Iterator[list[float]]:
    """While inside, the most that each look at a process started by `multiprocessing` found it to have held, MB."""
    seen, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            for process in multiprocessing.active_children():
                with suppress(OSError):
                    seen.append(high_water_mb(process.pid or "self"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
