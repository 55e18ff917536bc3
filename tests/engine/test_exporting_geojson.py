"""GeoJSON of tiles, tissue, labels and heatmaps: where they are, counted as QuPath counts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from beph_store.engine.annotate import AnnotateOptions, annotate, book_of
from beph_store.engine.exporting_geojson import GeoJsonOptions, export_geojson
from beph_store.errors import UnknownSlide, UsageError
from beph_store.interop.geojson import read_geojson
from beph_store.interop.regions import contains, crossing
from beph_store.store import Store
from beph_store_cli.main import app

from ..interop.grown import RECIPE, SIDE, SIZE, grow, tiles_of, tissue


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return grow(tmp_path_factory.mktemp("grown"), ("a.svs", "sub/b.svs"), lost=(1,))


def corners(data: dict) -> list[list[int]]:
    return [feature["geometry"]["coordinates"][0][0] for feature in data["features"]]


def test_tiles_are_squares_where_they_are(store: Store, tmp_path: Path) -> None:
    made = export_geojson(store.layout.root, tmp_path)
    assert made == [tmp_path / "a.svs.geojson", tmp_path / "sub" / "b.svs.geojson"]
    data = json.loads(made[0].read_text())
    origin = np.delete(tiles_of("a.svs").origin_l0, 1, axis=0)
    assert corners(data) == origin.tolist()
    first = data["features"][0]
    assert first["properties"] == {"objectType": "tile", "name": "tile 0"}
    x, y = origin[0].tolist()
    assert first["geometry"]["coordinates"][0][2] == [x + SIDE, y + SIDE]
    moved = export_geojson(
        store.layout.root, tmp_path / "m", GeoJsonOptions(bounds_origin=(7, 9), slides=("a",))
    )
    assert corners(json.loads(moved[0].read_text())) == (origin - (7, 9)).tolist()


def test_tissue_is_the_stored_mask_with_its_hole(store: Store, tmp_path: Path) -> None:
    (path, _) = export_geojson(store.layout.root, tmp_path, GeoJsonOptions("tissue"))
    found = read_geojson(path).regions
    assert [region.label for region in found] == ["Tissue", "Tissue"]
    assert sorted(len(region.polygons[0]) for region in found) == [1, 2]
    mask = tissue().mask
    y, x = np.indices(mask.shape)
    points = np.stack([(x.ravel() + 0.5) * SIZE[0] / 140, (y.ravel() + 0.5) * SIZE[1] / 112], 1)
    inside = sum(contains(region.polygons[0], points) for region in found)
    assert (inside == mask.ravel()).all()
    assert all(crossing(region.polygons[0]) is None for region in found)


def test_tissue_of_one_store_labels_the_tiles_of_another(store: Store, tmp_path: Path) -> None:
    other = grow(tmp_path, ("a.svs",))
    (path, _) = export_geojson(store.layout.root, tmp_path / "out", GeoJsonOptions("tissue"))
    annotate(other.layout.root, [path], AnnotateOptions(rest="background"))
    held = {label.mark.label for label in book_of(other, RECIPE.key).labels().tiles.values()}
    assert held == {"Tissue"}  # a tile is there because its middle is tissue


def test_a_heatmap_of_every_slide(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from beph_store.engine import exporting_geojson as module
    from beph_store.engine.study.attention import TileValues

    class Run:
        @classmethod
        def open(cls, path: Path) -> Run:
            assert path == tmp_path / "head"
            return cls()

        def fits(self, opened: Store) -> str:
            return RECIPE.key

    def values(run: Run, opened: Store, slide_id: str, **_: object) -> TileValues:
        bag = opened.bag(RECIPE.key, slide_id)
        return TileValues(bag, np.linspace(0, 1, len(bag), dtype=np.float32), "score for T", "T 80%", True)

    monkeypatch.setattr(module, "TrainedRun", Run)
    monkeypatch.setattr(module, "tile_values", values)
    made = export_geojson(
        store.layout.root,
        tmp_path / "o",
        GeoJsonOptions("heatmap", head=tmp_path / "head", bounds_origin=(1, 2)),
    )
    data = json.loads(made[0].read_text())
    assert data["properties"]["prediction"] == "T 80%"
    assert data["features"][-1]["properties"]["measurements"] == {"score for T": 1.0}
    assert corners(data) == (store.bag(RECIPE.key, "a.svs").origin_l0 - (1, 2)).tolist()


def test_what_cannot_be_meant(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--what 'x'"):
        GeoJsonOptions("x")  # type: ignore[arg-type]
    for wrong in ({"what": "heatmap"}, {"what": "tiles", "head": tmp_path}):
        with pytest.raises(UsageError, match="--head"):
            GeoJsonOptions(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UnknownSlide):
        export_geojson(store.layout.root, tmp_path, GeoJsonOptions(slides=("none",)))
    with pytest.raises(UsageError, match="--bounds-origin X,Y"):
        export_geojson(store.layout.root, tmp_path, GeoJsonOptions(in_bounds=True))
    assert export_geojson(store.layout.root, tmp_path, GeoJsonOptions("labels")) == []


def test_the_command(store: Store, tmp_path: Path) -> None:
    run, root = CliRunner().invoke, str(store.layout.root)
    shown = run(app, ["export", "geojson", root, "-o", str(tmp_path), "--what", "tissue", "--json"])
    assert shown.exit_code == 0, shown.exception
    assert json.loads(shown.stdout)["files"] == [
        str(tmp_path / "a.svs.geojson"),
        str(tmp_path / "sub" / "b.svs.geojson"),
    ]
    wrong = run(app, ["export", "parquet", root, "-o", str(tmp_path), "--what", "tissue"])
    assert "--what is for `export geojson` only" in str(wrong.exception)
