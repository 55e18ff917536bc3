"""Where encoders sit: one for every GPU of the cluster, or one for every so many cores. Plain data, nothing of Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

#: More cores than these are shared among several encoders: threads that multiply one batch wait for one another.
CORES_OF_AN_ENCODER = 32
#: Readers beside a GPU or, of as many cores as these, beside an encoder that computes on them.
READERS_OF_A_GPU = 8
CORES_OF_A_READER = 4
#: Readers of a GPU on nodes without any, where there are such: pixels then travel through the network.
FAR_READERS = 8


@dataclass(frozen=True, slots=True)
class Seat:
    """A place for one encoder on a node, and what it takes of it.

    ``cpus`` and ``gpus`` are what it asks Ray for, ``threads`` what it computes with; ``readers`` tasks of
    ``reader_cpus`` each may read for it on its node, ``far`` more where there is room. Encoders and readers of a node
    take all of its cores together. On a CPU the encoder computes with all of them: its readers mostly wait for it.
    """

    node_id: str
    number: int
    cpus: float
    gpus: int
    threads: int
    readers: int
    reader_cpus: float
    far: int = 0

    @property
    def name(self) -> str:
        """Unique in the cluster."""
        return f"{self.node_id[:12]}-{self.number}"

    @property
    def wanted(self) -> dict[str, float]:
        """What Ray is asked for, by the names it has for it."""
        return {"CPU": self.cpus, "GPU": self.gpus}


def seats_of(nodes: Sequence[Mapping[str, Any]], *, gpus: bool, readers: int | None = None) -> list[Seat]:
    """The seats on ``nodes`` (``NodeID`` and ``Resources`` each): on their GPUs, or else on their cores.

    ``readers`` a seat; None for as many as suit it. A node without a core has no seat.
    """
    seats = []
    for node in nodes:
        cores = float(node["Resources"].get("CPU", 0))
        number = int(node["Resources"].get("GPU", 0)) if gpus else -(-int(cores) // CORES_OF_AN_ENCODER)
        if cores <= 0 or number < 1:
            continue
        make = _beside_a_gpu if gpus else _on_cores
        seats += [make(node["NodeID"], k, cores / number, readers) for k in range(number)]
    taken = {seat.node_id for seat in seats}
    spare = sum(int(node["Resources"].get("CPU", 0)) for node in nodes if node["NodeID"] not in taken)
    far = 0 if readers or not seats else min(FAR_READERS, spare // len(seats))
    return [replace(seat, far=far) for seat in seats]


def _beside_a_gpu(node_id: str, number: int, cores: float, readers: int | None) -> Seat:
    own = 1.0 if cores >= 2 else cores / 2
    count = readers or max(1, min(READERS_OF_A_GPU, int(cores - own)))
    return Seat(node_id, number, own, 1, max(1, int(cores)), count, min(1.0, cores - own))


def _on_cores(node_id: str, number: int, cores: float, readers: int | None) -> Seat:
    count = readers or max(1, min(READERS_OF_A_GPU, int(cores) // CORES_OF_A_READER))
    each = min(1.0, cores / 2 / count)
    own = cores - count * each
    return Seat(node_id, number, int(own) if own > 1 else own, 0, max(1, int(cores)), count, each)
