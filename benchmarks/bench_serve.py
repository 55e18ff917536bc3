"""How long does a viewer wait for a tile, and does the server's memory stay flat?

    python benchmarks/bench_serve.py [--viewers 20] [--views 15] [--look 1.0] [--requests 10000] [--slides 50]
                                     [--side 100352] [--tiles 100000] [--name serve]

A drawn slide of ``--side`` px a side is served by `beph-store serve`, a process of its own, over HTTP on the loopback.
A viewer has a window of 1920 by 1080 px and six connections, as a browser has: it asks for every tile of its view,
looks at it for ``--look`` seconds once it is complete, then pans by half a window or zooms by 2. **cold**: a fresh
server, views that nobody has seen; **warm**: the same views again. A wait is from the request to the last byte, as the
client sees it, time in its own queue apart. Then ``--requests`` tiles are asked for without pause, spread over
``--slides`` slides, more than are held open, and the server's resident memory is read after each tenth. Last, another
server has a store of ``--tiles`` drawn vectors and is asked for the tiles most like a clicked one, one click after the
other, as the page asks. Clients run on the same machine and take their share of its cores: waits are upper bounds.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from common import command_line, conditions, write

from beph_store.encoders import load_bundle
from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.records import Rasters, Recipe, SlideInfo, TileSet, TileSpec, TissueMask
from beph_store.serve.shelf import handle
from beph_store.serve.slide_tiles import TILE_PX, level_size, max_level
from beph_store.store import SlideRow, Store
from beph_store.testing.synthetic import huge_slide

WINDOW, CONNECTIONS = (1920, 1080), 6
BURST = 40  # tiles of a slide, before the soak goes on to the next one
MAIN = "main.tif"


def build(folder: Path, side: int, slides: int) -> Path:
    """A store of the large slide and of smaller ones to open besides; one tile of each is embedded."""
    files = folder / "slides"
    files.mkdir()
    huge_slide(files / MAIN, side)
    huge_slide(folder / "small.tif", min(side, 16_384), seed=1)
    for number in range(slides - 1):
        shutil.copy(folder / "small.tif", files / f"{number:03d}.tif")
    ingest([files], folder / "S", options=IngestOptions(limit_tiles=1))
    return folder / "S"


def draw_store(folder: Path, tiles: int) -> Path:
    """A store of that many vectors, of about twenty kinds, on slides of 5,000; no slide has a file."""
    across, down, px = 100, 50, 224
    spec = TileSpec(px, 0.5, px, 0.0, "none")
    encoder = load_bundle("beph-mini").spec
    opened = Store.create(folder / "drawn", written_by="bench_serve")
    writer = opened.writer(Recipe(spec, encoder), run="bench", encoder_source="drawn", parity={})
    rng = np.random.default_rng(0)
    kinds = rng.standard_normal((20, encoder.dim)).astype(np.float32)
    columns, rows = np.meshgrid(np.arange(across), np.arange(down))
    origin = np.column_stack([columns.ravel(), rows.ravel()]).astype(np.int32) * px
    count = len(origin)
    white = np.full((down, across, 3), 255, np.uint8)
    rasters = Rasters(white, TissueMask(np.ones((down, across), bool), px * 0.5, 1.0, "none"))
    for number in range(tiles // count):
        name, size = f"slide-{number:03d}", (across * px, down * px)
        info = SlideInfo(name, "", size, 0.5, 0.5, "declared", (size,), "0" * 64)
        claim = writer.claim(name)
        assert claim is not None
        spool = writer.open_spool(claim, info, TileSet(name, spec, origin, px, np.ones(count, np.float32)))
        vectors = kinds[rng.integers(0, 20, count)] + rng.standard_normal((count, encoder.dim)).astype(
            np.float32
        )
        spool.add(np.arange(count, dtype=np.int32), np.ones(count, bool), vectors)
        writer.seal(claim, rasters, SlideRow(writer.key, name, "done", reader="drawn"))
    writer.publish()
    writer.close()
    return folder / "drawn"


@dataclass
class Server:
    """The server's process and address."""

    process: subprocess.Popen[str]
    host: str
    port: int
    token: str

    @classmethod
    def start(cls, store: Path) -> Server:
        """Wait until it says where it listens."""
        line = [sys.executable, "-m", "beph_store_cli", "serve", str(store), "--port", "0", "--json"]
        process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        return cls(process, urlsplit(told["base"]).hostname or "", told["port"], told["token"])

    def rss_mb(self) -> float:
        """Resident memory in MB."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def stop(self) -> None:
        """As Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)


