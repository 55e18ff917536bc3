"""Annotations by the suffix of their file: one row a format."""

from __future__ import annotations

from pathlib import Path

from beph_store.errors import UsageError
from beph_store.interop.asap import read_asap
from beph_store.interop.geojson import read_geojson
from beph_store.interop.regions import Annotations, Region, crossing

SUFFIXES = (".geojson", ".json", ".xml")


def read_annotations(path: Path, *, prop: str | None = None) -> Annotations:
    """The annotated areas of a GeoJSON file (QuPath) or of an XML file (ASAP). UsageError for what is neither."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"{path.name}: annotations are read from .geojson (QuPath) and .xml (ASAP)", path=path
        )
    if path.suffix.lower() != ".xml":
        return read_geojson(path, prop=prop)
    if prop is not None:
        raise UsageError(f"{path.name}: --property is for GeoJSON; in ASAP's XML the groups are the classes")
    return read_asap(path)


def check_regions(
    found: Annotations, size_l0: tuple[int, int], *, crossings: bool = False, outside: bool = False
) -> None:
    """Raise UsageError for an area that crosses itself or reaches beyond the slide of ``size_l0`` (width, height).

    ``crossings`` and ``outside`` allow either.
    """
    for region in found.regions:
        if not outside:
            _check_inside(found.path, region, size_l0)
        if crossings or region.exact:
            continue
        for polygon in region.polygons:
            place = crossing(polygon)
            if place is not None:
                raise UsageError(
                    f"{found.path.name}: {region.name} crosses itself at x {place[0]:.0f}, y {place[1]:.0f}: "
                    "correct it there, or --self-crossing fill takes what its outline winds around",
                    path=found.path,
                )


def _check_inside(path: Path, region: Region, size_l0: tuple[int, int]) -> None:
    """A px of tolerance: some programs draw to the outer edge of the last pixel, or half a px beyond."""
    x0, y0, x1, y1 = region.box
    if min(x0, y0) < -1 or x1 > size_l0[0] + 1 or y1 > size_l0[1] + 1:
        raise UsageError(
            f"{path.name}: {region.name} reaches from ({x0:.0f}, {y0:.0f}) to ({x1:.0f}, {y1:.0f}), beyond the "
            f"slide of {size_l0[0]} × {size_l0[1]} px: another slide's? counted --in-bounds? --outside clip allows it",
            path=path,
        )
