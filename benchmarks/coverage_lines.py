"""Which lines of what ships does the test suite run, child processes counted, and which not?

    python benchmarks/coverage_lines.py                          # the whole suite; an hour or two on two cores
    python benchmarks/coverage_lines.py --data D tests/store tests/cohort    # pieces, one pytest each, into a folder
    python benchmarks/coverage_lines.py --data D --report        # what the folder has so far

Writes ``results/coverage.json``, which docs/coverage.md quotes. Needs coverage (``pip install coverage``). A process
that is killed outright keeps its lines to itself, so that what runs only in such a child counts as not run.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.common import conditions, write  # noqa: E402

SOURCES = ("beph_store", "cli/beph_store_cli", "kernels/beph_store_kernels")
_CONFIG = """[run]
source =
    {sources}
omit = */serve/page/*
data_file = {data}/lines
parallel = true
concurrency = thread, multiprocessing
sigterm = true
patch = _exit
disable_warnings = no-data-collected, module-not-measured, module-not-imported
[report]
exclude_also =
    if TYPE_CHECKING:
    ^\\s*\\.\\.\\.$
"""
#: Every Python that a test starts runs this first.
_START = "import coverage\ncoverage.process_startup()\n"
#: Why a module runs little: the first pattern that fits it.
WHY = {
    "kernels/*/triton_ops/*": "GPU",
    "beph_store/runtimes/tensorrt*": "GPU with TensorRT",
    "beph_store/runtimes/cuda*": "GPU",
    "beph_store/runtimes/*_gpu*": "GPU",
}


def start(data: Path) -> dict[str, str]:
    """Lay out the folder; the environment in which every child is measured into it."""
    data.mkdir(parents=True, exist_ok=True)
    sources = "\n    ".join(str(ROOT / source) for source in SOURCES)
    (data / "coverage.ini").write_text(_CONFIG.format(sources=sources, data=data))
    (data / "start").mkdir(exist_ok=True)
    (data / "start" / "sitecustomize.py").write_text(_START)
    paths = [str(data / "start"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "COVERAGE_PROCESS_START": str(data / "coverage.ini"),
    }


def measure(data: Path, pieces: list[str]) -> None:
    """Run each piece of the suite; what pytest said last of each goes beside the lines."""
    environment = start(data)
    said = data / "pieces.json"
    closing = json.loads(said.read_text()) if said.exists() else {}
    for piece in pieces:
        began = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *piece.split()]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        last = (done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]])[-1]
        closing[piece] = last
        said.write_text(json.dumps(closing, indent=2))
        print(f"{piece}: {last} ({time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)


def report(data: Path) -> dict[str, Any]:
    """All that was measured into the folder, by module: lines, those that did not run, and why."""
    from coverage import Coverage

    start(data)
    cover = Coverage(config_file=str(data / "coverage.ini"), data_file=str(data / "all"))
    cover.combine([str(path) for path in data.glob("lines.*")], keep=True)
    modules: dict[str, Any] = {}
    for path in sorted(p for source in SOURCES for p in (ROOT / source).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if "/serve/page/" in name:
            continue
        _, lines, _, missing, spelled = cover.analysis2(str(path))
        if lines:
            modules[name] = {"lines": len(lines), "not_run": len(missing), "which": spelled}
    lines, missed = (sum(m[key] for m in modules.values()) for key in ("lines", "not_run"))
    said = data / "pieces.json"
    return {
        "lines": lines,
        "not_run": missed,
        "percent": round(100 * (1 - missed / lines), 1),
        "by_room": rooms(modules),
        "pieces": json.loads(said.read_text()) if said.exists() else {},
        "below_90": {
            name: {**m, "percent": percent(m), **why(name)} for name, m in modules.items() if percent(m) < 90
        },
    }


def percent(counts: dict[str, int]) -> float:
    """Share of the lines that ran."""
    return round(100 * (1 - counts["not_run"] / counts["lines"]), 1)


def rooms(modules: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The same by room: ``beph_store/engine``, ``cli/beph_store_cli`` and so on."""
    found: dict[str, dict[str, float]] = {}
    for name, counts in modules.items():
        parts = name.split("/")
        room = "/".join(parts[:2]) if len(parts) > 2 else "beph_store/*.py"
        here = found.setdefault(room, {"lines": 0, "not_run": 0})
        for key in ("lines", "not_run"):
            here[key] += counts[key]
    for here in found.values():
        here["percent"] = round(100 * (1 - here["not_run"] / here["lines"]), 1)
    return found


def why(name: str) -> dict[str, str]:
    """What is known of a module that runs little."""
    return next(({"why": text} for pattern, text in WHY.items() if fnmatch.fnmatch(name, pattern)), {})


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("pieces", nargs="*", help="what pytest is given, one run each (default: tests)")
    parser.add_argument("--data", type=Path, help="folder to measure into, and to add to")
    parser.add_argument("--report", action="store_true", help="measure nothing, only count what is there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="beph-coverage-") as name:
        data = (options.data or Path(name)).resolve()
        if not options.report:
            measure(data, options.pieces or ["tests"])
        write("coverage", {**conditions("coverage", "hypothesis"), **report(data)})


if __name__ == "__main__":
    main()
