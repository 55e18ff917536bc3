"""PNG and JPEG pictures, held in memory. Their pixel size has to be declared: dpi is for print."""

from __future__ import annotations

import numpy as np

from beph_store.errors import SlideUnreadable
from beph_store.slides.backend import Backend, Probe, UInt8

#: Beyond this Pillow itself warns of a decompression bomb.
MAX_PX = 89_478_485
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")


class ImageBackend(Backend):
    """See `Backend`."""

    name = "image"

    def __init__(self, probe: Probe) -> None:
        self._pixels = _pixels(probe)
        height, width = self._pixels.shape[:2]
        self.level_sizes = ((width, height),)

    def read(self, level: int, x: int, y: int, out: UInt8) -> None:
        """See `Backend.read`."""
        out[...] = self._pixels[y : y + out.shape[0], x : x + out.shape[1]]

    def close(self) -> None:
        """See `Backend.close`."""
        self._pixels = np.zeros((0, 0, 3), np.uint8)


def _pixels(probe: Probe) -> UInt8:
    from PIL import Image, UnidentifiedImageError

    name = probe.path.name
    try:
        with Image.open(probe.path) as picture:
            if picture.mode not in _MODES:
                raise SlideUnreadable(
                    f"{name}: pixels of type {picture.mode}: only 8-bit RGB, RGBA and grey are read"
                )
            if picture.width * picture.height > MAX_PX:
                raise SlideUnreadable(
                    f"{name}: more than {MAX_PX} px in one picture: convert it to a tiled TIFF"
                )
            if picture.format == "JPEG" and picture.mode == "RGB":
                return _strict_jpeg(probe)
            if picture.mode == "RGB":
                return np.asarray(picture)
            if picture.has_transparency_data:
                white = Image.new("RGBA", picture.size, "white")
                return np.asarray(Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB"))
            return np.asarray(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise SlideUnreadable(f"{name}: {(str(error).splitlines() or [''])[0]}", path=probe.path) from error


def _strict_jpeg(probe: Probe) -> UInt8:
    """Damage is an error here; Pillow paints over it in grey."""
    import simplejpeg

    image: UInt8 = simplejpeg.decode_jpeg(probe.path.read_bytes())
    return image
