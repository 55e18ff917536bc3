"""Drawn sets of images and a tiny encoder, and one fine-tuning of it that many tests read."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beph_store.cohort.image_sets import ImageSet, read_image_set
from beph_store.engine.finetune.data import DataChoice
from beph_store.engine.finetune.result import FinetuneResult
from beph_store.engine.finetune.run import FinetuneChoice, finetune
from beph_store.heads.finetuning import FinetuneOptions

from ...encoders.conftest import save, seeded_state
from ...threads import one_torch_thread

COLOURS = {"dark": (120, 70, 160), "pale": (220, 180, 210), "green": (130, 190, 120)}
OPTIONS = FinetuneOptions(
    epochs=4, warmup=1, batch=8, lr=0.02, min_crop=0.5, operations=1, precision="fp32", workers=0
)


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Networks this small are faster on one thread."""
    with one_torch_thread():
        yield


def draw(colour, size, rng):
    noise = rng.normal(0, 25, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8))


def draw_table(root: Path, cases: int = 18, per: int = 3) -> Path:
    """``manifest.csv`` with path, label, case_id, part and, of two sizes, the images; a case is of one colour."""
    rng, rows = np.random.default_rng(0), []
    for case in range(cases):
        colour = list(COLOURS)[case % 3]
        for image in range(per):
            path = f"{colour}/C{case:02d}-{image}.png"
            (root / colour).mkdir(parents=True, exist_ok=True)
            draw(colour, (56 if image % 2 else 48, 48), rng).save(root / path)
            rows.append((path, colour, f"C{case:02d}", "test" if case >= 12 else "train"))
    with (root / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "case_id", "part"), *rows])
    return root / "manifest.csv"


@dataclass(frozen=True)
class World:
    """An image ``table``, its ``images``, a ``checkpoint`` of BEPH's layout for 48 px, and where a fine-tuning went."""

    table: Path
    images: ImageSet
    checkpoint: Path
    out: Path
    result: FinetuneResult

    def choice(self, **changes) -> FinetuneChoice:
        plain = {"encoder": "beph", "weights": self.checkpoint, "options": OPTIONS, "draws": 40}
        return FinetuneChoice(**{**plain, **changes})


@pytest.fixture(scope="package")
def world(tmp_path_factory) -> World:
    """One split, fine-tuned. Read only."""
    root = tmp_path_factory.mktemp("world")
    table = draw_table(root / "set")
    images = read_image_set(table, "csv")
    checkpoint = save(root / "tiny.pth", seeded_state())
    choice = FinetuneChoice("beph", checkpoint, DataChoice(), OPTIONS, mpp=0.4, draws=40)
    return World(table, images, checkpoint, root / "out", finetune(images, table, root / "out", choice))
