"""What a head says of each tile, as a picture and as GeoJSON: from stored data, no slide is opened unless asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import sparse

from beph_store.engine.backdrop import Backdrop, read_backdrop
from beph_store.engine.fonts import fit, font
from beph_store.engine.imported import blank, need_places
from beph_store.errors import UsageError
from beph_store.geometry import Size
from beph_store.interop.geojson import collection, tile_feature
from beph_store.records import Embeddings, Rasters
from beph_store.store import Store

__all__ = ["HeatmapStyle", "overlay", "paint_tiles", "slide_overlay", "to_geojson"]

Float = NDArray[np.float64]
UInt8 = NDArray[np.uint8]

_INK, _FAINT, _LINE = (32, 33, 40), (108, 110, 122), (206, 208, 216)
_MARGIN = 36
_SIDE = 190  # right of the picture, for the colour bar
_BAR_WIDTH = 18
#: A small thumbnail is enlarged at most so far, unless the page would not hold its text.
_ENLARGE_MAX = 4
_SMALLEST_PX = 560
#: Classes that QuPath shows in its list; the exact value is a measurement.
_STEPS = 10


@dataclass(frozen=True, slots=True)
class HeatmapStyle:
    """How values look. ``palette`` a matplotlib colour map; ``opacity`` 0–1 of the tiles; ``value_range`` the values
    at the two ends of the palette (None: the least and the greatest). ``title``, ``legend`` (what the values are) and
    ``caption`` are printed as they are. ``longest_px`` of the slide's picture.
    """

    palette: str = "viridis"
    opacity: float = 0.6
    value_range: tuple[float, float] | None = None
    title: str = ""
    legend: str = ""
    caption: str = ""
    longest_px: int = 1400

    def __post_init__(self) -> None:
        if not 0 <= self.opacity <= 1:
            raise UsageError("an opacity is from 0 to 1")
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise UsageError("the range of values must go from a lower to a higher one")
        if self.longest_px < 1:
            raise UsageError("a picture has at least 1 px")


@dataclass(frozen=True, slots=True)
class _Scale:
    """Values to colours; ``low``, ``high`` are the ends of the palette, ``under``, ``over`` whether some lie beyond."""

    palette: str
    low: float
    high: float
    under: bool
    over: bool

    @classmethod
    def of(cls, values: Float, style: HeatmapStyle) -> _Scale:
        seen = values[np.isfinite(values)]
        low, high = style.value_range or ((seen.min(), seen.max()) if len(seen) else (0.0, 1.0))
        if low == high:
            low, high = low - 0.5, high + 0.5  # one value only: the middle of the palette
        return cls(
            style.palette, float(low), float(high), bool((seen < low).any()), bool((seen > high).any())
        )

    def colours(self, values: Float) -> UInt8:
        """(..., 3) RGB; what is not finite counts as the low end."""
        share = np.clip((np.nan_to_num(values, nan=self.low) - self.low) / (self.high - self.low), 0, 1)
        return _palette(self.palette)[np.rint(share * 255).astype(np.intp)]


@cache
def _palette(name: str) -> UInt8:
    """(256, 3) uint8. matplotlib takes a third of a second to import: only who draws pays."""
    import matplotlib as mpl

    if name not in mpl.colormaps:
        raise UsageError(
            f"no palette {name!r}: viridis, cividis, magma, inferno and all of matplotlib's are there"
        )
    colours = np.asarray(mpl.colormaps[name](np.linspace(0, 1, 256)))[:, :3]
    return np.asarray(np.rint(colours * 255), np.uint8)


def paint_tiles(
    origin_l0: NDArray[np.integer[Any]],
    footprint_l0: int,
    values: Float,
    extent_l0: tuple[float, float],
    size: Size,
) -> tuple[Float, Float]:
    """Tiles as squares on a raster of ``size`` (w, h) px that covers (0, 0) to ``extent_l0`` (w, h) in level-0 px.

    Returns ``value`` and ``cover``, both (h, w) float64. A pixel's value is the mean of the tiles on it, each by the
    area it has there; NaN where there is none. Its cover is the share 0–1 of it that tiles cover, so that borders
    between pixels are exact. Tiles whose value is not finite are left out.
    """
    keep = np.isfinite(values)
    scale = [size[axis] / extent_l0[axis] for axis in (0, 1)]
    across, down = (
        _overlaps(origin_l0[keep, axis] * scale[axis], footprint_l0 * scale[axis], size[axis])
        for axis in (0, 1)
    )
    weight = (down.T @ across).toarray()
    total = (down.T @ sparse.diags_array(values[keep]) @ across).toarray()
    with np.errstate(invalid="ignore", divide="ignore"):
        value = np.where(weight > 0, total / weight, np.nan)
    return value, np.minimum(weight, 1.0)


def _overlaps(start: Float, side: float, n: int) -> Any:
    """Sparse (N, n): how much of each px of one axis each tile covers, 0–1; ``start`` and ``side`` in px."""
    first = np.floor(start).astype(np.int64)
    px = first[:, None] + np.arange(int(np.ceil(side)) + 1)
    length = np.minimum((start + side)[:, None], px + 1) - np.maximum(start[:, None], px)
    tile, column = np.nonzero((length > 1e-9) & (px >= 0) & (px < n))
    return sparse.csr_array((length[tile, column], (tile, px[tile, column])), shape=(len(start), n))


def overlay(
    rasters: Rasters,
    size_l0: Size,
    origin_l0: NDArray[np.integer[Any]],
    footprint_l0: int,
    values: NDArray[np.floating[Any]],
    *,
    style: HeatmapStyle | None = None,
    backdrop: Backdrop | None = None,
) -> Image.Image:
    """The stored thumbnail with its tiles coloured by their values, a colour bar, a scale bar and captions.

    ``origin_l0`` (N, 2) top-left (x, y) and ``footprint_l0`` side in level-0 px of a slide of ``size_l0`` (width,
    height); ``values`` (N,). Where tiles overlap the mean is shown; gaps, and tiles whose value is NaN, show the
    slide. Under the tiles the slide is grey, so that the colours are those of the bar. ``backdrop`` instead of the
    thumbnail. RGB; raises UsageError for
    arrays that do not fit together and for an unknown palette.
    """
    style = style or HeatmapStyle()
    values = _checked(origin_l0, values)
    scale = _Scale.of(values, style)
    under = backdrop or Backdrop(rasters.thumbnail, _thumbnail_extent(rasters, size_l0))
    extent = under.extent_l0
    size = _picture_size(under.image.shape[1::-1], extent, style.longest_px)
    value, cover = paint_tiles(origin_l0, footprint_l0, values, extent, size)
    slide = np.asarray(Image.fromarray(under.image).resize(size, Image.Resampling.BICUBIC), np.float32)
    alpha = cover[..., None].astype(np.float32)
    picture = _blend(slide, scale.colours(value), alpha, style.opacity)
    # The bar lies on the mean tone of what the tiles lie on, so that its colours are those of the picture.
    tone = float((_grey(slide) * alpha).sum() / alpha.sum()) if alpha.any() else 255.0
    um_per_px = rasters.tissue.mpp_x * rasters.tissue.mask.shape[1] * extent[0] / size_l0[0] / size[0]
    shown = scale if style.value_range or np.isfinite(values).any() else None
    return _page(Image.fromarray(picture), (shown, tone), um_per_px, style)


def slide_overlay(
    store: Store,
    bag: Embeddings,
    values: NDArray[np.floating[Any]],
    *,
    style: HeatmapStyle | None = None,
    width: int | None = None,
) -> Image.Image:
    """``overlay`` of one slide's stored tiles; ``values`` (N,) as the rows of ``bag``. The slide itself is not needed,
    unless a ``width`` in px is wanted: then its picture is read from its file, see ``read_backdrop``.

    An empty title becomes the slide's id, an empty caption says what the tiles are; where the slide was not at hand
    when its features were imported, the caption says so. Raises UnknownSlide for a slide that is not in the store,
    UsageError for one whose tiles have no places.
    """
    style = style or HeatmapStyle()
    need_places(store.recipe(bag.recipe_key).recipe)
    row = store.slide(bag.recipe_key, bag.slide_id)
    side = row.footprint_l0 or 1
    size = row.width_l0 or 1, row.height_l0 or 1
    caption = f"{len(bag):,} tiles of {side * (row.mpp_x or 0):.0f} µm · recipe {bag.recipe_key}"
    rasters = store.rasters(bag.recipe_key, bag.slide_id)
    missing = " · imported without its slide" if blank(rasters) else ""
    style = replace(style, title=style.title or bag.slide_id, caption=f"{style.caption or caption}{missing}")
    backdrop = None
    if width is not None:
        backdrop = read_backdrop(row, width)
        wide, high = backdrop.extent_l0
        style = replace(style, longest_px=max(width, round(width * high / wide)))
    return overlay(rasters, size, bag.origin_l0, side, values, style=style, backdrop=backdrop)


def to_geojson(
    origin_l0: NDArray[np.integer[Any]],
    footprint_l0: int,
    values: NDArray[np.floating[Any]],
    *,
    name: str,
    properties: Mapping[str, str | int | float] | None = None,
    style: HeatmapStyle | None = None,
) -> dict[str, Any]:
    """Tiles as a GeoJSON FeatureCollection that QuPath opens as tile objects.

    Polygons are the exact squares in whole level-0 px, top-left origin, as QuPath counts (for a slide that QuPath
    shows cropped to its bounds, subtract their corner from ``origin_l0`` first). Each has its value as the measurement
    ``name``, its exact colour, and one of ten classes of values for QuPath's list. Tiles whose value is not finite
    are left out. ``properties`` (where the values come from) are kept once, on the collection.
    """
    style = style or HeatmapStyle()
    values = _checked(origin_l0, values)
    scale = _Scale.of(values, style)
    edges = np.linspace(scale.low, scale.high, _STEPS + 1)
    names = [f"{name} {a:.3g} to {b:.3g}" for a, b in pairwise(edges)]
    classes = [
        {"name": text, "color": colour}
        for text, colour in zip(names, scale.colours((edges[:-1] + edges[1:]) / 2).tolist(), strict=True)
    ]
    keep = np.flatnonzero(np.isfinite(values))
    step = np.clip(np.searchsorted(edges, values[keep], side="right") - 1, 0, _STEPS - 1)
    colours = scale.colours(values[keep]).tolist()
    features = [
        tile_feature(
            (x, y),
            footprint_l0,
            {"classification": classes[number], "color": colour, "measurements": {name: value}},
        )
        for (x, y), number, colour, value in zip(
            origin_l0[keep].tolist(), step.tolist(), colours, values[keep].tolist(), strict=True
        )
    ]
    return collection(features, properties)


def _checked(origin_l0: NDArray[np.integer[Any]], values: NDArray[np.floating[Any]]) -> Float:
    if origin_l0.ndim != 2 or origin_l0.shape[1] != 2 or values.shape != (len(origin_l0),):
        raise UsageError(
            f"a heatmap needs one value a tile: origins are {origin_l0.shape}, values {values.shape}, "
            "not (N, 2) and (N,)"
        )
    return values.astype(np.float64)


def _thumbnail_extent(rasters: Rasters, size_l0: Size) -> tuple[float, float]:
    """(w, h) in level-0 px of what the thumbnail shows.

    The mask covers the slide; the thumbnail is its overview shrunk by a whole step, less the rows and columns
    that were left over, up to a thumbnail px.
    """
    (h, w), mask = rasters.thumbnail.shape[:2], rasters.tissue.mask.shape
    step = round(mask[0] / h)
    for guess in (step, step - 1, step + 1):
        if guess > 0 and (mask[0] // guess, mask[1] // guess) == (h, w):
            return size_l0[0] * w * guess / mask[1], size_l0[1] * h * guess / mask[0]
    return float(size_l0[0]), float(size_l0[1])  # made elsewhere: all of the slide, as the record says


def _picture_size(thumbnail: Size, extent_l0: tuple[float, float], longest_px: int) -> Size:
    longest = min(longest_px, max(_SMALLEST_PX, _ENLARGE_MAX * max(thumbnail)))
    scale = longest / max(extent_l0)
    return max(1, round(extent_l0[0] * scale)), max(1, round(extent_l0[1] * scale))


def _grey(slide: NDArray[np.float32]) -> NDArray[np.float32]:
    """(h, w, 1), the luma of Rec. 601."""
    return slide @ np.array([[0.299], [0.587], [0.114]], np.float32)


def _blend(slide: NDArray[np.float32], colours: UInt8, cover: NDArray[np.float32], opacity: float) -> UInt8:
    under = slide + (_grey(slide) - slide) * cover
    blended = under + (colours - under) * (cover * opacity)
    return np.asarray(np.clip(np.rint(blended), 0, 255), np.uint8)


def _page(
    picture: Image.Image, legend: tuple[_Scale | None, float], um_per_px: float, style: HeatmapStyle
) -> Image.Image:
    """Title above, colour bar at the right, scale bar and caption below; ``legend`` the scale and the tone under it."""
    width = picture.width + 2 * _MARGIN + _SIDE
    title = fit(style.title, font(24, bold=True), width - 2 * _MARGIN)
    top = _MARGIN + (44 if title else 0)
    page = Image.new("RGB", (width, top + picture.height + 62), "white")
    draw = ImageDraw.Draw(page)
    draw.text((_MARGIN, _MARGIN - 8), title, fill=_INK, font=font(24, bold=True))
    page.paste(picture, (_MARGIN, top))
    draw.rectangle((_MARGIN - 1, top - 1, _MARGIN + picture.width, top + picture.height), outline=_LINE)
    box = (_MARGIN + picture.width + 26, top, top + picture.height - 14)
    _draw_legend(draw, box, legend[0], legend[1], style)
    below = top + picture.height + 16
    end = _draw_scale_bar(draw, (_MARGIN, below), um_per_px, picture.width)
    caption = fit(style.caption, font(15), width - _MARGIN - end - 28)
    draw.text((width - _MARGIN, below), caption, fill=_FAINT, font=font(15), anchor="ra")
    return page


def _draw_legend(
    draw: ImageDraw.ImageDraw,
    box: tuple[int, int, int],
    scale: _Scale | None,
    tone: float,
    style: HeatmapStyle,
) -> None:
    """What the values are and the colour bar, from ``box`` (left, top, bottom)."""
    x, y, bottom = box
    if scale is None:
        draw.text((x, y), "no tile has\na value", fill=_FAINT, font=font(15))
        return
    for line in _wrapped(style.legend, font(15), _SIDE - 30):
        draw.text((x, y), line, fill=_INK, font=font(15))
        y += 21
    y += (12 if style.legend else 0) + (12 if scale.over else 0)
    height = max(60, min(360, bottom - y))
    ramp = scale.colours(np.linspace(scale.high, scale.low, height)).astype(np.float32)
    bar = np.rint(tone + (ramp - tone) * style.opacity).astype(np.uint8)
    for i, colour in enumerate(bar.tolist()):
        draw.line((x, y + i, x + _BAR_WIDTH - 1, y + i), fill=tuple(colour))
    middle = x + _BAR_WIDTH / 2 - 0.5
    # A tip says that there are values beyond that end.
    for beyond, base, tip, colour in (
        (scale.over, y - 2, y - 12, bar[0]),
        (scale.under, y + height + 1, y + height + 11, bar[-1]),
    ):
        if beyond:
            corners = [(x, base), (x + _BAR_WIDTH - 1, base), (middle, tip)]
            draw.polygon(corners, fill=tuple(colour.tolist()))
    for tick in _ticks(scale.low, scale.high):
        at = y + (scale.high - tick) / (scale.high - scale.low) * (height - 1)
        draw.line((x + _BAR_WIDTH, at, x + _BAR_WIDTH + 5, at), fill=_FAINT)
        draw.text((x + _BAR_WIDTH + 11, at), f"{tick:g}", fill=_INK, font=font(15), anchor="lm")


def _ticks(low: float, high: float) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    slack = (high - low) * 1e-6
    ticks = MaxNLocator(5).tick_values(low, high)
    return [float(f"{tick:.6g}") for tick in ticks if low - slack <= tick <= high + slack]


def _draw_scale_bar(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], um_per_px: float, width: int
) -> float:
    """A bar of a round length, about a fifth of the picture; returns where its text ends."""
    um = round_length(um_per_px * width / 5)
    px = um / um_per_px
    x, y = corner
    draw.rectangle((x, y + 6, x + px - 1, y + 10), fill=_INK)
    text = f"{um / 1000:g} mm" if um >= 1000 else f"{um:g} µm"
    draw.text((x + px + 10, y + 8), text, fill=_INK, font=font(15), anchor="lm")
    return x + px + 10 + font(15).getlength(text)


def round_length(um: float) -> float:
    """The largest of 1, 2, 5 × a power of ten that is not above ``um`` (> 0)."""
    power = 10.0 ** np.floor(np.log10(um))
    return float(max(step * power for step in (1, 2, 5) if step * power <= um * (1 + 1e-9)))


def _wrapped(text: str, font: ImageFont.FreeTypeFont, px: float) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= px:
            lines[-1] += f" {word}"
        else:
            lines.append(fit(word, font, px))
    return lines
