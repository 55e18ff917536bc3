"""The systems of the comparison, and how one of them is run once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers.encoders import NAMES
from peers.job import MARK, Job

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class System:
    """One row: ``driver`` the script, ``venv`` its environment (None: this one), ``packages`` whose versions count.

    ``agrees`` is the least mean centred cosine with ours. ``softmax``: it stores the softmax of a vector, so that
    each is known but for one number.
    """

    name: str
    driver: str
    venv: str | None = None
    variant: str = ""
    packages: tuple[str, ...] = ("torch",)
    encoders: tuple[str, ...] = NAMES
    agrees: float = 0.9999
    softmax: bool = False


SYSTEMS = (
    System("ours", "ours", packages=("beph-store", "onnxruntime")),
    System(
        "ours, precision auto",
        "ours",
        variant="auto",
        packages=("beph-store", "openvino"),
        encoders=NAMES[:1],
        agrees=0.99,
    ),
    System("CLAM's pattern", "clam", packages=("torch", "openslide-python", "h5py")),
    System("TRIDENT's pattern", "trident", packages=("torch", "openslide-python", "h5py")),
    System("slide2vec's pattern", "slide2vec", packages=("torch", "openslide-python")),
    System("slide2vec's pattern, cuCIM", "slide2vec", "cucim", "cucim", ("torch", "cucim-cu13")),
    System("lazyslide", "lazyslide", "lazyslide", packages=("lazyslide", "wsidata", "torch")),
    System("tiatoolbox", "tiatoolbox", "tiatoolbox", packages=("tiatoolbox", "torch")),
    System("wsinfer", "wsinfer", "wsinfer", packages=("wsinfer", "torch"), softmax=True),
)


@dataclass(frozen=True)
class Bench:
    """Where and how to run."""

    folder: Path
    pythons: dict[str, Path]
    cores: int
    limit: float

    def run(self, system: System, job: Job) -> dict[str, Any]:
        """One process; OSError with its last words where it fails."""
        python = self.pythons.get(system.venv or "", Path(sys.executable))
        shutil.rmtree(job.out, ignore_errors=True)
        file = self.folder / "job.json"
        job.write(file)
        command = [str(python), str(_HERE / f"drive_{system.driver}.py"), str(file)]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=self.limit,
                cwd=self.folder,
                env=self._environment(job.threads),
                preexec_fn=self._pin,
            )
        except subprocess.TimeoutExpired:
            raise OSError(f"no end after {self.limit:.0f} s") from None
        for line in reversed(done.stdout.splitlines()):
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))  # type: ignore[no-any-return]
        words = [line for line in (done.stderr or done.stdout).strip().splitlines() if line.strip()]
        raise OSError(words[-1][:300] if words else f"ended with {done.returncode} and said nothing")

    def _environment(self, threads: int) -> dict[str, str]:
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        # A home of their own: some write registries and caches there. Ours keeps its parity verdicts there, too.
        off = {"HF_HUB_OFFLINE": "1", "WSINFER_FORCE_CPU": "1", "CUDA_VISIBLE_DEVICES": ""}
        return {**kept, **counts, **off, "HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}

    def _pin(self) -> None:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: self.cores])
