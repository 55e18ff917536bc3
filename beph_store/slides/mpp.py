"""Where a file states how large a pixel is. Magnification is never turned into a pixel size."""

from __future__ import annotations

import re

from beph_store.geometry import MPP_RANGE
from beph_store.slides.backend import StatedMpp
from beph_store.slides.tiffdir import Page

_UM_PER_UNIT = {2: 25400.0, 3: 10000.0}
_UM = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "": 1.0}
_APERIO = re.compile(r"\|\s*MPP\s*=\s*([0-9.eE+-]+)")
_PIXELS = re.compile(r"<(?:\w+:)?Pixels\s[^>]*>")


def stated_in_tiff(page: Page) -> StatedMpp | None:
    """What the first page of a TIFF says: Aperio's own field, then OME-XML, then the resolution tags.

    A resolution outside the range of microscopes (72 dpi, 300 dpi) describes a print, and is not an answer.
    """
    return from_aperio(page.description) or from_ome(page.description) or from_resolution(page)


def from_aperio(description: str) -> StatedMpp | None:
    """``MPP = …`` of an Aperio description."""
    found = _APERIO.search(description) if description.startswith("Aperio") else None
    value = _float(found[1]) if found else None
    return StatedMpp(value, value, "vendor") if value else None


def from_ome(description: str) -> StatedMpp | None:
    """PhysicalSizeX and -Y of the first image of an OME-XML text; found by pattern, no XML is expanded."""
    found = _PIXELS.search(description) if "<OME" in description or ":OME" in description else None
    if not found:
        return None
    attributes = dict(re.findall(r'(\w+)="([^"]*)"', found[0]))
    sizes = []
    for axis in "XY":
        value = _float(attributes.get(f"PhysicalSize{axis}", ""))
        unit = _UM.get(attributes.get(f"PhysicalSize{axis}Unit", ""))
        sizes.append(value * unit if value and unit else None)
    x, y = sizes
    return StatedMpp(x, y, "ome") if x and y else None


def from_resolution(page: Page) -> StatedMpp | None:
    """The TIFF resolution tags, where they can be a microscope's."""
    unit = _UM_PER_UNIT.get(page.resolution_unit)
    if unit is None or not all(value > 0 for value in page.resolution):
        return None
    x, y = (unit / value for value in page.resolution)
    plausible = all(MPP_RANGE[0] <= value <= MPP_RANGE[1] for value in (x, y))
    return StatedMpp(x, y, "tiff") if plausible else None


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
