"""Synthetic slides, drawn by arithmetic: for tests, benchmarks and the demo.

``write_slide`` draws an H&E-like section with two kinds of tissue at 0.5 µm/px,
``formula_slide`` a picture that spells its own coordinates, ``huge_slide`` a slide of
10 gigapixels in a few megabytes, ``demo_cohort`` a labelled set. Same arguments, same bytes (with
the same library versions).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import UsageError
from beph_store.geometry import Size
from beph_store.testing.drawing.landscape import CELL, GLASS, KINDS, NUISANCES, landscape
from beph_store.testing.drawing.noise import REGION, hash_scalar
from beph_store.testing.drawing.painter import Painter
from beph_store.testing.pyramid import WHITE, check_downsamples, shrunk, write_pyramid
from beph_store.testing.tiff import Coding, Level, TiledTiff

__all__ = [
    "KINDS",
    "Coding",
    "DemoSlide",
    "SlidePlan",
    "SlideTruth",
    "demo_cohort",
    "demo_plans",
    "draw",
    "formula_pixels",
    "formula_position",
    "formula_slide",
    "huge_slide",
    "truth",
    "write_slide",
]

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class SlidePlan:
    """All that decides how a slide looks and is stored.

    ``size`` (width, height) in level-0 px; ``tumour`` 0–1, share of the tissue that is
    tumour; ``nuisances`` some of pale, fold, pen, bubble; ``stain`` 0–1, how far the dyes
    stray from the average; ``mpp`` what the file says (the drawing is to scale at 0.5 µm/px);
    ``downsamples`` of the levels, each a multiple of the one before.
    """

    size: Size = (4096, 4096)
    seed: int = 0
    tumour: float = 0.4
    nuisances: tuple[str, ...] = NUISANCES
    stain: float = 0.5
    mpp: float | None = 0.5
    downsamples: tuple[int, ...] = (1, 4, 16)
    coding: Coding = field(default_factory=Coding)

    def __post_init__(self) -> None:
        odd = set(self.nuisances) - set(NUISANCES)
        if odd:
            raise UsageError(f"no such nuisance: {', '.join(sorted(odd))} (have {', '.join(NUISANCES)})")
        if min(self.size) < 8 * REGION:
            raise UsageError(f"a drawn slide needs at least {8 * REGION} px a side")
        check_downsamples(self.downsamples)


@dataclass(frozen=True, slots=True, eq=False)
class SlideTruth:
    """What was drawn where: ``kinds`` (h, w) uint8 indexes ``KINDS``, one for ``cell_px`` level-0 px.

    Borders between kinds are ragged in the picture by up to about 40 px.
    """

    kinds: NDArray[np.uint8]
    cell_px: int = CELL

    def at(self, x: int, y: int) -> str:
        """The kind at a point in level-0 px."""
        return KINDS[self.kinds[round(y / self.cell_px), round(x / self.cell_px)]]

    def share(self, kind: str, x: int, y: int, side: int) -> float:
        """Share 0–1 of ``kind`` in the square of ``side`` level-0 px with its top-left at (x, y)."""
        top, left = round(y / self.cell_px), round(x / self.cell_px)
        span = max(1, round(side / self.cell_px))
        part = self.kinds[top : top + span, left : left + span]
        return float((part == KINDS.index(kind)).mean()) if part.size else 0.0

    @property
    def tissue(self) -> NDArray[np.bool_]:
        """(h, w) bool, everything but glass."""
        return np.not_equal(self.kinds, GLASS)


def write_slide(path: str | Path, plan: SlidePlan | None = None) -> SlideTruth:
    """Draw a slide into a pyramidal TIFF at ``path``, row by row of tiles; memory stays flat."""
    plan = plan or SlidePlan()
    painter, kinds = _painter(plan)
    with TiledTiff(path, plan.mpp, big=_needs_big(plan.size)) as tiff:
        write_pyramid(tiff, plan.size, plan.downsamples, plan.coding, painter.region)
    return SlideTruth(kinds)


def truth(plan: SlidePlan) -> SlideTruth:
    """The truth of a plan, without drawing it (milliseconds)."""
    return SlideTruth(landscape(plan.size, plan.seed, plan.tumour, plan.nuisances).kinds)


def draw(plan: SlidePlan, x: int, y: int, w: int, h: int) -> Pixels:
    """Pixels (h, w, 3) uint8 of level 0 at (x, y), as drawn, before any compression."""
    painter, _ = _painter(plan)
    out = np.empty((h, w, 3), np.uint8)
    for top in range(0, h, REGION):
        for left in range(0, w, REGION):
            high, wide = min(REGION, h - top), min(REGION, w - left)
            out[top : top + high, left : left + wide] = painter.region(x + left, y + top, wide, high)
    return out


def formula_pixels(x: NDArray[np.int64], y: NDArray[np.int64]) -> Pixels:
    """RGB (..., 3) uint8 that spells the level-0 position (x, y), both below 4096."""
    block = (x // 256 % 16) * 16 + y // 256 % 16
    return np.stack([x % 256, y % 256, block], axis=-1).astype(np.uint8)


def formula_position(rgb: Pixels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The inverse of ``formula_pixels``: (x, y) in level-0 px."""
    r, g, b = (rgb[..., i].astype(np.int64) for i in range(3))
    return b // 16 * 256 + r, b % 16 * 256 + g


