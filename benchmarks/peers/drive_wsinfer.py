"""wsinfer by its own `run_inference`: it takes coordinates from h5 files and a TorchScript model.

It stores the softmax of what the model gives, as text, which is its trade: classes. The logarithm of that is the vector
but for one number a tile, and so it is compared.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import torch
from job import TILE_PX, Job, Stored, drive
from wsinfer.modellib.models import LocalModelTorchScript
from wsinfer.modellib.run_inference import run_inference
from wsinfer_zoo.client import ModelConfiguration, TransformConfigurationItem

_HALF = [0.5, 0.5, 0.5]


def _model(job: Job) -> LocalModelTorchScript:
    steps = [
        TransformConfigurationItem("ToTensor", None),
        TransformConfigurationItem("Normalize", {"mean": _HALF, "std": _HALF}),
    ]
    names = [f"{number:03d}" for number in range(job.dim)]
    config = ModelConfiguration(job.encoder, job.dim, names, TILE_PX, job.mpp, steps)
    return LocalModelTorchScript(config=config, model_path=job.script)


def work(job: Job) -> None:
    """All slides of a folder."""
    torch.set_num_threads(job.threads)
    slides, results = Path(job.out) / "slides", Path(job.out) / "results"
    for folder in (slides, results / "patches"):
        folder.mkdir(parents=True)
    for path, coords in job.each():
        (slides / path.name).symlink_to(path)
        with h5py.File(results / "patches" / f"{path.stem}.h5", "w") as file:
            file.create_dataset("coords", data=coords)
            file["coords"].attrs.update(patch_level=0, patch_size=TILE_PX)
    failed = run_inference(slides, results, _model(job), batch_size=job.batch, num_workers=job.workers)
    for path, _ in job.each():
        (slides / path.name).unlink()
    if any(failed):
        raise SystemExit(str(failed))


def read_back(job: Job) -> Stored:
    """From the CSV files."""
    stored = {}
    for path, _ in job.each():
        table = pd.read_csv(Path(job.out) / "results" / "model-outputs-csv" / f"{path.stem}.csv")
        shares = table.filter(like="prob_").to_numpy(np.float64)
        stored[path.stem] = (table[["minx", "miny"]].to_numpy(), np.log(shares))
    return stored


if __name__ == "__main__":
    drive(work, read_back)
