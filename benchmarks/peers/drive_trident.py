"""TRIDENT's way to features, from its description.

A DataLoader a slide without pinning or lasting workers; one `read_region` a tile, resized if it has to be, PIL to
tensor on the CPU; a blocking copy to the device and a synchronising copy back for every batch; all of a slide's
features kept and written in one h5 at its end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from job import TILE_PX, Job, Stored, drive
from openslide import OpenSlide
from patterns import encoder, read_h5, transform
from torch.utils.data import DataLoader, Dataset


class Tiles(Dataset):  # type: ignore[type-arg]
    """The tiles of one slide."""

    def __init__(self, path: Path, coords: Any, prepare: Any) -> None:
        self.slide, self.coords, self.prepare = OpenSlide(str(path)), coords, prepare

    def __len__(self) -> int:
        return len(self.coords)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        x, y = self.coords[index].tolist()
        image = self.slide.read_region((x, y), 0, (TILE_PX, TILE_PX)).convert("RGB")
        if image.size != (TILE_PX, TILE_PX):
            image = image.resize((TILE_PX, TILE_PX))
        return self.prepare(image), torch.tensor([x, y])


def work(job: Job) -> None:
    """Slide after slide."""
    model, prepare = encoder(job), transform()
    device = torch.device("cpu")
    folder = Path(job.out) / "features"
    folder.mkdir()
    for path, coords in job.each():
        features, places = [], []
        loader = DataLoader(Tiles(path, coords, prepare), job.batch, num_workers=job.workers)
        for images, place in loader:
            with torch.inference_mode():
                features.append(model(images.to(device)).cpu().numpy())
            places.append(place.numpy())
        with h5py.File(folder / f"{path.stem}.h5", "w") as file:
            rows = np.concatenate(features)
            file.create_dataset(
                "features", data=rows, maxshape=(None, rows.shape[1]), chunks=(1, rows.shape[1])
            )
            file.create_dataset("coords", data=np.concatenate(places))


def read_back(job: Job) -> Stored:
    """From the h5 files."""
    return read_h5(job, "features")


if __name__ == "__main__":
    drive(work, read_back)
