"""Ragged batches: bags of any length end to end, under a budget of tiles.

Batching across bags pays where bags are small (one optimiser step, one call) and costs where they are large (the
activations leave the cache), so bags are joined up to the budget and a bag above it goes alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beph_store.errors import HeadError
from beph_store.records import Bags

#: More bags than this do not share a batch: pooling is a (bags, tiles) product.
MAX_BAGS = 64

Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """``x`` (T, D) the tiles of the bags one after the other; ``cases`` (B,) whose they are; ``lengths`` tiles each."""

    x: Tensor
    cases: Index
    lengths: tuple[int, ...]


class Loader:
    """Reads bags into batches on a device, one ahead of their use.

    ``per_bag`` draws that many tiles of each bag, the same ones for the same ``draw`` number.
    """

    def __init__(self, bags: Bags, device: torch.device, dtype: torch.dtype, budget: int, seed: int) -> None:
        self._bags, self._device, self._dtype = bags, device, dtype
        self._budget, self._seed = budget, seed
        self._checked: set[int] = set()

    def plan(self, cases: Sequence[int] | Index, per_bag: int | None = None) -> list[Index]:
        """Groups of cases, in the order given, that go through the network together."""
        groups: list[list[int]] = []
        room = 0
        for case in map(int, cases):
            tiles = min(self._bags.tiles(case), per_bag or self._bags.tiles(case))
            if not groups or tiles > room or len(groups[-1]) == MAX_BAGS:
                groups.append([])
                room = self._budget
            groups[-1].append(case)
            room -= tiles
        return [np.array(group, np.int64) for group in groups]

    def stream(self, groups: Sequence[Index], per_bag: int | None = None, draw: int = 0) -> Iterator[Batch]:
        """The batches of ``groups``; the next is read by a thread while one is in use."""
        with ThreadPoolExecutor(1, thread_name_prefix="bags") as pool:
            waiting = [pool.submit(self.load, group, per_bag, draw) for group in groups[:1]]
            for number in range(len(groups)):
                batch = waiting.pop().result()
                if number + 1 < len(groups):
                    waiting.append(pool.submit(self.load, groups[number + 1], per_bag, draw))
                yield batch

    def load(self, cases: Index, per_bag: int | None = None, draw: int = 0) -> Batch:
        """One batch; HeadError names a case whose vectors are not finite."""
        rows = [self._rows(int(case), per_bag, draw) for case in cases]
        lengths = tuple(len(one) if isinstance(one, np.ndarray) else _total(one) for one in rows)
        vectors = self._bags.vectors
        kind = torch.float16 if vectors.dtype == np.float16 else torch.float32
        pinned = self._device.type == "cuda"
        buffer = torch.empty((sum(lengths), self._bags.dim), dtype=kind, pin_memory=pinned)
        array = buffer.numpy()
        at = 0
        for one in rows:
            if isinstance(one, np.ndarray):
                np.take(vectors, one, axis=0, out=array[at : at + len(one)], mode="clip")
                at += len(one)
                continue
            for start, stop in one:
                array[at : at + stop - start] = vectors[start:stop]
                at += stop - start
        self._check(buffer, cases, lengths)
        x = buffer.to(self._device, non_blocking=pinned).to(self._dtype)
        return Batch(x, cases, lengths)

    def _rows(self, case: int, per_bag: int | None, draw: int) -> tuple[tuple[int, int], ...] | Index:
        spans = self._bags.spans[case]
        count = _total(spans)
        if per_bag is None or count <= per_bag:
            return spans
        rng = np.random.default_rng((self._seed, draw, case))
        chosen = np.sort(rng.choice(count, per_bag, replace=False))
        starts = np.array([start for start, _ in spans])
        before = np.concatenate([[0], np.cumsum([stop - start for start, stop in spans])])
        span = np.searchsorted(before, chosen, side="right") - 1
        return np.asarray(starts[span] + chosen - before[span], dtype=np.int64)

    def _check(self, buffer: Tensor, cases: Index, lengths: tuple[int, ...]) -> None:
        """Every case is looked at when it is first read; a sum is finite only if all its terms are."""
        if self._checked.issuperset(cases.tolist()):
            return
        for case, part in zip(cases.tolist(), torch.split(buffer, list(lengths)), strict=True):
            if not torch.isfinite(part.sum(dtype=torch.float32)):
                name = self._bags.case_ids[case]
                raise HeadError(
                    f"case {name} holds vectors that are not finite: verify the store or leave it out"
                )
            self._checked.add(case)


def _total(spans: Sequence[tuple[int, int]]) -> int:
    return sum(stop - start for start, stop in spans)
