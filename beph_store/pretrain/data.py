"""Batches of augmented tiles, each a function of the seed and its step alone.

So a run that is resumed at step k sees what it would have seen uninterrupted, with any number of worker processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as image

from beph_store.errors import UsageError
from beph_store.pretrain.masking import MaskSpec, draw_mask


class TileSource(Protocol):
    """Tiles by number."""

    @property
    def fingerprint(self) -> str:
        """Names the tiles: a resumed run refuses another source."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """(H, W, 3) uint8 RGB each, of any size."""
        ...


@dataclass(frozen=True, slots=True)
class ViewSpec:
    """What is done to a tile: BEPH's pre-training view, and turns, as tissue has no upside.

    ``side`` px of the result; ``scale`` least share of the area of a crop (1 takes the whole tile), its aspect within
    3:4 and 4:3; ``jitter`` of brightness, contrast and saturation, each a factor within 1 ± jitter.
    """

    side: int = 224
    scale: float = 0.2
    jitter: float = 0.4


@dataclass(frozen=True, slots=True)
class Batch:
    """``pixels`` (B, 3, H, W) uint8; ``mask`` (B, cells) bool, True where the student must not look."""

    pixels: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True)
class Feed:
    """Which batches a process makes: ``batch`` tiles a step in all, of which it is part ``rank`` of ``world``."""

    batch: int
    seed: int
    view: ViewSpec
    mask: MaskSpec
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.batch < 1 or self.batch % self.world:
            raise UsageError(f"a batch of {self.batch} tiles does not divide over {self.world} processes")


class Steps(Dataset[tuple[Tensor, Tensor]]):
    """The batch of every step, by its number."""

    def __init__(self, source: TileSource, feed: Feed) -> None:
        if len(source) < feed.batch:
            raise UsageError(f"{len(source)} tiles are fewer than one batch of {feed.batch}: choose --batch")
        self._source = source
        self._feed = feed

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        feed = self._feed
        rows = rows_of(step, len(self._source), feed)
        tiles = self._source.read(rows)
        pixels, masks = [], []
        for place, tile in enumerate(tiles):
            # Seeded by the place in the whole batch, so that one process and four make the same.
            rng = np.random.default_rng((feed.seed, step, feed.rank * len(rows) + place))
            pixels.append(view(torch.from_numpy(np.array(tile)).permute(2, 0, 1), feed.view, rng))
            masks.append(torch.from_numpy(draw_mask(feed.mask, rng).ravel()))
        return torch.stack(pixels), torch.stack(masks)


def rows_of(step: int, tiles: int, feed: Feed) -> NDArray[np.int64]:
    """The numbers of the tiles of this process at a step: every epoch in an order of its own, the rest dropped."""
    epoch, place = divmod(step, tiles // feed.batch)
    order = np.random.default_rng((feed.seed, epoch)).permutation(tiles)
    own = feed.batch // feed.world
    start = place * feed.batch + feed.rank * own
    return order[start : start + own].astype(np.int64)


def view(tile: Tensor, spec: ViewSpec, rng: np.random.Generator) -> Tensor:
    """One augmented view (3, side, side) uint8 of a tile (3, H, W) uint8."""
    top, left, height, width = _crop(tile.shape[1], tile.shape[2], spec.scale, rng)
    size = [spec.side, spec.side]
    if (height, width) == (spec.side, spec.side):
        found = tile[:, top : top + height, left : left + width]
    else:
        found = image.resized_crop(
            tile, top, left, height, width, size, interpolation=InterpolationMode.BICUBIC, antialias=True
        )
    turns = int(rng.integers(8))
    found = torch.rot90(found.flip(2) if turns & 4 else found, turns & 3, (1, 2))
    if spec.jitter:
        found = _jitter(found, spec.jitter, rng)
    return found.contiguous()


def _crop(height: int, width: int, scale: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a crop as in Inception: area and aspect drawn, inside the tile."""
    if scale >= 1:
        side = min(height, width)
        return (height - side) // 2, (width - side) // 2, side, side
    for _ in range(10):
        area = height * width * rng.uniform(scale, 1)
        aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        h, w = round(float(np.sqrt(area / aspect))), round(float(np.sqrt(area * aspect)))
        if 0 < h <= height and 0 < w <= width:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    return 0, 0, height, width


def _jitter(tile: Tensor, by: float, rng: np.random.Generator) -> Tensor:
    steps = (image.adjust_brightness, image.adjust_contrast, image.adjust_saturation)
    for number in rng.permutation(3):
        tile = steps[number](tile, float(rng.uniform(1 - by, 1 + by)))
    return tile


def batches(
    source: TileSource, feed: Feed, steps: range, workers: int, *, pin: bool = False
) -> Iterator[Batch]:
    """The batches of ``steps`` in order, made ahead by ``workers`` processes (0: in this one)."""
    more: dict[str, Any] = {"multiprocessing_context": "spawn", "prefetch_factor": 4} if workers else {}
    loader = DataLoader(
        Steps(source, feed),
        batch_size=None,
        sampler=steps,  # any iterable of numbers serves
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_one_thread,
        generator=torch.Generator(),  # it draws a seed: from the global one, a resumed run would draw once more
        **more,
    )
    for pixels, mask in loader:
        yield Batch(pixels, mask)


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
