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
#: Which rows of the table make a bag: ranges, or drawn ones.
Rows = tuple[tuple[int, int], ...] | Index


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
        """The batches of ``groups``; a thread copies the next from the file while one is in use.

        It fills two staging buffers in turn: new memory for every bag would cost more in page faults than the copy.
        """
        rows = [[self._rows(int(case), per_bag, draw) for case in group] for group in groups]
        most = max((_count(group) for group in rows), default=0)
        staging = [self._buffer(most) for _ in rows[:2]]
        with ThreadPoolExecutor(1, thread_name_prefix="bags") as pool:
            waiting = [pool.submit(self._read, one, staging[0]) for one in rows[:1]]
            for number, group in enumerate(groups):
                raw = waiting.pop().result()
                if number + 1 < len(groups):
                    waiting.append(pool.submit(self._read, rows[number + 1], staging[(number + 1) % 2]))
                yield self._batch(raw, group, rows[number])

    def load(self, cases: Index, per_bag: int | None = None, draw: int = 0) -> Batch:
        """One batch; HeadError names a case whose vectors are not finite."""
        rows = [self._rows(int(case), per_bag, draw) for case in cases]
        return self._batch(self._read(rows, self._buffer(_count(rows))), cases, rows)

    def _buffer(self, tiles: int) -> Tensor:
        kind = torch.float16 if self._bags.vectors.dtype == np.float16 else torch.float32
        return torch.empty((tiles, self._bags.dim), dtype=kind, pin_memory=self._device.type == "cuda")

    def _read(self, rows: Sequence[Rows], buffer: Tensor) -> Tensor:
        """The rows of all bags in the first part of ``buffer``."""
        vectors, array = self._bags.vectors, buffer.numpy()
        at = 0
        for one in rows:
            if isinstance(one, np.ndarray):
                np.take(vectors, one, axis=0, out=array[at : at + len(one)], mode="clip")
                at += len(one)
                continue
            for start, stop in one:
                array[at : at + stop - start] = vectors[start:stop]
                at += stop - start
        return buffer[:at]

    def _batch(self, raw: Tensor, cases: Index, rows: Sequence[Rows]) -> Batch:
        """A batch of its own memory on the device; ``raw`` may be overwritten once this returns."""
        lengths = tuple(_count([one]) for one in rows)
        self._check(raw, cases, lengths)
        # On the CPU by way of float32, which is four times as fast as straight to bfloat16.
        cpu = self._device.type == "cpu"
        x = raw.to(torch.float32, copy=True) if cpu else raw.to(self._device)
        return Batch(x.to(self._dtype), cases, lengths)

    def _rows(self, case: int, per_bag: int | None, draw: int) -> Rows:
        spans = self._bags.spans[case]
        count = _count([spans])
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


def _count(rows: Sequence[Rows]) -> int:
    return sum(
        len(one) if isinstance(one, np.ndarray) else sum(stop - start for start, stop in one) for one in rows
    )
