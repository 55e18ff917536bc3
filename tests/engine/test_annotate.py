"""Annotated areas become labels of tiles, exactly; the same again changes nothing; what cannot be meant is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from beph_store.cohort import ColumnChoice
from beph_store.engine.annotate import (
    AnnotateOptions,
    annotate,
    book_of,
    labels_csv,
    undo_annotation,
)
from beph_store.engine.bounds import origin_of
from beph_store.engine.exporting_geojson import GeoJsonOptions, export_geojson
from beph_store.engine.probe.store import Wanted, store_tiles
from beph_store.errors import CohortError, UnknownSlide, UsageError
from beph_store.store import Store
from beph_store_cli.main import app

from ..cli.calling import call
from ..interop.grown import RECIPE, SIDE, SIZE, grow, tiles_of

KEY = RECIPE.key


def ring(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def feature(
    name: str | None, /, *rings: list[list[float]], kind: str = "Polygon", **properties: object
) -> dict:
    shape = {"type": kind, "coordinates": [list(rings)] if kind == "MultiPolygon" else list(rings)}
    held = {} if name is None else {"classification": {"name": name, "color": [200, 0, 0]}}
    return {
        "type": "Feature",
        "geometry": shape,
        "properties": {"objectType": "annotation", **held, **properties},
    }


def written(path: Path, *features: dict) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def asap(path: Path, *areas: tuple[str, str, list[tuple[float, float]]]) -> Path:
    parts = []
    for number, (group, kind, points) in enumerate(areas):
        rows = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(points))
        parts.append(
            f'<Annotation Name="A {number}" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58">'
            f"<Coordinates>{rows}</Coordinates></Annotation>"
        )
    groups = "".join(
        f'<Group Name="{g}" PartOfGroup="None" Color="#00ff00"><Attributes/></Group>' for g, _, _ in areas
    )
    path.write_text(
        f'<?xml version="1.0"?>\n<ASAP_Annotations><Annotations>{"".join(parts)}</Annotations>'
        f"<AnnotationGroups>{groups}</AnnotationGroups></ASAP_Annotations>"
    )
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return grow(tmp_path, ("a.svs", "b.svs"))


def labels_of(store: Store, target: str | None = None) -> dict[tuple[str, int, int], str]:
    found = book_of(store, KEY, target).labels().tiles
    return {key: label.mark.label for key, label in found.items()}


def middles(box: tuple[int, int, int, int]) -> set[tuple[int, int]]:
    """Tiles whose middle lies in the box, by their places."""
    origin = tiles_of("a.svs").origin_l0
    inside = ((origin + SIDE / 2 >= box[:2]) & (origin + SIDE / 2 < box[2:])).all(axis=1)
    return set(map(tuple, origin[inside].tolist()))


def test_areas_of_qupath_label_the_tiles_whose_middle_they_hold(store: Store, tmp_path: Path) -> None:
    left, right = (0, 0, 1500, 1500), (3300, 900, 4300, 2000)
    path = written(
        tmp_path / "a.geojson",
        feature("Tumor", ring(*left)),
        feature("Stroma", ring(*right), kind="MultiPolygon"),
        feature(None, ring(0, 0, 9, 9), name="a note"),
        {"type": "Feature", "geometry": {"type": "Point", "coordinates": [4, 4]}, "properties": {}},
    )
    report = annotate(store.layout.root, [path])
    tumour, stroma = middles(left), middles(right)
    assert tumour
    assert stroma
    expected = {("a.svs", *place): "Tumor" for place in tumour} | {
        ("a.svs", *place): "Stroma" for place in stroma
    }
    assert labels_of(store) == expected
    (one,) = report.slides
    assert one.tiles == {"Tumor": len(tumour), "Stroma": len(stroma)}
    assert (one.areas, one.changed, one.relabelled, one.several) == (2, len(expected), 0, 0)
    assert one.left_out == ("object 3 (a note): it has no classification", "object 4: a Point has no area")


def test_the_same_again_writes_nothing_and_undo_takes_it_back(store: Store, tmp_path: Path) -> None:
    path = written(tmp_path / "a.svs.geojson", feature("Tumor", ring(0, 0, 1500, 1500)))
    first = annotate(store.layout.root, [path])
    journal = store.layout.annotations(KEY).read_bytes()
    second = annotate(store.layout.root, [path])
    assert second.slides[0].changed == 0
    assert second.slides[0].tiles == first.slides[0].tiles
    assert store.layout.annotations(KEY).read_bytes() == journal
    assert undo_annotation(store.layout.root, "annotate").labelled == 0
    assert labels_of(store) == {}


def test_share_holes_rest_and_replace(store: Store, tmp_path: Path) -> None:
    half = ring(0, SIDE, 1.5 * SIDE, 3 * SIDE)  # column 0 whole, half of column 1
    path = written(tmp_path / "a.json", feature("Tumor", half, ring(0, SIDE, SIDE, 2 * SIDE)))
    asked = AnnotateOptions(cover=0.5, rest="normal")
    counts = annotate(store.layout.root, [path], asked).slides[0].tiles
    tumour = {(x, y) for _, x, y in (k for k, v in labels_of(store).items() if v == "Tumor")}
    assert tumour == {(0, 2 * SIDE), (SIDE, SIDE), (SIDE, 2 * SIDE)} & set(
        map(tuple, tiles_of("a.svs").origin_l0.tolist())
    )
    assert sum(counts.values()) == len(tiles_of("a.svs"))
    report = annotate(store.layout.root, [path], AnnotateOptions(cover=0.51, replace=True))
    assert labels_of(store) == {("a.svs", 0, 2 * SIDE): "Tumor"}
    assert report.slides[0].relabelled == sum(counts.values()) - 1


def test_asap_groups_are_classes_and_exclusions_take_out(store: Store, tmp_path: Path) -> None:
    box = [(0, 0), (1500, 0), (1500, 1500), (0, 1500)]
    out = [(400, 400), (900, 400), (900, 900), (400, 900)]
    path = asap(
        tmp_path / "b.xml",
        ("_0", "Polygon", box),
        ("_2", "Polygon", out),
        ("None", "Polygon", box),
        ("_0", "Dot", [(1, 1)]),
    )
    asked = AnnotateOptions(rename={"_0": "tumour", "_2": ""}, rest="normal")
    (one,) = annotate(store.layout.root, [path], asked).slides
    held = labels_of(store)
    taken = middles((400, 400, 900, 900))
    assert taken
    assert not {("b.svs", *place) for place in taken} & set(held)
    assert {p[1:] for p, label in held.items() if label == "tumour"} == middles((0, 0, 1500, 1500)) - taken
    assert one.tiles["normal"] == len(tiles_of("b.svs")) - len(middles((0, 0, 1500, 1500)))
    assert one.left_out == (
        "annotation 3 (A 2): it is in no group: groups are the classes",
        "annotation 4 (A 3): a Dot has no area",
    )


def test_a_target_has_a_book_of_its_own(store: Store, tmp_path: Path) -> None:
    path = written(tmp_path / "a.geojson", feature("3+4", ring(0, 0, 1500, 1500)))
    annotate(store.layout.root, [path], target="grade")
    assert labels_of(store) == {}
    assert set(labels_of(store, "grade").values()) == {"3+4"}
    with pytest.raises(UsageError, match="--target"):
        annotate(store.layout.root, [path], target="../x")


def test_probe_trains_on_regions(store: Store, tmp_path: Path) -> None:
    files = [written(tmp_path / f"{n}.geojson", feature("Tumor", ring(0, 0, 1500, 3000))) for n in "ab"]
    annotate(store.layout.root, files, AnnotateOptions(rest="normal"))
    tiles = store_tiles(store.layout.root, None)
    assert tiles.classes == ("Tumor", "normal")
    assert tiles.case_ids == ("case-a", "case-b")
    held = labels_of(store)
    place = {
        (s, n): tuple(p) for s in ("a.svs", "b.svs") for n, p in enumerate(tiles_of(s).origin_l0.tolist())
    }
    for slide, number, truth in zip(tiles.names["slide_id"], tiles.names["tile"], tiles.truth, strict=True):
        assert held[slide, *place[slide, number]] == tiles.classes[truth]
    table = tmp_path / "t.csv"
    assert labels_csv(store.layout.root, table) == len(held)
    by_table = store_tiles(store.layout.root, table)
    assert (by_table.truth == tiles.truth).all()
    assert (by_table.vectors == tiles.vectors).all()
    with pytest.raises(CohortError, match="no tile of recipe"):
        store_tiles(store.layout.root, None, wanted=Wanted(ColumnChoice(target="grade")))


def test_labels_go_out_and_come_back(store: Store, tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.geojson",
        feature("Tumor", ring(0, 0, 1500, 1500)),
        feature("Fat", ring(3300, 900, 4300, 2000)),
    )
    annotate(store.layout.root, [path])
    (out,) = export_geojson(
        store.layout.root, tmp_path / "out", GeoJsonOptions("labels", bounds_origin=(100, 50))
    )
    data = json.loads(out.read_text())
    assert out.name == "a.svs.geojson"
    assert {f["properties"]["objectType"] for f in data["features"]} == {"tile"}
    assert min(p[0] for f in data["features"] for p in f["geometry"]["coordinates"][0]) == -100
    other = grow(tmp_path / "other", ("a.svs",))
    for asked in (
        AnnotateOptions(bounds_origin=(100, 50)),
        AnnotateOptions(bounds_origin=(100, 50), cover=0.9),
    ):
        annotate(other.layout.root, [out], asked)
        assert labels_of(other) == labels_of(store)


@pytest.mark.parametrize(
    ("features", "asked", "match"),
    [
        (
            [feature("T", [[0, 0], [900, 900], [900, 0], [0, 900], [0, 0]])],
            {},
            r"object 1 crosses itself at x 450, y 450",
        ),
        ([feature("T", ring(0, 0, SIZE[0] + 5, 90))], {}, "beyond the slide of"),
        ([feature("T", ring(-5, 0, 90, 90))], {}, "beyond the slide of"),
        ([feature("T", ring(0, 0, 90, 90))], {"bounds_origin": (SIZE[0], 0)}, "beyond the slide of"),
        ([feature(None, ring(0, 0, 90, 90))], {}, "no area with a class"),
        ([], {}, "no area with a class"),
        ([feature("T", [["a", 0], [1, 1], [2, 0]])], {}, "object 1 cannot be read"),
        ([feature("T", [[1]])], {}, "object 1 cannot be read"),
        (
            [{"type": "Feature", "geometry": {"type": "Polygon"}, "properties": {}}],
            {},
            "object 1 cannot be read",
        ),
        ([feature("T", [[0, 0], [float("nan"), 0], [5, 5]])], {}, "not finite"),
        ([feature("=1+1", ring(0, 0, 900, 900))], {}, "formula"),
        ([feature("T", ring(0, 0, 90, 90))], {"in_bounds": True}, "--bounds-origin X,Y"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_writes_nothing(
    store: Store, tmp_path: Path, features: list[dict], asked: dict, match: str
) -> None:
    good = written(tmp_path / "b.geojson", feature("T", ring(0, 0, 900, 900)))
    path = written(tmp_path / "a.geojson", *features)
    with pytest.raises(UsageError, match=match):
        annotate(store.layout.root, [good, path], AnnotateOptions(**asked))
    assert labels_of(store) == {}


def test_crossing_and_beyond_may_be_allowed(store: Store, tmp_path: Path) -> None:
    eight = [[0, 0], [900, 900], [900, 0], [0, 900], [0, 0]]
    path = written(
        tmp_path / "a.geojson", feature("T", eight), feature("U", ring(0, 2000, SIZE[0] + 500, 9000))
    )
    report = annotate(
        store.layout.root, [path], AnnotateOptions(self_crossing="fill", outside="clip", cover=0.2)
    )
    assert set(report.slides[0].tiles) == {"T", "U"}


def test_slides_are_found_by_name_and_otherwise_refused(store: Store, tmp_path: Path) -> None:
    path = written(tmp_path / "regions.geojson", feature("T", ring(0, 0, 900, 900)))
    with pytest.raises(UnknownSlide, match=r"no finished slide is called 'regions'"):
        annotate(store.layout.root, [path])
    assert annotate(store.layout.root, [path], AnnotateOptions(slide="b")).slides[0].slide_id == "b.svs"
    twice = [
        written(tmp_path / name, feature("T", ring(0, 0, 900, 900))) for name in ("a.geojson", "a.svs.json")
    ]
    with pytest.raises(UsageError, match=r"both of a\.svs"):
        annotate(store.layout.root, twice)
    with pytest.raises(UsageError, match="one slide"):
        annotate(store.layout.root, twice, AnnotateOptions(slide="a"))


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.geojson", "{", "no GeoJSON"),
        ("a.geojson", '"text"', "no GeoJSON"),
        ("a.geojson", "[1]", "cannot be read"),
        ("a.xml", "<x", "no XML"),
        ("a.xml", "<Annotations/>", "only ASAP's XML"),
        ("a.xml", '<!DOCTYPE x [<!ENTITY a "b">]><ASAP_Annotations/>', "document type"),
        ("a.xml", "<ASAP_Annotations><Annotations/></ASAP_Annotations>", "no area"),
        ("a.csv", "x", r"\.geojson \(QuPath\) and \.xml \(ASAP\)"),
    ],
)
def test_files_that_are_none(store: Store, tmp_path: Path, name: str, text: str, match: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=match):
        annotate(store.layout.root, [tmp_path / name], AnnotateOptions(slide="a"))


def test_classes_of_other_programs(store: Store, tmp_path: Path) -> None:
    """GeoPandas writes the class as a text; a plain property may hold it; QuPath lists the parts of a derived one."""
    path = tmp_path / "a.geojson"
    shape = {"type": "Polygon", "coordinates": [ring(0, 0, 1500, 1500)]}
    for properties, asked, name in (
        ({"classification": '{"name": "Tumor", "color": null}'}, {}, "Tumor"),
        ({"classification": {"names": ["Tumor", "Positive"]}}, {}, "Tumor: Positive"),
        ({"label": 3}, {"prop": "label"}, "3"),
    ):
        path.write_text(json.dumps([{"type": "Feature", "geometry": shape, "properties": properties}]))
        report = annotate(store.layout.root, [path], AnnotateOptions(**asked))
        assert set(report.slides[0].tiles) == {name}


def test_the_corner_of_a_file_with_bounds(store: Store, realdata: Path) -> None:
    row = store.slide(KEY, "a.svs")
    (slide, *_) = sorted(realdata.glob("wsi_openslide/*.svs"))
    assert origin_of(dataclasses.replace(row, path=str(slide)), in_bounds=True, corner=None) == (0, 0)


def test_bounds_are_read_from_the_file(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from beph_store.slides import openslide

    (tmp_path / "a.mrxs").write_bytes(b"x")
    row = dataclasses.replace(store.slide(KEY, "a.svs"), path=str(tmp_path / "a.mrxs"))

    class Handle:
        def __init__(self, path: str) -> None:
            assert path == row.path
            given = {"x": 120, "y": 40, "width": 9, "height": 8}
            self.properties = {f"openslide.bounds-{name}": str(n) for name, n in given.items()}

        def __enter__(self) -> Handle:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr("openslide.OpenSlide", Handle)
    assert openslide.bounds(tmp_path / "a.mrxs") == (120, 40, 9, 8)
    assert origin_of(row, in_bounds=True, corner=None) == (120, 40)
    with pytest.raises(UsageError, match="leave --in-bounds out"):
        origin_of(row, in_bounds=True, corner=(1, 1))


def test_the_command(tmp_path: Path) -> None:
    root = grow(tmp_path, ("a.svs", "b.svs", "c.svs")).layout.root
    files = [written(tmp_path / f"{n}.geojson", feature("Tumor", ring(0, 0, 1500, 3000))) for n in "abc"]
    out, _ = call("annotate", root, *files, "--rest", "normal", "-o", tmp_path / "t.csv", "--json")
    report = json.loads(out)
    assert report["labelled"] == 3 * len(tiles_of("a.svs"))
    assert report["written"] == [str(tmp_path / "t.csv")]
    assert pl.read_csv(tmp_path / "t.csv").height == report["labelled"]
    probed = json.loads(call("probe", root, "--folds", 3, "--draws", 20, "--json")[0])
    assert "tile" in json.dumps(probed)
    _, err = call("annotate", root, tmp_path / "none.geojson", "--slide", "a", code=2)
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_what_the_command_shows(store: Store, tmp_path: Path) -> None:
    run = CliRunner().invoke
    path = written(
        tmp_path / "a.geojson", feature("Tumor", ring(0, 0, 1500, 3000)), feature(None, ring(0, 0, 9, 9))
    )
    shown = run(app, ["annotate", str(store.layout.root), str(path)])
    assert shown.exit_code == 0
    assert f"Tumor {len(middles((0, 0, 1500, 3000)))}" in shown.stdout
    assert "left out object 2: it has no classification" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 100
    again = run(app, ["annotate", str(store.layout.root), "--undo", "-o", str(tmp_path / "out"), "--json"])
    assert json.loads(again.stdout) | {"labelled": 0, "written": []} == json.loads(again.stdout)
    assert isinstance(run(app, ["annotate", str(store.layout.root)]).exception, UsageError)
    wrong = run(app, ["annotate", str(store.layout.root), str(path), "--bounds-origin", "1"])
    assert "two whole numbers" in str(wrong.exception)
