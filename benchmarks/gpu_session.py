"""What does a GPU give: fidelity and rate of every runtime, overlap, kernels, heads? Run by ``gpu_session.sh``.

Every step stands alone: what is not installed, or breaks, is a line in the result with its reason, and the next step
goes on. Steps that no time is left for are skipped by name.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import conditions

#: All steps together end before this many seconds.
BUDGET = 500.0
BATCHES = (32, 64, 128, 256)


class Skipped(Exception):
    """A step that cannot be done here, with why."""


class Session:
    """Runs steps and keeps what they found."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.began = time.perf_counter()
        self.results: dict[str, Any] = {}

    def step(self, name: str, needs_seconds: float, work: Callable[[], Any]) -> None:
        """One step, unless too little time is left."""
        left = BUDGET - (time.perf_counter() - self.began)
        if left < needs_seconds:
            self.results[name] = {"skipped": f"{left:.0f} s were left, it may need {needs_seconds:.0f} s"}
            return
        start = time.perf_counter()
        try:
            found: Any = work()
        except Skipped as why:
            found = {"skipped": str(why)}
        except ImportError as error:
            found = {"skipped": f"{error.name or error} is not installed"}
        except Exception as error:  # noqa: BLE001 - the next step must go on
            traceback.print_exc()
            found = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
        self.results[name] = found
        print(f"== {name}: {time.perf_counter() - start:.1f} s\n{json.dumps(found, default=str)}", flush=True)


def card() -> dict[str, Any]:
    """What was measured on."""
    import torch

    if not torch.cuda.is_available():
        raise Skipped("torch sees no CUDA device: nothing below can be measured")
    about = torch.cuda.get_device_properties(0)
    ask = ["nvidia-smi", "--query-gpu=driver_version,power.limit,clocks.max.sm", "--format=csv,noheader"]
    told = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "gpu": about.name,
        "memory_gib": round(about.total_memory / 2**30, 1),
        "multiprocessors": about.multi_processor_count,
        "compute_capability": f"{about.major}.{about.minor}",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "driver, power limit, top clock": told or "nvidia-smi told nothing",
    }


def limits() -> dict[str, Any]:
    """Matrix and copy rates, the limits of everything below."""
    import torch

    from beph_store.runtimes.peak import matrix_rate

    if not torch.cuda.is_available():
        raise Skipped("no CUDA device")
    x = torch.empty(1 << 28, dtype=torch.float32, device="cuda")
    y = torch.empty_like(x)
    host = torch.empty(1 << 28, dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(host, device="cuda")
    return {
        "bf16_tflop_per_s": (matrix_rate("bf16", cuda=True) or 0) / 1e12,
        "fp16_tflop_per_s": (matrix_rate("fp16", cuda=True) or 0) / 1e12,
        "copy_gb_per_s": 2 * x.nbytes / _cuda_seconds(lambda: y.copy_(x)) / 1e9,
        "pinned_to_device_gb_per_s": host.nbytes
        / _cuda_seconds(lambda: target.copy_(host, non_blocking=True))
        / 1e9,
    }


def _cuda_seconds(work: Callable[[], object], runs: int = 10) -> float:
    import torch

    work()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(runs):
        work()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end) / 1e3 / runs)


def encoders(bundle: Path, seconds: float) -> dict[str, Any]:
    """Gate and rate of every runtime and precision, at several batch sizes where one of them works."""
    from beph_store.engine.bench.encoder import BenchOptions, bench_encoder

    found: dict[str, Any] = {}
    for row in bench_encoder(str(bundle), options=BenchOptions(seconds=seconds)):
        key = f"{row.runtime} {row.precision}"
        if row.reason is not None:
            found[key] = {"skipped": row.reason}
            continue
        found[key] = {"own batch": row.to_json()}
        if "CPU" in row.device:
            continue
        for batch in BATCHES:
            (other,) = bench_encoder(
                str(bundle),
                runtime=row.runtime,
                precision=row.precision,
                options=BenchOptions(seconds=seconds, batch=batch),
            )
            found[key][f"batch {batch}"] = other.to_json()
    return found


def drawn_slide(folder: Path, side: int) -> Path:
    """A slide of drawn tissue, about 8,000 tiles for 26,880 px: JPEG with imagecodecs, else losslessly packed."""
    path = folder / "drawn.tif"
    try:
        from beph_store.testing.synthetic import SlidePlan, huge_slide, write_slide
    except ImportError:
        return _deflated(path, side)
    if side < 10_000:
        write_slide(path, SlidePlan(size=(side, side), seed=4))
    else:
        huge_slide(path, side, tissue=0.6)
    return path


