"""Fills a landscape with tissue, one region at a time, and dyes it.

Two canvases, haematoxylin and eosin, are built up from ground, cells and glands; a table
turns the two amounts into RGB by the law of Beer and Lambert; ink and bubbles lie on top.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from beph_store.testing.drawing.landscape import CELL, FAR, Landscape
from beph_store.testing.drawing.noise import F32, REGION, Ints, hash01, hash_scalar, textures
from beph_store.testing.drawing.stamps import library, press

RGB = NDArray[np.uint8]
Points = NDArray[np.float64]

#: Concentration that the last entry of the dye table stands for.
_MOST = 2.55
_STEPS = 255 / _MOST
_INKS = ((28, 62, 148), (22, 104, 72), (38, 38, 44))
_HAEMATOXYLIN = np.array([0.61, 0.71, 0.35])
_EOSIN = np.array([0.15, 0.86, 0.47])


class Painter:
    """Draws any region of one slide; the same region always comes out the same.

    ``stain`` 0–1 is how far this slide's dyes stray from the average laboratory's.
    """

    def __init__(self, land: Landscape, seed: int, stain: float = 0.5) -> None:
        self._land = land
        self._seed = seed
        self._tex = textures()
        self._lib = library()
        self._shift = tuple(int(hash_scalar(seed, 900 + i) * 60000) for i in range(2))
        self._dye = dye_table(seed, stain)
        self._ink = np.array(_INKS[int(hash_scalar(seed, 910) * len(_INKS))], np.float32)

    def region(self, x: int, y: int, w: int = REGION, h: int = REGION) -> RGB:
        """Pixels (h, w, 3) at level-0 (x, y); w, h ≤ 256."""
        tissue = self._up(self._land.tissue, x, y, w, h)
        he = np.zeros((2, h, w), np.float32)
        if tissue.max() > -40:
            self._draw_tissue(he, tissue, x, y)
        he += np.float32(0.006) * np.abs(self._texture("grain", x, y, w, h))
        rgb = self._dyed(he)
        self._on_top(rgb, x, y)
        return rgb

    def _texture(self, name: str, x: int, y: int, w: int, h: int) -> F32:
        return getattr(self._tex, name).at(x + self._shift[0], y + self._shift[1], w, h)  # type: ignore[no-any-return]

    def _up(self, field: F32, x: int, y: int, w: int, h: int) -> F32:
        """A field of the landscape, linearly interpolated to (h, w) pixels at (x, y)."""
        rows, fy = _steps(y, h, field.shape[0])
        cols, fx = _steps(x, w, field.shape[1])
        part = field[rows[0] : rows[-1] + 2]
        lines = part[rows - rows[0]] * (1 - fy)[:, None] + part[rows - rows[0] + 1] * fy[:, None]
        return np.asarray(lines[:, cols] * (1 - fx) + lines[:, cols + 1] * fx, np.float32)

    def _at(self, field: F32, px: Points, py: Points) -> F32:
        """A field of the landscape at the nearest corners to points in level-0 px."""
        rows = np.clip(np.round(py / CELL).astype(np.int64), 0, field.shape[0] - 1)
        cols = np.clip(np.round(px / CELL).astype(np.int64), 0, field.shape[1] - 1)
        return field[rows, cols]

    def _points(
        self, layer: int, pitch: float, reach: int, box: tuple[int, int, int, int], stray: float = 0.9
    ) -> tuple[Points, Points, Ints]:
        """Points of a jittered lattice that can touch ``box`` (x, y, w, h), and a number each."""
        x, y, w, h = box
        columns = np.arange(int((x - reach) // pitch) - 1, int((x + w + reach) // pitch) + 2)
        lines = np.arange(int((y - reach) // pitch) - 1, int((y + h + reach) // pitch) + 2)
        iy, ix = (a.ravel() for a in np.meshgrid(lines, columns, indexing="ij"))
        jx, jy = hash01(self._seed, layer, ix, iy), hash01(self._seed, layer + 1, ix, iy)
        px = (ix + 0.5 * (iy % 2) + stray * (jx - 0.5)) * pitch
        py = (iy + stray * (jy - 0.5)) * pitch
        near = (px > x - reach) & (px < x + w + reach) & (py > y - reach) & (py < y + h + reach)
        number = (hash01(self._seed, layer + 2, ix, iy) * 2**31).astype(np.int64)
        return px[near], py[near], number[near]

    def _draw_tissue(self, he: F32, tissue: F32, x: int, y: int) -> None:
        h, w = tissue.shape
        box = (x, y, w, h)
        rough, soft = self._texture("rough", *box), self._texture("soft", *box)
        tumour = self._up(self._land.tumour, *box)
        share = (
            np.asarray(np.clip((tumour + 24 * rough) / 26 + 0.5, 0, 1), np.float32)
            if tumour.max() > -120
            else None
        )
        self._stroma(he, box)
        if share is not None:
            self._tumour_ground(he, share, box)
        self._stroma_cells(he, box)
        if share is not None:
            self._tumour_cells(he, box)
        self._glands(he, box)
        he *= np.clip((tissue + 9 * rough + 3 * soft) / 5 + 0.5, 0, 1)
        self._damage(he, box)

    def _stroma(self, he: F32, box: tuple[int, int, int, int]) -> None:
        """Pink wavy collagen with clefts."""
        fibre, grain = self._texture("fibre", *box), self._texture("grain", *box)
        wide, rough = self._texture("wide", *box), self._texture("rough", *box)
        cleft = np.clip((rough + 0.25 * fibre + 0.4 * wide - 1.75) * 1.8, 0, 1)
        e = 0.42 + 0.10 * fibre + 0.022 * grain + 0.05 * wide
        he[1] = np.maximum(e * (1 - 0.93 * cleft), 0.0)
        he[0] = np.maximum(0.075 + 0.02 * grain + 0.015 * fibre, 0) * (1 - cleft)

    def _nest(self, box: tuple[int, int, int, int]) -> F32:
        """How deep in a nest of tumour, about 0 (septum) to 1, (h, w)."""
        x, y, w, h = box
        field = self._texture("nest", x, y, w, h) + 0.6 * self._texture("wide", x + 311, y + 173, w, h)
        return np.clip((np.abs(field) - 0.10) * 6, 0, 1)

    def _tumour_ground(self, he: F32, share: F32, box: tuple[int, int, int, int]) -> None:
        """Purple cytoplasm in nests between thin septa."""
        soft, grain = self._texture("soft", *box), self._texture("grain", *box)
        m = share * self._nest(box)
        he *= 1 - m
        he[0] += m * (0.20 + 0.035 * soft + 0.02 * grain)
        he[1] += m * (0.33 + 0.05 * soft + 0.03 * grain)

    def _stroma_cells(self, he: F32, box: tuple[int, int, int, int]) -> None:
        """Fibroblasts along the fibres, lymphocytes scattered and in crowds, red cells."""
        px, py, number = self._points(10, 31.0, 18, box)
        sx, sy = px + self._shift[0], py + self._shift[1]
        turn = len(self._lib.spindles)
        angle = np.round(self._tex.angle.points(sx, sy) / np.pi * turn).astype(np.int64) % turn
        hollow = self._tex.rough.points(sx, sy) + 0.4 * self._tex.wide.points(sx, sy) > 1.75
        for i in np.nonzero((number % 100 < 48) & ~hollow)[0]:
            n = int(number[i]) // 100
            stamp = self._lib.lymphocytes[n % 16] if n % 11 == 0 else self._lib.spindles[angle[i]][n % 4]
            press(he, stamp, round(px[i] - box[0]), round(py[i] - box[1]))
        self._crowds(he, box)
        self._vessels(he, box)

    def _crowds(self, he: F32, box: tuple[int, int, int, int]) -> None:
        """Inflammation: many lymphocytes in places, some between the glands everywhere."""
        px, py, number = self._points(50, 15.0, 10, box)
        wide = self._tex.wide.points(px + self._shift[0] + 500, py + self._shift[1])
        mucosa = np.clip(self._at(self._land.glands, px, py) / 160, 0, 1) * 26
        share = np.clip((wide - 1.1) * 130, mucosa, 80)
        for i in np.nonzero(number % 100 < share)[0]:
            n = int(number[i]) // 100
            press(he, self._lib.lymphocytes[n % 16], round(px[i] - box[0]), round(py[i] - box[1]))

    def _vessels(self, he: F32, box: tuple[int, int, int, int]) -> None:
        """Handfuls of red cells."""
        px, py, number = self._points(20, 210.0, 40, box)
        for i in np.nonzero(number % 9 == 0)[0]:
            n = int(number[i]) // 9
            for k in range(5 + n % 9):
                angle, r = 2.4 * k, 4.6 * k**0.5
                dx, dy = r * np.cos(angle) * (1 + n % 3 * 0.5), r * np.sin(angle)
                press(
                    he,
                    self._lib.red_cells[(n + k) % 6],
                    round(px[i] + dx - box[0]),
                    round(py[i] + dy - box[1]),
                )

    def _tumour_cells(self, he: F32, box: tuple[int, int, int, int]) -> None:
        px, py, number = self._points(30, 20.5, 26, box)
        sx, sy = px + self._shift[0], py + self._shift[1]
        inside = self._at(self._land.tumour, px, py) + 24 * self._tex.rough.points(sx, sy) > 2
        nest = np.abs(self._tex.nest.points(sx, sy) + 0.6 * self._tex.wide.points(sx + 311, sy + 173)) > 0.15
        for i in np.nonzero(inside & nest & (number % 100 < 93))[0]:
            n = int(number[i]) // 100
            stamp = self._lib.mitoses[n % 6] if n % 90 == 0 else self._lib.tumour[n % len(self._lib.tumour)]
            press(he, stamp, round(px[i] - box[0]), round(py[i] - box[1]))

    def _glands(self, he: F32, box: tuple[int, int, int, int]) -> None:
        if self._up(self._land.glands, *box).max() < -170:
            return
        px, py, number = self._points(40, 198.0, 150, box, stray=0.5)
        inside = self._at(self._land.glands, px, py) > 20
        for i in np.nonzero(inside & (number % 100 < 95))[0]:
            stamp = self._lib.glands[int(number[i]) // 100 % len(self._lib.glands)]
            press(he, stamp, round(px[i] - box[0]), round(py[i] - box[1]))

    def _damage(self, he: F32, box: tuple[int, int, int, int]) -> None:
        """A pale area and a fold."""
        if self._land.pale is not None:
            he *= 1 - 0.6 * self._up(self._land.pale, *box)
        if self._land.fold is not None:
            distance = self._up(self._land.fold, *box)
            if distance.min() < 60:
                distance = distance + 5 * self._texture("rough", *box)
                band = np.clip((30 - distance) / 5, 0, 1)
                he *= 1 + band * (0.75 + 0.45 * np.clip(distance / 30, 0, 1) ** 3)

    def _dyed(self, he: F32) -> RGB:
        """RGB (h, w, 3) of the two canvases."""
        index = np.clip(he * np.float32(_STEPS), 0, 255).astype(np.uint8)
        place = index[0].astype(np.uint16)
        place <<= 8
        place |= index[1]
        rgb: RGB = self._dye[place]
        return rgb

    def _on_top(self, rgb: RGB, x: int, y: int) -> None:
        h, w = rgb.shape[:2]
        if self._land.bubble is not None:
            _bubble(rgb, x, y, self._land.bubble)
        if self._land.pen is None:
            return
        distance = self._up(self._land.pen, x, y, w, h)
        if distance.min() > 120:
            return
        rough, grain = self._texture("rough", x, y, w, h), self._texture("soft", x, y, w, h)
        cover = np.clip((58 - distance - 3 * rough) / 6, 0, 1) * np.clip(
            0.8 + 0.05 * rough + 0.02 * grain, 0, 0.97
        )
        cover = cover[..., None].astype(np.float32)
        rgb[:] = np.round(rgb * (1 - cover) + self._ink * cover).astype(np.uint8)


def _steps(start: int, count: int, cells: int) -> tuple[Ints, F32]:
    """Index of the cell before each of ``count`` pixels from ``start``, and the share past it."""
    place = np.clip((np.arange(start, start + count) + 0.5) / CELL, 0, cells - 1.001)
    index = place.astype(np.int64)
    return index, (place - index).astype(np.float32)


def _bubble(rgb: RGB, x: int, y: int, place: tuple[float, float, float]) -> None:
    """Air under the cover slip: a dark refracting ring around a slightly lighter disc."""
    h, w = rgb.shape[:2]
    cx, cy, radius = place
    dx, dy = np.arange(x, x + w) - cx, np.arange(y, y + h) - cy
    depth = radius - np.hypot(dx[None, :], dy[:, None])
    if depth.max() < -10 or depth.min() > FAR:
        return
    ring = 1 - 0.5 * np.exp(-((depth / 3.0) ** 2)) - 0.12 * np.exp(-(((depth - 12) / 5.0) ** 2))
    veil = np.clip(depth / 6, 0, 1) * 0.16
    light = (rgb * (1 - veil)[..., None] + 244 * veil[..., None]) * ring[..., None]
    rgb[:] = np.clip(np.round(light), 0, 255).astype(np.uint8)


def dye_table(seed: int, stain: float) -> RGB:
    """RGB (65536, 3) of every pair of amounts, haematoxylin in the high byte, 0 to 2.55 each.

    Slides of different ``seed`` differ in the hue and strength of both dyes, and in the lamp.
    """
    rng = np.random.default_rng([seed, 2])
    hues = [dye * (1 + stain * 0.12 * rng.uniform(-1, 1, 3)) for dye in (_HAEMATOXYLIN, _EOSIN)]
    strength = np.exp(stain * rng.uniform(-0.34, 0.34, 2))
    lamp = np.array([244.0, 243.0, 245.0]) + stain * rng.uniform(-4, 4, 3)
    amount = (np.arange(256) + 0.5) / _STEPS
    h, e = np.meshgrid(amount * strength[0] * 1.25, amount * strength[1], indexing="ij")
    density = h[..., None] * hues[0] + e[..., None] * hues[1]
    table: RGB = np.round(lamp * np.exp(-density)).astype(np.uint8).reshape(-1, 3)
    return table
