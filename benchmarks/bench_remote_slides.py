"""What do slides in object storage cost against the same files on disk, and when do range reads win?

    python benchmarks/bench_remote_slides.py SLIDES… [--name remote_slides]

A server that answers as S3 does holds the slides, straight from the disk; before it stands a relay that delays every
request by the latency of a link and lets through so many bytes a second, all connections together. For every link and
scale of the tiles one reader process reads all tissue tiles of all slides, and nobody encodes them: the fastest encoder
there could be, and the worst case for the network. Ways: the files on disk; whole copies, fetched when a slide's turn
comes or ahead of it; ranges, the same two; and the default. ``small`` are the slides that are named, ``large`` the two
largest of them, 2 × 2 times each. Bytes are those that came over the link, seconds from the first process to the last
tile, the best of the repeats; ``ratio`` is seconds ÷ those of the files on disk at that scale in the same run.

The limit of a way is max(seconds on disk, bytes ÷ the link's bytes/s). ``ingest`` does the same with an encoder on
the CPU, on the slowest link: what is left to be waited for where encoding takes longer than fetching.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import tifffile
from common import command_line, conditions, write

from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.engine.messages import Closed, Failed, Opened
from beph_store.engine.plan import plan
from beph_store.engine.readers import ReaderPool, Tiles
from beph_store.engine.staging import FetchAhead
from beph_store.records import TileSpec
from beph_store.slides import Staging
from beph_store.slides.table import examine

#: (name, seconds of latency, bytes a second)
LINKS = (("20 ms, 50 MB/s", 0.020, 50e6), ("80 ms, 10 MB/s", 0.080, 10e6))
#: (name, how a slide is read, slides fetched ahead); None: from the disk.
WAYS = (
    ("disk", None, 0),
    ("whole", "whole", 0),
    ("whole, ahead", "whole", 2),
    ("ranges", "ranges", 0),
    ("ranges, ahead", "ranges", 2),
    ("auto, ahead", "auto", 2),
)
#: What an encoder on the CPU is tried with.
WAYS_OF_INGEST = tuple(way for way in WAYS if way[0] in ("disk", "whole", "whole, ahead", "auto, ahead"))
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
def served(slides: Mapping[str, Sequence[Path]]) -> Iterator[Link]:
    """The slides, by folder, in a bucket behind a link, with the variables set."""
    files = {f"{folder}/{slide.name}": slide for folder, some in slides.items() for slide in some}
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=bucket, args=(theirs, files), daemon=True)
    server.start()
    link = Link(ours.recv())
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{link.port}",
    }
    try:
        yield link
    finally:
        link.close()
        server.kill()
        server.join()


def bucket(connection: Any, files: Mapping[str, Path]) -> None:
    """What of S3 a reader needs: list, HEAD, and GET with a range, straight from the disk."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._object(b"")

        def do_GET(self) -> None:
            asked = urlsplit(self.path)
            key = unquote(asked.path).removeprefix("/slides/")
            if key in files:
                first, last = self.headers["Range"].removeprefix("bytes=").split("-")
                with files[key].open("rb") as file:
                    file.seek(int(first))
                    self._object(file.read(int(last) + 1 - int(first)), f"{first}-{last}")
                return
            prefix = parse_qs(asked.query).get("prefix", [""])[0]
            found = "".join(
                f"<Contents><Key>{name}</Key><Size>{path.stat().st_size}</Size><ETag>&quot;{path.name}&quot;</ETag>"
                "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
                for name, path in files.items()
                if name.startswith(prefix)
            )
            self._answer(200, {}, f"<ListBucketResult>{found}</ListBucketResult>".encode())

        def _object(self, data: bytes, span: str = "") -> None:
            path = files.get(unquote(self.path).removeprefix("/slides/"))
            if path is None:
                self._answer(404, {}, b"")
                return
            size = path.stat().st_size
            said = {"ETag": f'"{path.name}"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
            if span:
                self._answer(206, {**said, "Content-Range": f"bytes {span}/{size}"}, data)
            else:
                self._answer(200, said, b"", size)

        def _answer(
            self, status: int, headers: Mapping[str, str], data: bytes, size: int | None = None
        ) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data) if size is None else size))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        connection.send(server.server_port)
        server.serve_forever()