@dataclass
class Wire:
    """One connection that is kept."""

    server: Server
    reader: asyncio.StreamReader | None = None
    writer: asyncio.StreamWriter | None = None

    async def get(self, path: str, sent: Any = None) -> bytes:
        """The body; anything but 200 is an error. A connection that the server has let go of is made again.

        With ``sent`` it is a POST of that as JSON.
        """
        try:
            return await self._get(path, sent)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.close()
            return await self._get(path, sent)

    async def _get(self, path: str, sent: Any) -> bytes:
        if self.reader is None or self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(self.server.host, self.server.port)
        body = b"" if sent is None else json.dumps(sent).encode()
        head = [
            f"{'GET' if sent is None else 'POST'} {path} HTTP/1.1",
            "Host: localhost",
            f"Authorization: Bearer {self.server.token}",
            *([] if sent is None else ["Content-Type: application/json", f"Content-Length: {len(body)}"]),
        ]
        self.writer.write("\r\n".join([*head, "", ""]).encode() + body)
        answered = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        length = next(
            int(line.split(":")[1]) for line in answered if line.lower().startswith("content-length")
        )
        body = await self.reader.readexactly(length)
        if " 200 " not in answered[0]:
            raise RuntimeError(f"{answered[0]}: {body[:200]!r} for {path}")
        return body

    def close(self) -> None:
        """Let go of it."""
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


@dataclass
class Waits:
    """Seconds of every request, and bytes in all."""

    seconds: list[float] = field(default_factory=list)
    nbytes: int = 0

    def told(self, spent: float) -> dict[str, Any]:
        """In milliseconds."""
        p50, p95, p99 = (round(1000 * float(np.percentile(self.seconds, p)), 1) for p in (50, 95, 99))
        rate = round(len(self.seconds) / spent, 1)
        worst = round(1000 * max(self.seconds), 1)
        kb = round(self.nbytes / len(self.seconds) / 1000, 1)
        return {
            "requests": len(self.seconds),
            "per_second": rate,
            "p50_ms": p50,
            "p95_ms": p95,
            "p99_ms": p99,
            "max_ms": worst,
            "kb_a_tile": kb,
        }


