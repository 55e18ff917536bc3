"""tiatoolbox by its own `DeepFeatureExtractor`.

It takes masks, not coordinates: a mask that marks the middle of each wanted tile makes its grid of 224 px keep exactly
those. Slides are linked under a name in .svs: a pyramidal .tif that is no OME-TIFF it does not hand to OpenSlide but
decodes whole, in every worker.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from encoders import load, normalise
from job import TILE_PX, Job, Stored, drive
from PIL import Image
from tiatoolbox.models.engine.deep_feature_extractor import DeepFeatureExtractor
from tiatoolbox.models.engine.io_config import IOPatchPredictorConfig
from tiatoolbox.models.models_abc import ModelABC
from tiatoolbox.wsicore import WSIReader

_MASK_PX = 14  # level-0 px a mask px
_ABOUT: dict[str, object] = {}


class Encoder(ModelABC):  # type: ignore[misc]
    """The encoder, as tiatoolbox wants a model of one's own."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.inner = load(job.encoder, job.weights)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """Vectors of uint8 tiles (B, H, W, 3)."""
        out: torch.Tensor = self.inner(normalise(tiles))
        return out

    @staticmethod
    def infer_batch(model: torch.nn.Module, batch_data: torch.Tensor, *, device: str) -> list[Any]:
        """What its engine calls."""
        with torch.inference_mode():
            return [model(batch_data.to(device)).cpu().numpy()]


def write_mask(path: Path, coords: Any, target: Path) -> None:
    """A picture that is white in the middle of each wanted tile."""
    reader = WSIReader.open(path)
    _ABOUT["reader"] = type(reader).__name__
    width, height = reader.slide_dimensions(1.0, "baseline")
    mask = np.zeros((round(height / _MASK_PX), round(width / _MASK_PX), 3), np.uint8)
    for x, y in ((coords + TILE_PX // 2) // _MASK_PX).tolist():
        mask[y - 2 : y + 3, x - 2 : x + 3] = 255
    Image.fromarray(mask).save(target)


def work(job: Job) -> None:
    """All slides in one call."""
    torch.set_num_threads(job.threads)
    links, masks = [], []
    for path, coords in job.each():
        links.append(Path(job.out) / f"{path.stem}.svs")
        links[-1].symlink_to(path)
        masks.append(Path(job.out) / f"{path.stem}.png")
        write_mask(links[-1], coords, masks[-1])
    one_to_one = [{"units": "baseline", "resolution": 1.0}]
    side = (TILE_PX, TILE_PX)
    config = IOPatchPredictorConfig(
        input_resolutions=one_to_one, patch_input_shape=side, stride_shape=side, output_resolutions=[]
    )
    engine = DeepFeatureExtractor(
        Encoder(job), batch_size=job.batch, num_workers=job.workers, device="cpu", verbose=False
    )
    engine.run(
        links,
        masks=masks,
        patch_mode=False,
        ioconfig=config,
        save_dir=Path(job.out) / "features",
        output_type="zarr",
    )
    for file in (*links, *masks):
        file.unlink()


def read_back(job: Job) -> Stored:
    """From the zarr groups."""
    stored = {}
    for path, _ in job.each():
        group = zarr.open(Path(job.out) / "features" / f"{path.stem}.zarr", mode="r")
        stored[path.stem] = (np.asarray(group["coordinates"])[:, :2], np.asarray(group["features"]))
    return stored


if __name__ == "__main__":
    drive(work, read_back, about=_ABOUT)
