"""The font of every picture, and text that fits."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from PIL import ImageFont


@cache
def font(px: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and has µ, accents, Greek and Cyrillic."""
    import matplotlib as mpl

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name), px)


def fit(text: str, face: ImageFont.FreeTypeFont, px: float) -> str:
    """The text, cut with an ellipsis where it is too long."""
    text = " ".join(text.split())
    if face.getlength(text) <= px:
        return text
    while text and face.getlength(text + "…") > px:
        text = text[:-1]
    return text.rstrip() + "…" if text else ""
