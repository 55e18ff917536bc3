"""What every driver is told and tells: it runs in any of the environments, so it needs NumPy and nothing else."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

MARK = "PEER-RESULT "
TILE_PX = 224


@dataclass(frozen=True)
class Job:
    """``slides`` and, slide by slide, ``coords``: .npy files (N, 2) int64 of level-0 px, top-left (x, y), row by row.

    ``weights`` a torch file of ``encoder``'s state_dict, ``script`` the same as TorchScript, ``bundle`` the same as
    our bundle. ``out`` an empty folder for what the system stores.
    """

    slides: list[str]
    coords: list[str]
    encoder: str
    weights: str
    script: str
    bundle: str
    dim: int
    out: str
    mpp: float
    workers: int
    threads: int
    batch: int
    variant: str = ""

    @classmethod
    def read(cls) -> Job:
        """The job named on the command line."""
        return cls(**json.loads(Path(sys.argv[1]).read_text()))

    def write(self, path: Path) -> None:
        """For ``read``."""
        path.write_text(json.dumps(asdict(self)))

    def each(self) -> list[tuple[Path, Any]]:
        """(slide, its coordinates)."""
        return [(Path(s), np.load(c)) for s, c in zip(self.slides, self.coords, strict=True)]


#: Slide's stem → (coordinates (N, 2), vectors (N, D)), read back from what was stored.
Stored = Mapping[str, tuple[Any, Any]]


def drive(
    work: Callable[[Job], None], read_back: Callable[[Job], Stored], about: Mapping[str, Any] | None = None
) -> None:
    """Time ``work`` from the loading of the encoder to the last file, then show what was stored."""
    job = Job.read()
    Path(job.out).mkdir(parents=True, exist_ok=True)
    cpu, start = _cpu(), time.perf_counter()
    work(job)
    seconds, spent = time.perf_counter() - start, _cpu() - cpu
    size = sum(f.stat().st_size for f in Path(job.out).rglob("*") if f.is_file())
    stored = read_back(job)
    for name, (coords, vectors) in stored.items():
        np.savez(Path(job.out) / f"{name}.stored.npz", coords=coords, vectors=vectors)
    tiles = sum(len(vectors) for _, vectors in stored.values())
    told = {"seconds": seconds, "cpu_seconds": spent, "tiles": tiles, "bytes": size, **(about or {})}
    sys.stdout.flush()
    print(MARK + json.dumps(told), flush=True)
    os._exit(0)  # what a library does on its way out is no part of the job


def _cpu() -> float:
    use = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in use)
