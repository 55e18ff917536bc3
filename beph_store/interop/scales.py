"""What LazySlide's ``tile_spec`` and ``slide_properties`` say, both ways; our AnnData files carry them too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from beph_store.geometry import Size
from beph_store.interop.features import SlideFeatures


@dataclass(frozen=True, slots=True)
class Stated:
    """What the two say; None where they do not."""

    tile_px: int | None = None
    stride_px: int | None = None
    footprint_l0: int | None = None
    mpp: float | None = None
    mpp_l0: float | None = None
    size_l0: Size | None = None


def tile_spec(slide: SlideFeatures) -> dict[str, Any]:
    """How the tiles are read from level 0. Its reader cuts the product off, so it must not fall short of a whole px."""
    side = slide.footprint_l0 or 1
    px = slide.tile_px or side
    step = slide.stride_px or px
    scale = side / px
    while int(px * scale) < side:
        scale = math.nextafter(scale, math.inf)
    return {
        "height": px,
        "width": px,
        "stride_height": step,
        "stride_width": step,
        "mpp": slide.mpp,
        "ops_level": 0,
        "ops_downsample": scale,
        "base_level": 0,
        "base_downsample": scale,
    }


def slide_properties(slide: SlideFeatures) -> dict[str, Any]:
    """Size and mpp of level 0. The bounds are left to the slide's own reader."""
    about: dict[str, Any] = {"scene": 0, "n_scenes": 1, "scene_names": ["Image 0"]}
    if slide.size_l0 is not None:
        shape = [slide.size_l0[1], slide.size_l0[0]]
        about |= {"shape": shape, "n_level": 1, "level_shape": [shape], "level_downsample": [1.0]}
    if slide.mpp_l0 is not None:
        about["mpp"] = slide.mpp_l0
    return about


def read_stated(spec: Mapping[str, Any] | None, properties: Mapping[str, Any] | None) -> Stated:
    """The inverse. ValueError or TypeError for what is no number, and for tiles that are not square."""
    spec, properties = spec or {}, properties or {}
    px = _whole(spec.get("width"))
    if px != _whole(spec.get("height")):
        raise ValueError("its tiles are not square")
    scale, shape = _number(spec.get("base_downsample")), properties.get("shape")
    size = None if shape is None or len(shape) != 2 else (int(shape[1]), int(shape[0]))
    return Stated(
        px,
        _whole(spec.get("stride_width")),
        None if px is None or scale is None else int(px * scale),
        _number(spec.get("mpp")),
        _number(properties.get("mpp")),
        size,
    )


def _number(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) and number > 0 else None


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)
