"""How fast an encoder runs here in each runtime, against the matrix rate of the same device in the same process."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.encoders import Bundle, load_bundle, probe_tiles
from beph_store.engine.bench.power import watched
from beph_store.engine.choosing import Choice, choose
from beph_store.errors import ParityFailed, RuntimeUnavailable
from beph_store.runtimes import RUNTIMES, Runtime, RuntimeOptions, Stream
from beph_store.runtimes.peak import matrix_rate


@dataclass(frozen=True, slots=True)
class EncoderRate:
    """One runtime in one precision, or ``reason`` why it was left out.

    ``tiles_per_second`` over ``seconds`` with tiles in memory, copies to and from a GPU included; ``busy`` the share
    of that time in which the device computed. ``flop_per_tile`` as counted at export; ``share_of_peak`` of
    ``peak_flop_per_second``, the best matrix product measured just before in that precision. ``joules`` per 1,000
    tiles of what ``power_source`` tells of.
    """

    runtime: str
    precision: str
    reason: str | None = None
    device: str = ""
    batch: int = 0
    seconds: float = 0.0
    tiles_per_second: float = 0.0
    busy: float = 0.0
    centred_cosine: float | None = None
    flop_per_tile: float | None = None
    peak_flop_per_second: float | None = None
    share_of_peak: float | None = None
    watts: float | None = None
    joules_per_1000_tiles: float | None = None
    power_source: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """``seconds`` to measure each for; ``batch`` and ``threads`` None for the runtime's own."""

    seconds: float = 5.0
    batch: int | None = None
    threads: int | None = None


def bench_encoder(
    encoder: str = "beph-mini",
    *,
    runtime: str = "all",
    precision: str | None = None,
    options: BenchOptions | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[EncoderRate]:
    """A row for every runtime and precision that a bundle has and this machine can run, the others with their reason.

    ``runtime`` and ``precision`` narrow it down. A runtime that fails the parity gate is not timed: its rate means
    nothing. Raises EncoderError and UsageError.
    """
    options = options or BenchOptions()
    bundle = load_bundle(encoder)
    rows = []
    for name, wanted in _plan(bundle, runtime, precision):
        if progress:
            progress(f"{name} {wanted}")
        rows.append(_row(bundle, name, wanted, options))
    return rows


def rate(stream: Stream, pixels: NDArray[np.uint8], seconds: float) -> tuple[float, float]:
    """(tiles a second, busy share) of full batches of ``pixels`` (n, H, W, 3), filled in by copy as ingest does.

    Leaves nothing under way: the stream may be timed again.
    """
    for _ in _batches(stream, pixels, 1 + stream.depth):
        pass
    busy, done, start = stream.busy, 0, time.perf_counter()
    with closing(_batches(stream, pixels, None)) as batches:
        for count in batches:
            done += count
            spent = time.perf_counter() - start
            if spent >= seconds:
                break
        share = (stream.busy - busy) / spent
    return done / spent, min(1.0, share)


def tiles_like(runtime: Runtime, most: int = 256) -> NDArray[np.uint8]:
    """(n, H, W, 3) uint8 drawn tiles, at least a batch of the runtime."""
    drawn = probe_tiles(runtime.spec.tile_px, min(64, most))
    return np.tile(drawn, (-(-max(runtime.batch, len(drawn)) // len(drawn)), 1, 1, 1))


def _plan(bundle: Bundle, runtime: str, precision: str | None) -> Iterator[tuple[str, str]]:
    if runtime not in ("all", "auto"):
        choose_from = [entry for entry in RUNTIMES if entry.name == runtime]
    else:
        choose_from = list(RUNTIMES)
    if not choose_from:
        yield runtime, precision or "fp32"
    for entry in choose_from:
        for has in entry.precisions:
            if bundle.has(has) and precision in (None, "auto", has):
                yield entry.name, has


def _row(bundle: Bundle, name: str, precision: str, options: BenchOptions) -> EncoderRate:
    wanted = RuntimeOptions(threads=options.threads, batch=options.batch)
    try:
        choice = choose(bundle, runtime=name, precision=precision, options=wanted)
    except (RuntimeUnavailable, ParityFailed) as error:
        return EncoderRate(name, precision, str(error))
    try:
        return _timed(bundle, choice, options)
    finally:
        choice.runtime.close()


def _timed(bundle: Bundle, choice: Choice, options: BenchOptions) -> EncoderRate:
    runtime = choice.runtime
    precision, cuda = runtime.spec.precision, "cpu" not in runtime.device.lower()
    peak = matrix_rate(precision, cuda=cuda, threads=options.threads)
    pixels, stream = tiles_like(runtime), runtime.stream()
    with watched(gpu=0 if cuda else None) as power:
        speed, busy = rate(stream, pixels, options.seconds)
    flop = bundle.flop_per_tile
    figures = choice.parity.get(f"{runtime.name} {precision}") or choice.parity.get(precision) or {}
    return EncoderRate(
        runtime.name,
        precision,
        device=runtime.device,
        batch=runtime.batch,
        seconds=options.seconds,
        tiles_per_second=speed,
        busy=busy,
        centred_cosine=figures.get("mean"),
        flop_per_tile=flop,
        peak_flop_per_second=peak,
        share_of_peak=speed * flop / peak if flop and peak else None,
        watts=power.watts,
        joules_per_1000_tiles=1000 * power.watts / speed if power.watts else None,
        power_source=power.source,
    )


def _batches(stream: Stream, pixels: NDArray[np.uint8], most: int | None) -> Generator[int, None, None]:
    """Tiles of each batch as it comes back, ``most`` batches or until it is closed, which collects all the same."""
    under_way: deque[int] = deque()
    sent = at = 0
    try:
        while most is None or sent < most:
            buffer = stream.buffer()
            if at + len(buffer) > len(pixels):
                at = 0
            buffer[:] = pixels[at : at + len(buffer)]
            at += len(buffer)
            stream.submit(len(buffer))
            under_way.append(len(buffer))
            sent += 1
            while len(under_way) >= stream.depth:
                stream.collect()
                yield under_way.popleft()
    finally:
        while under_way:
            stream.collect()
            under_way.popleft()
