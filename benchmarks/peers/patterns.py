"""What the drivers of CLAM's, TRIDENT's and slide2vec's access patterns share.

None of it is theirs: the patterns are written from what those projects say of themselves, with torch's, OpenSlide's and
h5py's own calls.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import torch
from encoders import MEAN, STD, load
from job import Job, Stored
from torch import nn
from torchvision import transforms


def encoder(job: Job) -> nn.Module:
    """The encoder on the CPU, with the threads it is allowed."""
    torch.set_num_threads(job.threads)
    return load(job.encoder, job.weights)


def transform() -> Any:
    """PIL image → normalised tensor, a tile at a time on the CPU."""
    return transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


def write_coords(path: Path, coords: Any) -> None:
    """The file of coordinates that an earlier stage would have left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("coords", data=coords)


def read_h5(job: Job, folder: str) -> Stored:
    """``features`` and ``coords`` of the h5 file of each slide."""
    stored = {}
    for path, _ in job.each():
        with h5py.File(Path(job.out) / folder / f"{path.stem}.h5", "r") as file:
            stored[path.stem] = (file["coords"][:], file["features"][:])
    return stored
