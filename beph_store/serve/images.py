"""Arrays to JPEG and PNG."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MEDIA = {"jpg": "image/jpeg", "jpeg": "image/jpeg", "png": "image/png"}
_QUALITY = 85


def encode(pixels: NDArray[np.uint8], form: str) -> bytes:
    """(h, w, 3) uint8 RGB as ``jpg``, ``jpeg`` or ``png``."""
    if form == "png":
        return _png(Image.fromarray(pixels))
    import simplejpeg

    data: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels), quality=_QUALITY, colorsubsampling="420"
    )
    return data


def fitted(pixels: NDArray[np.uint8], most_px: int) -> NDArray[np.uint8]:
    """(h, w, 3), shrunk in proportion until no side is longer than ``most_px``."""
    h, w = pixels.shape[:2]
    if max(h, w) <= most_px:
        return pixels
    size = (max(1, round(w * most_px / max(h, w))), max(1, round(h * most_px / max(h, w))))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def mask_png(mask: NDArray[np.bool_]) -> bytes:
    """(h, w) bool as a PNG: white where it is set, transparent elsewhere, so that it can lie over a slide."""
    picture = Image.fromarray(mask.astype(np.uint8))
    picture.putpalette([0, 0, 0, 255, 255, 255])
    picture.info["transparency"] = 0
    return _png(picture)


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=3)
    return file.getvalue()
