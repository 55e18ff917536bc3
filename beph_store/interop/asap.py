"""Annotations of ASAP (XML): groups are classes, coordinates are level-0 px. CAMELYON's come like this."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

from beph_store.errors import UsageError
from beph_store.interop.regions import Annotations, Region, Ring, ring_of
from beph_store.regular import require_regular

#: Areas; a spline's points are taken for the corners of a polygon.
_AREAS = ("polygon", "rectangle", "spline")


def read_asap(path: Path) -> Annotations:
    """The areas of a file, each of the class that its group names.

    Points, measurements and annotations in no group are left out by name. Raises UsageError for a file that is not of
    ASAP, and for one with a document type: entities could be anything.
    """
    regions, left = [], []
    for number, one in enumerate(_annotations(path), 1):
        name = f"annotation {number} ({one.get('Name', '')[:40]})"
        kind, group = one.get("Type", ""), one.get("PartOfGroup", "None")
        if kind.lower() not in _AREAS:
            left.append((name, f"a {kind or 'shape without type'} has no area"))
        elif group in ("", "None"):
            left.append((name, "it is in no group: groups are the classes"))
        else:
            ring = _ring(one, name, path)
            if ring is None:
                left.append((name, "it has no area"))
            else:
                regions.append(Region(group, ((ring,),), name))
    return Annotations(path, tuple(regions), tuple(left))


def _annotations(path: Path) -> Iterator[ET.Element]:
    try:
        require_regular(path)
        text = path.read_bytes()
        if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
            raise UsageError(
                f"{path.name} has a document type, which ASAP does not write: remove it", path=path
            )
        root = ET.fromstring(text)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}", path=path) from error
    except ET.ParseError as error:
        raise UsageError(f"{path.name} is no XML: {error}", path=path) from error
    if root.tag != "ASAP_Annotations":
        raise UsageError(
            f"{path.name} begins with <{root.tag[:40]}>, not <ASAP_Annotations>: only ASAP's XML is read; "
            "export the annotations as GeoJSON",
            path=path,
        )
    return root.iterfind("./Annotations/Annotation")


def _ring(one: ET.Element, name: str, path: Path) -> Ring | None:
    try:
        points = sorted(
            (int(float(c.attrib["Order"])), _number(c.attrib["X"]), _number(c.attrib["Y"]))
            for c in one.iterfind("./Coordinates/Coordinate")
        )
        return ring_of([(x, y) for _, x, y in points])
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"{path.name}: {name} has a coordinate without Order, X or Y in numbers: {error}", path=path
        ) from error


def _number(text: str) -> float:
    """Some machines write a decimal comma."""
    return float(text.replace(",", "."))
