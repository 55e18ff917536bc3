"""What do slides in object storage cost against the same files on disk, and when do range reads win?

    python benchmarks/bench_remote_slides.py SLIDES… [--name remote_slides]

moto (in memory) holds the slides; between it and the reader stands a relay that delays every request by the latency
of a link and lets through so many bytes a second, all connections together. For every link and scale of the tiles
one reader process reads all tissue tiles of all slides, and nobody encodes them: the fastest encoder there could be,
and the worst case for the network. Ways: the files on disk; whole copies, fetched when a slide's turn comes or ahead
of it; ranges, the same two. Bytes are those that came over the link, seconds from the first process to the last tile,
the best of the repeats; ``ratio`` is seconds ÷ those of the files on disk at that scale in the same run.

The limit of a way is max(seconds on disk, bytes ÷ the link's bytes/s). ``ingest`` does the same with an encoder on
the CPU, on the slowest link: what is left to be waited for where encoding takes longer than fetching.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import obstore
from common import conditions, write

from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.engine.messages import Closed, Failed, Opened
from beph_store.engine.plan import plan
from beph_store.engine.readers import ReaderPool, Tiles
from beph_store.engine.staging import FetchAhead
from beph_store.objects import open_bucket
from beph_store.records import TileSpec
from beph_store.slides import Staging

#: (name, seconds of latency, bytes a second)
LINKS = (("20 ms, 50 MB/s", 0.020, 50e6), ("80 ms, 10 MB/s", 0.080, 10e6))
#: (name, how a slide is read, slides fetched ahead); None: from the disk.
WAYS = (
    ("disk", None, 0),
    ("whole", "whole", 0),
    ("whole, ahead", "whole", 2),
    ("ranges", "ranges", 0),
    ("ranges, ahead", "ranges", 2),
)
BUCKET = "s3://slides"
_PIECE = 1 << 16


class Link:
    """A relay in a process of its own. ``latency``, ``rate`` and ``passed`` (bytes to the client) are shared."""

    def __init__(self, upstream: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.latency, self.rate = context.Value("d", 0.0), context.Value("d", 1e12)
        self.passed = context.Value("q", 0)
        self._ours, theirs = context.Pipe()
        shared = (self.latency, self.rate, self.passed)
        self._process = context.Process(target=relay, args=(theirs, upstream, *shared), daemon=True)
        self._process.start()
        self.port: int = self._ours.recv()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def relay(connection: Any, upstream: int, latency: Any, rate: Any, passed: Any) -> None:
    """Accept on a free port of the loopback and pass on."""
    listener = socket.create_server(("127.0.0.1", 0))
    connection.send(listener.getsockname()[1])
    gate = threading.Lock()
    free_at = [0.0]

    def up(client: socket.socket, server: socket.socket) -> None:
        while data := client.recv(_PIECE):
            time.sleep(latency.value)
            server.sendall(data)
        server.shutdown(socket.SHUT_WR)

    def down(client: socket.socket, server: socket.socket) -> None:
        while data := server.recv(_PIECE):
            with gate:  # one link for all connections
                begins = max(free_at[0], time.monotonic())
                free_at[0] = begins + len(data) / rate.value
                passed.value += len(data)
            time.sleep(max(0.0, free_at[0] - time.monotonic()))
            client.sendall(data)
        client.shutdown(socket.SHUT_WR)

    while True:
        client, _ = listener.accept()
        server = socket.create_connection(("127.0.0.1", upstream))
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for one in (up, down):
            threading.Thread(target=_quiet, args=(one, client, server), daemon=True).start()


def _quiet(one: Any, client: socket.socket, server: socket.socket) -> None:
    try:
        one(client, server)
    except OSError:
        client.close()
        server.close()


@contextmanager
def served(slides: Sequence[Path]) -> Iterator[Link]:
    """The slides in a bucket behind a link, with the variables set."""
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(f"http://127.0.0.1:{port}/")
            link = Link(port)
            os.environ |= {
                "AWS_ACCESS_KEY_ID": "bench",
                "AWS_SECRET_ACCESS_KEY": "bench",
                "AWS_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{link.port}",
            }
            make = urllib.request.Request(f"http://127.0.0.1:{port}/slides", method="PUT")
            urllib.request.urlopen(make, timeout=10).close()
            store, _ = open_bucket(BUCKET)
            for slide in slides:
                obstore.put(store, slide.name, slide.read_bytes())
            yield link
            link.close()
        finally:
            server.kill()


def _wait_for(url: str) -> None:
    for _ in range(200):
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("moto did not start")


def read_all(paths: Sequence[str | Path], spec: TileSpec, reads: Any, ahead: int) -> int:
    """Tiles read of all slides, by one reader process."""
    tasks = plan(paths, staging=Staging(reads=reads or "auto"))
    tiles = 0
    with closing(FetchAhead(tasks, spec, workers=1, ahead=ahead, admit=lambda _: True)) as fetching:
        pool = ReaderPool(tasks, spec, workers=1, admit=fetching.admit)
        for event in pool.events():
            if isinstance(event, Opened):
                pool.read(event.slide_id, np.arange(len(event.tiles), dtype=np.int32))
            elif isinstance(event, Tiles):
                tiles += int(event.ok.sum())
                pool.give_back(event)
            elif isinstance(event, Failed):
                raise SystemExit(f"{event.slide_id}: {event.error}")
            else:
                assert isinstance(event, Closed)
    return tiles


def timed(link: Link, work: Any) -> tuple[float, int, Any]:
    """(seconds, bytes over the link, what it returned), with an empty ring."""
    shutil.rmtree(os.environ["BEPH_STORE_SLIDE_CACHE"], ignore_errors=True)
    before, start = link.passed.value, time.perf_counter()
    result = work()
    return time.perf_counter() - start, link.passed.value - before, result


def reading(link: Link, slides: Sequence[Path], mpps: Sequence[float], repeats: int) -> list[dict[str, Any]]:
    """A row for every link, scale and way."""
    rows = []
    for mpp in mpps:
        spec = TileSpec(224, mpp, 224, tissue_min=0.25, tissue_method="otsu-saturation")
        disk = 0.0
        for name, latency, rate in LINKS:
            link.latency.value, link.rate.value = latency, rate
            for way, reads, ahead in WAYS:
                if way == "disk" and disk:
                    continue
                paths: Sequence[str | Path] = slides if way == "disk" else [BUCKET]
                runs = [timed(link, lambda: read_all(paths, spec, reads, ahead)) for _ in range(repeats)]  # noqa: B023
                seconds, passed, tiles = min(runs)
                disk = disk or seconds
                rows.append(
                    {
                        "link": None if way == "disk" else name,
                        "mpp": mpp,
                        "way": way,
                        "tiles": tiles,
                        "seconds": round(seconds, 2),
                        "ratio": round(seconds / disk, 2),
                        "megabytes": round(passed / 1e6, 1),
                        "limit_seconds": round(max(disk, passed / rate), 2),
                    }
                )
                print(rows[-1], file=sys.stderr, flush=True)
    return rows


def ingesting(link: Link, slides: Sequence[Path], limit_tiles: int) -> list[dict[str, Any]]:
    """The whole job with an encoder, on the slowest link."""
    name, link.latency.value, link.rate.value = LINKS[-1]
    rows: list[dict[str, Any]] = []
    for way, reads, ahead in WAYS:
        paths: Sequence[str | Path] = slides if way == "disk" else [BUCKET]
        options = IngestOptions(
            limit_tiles=limit_tiles, slides_ahead=ahead, slide_reads=reads or "auto", workers=1, mpp=0.5
        )
        with tempfile.TemporaryDirectory() as folder:
            seconds, passed, report = timed(link, lambda: ingest(paths, Path(folder, "S"), options=options))  # noqa: B023
        assert not report.failed
        rows.append(
            {
                "link": None if way == "disk" else name,
                "way": way,
                "tiles": report.tiles,
                "seconds": round(seconds, 2),
                "ratio": round(seconds / (rows[0]["seconds"] if rows else seconds), 2),
                "megabytes": round(passed / 1e6, 1),
                "read_busy": round(report.busy["read"], 2),
                "encode_busy": round(report.busy["encode"], 2),
            }
        )
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Run and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slides", nargs="+", type=Path)
    parser.add_argument("--mpp", nargs="+", type=float, default=[0.5, 1.0])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--limit-tiles", type=int, default=64)
    parser.add_argument("--name", default="remote_slides")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BEPH_STORE_SLIDE_CACHE"] = str(Path(folder, "ring"))
        with served(given.slides) as link:
            data = {
                **conditions("obstore", "moto", "openslide-bin"),
                "question": "seconds and bytes of reading slides from object storage, against the files on disk",
                "slides": len(given.slides),
                "megabytes": round(sum(slide.stat().st_size for slide in given.slides) / 1e6, 1),
                "reading": reading(link, given.slides, given.mpp, given.repeats),
                "ingest": ingesting(link, given.slides, given.limit_tiles),
            }
    write(given.name, data)


if __name__ == "__main__":
    main()
