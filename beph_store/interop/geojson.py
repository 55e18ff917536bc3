"""GeoJSON as QuPath reads and writes it: annotations in, tiles and outlines out. Coordinates are level-0 px.

QuPath shows a slide that states bounds (`openslide.bounds-x`) cropped to them, and counts from their corner: whoever
calls shifts by that corner, here nothing is known of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from beph_store.errors import UsageError
from beph_store.interop.regions import Annotations, Polygon, Region, Ring, ring_of
from beph_store.regular import require_regular

Feature = dict[str, Any]
#: Objects of QuPath that stand for squares of a grid.
_TILES = ("tile", "detection")


def read_geojson(path: Path, *, prop: str | None = None) -> Annotations:
    """The areas of a file: a FeatureCollection, a list of features, or one; polygons with holes, many in one object.

    The class is QuPath's ``classification.name``, or the property called ``prop``. Objects without a class and those
    that are no area are left out by name. Raises UsageError for a file that is no GeoJSON.
    """
    regions, left = [], []
    for number, feature in enumerate(_features(path), 1):
        name = f"object {number}"
        try:
            if not isinstance(feature, dict):
                raise ValueError("it is no object")
            properties = feature.get("properties") or {}
            name = _name(properties, name)
            label = _label(properties, prop)
            polygons = tuple(_polygons(feature.get("geometry") or {}))
        except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
            raise UsageError(f"{path.name}: {name} cannot be read: {error}", path=path) from error
        if not polygons:
            left.append((name, f"a {_kind(feature)} has no area"))
        elif label is None:
            wanted = f"property {prop!r}" if prop else "classification"
            left.append((name, f"it has no {wanted}"))
        else:
            exact = properties.get("objectType") in _TILES
            regions.append(Region(label, polygons, name, exact))
    return Annotations(path, tuple(regions), tuple(left))


def _features(path: Path) -> Sequence[Any]:
    try:
        require_regular(path)
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}", path=path) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path.name} is no GeoJSON: {str(error)[:120]}", path=path) from error
    if isinstance(data, dict):
        data = data.get("features") if data.get("type") == "FeatureCollection" else [data]
    if not isinstance(data, list):
        raise UsageError(f"{path.name} is no GeoJSON: it has neither features nor a list of them", path=path)
    return data


def _name(properties: Mapping[str, Any], name: str) -> str:
    given = properties.get("name")
    return f"{name} ({given[:40]})" if isinstance(given, str) and given.isprintable() and given else name


def _label(properties: Mapping[str, Any], prop: str | None) -> str | None:
    if prop is not None:
        value = properties.get(prop)
        return None if value is None else str(value)
    given = properties.get("classification")
    if isinstance(given, str) and given.lstrip().startswith("{"):  # GeoPandas writes the object as a text
        given = json.loads(given)
    if isinstance(given, dict):
        if isinstance(given.get("names"), list):  # QuPath from 0.5 on: a class and what derives from it
            return ": ".join(map(str, given["names"]))
        given = given.get("name")
    return given if isinstance(given, str) and given else None


def _kind(feature: Mapping[str, Any]) -> str:
    kind = (feature.get("geometry") or {}).get("type")
    return kind if isinstance(kind, str) and kind.isalpha() else "feature without geometry"


def _polygons(geometry: Mapping[str, Any]) -> Iterator[Polygon]:
    kind = geometry.get("type")
    if kind == "Polygon":
        yield from _polygon(geometry["coordinates"])
    elif kind == "MultiPolygon":
        for rings in geometry["coordinates"]:
            yield from _polygon(rings)
    elif kind == "GeometryCollection":
        for part in geometry["geometries"]:
            yield from _polygons(part)


def _polygon(rings: Sequence[Any]) -> Iterator[Polygon]:
    outline, *holes = map(ring_of, rings)
    if outline is not None:
        yield (outline, *(hole for hole in holes if hole is not None))


def square(x: int, y: int, side: int) -> list[list[int]]:
    """A tile's closed ring."""
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def tile_feature(corner: tuple[int, int], side: int, properties: Mapping[str, Any]) -> Feature:
    """A tile as a tile object of QuPath: light enough for hundreds of thousands."""
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [square(*corner, side)]},
        "properties": {"objectType": "tile", **properties},
    }


def area_feature(polygon: Polygon, properties: Mapping[str, Any]) -> Feature:
    """A polygon with its holes as an annotation of QuPath."""
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [_closed(ring) for ring in polygon]},
        "properties": {"objectType": "annotation", **properties},
    }


def _closed(ring: Ring) -> list[list[float]]:
    rows: list[list[float]] = [[round(x, 2), round(y, 2)] for x, y in ring.tolist()]
    return [*rows, rows[0]]


def collection(features: Iterable[Feature], properties: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A FeatureCollection; ``properties`` say once where all of it comes from."""
    return {"type": "FeatureCollection", "properties": dict(properties or {}), "features": list(features)}


def colour_of(number: int) -> list[int]:
    """(r, g, b) of the class of that number: told apart by eye, and by most who see few colours."""
    return list(_COLOURS[number % len(_COLOURS)])


#: Okabe and Ito's, without black and grey.
_COLOURS = (
    (213, 94, 0),
    (0, 114, 178),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (240, 228, 66),
)
