"""Power while something runs, where a driver tells: NVIDIA's by nvidia-smi, Intel's and AMD's by RAPL."""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_RAPL = Path("/sys/class/powercap")
_EVERY_SECONDS = 0.25


@dataclass(slots=True)
class Power:
    """Mean ``watts`` of the device while it was watched; None where nothing tells."""

    watts: float | None = None
    source: str = "not told by a driver here"


@contextmanager
def watched(*, gpu: int | None = None) -> Iterator[Power]:
    """The power of GPU number ``gpu``, or of the processor's package, while inside; filled in at the end."""
    power = Power()
    if gpu is not None:
        with _sampled(power, lambda: _nvidia(gpu), "nvidia-smi"):
            yield power
        return
    start, began = _package_joules(), time.perf_counter()
    yield power
    end, seconds = _package_joules(), time.perf_counter() - began
    if start is not None and end is not None and end >= start and seconds > 0:
        power.watts, power.source = (end - start) / seconds, "RAPL, whole package"


@contextmanager
def _sampled(power: Power, read: Callable[[], float | None], source: str) -> Iterator[None]:
    seen: list[float] = []
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(_EVERY_SECONDS):
            value = read()
            if value is None:
                return
            seen.append(value)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        if seen:
            power.watts, power.source = statistics.fmean(seen), source


def _nvidia(gpu: int) -> float | None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    ask = [tool, f"--id={gpu}", "--query-gpu=power.draw", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(ask, capture_output=True, text=True, timeout=5, check=True).stdout
        return float(told.split()[0])
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return None


def _package_joules() -> float | None:
    """Sum over the processor packages; None where there are no counters or they may not be read."""
    total, found = 0.0, False
    for zone in _RAPL.glob("*-rapl:?") if _RAPL.is_dir() else ():
        with contextlib.suppress(OSError, ValueError):
            total += int((zone / "energy_uj").read_text()) / 1e6
            found = True
    return total if found else None
