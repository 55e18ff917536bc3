"""Nuclei, cells and glands, drawn once into small pictures and then stamped.

All amounts are optical: haematoxylin and eosin concentrations, about 0 to 2. A stamp covers
what lies under it: ``HE = HE * keep + add``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from beph_store.testing.drawing.noise import F32, smooth_noise

Rng = np.random.Generator


@dataclass(frozen=True, slots=True, eq=False)
class Stamp:
    """``keep`` (S, S) share of the ground left visible; ``add`` (2, S, S) stain laid on it."""

    keep: F32
    add: F32

    @property
    def side(self) -> int:
        """S, px."""
        return int(self.keep.shape[0])

    def turned(self, turn: int) -> Stamp:
        """One of the eight rotations and reflections, as views."""
        keep, add = self.keep, self.add
        if turn & 4:
            keep, add = keep[:, ::-1], add[:, :, ::-1]
        return Stamp(np.rot90(keep, turn & 3), np.rot90(add, turn & 3, axes=(1, 2)))


def press(canvas: F32, stamp: Stamp, x: int, y: int) -> None:
    """Stamp ``canvas`` (2, h, w) in place, centred on (x, y); parts outside are cut off."""
    half = stamp.side // 2
    top, left = y - half, x - half
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + stamp.side, canvas.shape[1]), min(left + stamp.side, canvas.shape[2])
    if y0 >= y1 or x0 >= x1:
        return
    rows, cols = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
    ground = canvas[:, y0:y1, x0:x1]
    ground *= stamp.keep[rows, cols]
    ground += stamp.add[:, rows, cols]


@dataclass(frozen=True, slots=True)
class Nucleus:
    """Semi-axes ``a`` ≥ ``b`` in px, ``angle`` in radians; the rest are 0–1 or concentrations."""

    a: float
    b: float
    angle: float
    dark: float
    uneven: float = 0.05
    clumped: float = 0.25
    rim: float = 0.25
    nucleoli: int = 0


def _polar(side: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Offsets (x, y) in px from the centre of a square of ``side`` px."""
    axis = np.arange(side) - side // 2
    x, y = np.meshgrid(axis, axis)
    return x.astype(np.float64), y.astype(np.float64)


def _outline(rng: Rng, theta: NDArray[np.float64], uneven: float) -> NDArray[np.float64]:
    """A closed wobbly factor around 1 for each angle."""
    wobble = np.ones_like(theta)
    for k in (2, 3, 4, 5):
        wobble += uneven / (k - 0.8) * rng.normal() * np.cos(k * theta + rng.uniform(0, 2 * np.pi))
    return wobble