def views(side: int, count: int, seed: int) -> list[list[tuple[int, int, int]]]:
    """Tiles (level, column, row) of one viewer's views after one another."""
    rng = np.random.default_rng(seed)
    size = (side, side)
    top = max_level(size)
    level = int(rng.integers(top - 6, top + 1))
    centre = rng.uniform(0.3, 0.7, 2)
    found = []
    for _ in range(count):
        width, height = level_size(size, level)
        left, upper = centre[0] * width - WINDOW[0] / 2, centre[1] * height - WINDOW[1] / 2
        columns = range(
            max(0, int(left // TILE_PX)), min(-(-width // TILE_PX), int((left + WINDOW[0]) // TILE_PX) + 1)
        )
        rows = range(
            max(0, int(upper // TILE_PX)), min(-(-height // TILE_PX), int((upper + WINDOW[1]) // TILE_PX) + 1)
        )
        found.append([(level, column, row) for row in rows for column in columns])
        if rng.random() < 0.5:
            centre = np.clip(
                centre + rng.choice([-0.5, 0.5], 2) * WINDOW / np.array([width, height]), 0.1, 0.9
            )
        else:
            level = int(np.clip(level + rng.choice([-1, 1]), top - 7, top))
    return found


async def viewer(
    server: Server, prefix: str, seen: list[list[tuple[int, int, int]]], look: float, waits: Waits
) -> None:
    """Ask for view after view; the first look begins at a moment of its own."""
    wires = [Wire(server) for _ in range(CONNECTIONS)]
    await asyncio.sleep(look * (hash(seen[0][0]) % 100) / 100)
    for tiles in seen:
        todo = list(reversed(tiles))

        async def fetch(wire: Wire, todo: list[tuple[int, int, int]] = todo) -> None:
            while todo:
                level, column, row = todo.pop()
                start = time.perf_counter()
                body = await wire.get(f"{prefix}/image_files/{level}/{column}_{row}.jpg")
                waits.seconds.append(time.perf_counter() - start)
                waits.nbytes += len(body)

        await asyncio.gather(*(fetch(wire) for wire in wires))
        await asyncio.sleep(look)
    for wire in wires:
        wire.close()


async def watch(
    server: Server, prefix: str, every: list[list[list[tuple[int, int, int]]]], look: float
) -> dict[str, Any]:
    """All viewers at once."""
    waits = Waits()
    start = time.perf_counter()
    await asyncio.gather(*(viewer(server, prefix, seen, look, waits) for seen in every))
    return waits.told(time.perf_counter() - start)


async def soak(
    server: Server, key: str, names: list[str], sides: dict[str, int], requests: int
) -> dict[str, Any]:
    """Random tiles of slide after slide; memory after each tenth."""
    rng = np.random.default_rng(5)
    todo = []
    for number in range(requests):
        name = names[number // BURST % len(names)]
        size = (sides[name], sides[name])
        level = int(rng.integers(max_level(size) - 4, max_level(size) + 1))
        across = -(-level_size(size, level)[0] // TILE_PX)
        column, row = (int(v) for v in rng.integers(0, across, 2))
        todo.append(f"/api/recipes/{key}/slides/{handle(name)}/image_files/{level}/{column}_{row}.jpg")
    memory, waits, start = [round(server.rss_mb(), 1)], Waits(), time.perf_counter()

    async def fetch(wire: Wire) -> None:
        while todo:
            path, begun = todo.pop(), time.perf_counter()
            waits.nbytes += len(await wire.get(path))
            waits.seconds.append(time.perf_counter() - begun)
            if len(waits.seconds) % max(1, requests // 10) == 0:
                memory.append(round(server.rss_mb(), 1))

    wires = [Wire(server) for _ in range(CONNECTIONS)]
    await asyncio.gather(*(fetch(wire) for wire in wires))
    for wire in wires:
        wire.close()
    return {**waits.told(time.perf_counter() - start), "slides": len(names), "rss_mb": memory}


async def clicks(server: Server, key: str, slides: int, count: int = 200) -> dict[str, Any]:
    """Searches for a clicked tile among the other cases, and the similarity of its slide; seconds at the client."""
    rng = np.random.default_rng(7)
    wire, hits, overlays = Wire(server), Waits(), Waits()
    start = time.perf_counter()
    for number in range(count + 1):
        slide = handle(f"slide-{int(rng.integers(0, slides)):03d}")
        x, y = (int(v) for v in rng.integers(0, (22_400, 11_200)))
        begun = time.perf_counter()
        found = await wire.get(f"/api/recipes/{key}/search", {"slide": slide, "point": [x, y], "top": 24})
        between = time.perf_counter()
        shown = await wire.get(f"/api/recipes/{key}/slides/{slide}/similarity.bin?x={x}&y={y}")
        if number:  # the first makes the flat copy of the vectors
            hits.seconds.append(between - begun)
            overlays.seconds.append(time.perf_counter() - between)
            hits.nbytes += len(found)
            overlays.nbytes += len(shown)
        else:
            first = between - begun
    spent = time.perf_counter() - start
    wire.close()
    return {"first_s": round(first, 2), "search": hits.told(spent), "similarity": overlays.told(spent)}


def measure_clicks(folder: Path, tiles: int) -> dict[str, Any]:
    """Of a server of its own."""
    store = draw_store(folder, tiles)
    (key,) = (path.stem for path in (store / "recipes").glob("*.json"))
    server = Server.start(store)
    try:
        return {"tiles": tiles, **asyncio.run(clicks(server, key, tiles // 5000))}
    finally:
        server.stop()


def main() -> None:
    """Command line."""
    parser = command_line(__doc__, "serve")
    parser.add_argument("--viewers", type=int, default=20)
    parser.add_argument("--views", type=int, default=15)
    parser.add_argument("--look", type=float, default=1.0)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--slides", type=int, default=50)
    parser.add_argument("--side", type=int, default=100_352)
    parser.add_argument("--tiles", type=int, default=100_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = build(Path(folder), asked.side, asked.slides)
        (key,) = (path.stem for path in (store / "recipes").glob("*.json"))
        prefix = f"/api/recipes/{key}/slides/{handle(MAIN)}"
        every = [views(asked.side, asked.views, seed) for seed in range(asked.viewers)]
        names = [path.name for path in sorted((Path(folder) / "slides").iterdir())]
        sides = {name: asked.side if name == MAIN else min(asked.side, 16_384) for name in names}
        server = Server.start(store)
        try:
            result = {
                "conditions": conditions(
                    "starlette", "uvicorn", "httptools", "uvloop", "openslide-bin", "simplejpeg"
                ),
                "asked": vars(asked),
                "rss_mb_at_start": round(server.rss_mb(), 1),
                "cold": asyncio.run(watch(server, prefix, every, asked.look)),
                "warm": asyncio.run(watch(server, prefix, every, asked.look)),
                "soak": asyncio.run(soak(server, key, names, sides, asked.requests)),
            }
        finally:
            server.stop()
        result["clicks"] = measure_clicks(Path(folder), asked.tiles)
    write(asked.name, result)


if __name__ == "__main__":
    main()
