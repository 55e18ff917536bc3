"""slide2vec's way to features, from its description; its reader is cuCIM where that is installed, else OpenSlide.

Tiles that lie together in full squares of 8 × 8, 4 × 4 or 2 × 2 are read as one region and sliced; a region stays in
one batch; workers hand over uint8; normalisation runs on the device for a whole batch; one synchronising copy back a
forward pass; a DataLoader a slide, and one .pt with its metadata at its end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from encoders import normalise
from job import TILE_PX, Job, Stored, drive
from patterns import encoder
from torch.utils.data import DataLoader, Dataset

_SIDES = (8, 4, 2, 1)


class _OpenSlideReader:
    def __init__(self, path: Path) -> None:
        from openslide import OpenSlide

        self.slide = OpenSlide(str(path))

    def region(self, x: int, y: int, side: int) -> Any:
        return np.asarray(self.slide.read_region((x, y), 0, (side, side)).convert("RGB"))


class _CuCimReader:
    def __init__(self, path: Path) -> None:
        from cucim import CuImage

        self.slide = CuImage(str(path))

    def region(self, x: int, y: int, side: int) -> Any:
        return np.asarray(self.slide.read_region(location=(x, y), size=(side, side), level=0))[..., :3]


def squares(coords: Any) -> list[tuple[int, list[int]]]:
    """(tiles a side, indexes of the tiles row by row): the largest full squares first, then what is left."""
    left = {tuple(place): index for index, place in enumerate(coords.tolist())}
    found = []
    for side in _SIDES:
        for x, y in sorted(left, key=lambda place: (place[1], place[0])):
            inside = [(x + TILE_PX * i, y + TILE_PX * j) for j in range(side) for i in range(side)]
            if all(place in left for place in inside):
                found.append((side, [left.pop(place) for place in inside]))
    return found


class Squares(Dataset):  # type: ignore[type-arg]
    """The squares of one slide; each worker opens it when it first reads."""

    def __init__(self, path: Path, coords: Any, reader: Any) -> None:
        self.path, self.coords, self.reader = path, coords, reader
        self.squares = squares(coords)
        self.open: Any = None

    def __len__(self) -> int:
        return len(self.squares)

    def batches(self, most: int) -> Iterator[list[int]]:
        """Squares until there are ``most`` tiles or more."""
        batch: list[int] = []
        tiles = 0
        for position, (side, _) in enumerate(self.squares):
            batch.append(position)
            tiles += side * side
            if tiles >= most:
                yield batch
                batch, tiles = [], 0
        if batch:
            yield batch

    def __getitem__(self, position: int) -> tuple[Any, Any]:
        if self.open is None:
            self.open = self.reader(self.path)
        side, index = self.squares[position]
        x, y = self.coords[index[0]].tolist()
        region = self.open.region(x, y, side * TILE_PX)
        shape = (side, TILE_PX, side, TILE_PX, 3)
        tiles = region.reshape(shape).swapaxes(1, 2).reshape(-1, TILE_PX, TILE_PX, 3)
        return tiles, index


def _collate(items: list[tuple[Any, Any]]) -> tuple[Any, Any]:
    tiles = torch.from_numpy(np.concatenate([tiles for tiles, _ in items]))
    return tiles, np.concatenate([index for _, index in items])


def work(job: Job) -> None:
    """Slide after slide."""
    model, reader = encoder(job), _CuCimReader if job.variant == "cucim" else _OpenSlideReader
    folder = Path(job.out) / "tile_embeddings"
    folder.mkdir()
    for path, coords in job.each():
        data = Squares(path, coords, reader)
        sampler = list(data.batches(job.batch))
        loader = DataLoader(data, batch_sampler=sampler, num_workers=job.workers, collate_fn=_collate)
        features = torch.empty(len(coords), job.dim)
        for tiles, index in loader:
            for at in range(0, len(index), job.batch):
                with torch.inference_mode():
                    out = model(normalise(tiles[at : at + job.batch])).detach().cpu()
                features[torch.from_numpy(index[at : at + job.batch])] = out
        torch.save(features, folder / f"{path.stem}.pt")
        about = {"tiles": len(coords), "encoder": job.encoder}
        (folder / f"{path.stem}.meta.json").write_text(json.dumps(about))


def read_back(job: Job) -> Stored:
    """From the .pt files."""
    folder = Path(job.out) / "tile_embeddings"
    return {
        path.stem: (coords, torch.load(folder / f"{path.stem}.pt", weights_only=True).numpy())
        for path, coords in job.each()
    }


if __name__ == "__main__":
    drive(work, read_back)
