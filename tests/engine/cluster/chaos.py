"""An ingest over a cluster that loses readers, encoders, nodes and its driver; run in a namespace, answers in JSON.

python -m tests.engine.cluster.chaos SLIDES OUT LIMIT KILLS SEED
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.engine.cluster.machines import TOKEN, cluster, kill_one

KINDS = ("driver", "reader", "encoder", "node")


def command(slides: str, store: Path, address: str, *more: str) -> list[str]:
    """The command line of one ingest over the cluster."""
    start = [sys.executable, "-m", "tests.engine.cluster.driver", "ingest", slides, "--store", str(store)]
    return [*start, "--ray", address, "--json", *more]


def start(line: list[str], log: Path, **environment: str) -> subprocess.Popen[str]:
    """Begin it; what it says goes to ``log``."""
    with log.open("a") as file:
        return subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=file, text=True, env={**os.environ, **environment}
        )


def parts(store: Path) -> int:
    """Files that were ever written into the staging folder so far and are there."""
    return len(list(store.glob("staging/*/*/*.npz"))) + len(list(store.glob("tiles/*.lance/data/*.lance")))


def wait_for_more(store: Path, process: subprocess.Popen[str], more: int, seconds: float = 60.0) -> bool:
    """Wait until so many more parts are there. False if the run ended, or nothing came."""
    before, end = parts(store), time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        if parts(store) >= before + more or parts(store) < before:
            return True
        time.sleep(0.1)
    return False


def chaos(made: Any, slides: str, out: Path, limit: int, kills: int, chance: random.Random) -> dict[str, Any]:
    """Ingest with ``kills`` losses of each kind in turn, then to the end."""
    store, log = out / "R", out / "stderr.txt"
    line = command(slides, store, made.address, "--limit-tiles", str(limit), "--runtime", "onnxruntime")
    done: dict[str, int] = dict.fromkeys(KINDS, 0)
    process = start(line, log)
    times: list[tuple[str, float]] = []
    for number in range(kills):
        if not wait_for_more(store, process, 1 + chance.randrange(2)):
            break
        kind = KINDS[number % len(KINDS)]
        times.append((kind, time.monotonic()))
        if kind == "reader":
            done[kind] += kill_one("ray::read_span", chance)
        elif kind == "encoder":
            done[kind] += kill_one("ray::Encoder", chance)
        elif kind == "node":
            gone = chance.choice(sorted(made.worker_nodes, key=lambda node: node.unique_id))
            made.remove_node(gone, allow_graceful=False)
            made.add_node(num_cpus=1)
            done[kind] += 1
        else:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            done[kind] += 1
            process = start(line, log)
    said, _ = process.communicate()
    times.append(("end", time.monotonic()))
    again = subprocess.run(line, capture_output=True, text=True, check=False)
    return {
        "code": process.returncode,
        "report": json.loads(said) if said else None,
        "kills": done,
        "times": times,
        "again": json.loads(again.stdout) if again.stdout else again.stderr,
        "stderr": log.read_text()[-4000:],
    }


def stopped(made: Any, slides: str, out: Path, limit: int) -> dict[str, Any]:
    """Ctrl-C while it computes."""
    store = out / "C"
    line = command(slides, store, made.address, "--limit-tiles", str(limit), "--runtime", "onnxruntime")
    process = start(line, out / "stopped.txt")
    wait_for_more(store, process, 1)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    return {
        "code": process.returncode,
        "said": said,
        "seconds": time.monotonic() - began,
        "stderr": (out / "stopped.txt").read_text(),
        "staged": len(list(store.glob("staging/*/*/*.npz"))),
    }


def refusals(made: Any, slides: str, out: Path) -> dict[str, dict[str, Any]]:
    """Commands that cannot work, each with what it said and how long that took."""
    tried = {
        "wrong token": (command(slides, out / "X", made.address), {"RAY_AUTH_TOKEN": "b" * 64}),
        "no gpu": (command(slides, out / "X", made.address, "--runtime", "onnxruntime-cuda"), {}),
    }
    return {name: _tried(line, environment) for name, (line, environment) in tried.items()}


def _tried(line: list[str], environment: dict[str, str]) -> dict[str, Any]:
    began = time.monotonic()
    run = subprocess.run(
        line, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **environment}
    )
    return {
        "code": run.returncode,
        "stdout": run.stdout,
        "stderr": run.stderr,
        "seconds": time.monotonic() - began,
    }


def crowded(made: Any, slides: str, out: Path) -> dict[str, Any]:
    """Somebody else has every core."""
    import ray

    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")

    @ray.remote(num_cpus=1)
    class Other:
        def here(self) -> bool:
            return True

    others = [Other.remote() for _ in range(int(ray.cluster_resources()["CPU"]))]
    ray.get([other.here.remote() for other in others])
    try:
        return _tried(command(slides, out / "X", made.address), {"PATIENCE": "4"})
    finally:
        ray.shutdown()


def main() -> None:
    """See the module."""
    slides, folder, limit, kills, seed = sys.argv[1:6]
    out = Path(folder)
    answer: dict[str, Any] = {}
    began = time.monotonic()
    with cluster(1, 1, 1) as made:
        answer["seconds"] = {"cluster": time.monotonic() - began}
        answer["chaos"] = chaos(made, slides, out, int(limit), int(kills), random.Random(int(seed)))
        answer["seconds"]["chaos"] = time.monotonic() - began
        if int(kills) <= len(KINDS):
            answer["stopped"] = stopped(made, slides, out, int(limit))
            answer["seconds"]["stopped"] = time.monotonic() - began
            answer["refused"] = refusals(made, slides, out)
            answer["refused"]["crowded"] = crowded(made, slides, out)
    answer["seconds"]["all"] = time.monotonic() - began
    (out / "answer.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    assert TOKEN
    main()
