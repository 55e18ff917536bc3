"""Real runs of two and three encoders beside what the simulation says of them, and what waking the driver costs.

Run by ``simulate_scale.py --check`` in a network namespace of its own (tests/engine/cluster/namespace.py): Ray's ports
are for nobody else. The encoder is beph-mini on one core each; slides are drawn, every place a tile. The run that is
predicted has slides of uneven sizes and a giant. Predicted twice: with the rate of an encoder on equal slides, with as
many at once, and with that of the run itself, tiles ÷ seconds in which an encoder computed. Where encoders, readers and
the driver share cores the first is off; the second checks how spans are handed out, helped with and ended.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # for benchmarks and tests, which are not installed

from benchmarks.simulation import Archive, Costs, Fleet, Simulation

MOST, FEWEST = 64, 16  # tiles of a span, in proportion to the small slides
TILE = 224
EQUAL = (64,) * 6  # tiles of the slides that the rate is measured on
UNEVEN = (25, 36, 36, 49, 49, 64, 81, 100, 121, 324)


def check() -> list[dict[str, Any]]:
    """Both runs, with their predictions."""
    from tests.engine.cluster.namespace import run_alone

    done = run_alone("benchmarks.simulate_check", timeout=800)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def slides(folder: Path, sizes: tuple[int, ...]) -> list[Path]:
    """Drawn slides of so many tiles each (squares of whole numbers)."""
    from beph_store.testing.synthetic import formula_slide

    folder.mkdir()
    for number, tiles in enumerate(sizes):
        side = round(tiles**0.5) * TILE
        formula_slide(folder / f"s{number:02d}.tif", (side, side), downsamples=(1, 4))
    return sorted(folder.glob("*.tif"))


def ingest_there(paths: list[Path], store: Path) -> dict[str, Any]:
    """One run over the cluster that this process is connected to."""
    from beph_store.engine.ingest import IngestOptions, ingest

    options = IngestOptions(
        mpp=0.5,
        tissue_method="none",
        tissue_min=0.0,
        runtime="onnxruntime",
        precision="fp32",
        ray_address="auto",
    )
    report = ingest([str(path) for path in paths], store, options=options)
    assert not report.failed, report.failed
    return report.to_json()


def predicted(tiles: list[int], workers: int, rate: float) -> dict[str, Any]:
    """The same by the simulation."""
    fleet = Fleet(workers, rate, spread=0.0, spans=3)
    run = Simulation(
        Archive(len(tiles)), fleet, Costs(survey=0.1, span_open=0.0), 0, MOST, FEWEST, np.array(tiles)
    )
    return run.run()


def real(workers: int, folder: Path) -> dict[str, Any]:
    """``workers`` nodes of one core each: the rate, the run, the prediction."""
    from beph_store.engine.cluster.session import connect
    from tests.engine.cluster.machines import cluster

    with cluster(*([1] * workers)) as made, connect(made.address):
        equal = ingest_there(slides(folder / "equal", EQUAL), folder / "E")
        paths = slides(folder / "uneven", UNEVEN)
        runs = [ingest_there(paths, folder / f"U{again}") for again in range(2)]
    tiles = [slide["tiles"] for slide in runs[0]["slides"]]
    equal_rate = equal["tiles"] / equal["steady_seconds"] / workers
    computed = statistics.mean(run["seconds"] * run["stages"]["encode"]["busy"] for run in runs)
    own_rate = sum(tiles) / computed / workers
    seconds = statistics.mean(run["steady_seconds"] for run in runs)
    said = {
        "by_rate_of_equal_slides": predicted(tiles, workers, equal_rate)["steady_seconds"],
        "by_own_rate": predicted(tiles, workers, own_rate)["steady_seconds"],
    }
    return {
        "workers": workers,
        "tiles": sum(tiles),
        "tiles_of_slides": tiles,
        "rate_of_equal_slides": round(equal_rate, 2),
        "own_rate": round(own_rate, 2),
        "measured_steady_s": [run["steady_seconds"] for run in runs],
        "measured_whole_s": [run["seconds"] for run in runs],
        "predicted_steady_s": said,
        "predicted_over_measured": {name: round(value / seconds, 3) for name, value in said.items()},
    }


def _same(number: int) -> int:
    return number


def waking(refs: int) -> dict[str, Any]:
    """What the driver's loop costs with so many questions open and so many encoders to look at."""
    from beph_store.engine.cluster.inbox import Inbox
    from beph_store.engine.cluster.session import connect
    from beph_store.engine.cluster.spans import Board

    with connect("local") as ray:
        never = ray.remote(_same).options(resources={"nowhere": 1})
        now = ray.remote(_same).options(num_cpus=0)
        inbox = Inbox(ray)
        for _ in range(refs):
            inbox.ask(never.remote(0), lambda *_: None)
        taken = []
        for number in range(12):
            answer = now.remote(number)
            ray.wait([answer])
            inbox.ask(answer, lambda *_: None)
            start = time.perf_counter()
            inbox.take(1.0)
            taken.append(time.perf_counter() - start)
    board, names = Board(), [f"w{i}" for i in range(refs)]
    for number in range(4 * refs):
        board.add(f"s{number}", np.arange(10_000, dtype=np.int32))
    start = time.perf_counter()
    for name in names:
        board.take(name)
    take = (time.perf_counter() - start) / refs
    start = time.perf_counter()
    for _ in range(10):
        for name in names:
            len(board.hand(name))
    look = time.perf_counter() - start
    return {
        "encoders": refs,
        "inbox_s": round(statistics.median(taken), 5),
        "look_at_all_10_spans_s": round(look, 5),
        "take_a_span_s": round(take, 6),
    }


def main() -> None:
    """In the namespace: prints one JSON array."""
    from beph_store.engine.cluster import dispatch
    from beph_store.engine.cluster.spans import Board

    dispatch.Board = lambda: Board(most=MOST, fewest=FEWEST)  # type: ignore[assignment,misc]
    folder = Path(tempfile.mkdtemp(prefix="check-"))
    try:
        found = []
        for workers in () if "--waking" in sys.argv else (2, 3):
            (folder / str(workers)).mkdir()
            found.append(real(workers, folder / str(workers)))
            sys.stderr.write(f"{json.dumps(found[-1])}\n")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found += [waking(refs) for refs in (10, 100, 1000)]
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
