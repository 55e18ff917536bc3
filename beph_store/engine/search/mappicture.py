"""The map as a PNG: the points, the legend or the bar, how it was made and how far to trust it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from beph_store.engine.fonts import fit, font
from beph_store.engine.search.colouring import Colouring, colours_of, ramp
from beph_store.engine.search.map import TileMap

_MAP, _PAD, _SIDE, _HEAD, _FOOT = 1080, 36, 340, 92, 104
_INK, _SOFT, _LINE, _GROUND = (28, 33, 40), (99, 108, 118), (225, 229, 233), (250, 251, 252)
_ROW = 34
#: Dots are drawn so many times larger and reduced, which is what makes them round.
_OVER = 8


def picture(drawn: TileMap) -> Image.Image:
    """The map as an RGB image, 1528 × 1276 px, on white whatever the reader's theme."""
    width, height = _PAD + _MAP + _PAD + _SIDE + _PAD, _HEAD + _MAP + _FOOT
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    room = width - 2 * _PAD
    draw.text((_PAD, 22), fit(drawn.title, font(27, bold=True), room), fill=_INK, font=font(27, bold=True))
    draw.text((_PAD, 60), fit(drawn.subtitle, font(15), room), fill=_SOFT, font=font(15))
    box = (_PAD, _HEAD, _PAD + _MAP, _HEAD + _MAP)
    draw.rounded_rectangle(box, 10, fill=_GROUND, outline=_LINE)
    _dots(page, drawn)
    left = _PAD + _MAP + _PAD
    if drawn.colouring.scale is None:
        _legend(draw, drawn.colouring, left, _HEAD)
    else:
        _bar(page, drawn.colouring, left, _HEAD)
    lines = wrapped(drawn.trust, font(15), room)
    for number, line in enumerate(lines[:3]):
        draw.text((_PAD, _HEAD + _MAP + 20 + 24 * number), line, fill=_SOFT, font=font(15))
    return page


def wrapped(text: str, face: ImageFont.FreeTypeFont, px: float) -> list[str]:
    """The text in lines that fit."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if face.getlength(longer) <= px or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def drawing_order(colouring: Colouring) -> NDArray[np.int64]:
    """Tiles without a label first, beneath; the others shuffled, so that no class covers the next."""
    order = np.random.default_rng(0).permutation(len(colouring.code))
    known = np.array([text is not None for text in colouring.texts])[order]
    return np.concatenate([order[~known], order[known]])


def _dots(page: Image.Image, drawn: TileMap) -> None:
    radius = 7.0 if len(drawn) <= 800 else 5.0 if len(drawn) <= 3000 else 4.0 if len(drawn) <= 8000 else 3.0
    margin = 28
    x = _PAD + margin + drawn.points[:, 0] * (_MAP - 2 * margin)
    y = _HEAD + margin + (1 - drawn.points[:, 1]) * (_MAP - 2 * margin)
    colours = colours_of(drawn.colouring)
    stamps = {colour: _stamp(colour, radius) for colour in set(colours)}
    for number in drawing_order(drawn.colouring).tolist():
        stamp = stamps[colours[number]]
        half = stamp.width // 2
        page.paste(stamp, (round(float(x[number])) - half, round(float(y[number])) - half), stamp)


def _stamp(colour: str, radius: float) -> Image.Image:
    """A dot with a thin pale edge, which keeps crowded dots apart."""
    side = 2 * int(np.ceil(radius + 1)) + 1
    large = Image.new("L", (side * _OVER, side * _OVER))
    middle = side * _OVER / 2
    stamp = Image.new("RGBA", (side, side), (255, 255, 255, 0))
    for reach, fill, opacity in (
        (radius + 0.8, (255, 255, 255), 150),
        (radius, ImageColor.getrgb(colour), 225),
    ):
        large.paste(0, (0, 0, *large.size))
        r = reach * _OVER
        ImageDraw.Draw(large).ellipse((middle - r, middle - r, middle + r, middle + r), fill=opacity)
        layer = Image.new("RGBA", (side, side), (*fill[:3], 255))
        layer.putalpha(large.resize((side, side), Image.Resampling.BOX))
        stamp = Image.alpha_composite(stamp, layer)
    return stamp


def _heading(draw: ImageDraw.ImageDraw, colouring: Colouring, left: int, top: int) -> int:
    draw.text(
        (left, top + 4),
        fit(colouring.column, font(18, bold=True), _SIDE),
        fill=_INK,
        font=font(18, bold=True),
    )
    return top + 42


def _entries(draw: ImageDraw.ImageDraw, colouring: Colouring, left: int, top: int) -> int:
    for row in colouring.legend:
        draw.ellipse((left, top + 3, left + 16, top + 19), fill=row.colour)
        count = f"{row.tiles:,}"
        room = _SIDE - 28 - font(15).getlength(count) - 14
        draw.text((left + 28, top), fit(row.name, font(16), room), fill=_INK, font=font(16))
        draw.text((left + _SIDE, top + 1), count, fill=_SOFT, font=font(15), anchor="ra")
        top += _ROW
    return top


def _note(draw: ImageDraw.ImageDraw, colouring: Colouring, left: int, top: int) -> None:
    for number, line in enumerate(wrapped(colouring.note, font(14), _SIDE)):
        draw.text((left, top + 6 + 20 * number), line, fill=_SOFT, font=font(14))


def _legend(draw: ImageDraw.ImageDraw, colouring: Colouring, left: int, top: int) -> None:
    _note(draw, colouring, left, _entries(draw, colouring, left, _heading(draw, colouring, left, top)))


def _bar(page: Image.Image, colouring: Colouring, left: int, top: int) -> None:
    draw = ImageDraw.Draw(page)
    top = _heading(draw, colouring, left, top)
    steps = Image.new("RGB", (len(ramp()), 1))
    steps.putdata([ImageColor.getrgb(colour)[:3] for colour in ramp()])
    page.paste(steps.resize((_SIDE, 22), Image.Resampling.BILINEAR), (left, top))
    draw.text((left, top + 30), f"{colouring.low:.4g}", fill=_INK, font=font(15))
    draw.text((left + _SIDE, top + 30), f"{colouring.high:.4g}", fill=_INK, font=font(15), anchor="ra")
    _note(draw, colouring, left, _entries(draw, colouring, left, top + 66))