def _coverage(distance: NDArray[np.float64], soft: float = 1.3) -> NDArray[np.float64]:
    """Coverage 0–1 from the distance in px inside an edge."""
    t = np.clip(distance / soft + 0.5, 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def nucleus(rng: Rng, form: Nucleus, halo: float = 0.0, plasma: tuple[float, float] = (0.0, 0.0)) -> Stamp:
    """Draw one nucleus, within ``halo`` px of cytoplasm of (haematoxylin, eosin) ``plasma``."""
    side = 2 * int(np.ceil(form.a * 1.35 + halo + 2)) + 1
    x, y = _polar(side)
    c, s = np.cos(form.angle), np.sin(form.angle)
    u, v = x * c + y * s, -x * s + y * c
    theta = np.arctan2(v / form.b, u / form.a)
    wobble = _outline(rng, theta, form.uneven)
    r = np.hypot(u / form.a, v / form.b) / wobble
    inside = (1 - r) * np.sqrt(form.a * form.b)
    cover = _coverage(inside)
    texture = smooth_noise(rng, (side, side), 1.5)
    h = form.dark * (1 + form.clumped * texture + form.rim * np.exp(-((inside - 1.2) ** 2) / 2.2))
    for _ in range(form.nucleoli):
        spot = np.hypot(u - rng.normal() * form.a * 0.3, v - rng.normal() * form.b * 0.3)
        h += 0.75 * np.exp(-((spot / rng.uniform(1.5, 2.3)) ** 2))
    h = np.clip(h, 0.25 * form.dark, 2.2)
    body = _coverage(inside + halo, 3.0) * 0.85 if halo else np.zeros_like(cover)
    return _layered(cover, h, body, plasma)


def _layered(
    cover: NDArray[np.float64],
    h: NDArray[np.float64],
    body: NDArray[np.float64],
    plasma: tuple[float, float],
) -> Stamp:
    """A nucleus of coverage ``cover`` over cytoplasm of coverage ``body``."""
    keep = (1 - cover) * (1 - body)
    under = (1 - cover) * body
    add = np.stack([cover * h + under * plasma[0], cover * 0.32 + under * plasma[1]])
    return Stamp(keep.astype(np.float32), add.astype(np.float32))


def _tumour_cell(rng: Rng) -> Stamp:
    """Large, dark, unequal: the nuclei of a poorly differentiated carcinoma."""
    size = float(np.clip(rng.lognormal(np.log(9.6), 0.24), 6.5, 17.0))
    long = rng.uniform(1.0, 1.45)
    vesicular = rng.random() < 0.45
    form = Nucleus(
        a=size * long**0.5,
        b=size / long**0.5,
        angle=rng.uniform(0, np.pi),
        dark=rng.uniform(0.62, 0.85) if vesicular else rng.uniform(0.85, 1.35),
        uneven=rng.uniform(0.08, 0.22),
        clumped=rng.uniform(0.22, 0.34),
        rim=0.45 if vesicular else 0.15,
        nucleoli=int(rng.integers(1, 3)) if vesicular else int(rng.random() < 0.3),
    )
    return nucleus(rng, form, rng.uniform(2.5, 5.0), (rng.uniform(0.14, 0.26), rng.uniform(0.26, 0.5)))


def _mitosis(rng: Rng) -> Stamp:
    """A ragged dark plate in a cleared cell."""
    form = Nucleus(8.5, 3.2, rng.uniform(0, np.pi), 1.7, uneven=0.35, clumped=0.25, rim=0.0)
    return nucleus(rng, form, 8.0, (0.06, 0.3))


def _spindle(rng: Rng, angle: float) -> Stamp:
    """A fibroblast lying along its fibre."""
    form = Nucleus(rng.uniform(8, 13), rng.uniform(2.0, 3.3), angle, rng.uniform(0.7, 1.15), uneven=0.1)
    return nucleus(rng, form)


def _lymphocyte(rng: Rng) -> Stamp:
    """Small, round, dark."""
    size = rng.uniform(4.8, 6.0)
    form = Nucleus(size * 1.05, size, rng.uniform(0, np.pi), rng.uniform(1.1, 1.45), clumped=0.3)
    return nucleus(rng, form, 1.2, (0.2, 0.3))


def _red_cell(rng: Rng) -> Stamp:
    """An erythrocyte: eosin alone, paler in the middle."""
    x, y = _polar(15)
    r = np.hypot(x, y * rng.uniform(1.0, 1.3))
    cover = _coverage(5.6 - r) * 0.95
    e = 0.95 - 0.25 * np.exp(-((r / 2.2) ** 2))
    add = np.stack([cover * 0.02, cover * e])
    return Stamp((1 - cover).astype(np.float32), add.astype(np.float32))


def _gland(rng: Rng) -> Stamp:
    """A crypt cut across: basement membrane, basal nuclei in a ring, mucus, lumen."""
    radius, long = rng.uniform(60, 94), rng.uniform(1.0, 1.4)
    side = 2 * int(radius * 1.3) + 1
    x, y = _polar(side)
    u, v = x * long**0.5, y / long**0.5
    theta, r = np.arctan2(v, u), np.hypot(u, v)
    edge = radius * _outline(rng, theta, 0.07)
    depth = edge - r
    height = min(rng.uniform(36, 50), radius - 18)
    canvas = _epithelium(rng, theta, depth, height, radius)
    cover = _coverage(depth, 2.0)
    _basal_ring(rng, canvas, radius, long, edge)
    return Stamp((1 - cover).astype(np.float32), (canvas * cover).astype(np.float32))


def _epithelium(
    rng: Rng, theta: NDArray[np.float64], depth: NDArray[np.float64], height: float, radius: float
) -> F32:
    """Stain (2, S, S) of the wall and the lumen, without the nuclei."""
    grain = smooth_noise(rng, (theta.shape[0], theta.shape[0]), 1.2)
    cells = max(12, int(2 * np.pi * radius / 12.5))
    wave = theta * cells / (2 * np.pi) + 0.25 * np.sin(5 * theta + rng.uniform(0, 6))
    border = np.abs((wave % 1.0) - 0.5) * 2
    number = np.floor(wave).astype(np.int64) % cells
    goblet = (rng.random(cells) < rng.uniform(0.25, 0.7))[number]
    middle = np.exp(-(((depth - height * 0.64) / (height * 0.22)) ** 2)) * np.clip(1.3 - border * 1.25, 0, 1)
    mucus = np.where(goblet, middle, 0.25 * middle)
    e = 0.46 + 0.03 * grain + 0.14 * np.clip((border - 0.8) * 5, 0, 1) - 0.4 * mucus
    h = 0.12 + 0.02 * grain + 0.02 * mucus
    apical = np.exp(-(((depth - height + 1.5) / 1.8) ** 2))
    e += 0.16 * apical + 0.16 * np.exp(-(((depth - 1.0) / 1.6) ** 2))
    lumen = _coverage(depth - height - 0.6 * grain, 2.5)
    content = rng.choice([0.0, 0.0, 0.10, 0.3]) * np.clip(0.5 + smooth_noise(rng, theta.shape, 7.0), 0, 1)
    e = e * (1 - lumen) + lumen * (0.01 + 0.8 * content)
    h = h * (1 - lumen) + lumen * (0.005 + 0.25 * content)
    return np.stack([h, e]).astype(np.float32)


def _basal_ring(rng: Rng, canvas: F32, radius: float, long: float, edge: NDArray[np.float64]) -> None:
    """Oval nuclei standing on the basement membrane, long axis towards the lumen."""
    centre = canvas.shape[1] // 2
    angle = rng.uniform(0, 0.3)
    while angle < 2 * np.pi:
        row = int(np.clip(centre + 40 * np.sin(angle), 0, edge.shape[0] - 1))
        col = int(np.clip(centre + 40 * np.cos(angle), 0, edge.shape[0] - 1))
        r = edge[row, col] - rng.normal(12.0, 1.6)
        x, y = r * np.cos(angle) / long**0.5, r * np.sin(angle) * long**0.5
        lean = np.arctan2(y, x) + rng.normal() * 0.12
        form = Nucleus(
            rng.uniform(6.6, 8.2), rng.uniform(4.0, 4.9), lean, rng.uniform(0.75, 1.0), 0.04, 0.2, 0.3
        )
        press(canvas, nucleus(rng, form), centre + round(x), centre + round(y))
        angle += rng.normal(11.0, 0.8) / radius


@dataclass(frozen=True, slots=True, eq=False)
class Library:
    """Stamps by kind, those without a direction turned all eight ways.

    ``spindles[i]`` lie at the angle i · π / len(spindles), four of each.
    """

    tumour: list[Stamp]
    mitoses: list[Stamp]
    spindles: list[list[Stamp]]
    lymphocytes: list[Stamp]
    red_cells: list[Stamp]
    glands: list[Stamp]


@lru_cache(maxsize=1)
def library() -> Library:
    """Draw all stamps (about 0.5 s, once a process)."""
    rng = np.random.default_rng(20240502)
    cells = [_tumour_cell(rng) for _ in range(160)]
    glands = [_gland(rng) for _ in range(14)]
    return Library(
        tumour=[cell.turned(turn) for cell in cells for turn in range(8)],
        mitoses=[_mitosis(rng) for _ in range(6)],
        spindles=[[_spindle(rng, i * np.pi / 24) for _ in range(4)] for i in range(24)],
        lymphocytes=[_lymphocyte(rng) for _ in range(16)],
        red_cells=[_red_cell(rng) for _ in range(6)],
        glands=[gland.turned(turn) for gland in glands for turn in range(8)],
    )
