"""CLAM's way to features, from its description.

A DataLoader a slide; the slide opened before the workers fork; for every tile the h5 of coordinates opened anew, one
`read_region`, PIL to tensor on the CPU; fp32; after every batch the h5 of features opened and grown; at the end of a
slide that file read back and written again as .pt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from job import TILE_PX, Job, Stored, drive
from openslide import OpenSlide
from patterns import encoder, read_h5, transform, write_coords
from torch.utils.data import DataLoader, Dataset


class Tiles(Dataset):  # type: ignore[type-arg]
    """The tiles of one slide."""

    def __init__(self, slide: OpenSlide, coords: Path, prepare: Any) -> None:
        self.slide, self.coords, self.prepare = slide, coords, prepare
        with h5py.File(coords, "r") as file:
            self.length = len(file["coords"])

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        with h5py.File(self.coords, "r") as file:
            place = file["coords"][index]
        image = self.slide.read_region(tuple(place.tolist()), 0, (TILE_PX, TILE_PX)).convert("RGB")
        return self.prepare(image), place


def _collate(items: list[tuple[Any, Any]]) -> tuple[Any, Any]:
    return torch.stack([image for image, _ in items]), np.stack([place for _, place in items])


def grow(path: Path, data: dict[str, Any]) -> None:
    """Append rows to the datasets of a file that is opened for it."""
    with h5py.File(path, "a") as file:
        for name, rows in data.items():
            if name not in file:
                shape = (None, *rows.shape[1:])
                file.create_dataset(name, data=rows, maxshape=shape, chunks=(32, *rows.shape[1:]))
                continue
            at = len(file[name])
            file[name].resize(at + len(rows), axis=0)
            file[name][at:] = rows


def work(job: Job) -> None:
    """Slide after slide."""
    model, prepare, out = encoder(job), transform(), Path(job.out)
    for folder in ("h5_files", "pt_files"):
        (out / folder).mkdir()
    for path, coords in job.each():
        places = out / "patches" / f"{path.stem}.h5"
        write_coords(places, coords)
        target = out / "h5_files" / f"{path.stem}.h5"
        tiles = Tiles(OpenSlide(str(path)), places, prepare)
        loader = DataLoader(tiles, job.batch, num_workers=job.workers, collate_fn=_collate)
        for images, place in loader:
            with torch.inference_mode():
                features = model(images).numpy()
            grow(target, {"features": features, "coords": place})
        with h5py.File(target, "r") as file:
            features = torch.from_numpy(file["features"][:])
        torch.save(features, out / "pt_files" / f"{path.stem}.pt")


def read_back(job: Job) -> Stored:
    """From the h5 files."""
    return read_h5(job, "h5_files")


if __name__ == "__main__":
    drive(work, read_back)
