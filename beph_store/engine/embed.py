"""Tile images straight to vectors, no store."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from beph_store.encoders import load_bundle
from beph_store.engine.choosing import choose
from beph_store.errors import UsageError
from beph_store.objects import is_url
from beph_store.regular import require_regular
from beph_store.slides import Remote
from beph_store.slides.listing import find_files
from beph_store.slides.remote import read_range
from beph_store_kernels import resize_area

_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")

#: What becomes of an image of another size than the encoder's; each changes what the encoder sees.
Fit = Literal["crop", "squeeze", "centre"]
FITS: dict[str, str] = {
    "crop": "the middle square of 7/8 of the short side, resized by area averaging (short side to 256, centre 224, as "
    "BEPH's configuration tests)",
    "squeeze": "the whole image resized by area averaging, its sides no longer in proportion",
    "centre": "the middle of the image in the encoder's tile size, not resized",
}


@overload
def find_images(paths: Sequence[Path]) -> list[Path]: ...
@overload
def find_images(paths: Sequence[str | Path]) -> list[Path] | list[Path | Remote]: ...
def find_images(paths: Sequence[str | Path]) -> list[Path] | list[Path | Remote]:
    """Image files in the order given; a folder, here or in object storage, stands for the images in it, sorted."""
    found: list[Path | Remote] = []
    for given in paths:
        path = Path(given)
        if isinstance(given, str) and is_url(given):
            found += find_files(given, _SUFFIXES)
        elif path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES)
        elif path.is_file():
            found.append(path)
        else:
            raise UsageError(f"no such image: {path}")
    if not found:
        raise UsageError("no images to embed")
    return found


def embed(
    images: Sequence[Path | Remote],
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


def read_tile(path: Path | Remote, tile_px: int, *, resize: bool = False) -> NDArray[np.uint8]:
    """(tile_px, tile_px, 3) uint8 RGB."""
    pixels = read_image(path)
    if pixels.shape[:2] == (tile_px, tile_px):
        return pixels
    if not resize:
        h, w = pixels.shape[:2]
        raise UsageError(
            f"{path} is {w} × {h} px, the encoder takes {tile_px} × {tile_px}: cut it to size, or pass --resize to "
            "squeeze it, which changes its scale",
            path=str(path),
        )
    return fit_tile(pixels, tile_px, "squeeze")


def read_image(path: Path | Remote) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB; UsageError for what cannot be read, ObjectStorageError where it cannot be fetched."""
    file = io.BytesIO(read_range(path, 0, path.size)) if isinstance(path, Remote) else path
    try:
        if isinstance(file, Path):
            require_regular(file)
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path} cannot be read as an image: {error}", path=str(path)) from error


def fit_tile(pixels: NDArray[np.uint8], tile_px: int, fit: Fit) -> NDArray[np.uint8]:
    """(tile_px, tile_px, 3) of an image (H, W, 3) of any size, as ``FITS`` says; as it is where its size is right.

    Raises UsageError where ``centre`` meets an image that is smaller than a tile.
    """
    height, width = pixels.shape[:2]
    if (height, width) == (tile_px, tile_px):
        return pixels
    if fit == "squeeze":
        return resize_area(pixels, (tile_px, tile_px))
    side = tile_px if fit == "centre" else max(1, round(min(height, width) * 7 / 8))
    if side > min(height, width):
        raise UsageError(f"an image of {width} × {height} px has no middle of {tile_px} px: pass --fit crop")
    top, left = (height - side) // 2, (width - side) // 2
    middle = np.ascontiguousarray(pixels[top : top + side, left : left + side])
    return middle if side == tile_px else resize_area(middle, (tile_px, tile_px))
