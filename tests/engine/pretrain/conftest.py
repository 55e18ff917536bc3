"""A tiny BEPH to begin from, and labelled images to train on."""

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from beph_store.encoders.torch_side.trunks import Size, checkpoint, make_trunk

SIDE = 48


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint as BEPH's, two blocks of 32."""
    torch.manual_seed(3)
    trunk = make_trunk(Size(32, 2, 2, SIDE, 2.0))
    torch.nn.init.normal_(trunk.rel_pos_bias.relative_position_bias_table)
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save(checkpoint(trunk, torch.full((1, 1, 32), 0.25)), path)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Labelled images of two kinds, by case."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    rows = []
    for n in range(24):
        kind = n % 2
        base = np.array([[200, 120, 170], [120, 80, 150]][kind])
        pixels = np.clip(base + rng.normal(0, 25, (60, 60, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{n:02d}.png")
        rows.append((f"{n:02d}.png", "ab"[kind], f"case-{n // 2}"))
    pl.DataFrame(rows, schema=["path", "label", "case_id"], orient="row").write_csv(root / "labels.csv")
    return root
