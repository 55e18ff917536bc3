"""What happens to a tile on its way that is not biology: other stain, stronger compression. Arrays in, arrays out.

Stain: Beer–Lambert's law makes absorbance linear in the amount of stain, so a tile's absorbance is taken apart into
haematoxylin, eosin and a third stain with the vectors of Ruifrok & Johnston (Anal Quant Cytol Histol 23:291, 2001),
each amount becomes α · amount + β, and the tile is put together again. (Tellez et al., Medical Image Analysis 2019,
use the same jitter to augment.) Compression: JPEG by Pillow, chroma halved both ways as encoders do by default.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
F64 = NDArray[np.float64]

_OD = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
#: (3, 3) absorbance of red, green and blue by a unit of haematoxylin, eosin and DAB, each of length 1.
STAINS: F64 = _OD / np.linalg.norm(_OD, axis=1, keepdims=True)
_AMOUNTS: F64 = np.asarray(np.linalg.inv(STAINS), np.float64)
#: Absorbance, base 10, of each 8-bit value; 256 / (value + 1), so that black is finite and white is nearly none.
_ABSORBANCE: F64 = np.log10(256 / np.arange(1, 257))


@dataclass(frozen=True, slots=True)
class Strength:
    """``alpha``: each stain's amount is multiplied by 1 ± this at most; ``beta``: and this at most is added or taken
    away, in absorbance (base 10); both uniform, a tile apart. ``qualities`` of JPEG.
    """

    alpha: float = 0.2
    beta: float = 0.03
    qualities: tuple[int, ...] = (70, 40, 20)


@dataclass(frozen=True, slots=True)
class Perturbation:
    """``apply`` takes a tile (H, W, 3) and a seed, and returns one of the same shape; the same seed, the same tile."""

    name: str
    what: str
    apply: Callable[[Pixels, tuple[int, ...]], Pixels]


def perturbations(strength: Strength) -> tuple[Perturbation, ...]:
    """The stain first, then JPEG from the best quality down."""
    a, b = strength.alpha, strength.beta
    stain = Perturbation(
        "stain",
        f"amounts of haematoxylin, eosin and the third stain × (1 ± {a:g}) ± {b:g} absorbance, uniform, tile by tile",
        partial(jitter_stain, strength=strength),
    )
    jpegs = (
        Perturbation(f"jpeg{q}", f"JPEG at quality {q}, chroma 4:2:0", partial(_jpeg, quality=q))
        for q in sorted(strength.qualities, reverse=True)
    )
    return (stain, *jpegs)


def stain_amounts(pixels: Pixels) -> F64:
    """(…, 3) amounts of haematoxylin, eosin and the third stain in pixels (…, 3)."""
    return np.asarray(_ABSORBANCE[pixels] @ _AMOUNTS)


def from_amounts(amounts: F64) -> Pixels:
    """The pixels (…, 3) uint8 that have these amounts (…, 3), what cannot be shown cut off."""
    return _shown(amounts @ STAINS)


def restain(pixels: Pixels, alpha: F64, beta: F64) -> Pixels:
    """Pixels (…, 3) whose amounts of the three stains are ``alpha`` (3,) · amount + ``beta`` (3,)."""
    turned = _AMOUNTS @ np.diag(alpha) @ STAINS
    return _shown(_ABSORBANCE[pixels] @ turned + beta @ STAINS)


def jitter_stain(pixels: Pixels, seed: tuple[int, ...], *, strength: Strength) -> Pixels:
    """``restain`` with α and β drawn within the strength."""
    rng = np.random.default_rng(seed)
    alpha = 1 + rng.uniform(-1, 1, 3) * strength.alpha
    return restain(pixels, alpha, rng.uniform(-1, 1, 3) * strength.beta)


def jpeg(pixels: Pixels, quality: int) -> Pixels:
    """The tile (H, W, 3) as it comes back from a JPEG file of that quality."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(buffer) as image:
        return np.asarray(image.convert("RGB"))


def _jpeg(pixels: Pixels, seed: tuple[int, ...], *, quality: int) -> Pixels:
    return jpeg(pixels, quality)


def _shown(absorbance: F64) -> Pixels:
    values = 256 * np.power(10.0, -absorbance) - 1
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)
