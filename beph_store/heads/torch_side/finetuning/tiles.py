"""Tiles for training: read, cropped, drawn over and erased in processes of their own, ahead of the network.

timm's and torchvision's augmentations draw from the global generators. Each tile of each epoch sets these from its own
seed, so what it looks like depends on nothing else: not on the workers, the batches, or where a run was stopped.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode, RandomResizedCrop

from beph_store.errors import BephStoreError
from beph_store.heads.finetuning import FinetuneOptions, Index, TileTask

Pixels = NDArray[np.uint8]
#: A row, and the seed it is drawn over with; None for a tile as it is tested.
Wanted = tuple[int, int | None]
Batch = tuple[Pixels, Index]

_MOST_WORKERS = 8
_WATCH_SECONDS = 1.0
#: What comes in where a tile is moved or turned out of its frame, RGB.
_GREY = (124, 116, 104)
#: At 10 timm posterizes to no bit at all, which Pillow refuses.
_STRONGEST = 9.99


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generators set from ``seed`` inside, and as they were before after it."""
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.default_generator.set_state(before[2])


class Augmentation:
    """A random crop, flips, RandAugment and random erasing of an image (H, W, 3) uint8, to a tile of the same kind."""

    def __init__(self, task: TileTask, options: FinetuneOptions) -> None:
        px = task.tile_px
        self.crop = RandomResizedCrop(
            px, scale=(options.min_crop, 1.0), interpolation=InterpolationMode.BICUBIC
        )
        self.rand = rand_augment_transform(
            f"rand-m{options.magnitude}-n{options.operations}-mstd0.5-inc1",
            {
                "translate_const": int(px * 0.45),
                "img_mean": _GREY,
                "magnitude_max": _STRONGEST,
                "interpolation": Image.Resampling.BICUBIC,
            },
        )
        self.erase = RandomErasing(options.erasing, mode="pixel", device="cpu")
        self.mean, self.std = (torch.tensor(v).view(3, 1, 1) for v in (task.mean, task.std))

    def __call__(self, image: Pixels, seed: int) -> Pixels:
        """The same tile for the same seed."""
        with seeded(seed):
            drawn = self.crop(Image.fromarray(image))
            for side in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM):
                if random.random() < 0.5:
                    drawn = drawn.transpose(side)
            if self.rand.num_layers:
                drawn = self.rand(drawn)
            return self._erased(np.array(drawn))

    def _erased(self, tile: Pixels) -> Pixels:
        """Noise as the encoder's normalisation sees it: mean 0 and deviation 1 before it is cut to 0–255."""
        plain = (torch.from_numpy(tile).permute(2, 0, 1) - self.mean) / self.std
        noisy = self.erase(plain) * self.std + self.mean
        return np.asarray(noisy.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy())


class Tiles(Dataset[Any]):
    """A tile of the task for each ``Wanted``, with its label; an error of ours comes back as the item."""

    def __init__(self, task: TileTask, options: FinetuneOptions) -> None:
        self.source, self.labels = task.source, task.labels
        self.augment = Augmentation(task, options)

    def __getitem__(self, wanted: Wanted) -> tuple[Pixels, int] | BephStoreError:
        """Read, and draw over where a seed is given."""
        row, seed = wanted
        try:
            if seed is None:
                return self.source.tile(row), int(self.labels[row])
            return self.augment(self.source.image(row), seed), int(self.labels[row])
        except BephStoreError as error:
            return error


@dataclass(slots=True)
class _Batches:
    """What the loader goes through next; it is set anew for every pass."""

    batches: Sequence[Sequence[Wanted]] = ()

    def __iter__(self) -> Iterator[Sequence[Wanted]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class TileLoader:
    """Passes over tiles; its processes, if it has any, stay from one to the next. A context manager."""

    def __init__(self, task: TileTask, options: FinetuneOptions, *, gpu: bool) -> None:
        self._batch = options.batch
        self._batches = _Batches()
        workers = _workers(gpu) if options.workers is None else options.workers
        self._loader: DataLoader[Any] | None = DataLoader(
            Tiles(task, options),
            batch_sampler=self._batches,  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=_collate,
            persistent_workers=workers > 0,
            worker_init_fn=_live_with_the_parent,
            generator=torch.Generator(),  # the global one is the network's
            # Threads of ONNX Runtime, Lance and OpenMP do not survive a fork.
            multiprocessing_context="spawn" if workers else None,
        )

    def __enter__(self) -> TileLoader:
        return self

    def __exit__(self, *_: object) -> None:
        iterator: Any = getattr(self._loader, "_iterator", None)
        self._loader = None
        if iterator is not None:
            # Here and not when it is collected: a process that was stopped together with us is no news.
            with suppress(RuntimeError):
                iterator._shutdown_workers()

    def train(self, rows: Index, seed: int, epoch: int) -> Iterator[Batch]:
        """One epoch: all rows in an order of its own, drawn over."""
        order = _generator(seed, epoch).permutation(rows)
        return self._pass([(int(row), _seed(seed, epoch, int(row))) for row in order])

    def test(self, rows: Index) -> Iterator[Batch]:
        """All rows in their order, as they are tested."""
        return self._pass([(int(row), None) for row in rows])

    def _pass(self, wanted: list[Wanted]) -> Iterator[Batch]:
        self._batches.batches = [wanted[at : at + self._batch] for at in range(0, len(wanted), self._batch)]
        assert self._loader is not None
        for batch in self._loader:
            if isinstance(batch, BephStoreError):
                raise batch
            yield batch


def _collate(items: Sequence[tuple[Pixels, int] | BephStoreError]) -> Batch | BephStoreError:
    """Arrays, not tensors: these would travel in shared memory, of which containers have little."""
    tiles, labels = [], []
    for item in items:
        if isinstance(item, BephStoreError):
            return item
        tiles.append(item[0])
        labels.append(item[1])
    return np.stack(tiles), np.array(labels, np.int64)


def _live_with_the_parent(worker: int) -> None:
    """In a process that reads: Ctrl-C, which reaches all, is the parent's to hear; and where that is killed, end too.

    torch's own watch ends the loop, and the process then waits for ever to hand over tiles that nobody takes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _workers(gpu: bool) -> int:
    """On a CPU the network wants the cores, and one process keeps up with it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST_WORKERS, cores - 1 if gpu else cores // 4))


def _generator(*seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint32)[0])
