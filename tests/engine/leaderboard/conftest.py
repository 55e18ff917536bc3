"""Drawn images whose classes differ in pattern and not in colour: colour alone must not tell them, an encoder can."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image


def drawn_tile(kind: str, rng: np.random.Generator, px: int = 224) -> np.ndarray:
    """Stripes in any direction, or checks, in the same two colours, a tint of its own over all of it."""
    y, x = np.mgrid[:px, :px]
    if kind == "stripes":
        angle = rng.uniform(0, np.pi)
        dark = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / 16) > 0
    else:
        first, second = rng.uniform(0, 6, 2)
        dark = np.sin(x * 2 * np.pi / 32 + first) * np.sin(y * 2 * np.pi / 32 + second) > 0
    base = np.where(dark[..., None], [200.0, 120.0, 190.0], [120.0, 70.0, 160.0])
    tinted = base + rng.normal(0, 8, (px, px, 3)) + rng.normal(0, 12, 3)
    return np.clip(tinted, 0, 255).astype(np.uint8)


def draw_set(folder: Path, cases: int = 12) -> Path:
    """A table of images, each case with one of each class; its path."""
    rng = np.random.default_rng(0)
    rows = [["path", "label", "case_id"]]
    for case in range(cases):
        for kind in ("checks", "stripes"):
            path = folder / "images" / f"c{case:02d}-{kind}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(drawn_tile(kind, rng)).save(path)
            rows.append([path.relative_to(folder).as_posix(), kind, f"c{case:02d}"])
    with (folder / "images.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "images.csv"
