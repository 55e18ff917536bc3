"""What a map is coloured by: classes with a legend, numbers with a bar, and grey for what nobody labelled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from beph_store.engine.search.table import SearchTable
from beph_store.errors import QueryError

#: Okabe and Ito's colours without black and yellow, and six more, each found as the one farthest from all before it
#: in OKLab under normal, protanopic, deuteranopic and tritanopic vision; all stand out from white and from near-black.
PALETTE = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#CC79A7",
    "#9C3A11",
    "#A76EF8",
    "#694671",
    "#6715E1",
    "#DCBC85",
    "#01D9F3",
)
OTHER, MISSING = "#6B727B", "#A9AFB7"
MISSING_NAME = "not labelled"
#: Steps of the colour bar.
STEPS = 64
#: A column of whole numbers with more values than this is a measurement, not a set of classes.
_CLASSES_OF_NUMBERS = len(PALETTE)
_ALIASES = {"slide": "slide_id", "case": "case_id"}
_OF_TILES = ("tile", "x", "y", "tissue")


@dataclass(frozen=True, slots=True)
class LegendRow:
    """One colour and how many of the map's tiles have it."""

    name: str
    colour: str
    tiles: int


@dataclass(frozen=True, slots=True, eq=False)
class Colouring:
    """Colours of n tiles by one column.

    ``code`` (n,) int16 is a place in ``legend``; on a scale of numbers, -1 for tiles that have one. ``scale`` (n,)
    float32, 0–1 from ``low`` to ``high`` and NaN without a number; None for classes. ``texts`` what each tile says,
    None where nothing. ``grouped``: how many classes share the colour of the others.
    """

    column: str
    legend: tuple[LegendRow, ...]
    code: NDArray[np.int16]
    texts: tuple[str | None, ...]
    scale: NDArray[np.float32] | None = None
    low: float = 0.0
    high: float = 0.0
    grouped: int = 0

    @property
    def note(self) -> str:
        """What the reader of the legend has to know; empty where nothing."""
        if self.scale is not None:
            return "The ends of the bar are the 1st and the 99th percentile."
        return "The classes with the fewest tiles share one colour." if self.grouped else ""


def colour_by(table: SearchTable, rows: NDArray[np.int64], column: str) -> Colouring:
    """Colours of the ``rows`` of a table by a column of the slides, the registry, the labels or the tiles.

    QueryError with the columns there are, where there is none of that name.
    """
    values = column_of(table, rows, column)
    return _by_number(column, values) if _is_measure(values) else _by_class(column, values)


def column_of(table: SearchTable, rows: NDArray[np.int64], column: str) -> pl.Series:
    """(n,) values of a column for rows of the table."""
    slides = table.slide_frame()
    name = column if column in slides.columns else _ALIASES.get(column, column)
    if name in slides.columns and name != "_slide":
        return slides[name].gather(table.slide_of[rows])
    if name not in _OF_TILES:
        have = [one for one in slides.columns if one != "_slide"]
        raise QueryError(f"--colour {column!r}: no such column; there are {', '.join([*have, *_OF_TILES])}")
    if name == "tissue":
        return _tissue(table, rows)
    taken = {"tile": table.flat.tile_index, "x": table.flat.origin_l0[:, 0], "y": table.flat.origin_l0[:, 1]}
    return pl.Series(name, np.asarray(taken[name][rows]))


def _tissue(table: SearchTable, rows: NDArray[np.int64]) -> pl.Series:
    wanted = pl.DataFrame(
        {
            "slide_id": np.array(table.flat.slide_ids, dtype=object)[table.slide_of[rows]].tolist(),
            "tile": np.asarray(table.flat.tile_index[rows]),
        }
    )
    stored = table.store.tiles(table.record.recipe.key).select("slide_id", "tile", "tissue").collect()
    keyed = stored.with_columns(pl.col("tile").cast(wanted["tile"].dtype))
    return wanted.join(keyed, on=["slide_id", "tile"], how="left", maintain_order="left")["tissue"]


def _is_measure(values: pl.Series) -> bool:
    """Numbers, unless they are a few whole ones: those are grades or codes."""
    if not values.dtype.is_numeric():
        return False
    known = _numbers(values)
    known = known[np.isfinite(known)]
    return bool(len(known)) and (len(np.unique(known)) > _CLASSES_OF_NUMBERS or bool((known % 1).any()))


def _numbers(values: pl.Series) -> NDArray[np.float64]:
    return values.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _by_class(column: str, values: pl.Series) -> Colouring:
    texts = tuple(_text(value) for value in values.to_list())
    counts = Counter(text for text in texts if text is not None)
    # The largest get a colour; the legend lists them as people look things up, numbers by value.
    largest = sorted(counts, key=lambda name: (-counts[name], name))[: len(PALETTE)]
    shown = sorted(largest, key=_natural)
    colour = dict(zip(largest, PALETTE, strict=False))  # the first colours are the easiest to tell apart
    legend = [LegendRow(name, colour[name], counts[name]) for name in shown]
    place = {name: i for i, name in enumerate(shown)}
    grouped = len(counts) - len(shown)
    if grouped:
        others = sum(n for name, n in counts.items() if name not in place)
        legend.append(
            LegendRow(f"{grouped:,} other classes" if grouped > 1 else "1 other class", OTHER, others)
        )
    other = len(shown)
    missing = len(legend)
    code = np.array([missing if t is None else place.get(t, other) for t in texts], np.int16)
    absent = int((code == missing).sum())
    if absent:
        legend.append(LegendRow(MISSING_NAME, MISSING, absent))
    return Colouring(column, tuple(legend), code, texts, grouped=grouped)


def _by_number(column: str, values: pl.Series) -> Colouring:
    numbers = _numbers(values)
    known = np.isfinite(numbers)
    low, high = (float(v) for v in np.percentile(numbers[known], [1, 99]))
    if high <= low:
        low, high = float(numbers[known].min()), float(numbers[known].max())
    scale = np.clip((numbers - low) / max(high - low, 1e-300), 0, 1).astype(np.float32)
    scale[~known] = np.nan
    absent = int((~known).sum())
    legend = (LegendRow(MISSING_NAME, MISSING, absent),) if absent else ()
    texts = tuple(f"{value:.6g}" if ok else None for value, ok in zip(numbers.tolist(), known, strict=True))
    return Colouring(column, legend, np.where(known, -1, 0).astype(np.int16), texts, scale, low, high)


def ramp() -> tuple[str, ...]:
    """The colour bar, low to high, as ``STEPS`` hex colours: viridis, even to the eye with or without colour."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return tuple(to_hex(colour) for colour in colormaps["viridis"](np.linspace(0, 1, STEPS)))


def colours_of(colouring: Colouring) -> list[str]:
    """Hex colour of each tile."""
    bar: Sequence[str] = () if colouring.scale is None else ramp()
    at = np.zeros(len(colouring.code), int)
    if colouring.scale is not None:
        at = (np.nan_to_num(colouring.scale) * (STEPS - 1)).round().astype(int)
    return [
        bar[step] if code < 0 else colouring.legend[code].colour
        for code, step in zip(colouring.code.tolist(), at.tolist(), strict=True)
    ]


def _text(value: Any) -> str | None:
    """What a class is called; None for nothing, blank text and NaN."""
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return " ".join(str(value).split()) or None


def _natural(name: str) -> tuple[int, float, str]:
    try:
        return (0, float(name), name)
    except ValueError:
        return (1, 0.0, name)