def formula_slide(
    path: str | Path,
    size: Size = (1500, 1100),
    *,
    mpp: float | None = 0.5,
    downsamples: tuple[int, ...] = (1,),
    tile_px: int = 256,
    compression: str = "deflate",
) -> None:
    """A lossless slide, each pixel spelling its position: a wrong frame shows as a wrong number.

    Coarser levels are sampled, not averaged: pixel (i, j) spells (i · d, j · d).
    """
    if max(size) > 4096:
        raise UsageError("a formula slide is at most 4096 px a side: beyond, positions repeat")
    check_downsamples(downsamples)
    coding = Coding(compression)
    axis = np.arange(tile_px, dtype=np.int64)
    with TiledTiff(path, mpp) as tiff:
        for d in downsamples:
            level = tiff.add_level((size[0] // d, size[1] // d), coding, tile_px)
            for index in range(level.across * level.down):
                row, col = divmod(index, level.across)
                y, x = np.meshgrid((row * tile_px + axis) * d, (col * tile_px + axis) * d, indexing="ij")
                tiff.put(level, index, formula_pixels(x, y))


def huge_slide(path: str | Path, side: int = 100_352, *, seed: int = 0, tissue: float = 0.6) -> None:
    """A square slide of ``side`` px whose tiles share the data of a few: 10 gigapixels in 3 MB.

    The same 1024 px of drawn tissue repeat in whole blocks of 16384 px, about ``tissue`` 0–1
    of them around the middle; every level agrees with the one below. mpp 0.5, levels 1, 4, 16, 64.
    """
    coding = Coding()
    patch = draw(SlidePlan(seed=seed, nuisances=()), 1536, 1536, 1024, 1024)
    glass = np.full((REGION, REGION, 3), WHITE, np.uint8)
    with TiledTiff(path, 0.5, big=True) as tiff:
        for d in (1, 4, 16, 64):
            level = tiff.add_level((side // d, side // d), coding)
            _repeat_blocks(tiff, level, patch, glass, (tissue, side, d))
            patch = np.tile(shrunk(patch, 4), (4, 4, 1))


def _repeat_blocks(
    tiff: TiledTiff, level: Level, patch: Pixels, glass: Pixels, layout: tuple[float, int, int]
) -> None:
    """Fill a level with glass, and with the 4 × 4 tiles of ``patch`` (1024 px) where tissue lies."""
    tissue, side, downsample = layout
    block = 16_384 // downsample // REGION
    rows, cols = np.divmod(np.arange(level.across * level.down), level.across)
    have = side // 16_384
    wanted = round(side / 16_384 * tissue**0.5)
    first = (have - wanted + 1) // 2
    inside = (rows // block - first) // max(wanted, 1) == 0
    inside &= (cols // block - first) // max(wanted, 1) == 0
    inside &= wanted > 0
    kind = np.where(inside, rows % 4 * 4 + cols % 4, 16)
    for value in np.unique(kind):
        same = np.nonzero(kind == value)[0]
        top, left = value // 4 * REGION, value % 4 * REGION
        tile = glass if value == 16 else patch[top : top + REGION, left : left + REGION]
        tiff.put(level, int(same[0]), tile)
        tiff.repeat(level, same[1:], int(same[0]))


@dataclass(frozen=True, slots=True)
class DemoSlide:
    """One slide of the demo cohort; ``slide_id`` is its file name, ``label`` its case's: normal or tumour."""

    slide_id: str
    case_id: str
    label: str
    plan: SlidePlan


def demo_plans(n: int = 8, seed: int = 0, size: Size = (3584, 3328)) -> list[DemoSlide]:
    """``n`` slides, a quarter of them the second of their case; cases alternate between the classes.

    Normal slides hold no tumour, the others 20 to 60 % of it. Stain, outline and nuisances
    vary from slide to slide and say nothing about the class.
    """
    cases = -(-3 * n // 4)
    slides = []
    for number in range(n):
        case, second = (number, "a") if number < cases else (number - cases, "b")
        draws = [hash_scalar(seed * 1000 + number, 700 + i) for i in range(6)]
        marks = tuple(name for name, draw_ in zip(NUISANCES, draws, strict=False) if draw_ < 0.45)
        tumour = 0.2 + 0.4 * draws[4] if case % 2 else 0.0
        plan = SlidePlan(size, seed * 1000 + number, tumour, marks, stain=0.8)
        slide_id = f"demo-{case + 1:02d}{second}.tif"
        slides.append(DemoSlide(slide_id, f"case-{case + 1:02d}", "tumour" if case % 2 else "normal", plan))
    return sorted(slides, key=lambda slide: slide.slide_id)


def demo_cohort(out_dir: str | Path, n: int = 8, seed: int = 0, size: Size = (3584, 3328)) -> list[Path]:
    """Draw the demo's slides into ``out_dir`` beside ``labels.csv``; return their paths in order.

    The table has slide_id, case_id, label and path, so that it also serves as a manifest.
    A file that is there already is left as it is.
    """
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    slides = demo_plans(n, seed, size)
    paths = [folder / slide.slide_id for slide in slides]
    for slide, path in zip(slides, paths, strict=True):
        if not path.exists():
            part = path.with_suffix(".part")
            write_slide(part, slide.plan)
            part.replace(path)
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["slide_id", "case_id", "label", "path"])
        writer.writerows([slide.slide_id, slide.case_id, slide.label, slide.slide_id] for slide in slides)
    return paths


def _needs_big(size: Size) -> bool:
    """Whether a JPEG pyramid of this size could pass the 4 GiB of a classic TIFF."""
    return size[0] * size[1] > 2**32


def _painter(plan: SlidePlan) -> tuple[Painter, NDArray[np.uint8]]:
    land = landscape(plan.size, plan.seed, plan.tumour, plan.nuisances)
    return Painter(land, plan.seed, plan.stain), land.kinds