def mosaic(slide: Path, folder: Path, times: int) -> Path:
    """``times`` × ``times`` copies of a slide side by side as one, of the same compressed tiles."""
    pages = examine(slide).tiff
    assert pages is not None
    path = folder / f"{slide.stem}_{times}x{times}.tif"
    with slide.open("rb") as file, tifffile.TiffWriter(path, bigtiff=True) as out:
        for number, page in enumerate(level for level in pages.pages if level.tiled and level.grid >= (4, 4)):
            columns, rows = page.grid
            order = [
                r % rows * columns + c % columns for r in range(rows * times) for c in range(columns * times)
            ]

            def tiles(page: Any = page, order: list[int] = order) -> Iterator[bytes]:
                for index in order:
                    file.seek(int(page.offsets[index]))
                    yield file.read(int(page.counts[index]))

            out.write(
                tiles(),
                shape=(rows * times * page.tile[1], columns * times * page.tile[0], 3),
                dtype=np.uint8,
                tile=(page.tile[1], page.tile[0]),
                photometric="ycbcr" if page.photometric == 6 else "rgb",
                subsampling=(2, 2) if page.photometric == 6 else None,
                compression="jpeg",
                jpegtables=page.jpeg_tables or None,
                subfiletype=1 if number else 0,
                resolution=(20000.0, 20000.0),
                resolutionunit="CENTIMETER",
            )
    return path


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


def reading(
    link: Link, folder: str, slides: Sequence[Path], mpps: Sequence[float], repeats: int
) -> list[dict[str, Any]]:
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
                paths: Sequence[str | Path] = slides if way == "disk" else [f"{BUCKET}/{folder}"]
                work = functools.partial(read_all, paths, spec, reads, ahead)
                seconds, passed, tiles = min(timed(link, work) for _ in range(repeats))
                disk = disk or seconds
                rows.append(
                    {
                        "slides": folder,
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
    for way, reads, ahead in WAYS_OF_INGEST:
        paths: Sequence[str | Path] = slides if way == "disk" else [f"{BUCKET}/small"]
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


def _megabytes(slides: Sequence[Path]) -> list[float]:
    return [round(slide.stat().st_size / 1e6, 1) for slide in slides]


def main() -> None:
    """Run and write the results."""
    parser = command_line(__doc__, "remote_slides")
    parser.add_argument("slides", nargs="+", type=Path)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument(
        "--alone", action="store_true", help="nothing else ran on the machine; kept with the figures"
    )
    parser.add_argument("--limit-tiles", type=int, default=64)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BEPH_STORE_SLIDE_CACHE"] = str(Path(folder, "ring"))
        by_size = sorted(given.slides, key=lambda slide: slide.stat().st_size)
        large = [mosaic(slide, Path(folder), 2) for slide in by_size[-2:]]
        with served({"small": given.slides, "large": large}) as link:
            data: dict[str, Any] = {
                **conditions("obstore", "openslide-bin"),
                "question": "seconds and bytes of reading slides from object storage, against the files on disk",
                "alone": given.alone,
                "megabytes": {"small": _megabytes(given.slides), "large": _megabytes(large)},
                "reading": [],
            }
            for name, slides, mpps in (("large", large, [2.0, 0.5]), ("small", given.slides, [0.5])):
                data["reading"] += reading(link, name, slides, mpps, given.repeats)
                write(given.name, data)  # what there is, should it be stopped
            data["ingest"] = ingesting(link, given.slides, given.limit_tiles)
    write(given.name, data)


if __name__ == "__main__":
    main()
