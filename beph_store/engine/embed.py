"""Tile images straight to vectors, no store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from beph_store.encoders import load_bundle
from beph_store.engine.choosing import choose
from beph_store.errors import UsageError
from beph_store_kernels import resize_area

_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """Image files in the order given; a folder stands for the images in it, sorted."""
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES)
        elif path.is_file():
            found.append(path)
        else:
            raise UsageError(f"no such image: {path}")
    if not found:
        raise UsageError("no images to embed")
    return found


def embed(
    images: Sequence[Path],
    *,
    encoder: str = "beph-mini",
    runtime: str = "auto",
    precision: str | None = None,
    resize: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """(N, D) float32 vectors of N tile images, in their order.

    An image must have the encoder's tile size unless ``resize``; its scale is the caller's to know.
    ``progress`` is called with (images done, images in all).
    Raises UsageError for an image that cannot be read or has another size.
    """
    bundle = load_bundle(encoder)
    run = choose(bundle, runtime=runtime, precision=precision).runtime
    vectors = np.empty((len(images), bundle.spec.dim), np.float32)
    for start in range(0, len(images), run.batch):
        part = images[start : start + run.batch]
        pixels = np.stack([read_tile(path, bundle.spec.tile_px, resize=resize) for path in part])
        vectors[start : start + len(part)] = run.encode(pixels)
        if progress:
            progress(start + len(part), len(images))
    return vectors


def read_tile(path: Path, tile_px: int, *, resize: bool = False) -> NDArray[np.uint8]:
    """(tile_px, tile_px, 3) uint8 RGB."""
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path} cannot be read as an image: {error}", path=path) from error
    if pixels.shape[:2] == (tile_px, tile_px):
        return pixels
    if not resize:
        h, w = pixels.shape[:2]
        raise UsageError(
            f"{path} is {w} × {h} px, the encoder takes {tile_px} × {tile_px}: cut it to size, or pass --resize to "
            "squeeze it, which changes its scale",
            path=path,
        )
    return resize_area(pixels, (tile_px, tile_px))