def _deflated(path: Path, side: int) -> Path:
    import numpy as np
    import tifffile

    from beph_store.encoders import probe_tiles

    cell = np.concatenate(
        [np.concatenate(list(row), 1) for row in probe_tiles(224).reshape(8, 8, 224, 224, 3)]
    )
    whole = np.tile(cell, (-(-side // len(cell)), -(-side // len(cell)), 1))[:side, :side]
    tifffile.imwrite(
        path, whole, tile=(256, 256), photometric="rgb", compression="deflate", resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER",
    )  # fmt: skip
    return path


def overlap(slide: Path, bundle: Path, workers: int, every: bool) -> dict[str, Any]:
    """Reader, device and hand-over together ÷ the encoder alone, for each runtime; nothing is stored."""
    from beph_store.encoders import load_bundle
    from beph_store.engine.choosing import choose
    from beph_store.errors import ParityFailed, RuntimeUnavailable
    from beph_store.runtimes import RUNTIMES

    opened = load_bundle(bundle)
    found: dict[str, Any] = {}
    for entry in RUNTIMES:
        precision = next((p for p in entry.precisions if opened.has(p)), None)
        if precision is None or (entry.name in ("onnxruntime", "openvino", "torch") and not every):
            continue
        try:
            runtime = choose(opened, runtime=entry.name, precision=precision).runtime
        except (RuntimeUnavailable, ParityFailed) as error:
            found[entry.name] = {"skipped": str(error)}
            continue
        found[f"{entry.name} {precision}"] = _overlap(slide, runtime, workers)
        runtime.close()
    return found


def _overlap(slide: Path, runtime: Any, workers: int) -> dict[str, Any]:
    from beph_store.engine import pipeline
    from beph_store.engine.bench.encoder import rate, tiles_like
    from beph_store.engine.plan import plan
    from beph_store.engine.readers import ReaderPool
    from beph_store.records import TileSpec

    spec = TileSpec(runtime.spec.tile_px, runtime.spec.mpp, runtime.spec.tile_px, 0.25, "otsu-saturation")
    alone, _ = rate(runtime.stream(), tiles_like(runtime), 3.0)
    pool = ReaderPool(plan([slide], slide_mpp=0.5), spec, workers=workers)
    sink = _Counting(pool)
    start = time.perf_counter()
    clocks = pipeline.run(pool, runtime.stream(), sink, dim=runtime.spec.dim)
    spent = time.perf_counter() - start
    steady = (clocks.last or 0.0) - (clocks.first or 0.0)
    return {
        "tiles": sink.tiles,
        "encoder_alone_tiles_per_s": alone,
        "steady_tiles_per_s": sink.tiles / steady if steady else None,
        "ratio_steady": sink.tiles / steady / alone if steady else None,
        "seconds": spent,
        "busy": {
            "read": sink.read_busy / steady / workers if steady else None,
            "encode": clocks.encode / steady if steady else None,
        },
        "workers": workers,
    }


class _Counting:
    """A sink that lets slides go on and counts."""

    def __init__(self, pool: Any) -> None:
        self._pool, self.tiles, self.read_busy = pool, 0, 0.0

    def take(self, item: Any) -> None:
        """See ``pipeline.Sink``."""
        import numpy as np

        from beph_store.engine.messages import Closed, Failed, Opened
        from beph_store.errors import SlideUnreadable

        if isinstance(item, Opened):
            self._pool.read(item.slide_id, np.arange(len(item.tiles), dtype=np.int32))
        elif isinstance(item, Failed):
            raise SlideUnreadable(item.error, slide_id=item.slide_id)
        elif isinstance(item, Closed):
            self.read_busy += item.stats.busy
        else:
            self.tiles += int(item.ok.sum())


def ingest(slide: Path, bundle: Path) -> dict[str, Any]:
    """The whole job, the store included."""
    from beph_store.engine.bench.ingest import bench_ingest
    from beph_store.engine.ingest import IngestOptions

    options = IngestOptions(encoder=str(bundle), precision="auto")
    return bench_ingest([slide], options=options, slide_mpp=0.5, seconds=3.0).to_json()


def script(name: str, *arguments: str, seconds: float = 120.0) -> Callable[[], Any]:
    """A benchmark of its own; its last printed JSON object."""

    def run() -> Any:
        file = Path(__file__).parent / f"{name}.py"
        if not file.is_file():
            raise Skipped(f"{file.name} is not there")
        done = subprocess.run(
            [sys.executable, str(file), *arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["?"])[-1]
            missing = last.startswith(("ModuleNotFoundError", "ImportError"))
            raise (Skipped if missing else RuntimeError)(last)
        return json.loads(done.stdout[done.stdout.index("{") :])

    return run


def heads(cases: int = 24, tiles: int = 5000) -> dict[str, Any]:
    """Seconds of an epoch of CLAM-SB over bags of 5,000 × 768, in each precision."""
    import numpy as np
    import torch
    from bench_heads import FLOP_A_TILE, draw_bags, train_only

    from beph_store.heads import HeadOptions
    from beph_store.heads.options import resolved
    from beph_store.heads.torch_side.train import Trainer

    if not torch.cuda.is_available():
        raise Skipped("no CUDA device")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        bags, target, _ = draw_bags(Path(folder), cases, tiles)
        train, val = np.arange(cases - 4), np.arange(cases - 4, cases)
        for precision in ("fp32", "bf16"):
            options = resolved(HeadOptions(head="clam", precision=precision, device="cuda"), "classify")
            trainer = Trainer.start(options, bags, target, (train, val), 0)
            train_only(trainer, 0)
            torch.cuda.synchronize()
            start = time.perf_counter()
            for number in range(1, 4):
                train_only(trainer, number)
            torch.cuda.synchronize()
            seconds = (time.perf_counter() - start) / 3
            work = FLOP_A_TILE * tiles * len(train)
            found[precision] = {"epoch_seconds": seconds, "tflop_per_s": work / seconds / 1e12}
    return found


def contract_tests() -> dict[str, Any]:
    """The tests of runtimes and kernels, which skip by name without a GPU, with one."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rs",
        "-p",
        "no:cacheprovider",
        "tests/runtimes",
        "tests/kernels",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    if "No module named pytest" in done.stderr:
        raise Skipped("pytest is not installed")
    told = [line for line in lines if line.startswith(("SKIPPED", "FAILED", "ERROR"))]
    return {"exit": done.returncode, "closing": lines[-1] if lines else "", "told": told[:60]}


def main() -> None:
    """Run everything and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="beph-mini instead of a ViT-B/16: a trial run")
    parser.add_argument("--slide", type=Path, help="a slide on local disk, instead of a drawn one")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--workers", type=int, default=8, help="reader processes")
    options = parser.parse_args()
    session = Session(options)
    session.step("card", 0, card)
    session.step("limits", 10, limits)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        made: dict[str, Path] = {}

        def export() -> str:
            if options.quick:
                from beph_store.encoders import load_bundle

                made["bundle"] = load_bundle("beph-mini").path
            else:
                from vit_base import make_bundle

                made["bundle"] = make_bundle(folder).path
            return made["bundle"].name

        def draw() -> str:
            made["slide"] = options.slide or drawn_slide(folder, 1_792 if options.quick else 26_880)
            return f"{made['slide'].name}, {made['slide'].stat().st_size / 1e6:.0f} MB"

        session.step("export", 30, export)
        session.step("slide", 30, draw)
        if "bundle" in made:
            session.step("encoders", 150, lambda: encoders(made["bundle"], 0.5 if options.quick else 2.0))
        if len(made) == 2:
            session.step(
                "overlap", 60, lambda: overlap(made["slide"], made["bundle"], options.workers, options.quick)
            )
            session.step("ingest", 60, lambda: ingest(made["slide"], made["bundle"]))
    session.step("kernels", 60, script("bench_kernels"))
    session.step("heads", 90, heads)
    session.step("contract_tests", 60, contract_tests)
    gpu = session.results["card"].get("gpu", "none") if isinstance(session.results["card"], dict) else "none"
    name = "gpu_" + gpu.lower().replace("nvidia", "").strip().replace(" ", "_")
    result = {
        "question": __doc__.splitlines()[0],
        "conditions": conditions("torch", "triton", "timm", "onnxruntime"),
        "seconds": round(time.perf_counter() - session.began, 1),
        **session.results,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    if gpu == "none":
        print("no GPU: nothing is written to the results")
        return
    path = options.out / f"{name}.json"
    path.write_text(json.dumps(result, indent=1, default=str) + "\n")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
