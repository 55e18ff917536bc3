"""Randomness that depends on the place and not on the order of drawing.

A value at (x, y) is a hash of the seed and of the coordinates, or a sample of a fixed
periodic texture: any part of a slide can be drawn by itself and comes out the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

F32 = NDArray[np.float32]
Ints = NDArray[np.int64]

#: Side of the largest region drawn at once, px; textures are padded by it.
REGION = 256
_MASK = (1 << 64) - 1


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64; arrays wrap around without a warning."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def hash01(seed: int, layer: int, ix: Ints, iy: Ints) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), one for each lattice cell (ix, iy), of the same shape."""
    start = (seed * 0x9E3779B97F4A7C15 + layer * 0xD1B54A32D192ED03) & _MASK
    z = _mix(ix.astype(np.uint64) * np.uint64(0xA0761D6478BD642F) + np.uint64(start))
    z = _mix(z ^ (iy.astype(np.uint64) * np.uint64(0xE7037ED1A0B428DB)))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def hash_scalar(seed: int, layer: int) -> float:
    """One uniform number in [0, 1)."""
    zero = np.zeros(1, np.int64)
    return float(hash01(seed, layer, zero, zero)[0])


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], sigma: float, wrap: bool = False) -> F32:
    """Gaussian noise (h, w) of zero mean and unit deviation, correlated over ``sigma`` px."""
    white = rng.standard_normal(shape)
    soft = ndimage.gaussian_filter(white, sigma, mode="wrap" if wrap else "reflect", truncate=3.0)
    return np.asarray((soft - soft.mean()) / (soft.std() + 1e-12), np.float32)


def fractal_noise(rng: np.random.Generator, shape: tuple[int, int], sigma: float, octaves: int = 3) -> F32:
    """Noise (h, w) of unit deviation whose detail halves in size and in weight per octave."""
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        total += smooth_noise(rng, shape, max(sigma / 2**octave, 0.6)) * np.float32(0.5**octave)
    total /= np.float32(total.std() + 1e-12)
    return total


@dataclass(frozen=True, slots=True, eq=False)
class Texture:
    """A periodic image; ``data`` is padded by ``REGION`` so that any region is one slice."""

    data: F32
    period: int

    def at(self, x: int, y: int, w: int, h: int) -> F32:
        """View (h, w) of the texture with its top-left at (x, y); w, h ≤ ``REGION``."""
        top, left = y % self.period, x % self.period
        return self.data[top : top + h, left : left + w]

    def points(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> F32:
        """Nearest samples at the points (x, y)."""
        samples: F32 = self.data[y.astype(np.int64) % self.period, x.astype(np.int64) % self.period]
        return samples


def _texture(image: F32) -> Texture:
    """Pad a periodic image; rounding keeps the last bits of libm out of the pixels."""
    period = image.shape[0]
    rounded = np.round(image * np.float32(1024)) / np.float32(1024)
    return Texture(np.pad(rounded, ((0, REGION), (0, REGION)), mode="wrap"), period)


def _enlarged(rng: np.random.Generator, period: int, sigma: float, step: int) -> F32:
    """Smooth periodic noise made on a lattice ``step`` times coarser: wide blurs stay cheap."""
    small = smooth_noise(rng, (period // step, period // step), sigma / step, wrap=True)
    large = ndimage.zoom(small, step, order=1, mode="grid-wrap", grid_mode=True)
    return np.asarray(large / large.std(), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Textures:
    """The textures of all slides; each slide looks into them at its own offset.

    ``grain`` sensor-fine; ``soft``, ``rough``, ``nest`` correlated over 4, 18, 34 px;
    ``fibre`` wavy bundles in -1..1 and ``angle`` their direction in radians; all of unit
    deviation but those two. Periods differ so that their sums do not repeat visibly.
    """

    grain: Texture
    soft: Texture
    rough: Texture
    nest: Texture
    wide: Texture
    fibre: Texture
    angle: Texture


def _bundles(rng: np.random.Generator, period: int, waves: tuple[int, int]) -> tuple[F32, F32]:
    """Wavy fibres that run one way: (shade in about -1..1, direction in radians), periodic.

    ``waves`` whole waves along x and y; noise bends them, so that no ring closes.
    """
    axis = np.arange(period, dtype=np.float32) * np.float32(2 * np.pi / period)
    phase = waves[0] * axis[None, :] + waves[1] * axis[:, None]
    phase = phase + 7.0 * _enlarged(rng, period, 44.0, 8) + 1.3 * _enlarged(rng, period, 9.0, 2)
    dy, dx = np.gradient(phase)
    strength = np.clip(0.8 + 0.35 * _enlarged(rng, period, 14.0, 2), 0.1, 1.3)
    return np.sin(phase) * strength, np.arctan2(dx, -dy)


def _weave(rng: np.random.Generator, period: int) -> tuple[F32, F32]:
    """Bundles that cross: two directions, each where noise says so."""
    first, angle = _bundles(rng, period, (22, 46))
    second, other = _bundles(rng, period, (50, -14))
    share = np.clip(0.5 + 1.4 * _enlarged(rng, period, 70.0, 8), 0, 1)
    detail = smooth_noise(rng, (period, period), 2.0, wrap=True)
    shade = first * share + second * (1 - share)
    return (0.85 * shade + 0.18 * detail).astype(np.float32), np.where(share > 0.5, angle, other)


@lru_cache(maxsize=1)
def textures() -> Textures:
    """Build the textures (about 0.4 s, once a process)."""
    rng = np.random.default_rng(20240501)
    fibre, angle = _weave(rng, 896)
    return Textures(
        grain=_texture(smooth_noise(rng, (512, 512), 0.8, wrap=True)),
        soft=_texture(smooth_noise(rng, (640, 640), 4.0, wrap=True)),
        rough=_texture(_enlarged(rng, 768, 18.0, 4)),
        nest=_texture(_enlarged(rng, 1024, 34.0, 8)),
        wide=_texture(_enlarged(rng, 1152, 90.0, 16)),
        fibre=_texture(fibre),
        angle=_texture(angle),
    )
