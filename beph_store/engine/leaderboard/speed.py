"""Tiles a second of each encoder, in one process and in turn: what is slow for a while is slow for all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from beph_store.encoders import probe_tiles
from beph_store.engine.bench.encoder import rate
from beph_store.engine.leaderboard.comparison import Machine
from beph_store.engine.provenance import machine as computer


@dataclass(frozen=True, slots=True)
class Rate:
    """``tiles_per_second``, the median of the rounds, the ``slowest`` and the ``fastest``; and on what."""

    tiles_per_second: float
    slowest: float
    fastest: float
    rounds: int
    runtime: str
    device: str
    precision: str
    batch: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Timing:
    """``rounds`` of ``seconds`` each; 0 seconds for none."""

    seconds: float = 2.0
    rounds: int = 3


def rates(
    machines: Sequence[tuple[Machine, int, str]], timing: Timing, step: Callable[[int], None]
) -> list[Rate]:
    """Of each (machine, tile_px, precision), tiles in memory, full batches, one encoder after the other each round."""
    streams = []
    for machine, tile_px, _ in machines:
        drawn = probe_tiles(tile_px, 16)
        pixels = np.tile(drawn, (-(-max(machine.batch, len(drawn)) // len(drawn)), 1, 1, 1))
        streams.append((machine.stream(), pixels))
    found: list[list[float]] = [[] for _ in machines]
    for _ in range(timing.rounds):
        for own, (stream, pixels) in zip(found, streams, strict=True):
            own.append(rate(stream, pixels, timing.seconds)[0])
            step(1)
    return [
        Rate(
            float(np.median(own)),
            min(own),
            max(own),
            timing.rounds,
            machine.name,
            machine.device,
            precision,
            machine.batch,
        )
        for own, (machine, _, precision) in zip(found, machines, strict=True)
    ]


def conditions(timing: Timing) -> dict[str, Any]:
    """Where and how, and how busy the machine was just now (processes that want to run, mean of a minute)."""
    busy = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    return {"rounds": timing.rounds, "seconds_a_round": timing.seconds, "load": busy, **computer()}
