"""LazySlide by its own API: tiles put in with wsidata's `add_tiles`, `feature_extraction`, and the store written."""

from __future__ import annotations

from pathlib import Path

import lazyslide as zs
import numpy as np
import torch
from encoders import MEAN, STD, load
from job import TILE_PX, Job, Stored, drive
from torchvision import transforms
from wsidata import TileSpec, open_wsi
from wsidata.io import add_tiles

_ABOUT: dict[str, object] = {}


def work(job: Job) -> None:
    """Slide after slide."""
    torch.set_num_threads(job.threads)
    model = load(job.encoder, job.weights)
    prepare = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    for path, coords in job.each():
        wsi = open_wsi(path, store=f"{job.out}/{path.stem}.zarr")
        wsi.set_mpp(job.mpp)
        _ABOUT["reader"] = type(wsi.reader).__name__
        spec = TileSpec.from_wsidata(wsi, TILE_PX, mpp=job.mpp)
        add_tiles(wsi, "tiles", coords, spec, np.zeros(len(coords), int))
        zs.tl.feature_extraction(
            wsi,
            model,
            model_name=job.encoder,
            transform=prepare,
            device="cpu",
            batch_size=job.batch,
            num_workers=job.workers,
            pbar=False,
        )
        wsi.write()


def read_back(job: Job) -> Stored:
    """From the zarr stores."""
    stored = {}
    for path, _ in job.each():
        wsi = open_wsi(path, store=f"{job.out}/{path.stem}.zarr")
        table = next(wsi.tables[name] for name in wsi.tables if name.startswith(job.encoder))
        stored[Path(path).stem] = (wsi.shapes["tiles"][["x", "y"]].to_numpy(), np.asarray(table.X))
    return stored


if __name__ == "__main__":
    drive(work, read_back, about=_ABOUT)
