"""A store out through AnnData, LazySlide and Parquet and back: the same vectors, places and tissue, to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from beph_store.engine.exporting import ExportOptions, export_features
from beph_store.engine.importing_features import import_features
from beph_store.store import Store

from .grown import RECIPE, SIDE, grow
from .test_frames_formats import KINDS

LOST = (2, 5)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return grow(tmp_path_factory.mktemp("grown"), ("a.svs", "sub/b.svs"), lost=LOST)


@pytest.mark.parametrize("kind", KINDS)
def test_out_and_back_is_the_same_store(kind: str, store: Store, tmp_path: Path) -> None:
    report = export_features(kind, store.layout.root, tmp_path / "out")
    assert [one.status for one in report.slides] == ["done", "done"]
    assert report.nbytes > 1000
    again = export_features(kind, store.layout.root, tmp_path / "out")
    assert [one.status for one in again.slides] == ["skipped", "skipped"]
    imported = import_features(kind, tmp_path / "out", tmp_path / "B")
    assert not imported.failed
    other = Store.open(tmp_path / "B")
    for row in store.rows(RECIPE.key):
        back = other.slide(RECIPE.key, row.slide_id)
        assert (back.sha256, back.case_id, back.unreadable) == (row.sha256, row.case_id, len(LOST))
        mask = other.rasters(RECIPE.key, row.slide_id).tissue.mask
        np.testing.assert_array_equal(mask, store.rasters(RECIPE.key, row.slide_id).tissue.mask)


@pytest.mark.parametrize("kind", KINDS)
def test_without_our_notes_the_file_itself_says_what_it_holds(
    kind: str, store: Store, tmp_path: Path
) -> None:
    export_features(kind, store.layout.root, tmp_path / "out", options=ExportOptions(sidecar=False))
    (recipe,) = import_features(kind, tmp_path / "out", tmp_path / "B").recipes
    other = Store.open(tmp_path / "B")
    assert other.recipe(recipe).recipe.encoder.name == "toy"
    tile = other.recipe(recipe).recipe.tile
    assert (tile.tile_px, tile.mpp, tile.stride_px, tile.tissue_min) == (224, 0.5, 224, 0.25)
    for slide_id in ("a.svs", "sub/b.svs"):
        ours, theirs = store.bag(RECIPE.key, slide_id), other.bag(recipe, Path(slide_id).stem)
        np.testing.assert_array_equal(theirs.vectors, ours.vectors)
        np.testing.assert_array_equal(theirs.origin_l0, ours.origin_l0)
        np.testing.assert_array_equal(theirs.tissue, ours.tissue)
        row = other.slide(recipe, Path(slide_id).stem)
        assert (row.footprint_l0, row.mpp_x) == (SIDE, 0.25)


def test_the_tissues_of_a_store_are_lazyslides(store: Store, tmp_path: Path) -> None:
    export_features("wsidata", store.layout.root, tmp_path / "out")
    shapes = tmp_path / "out" / "a.zarr" / "shapes"
    assert len(pq.read_table(shapes / "tissues" / "shapes.parquet")) == 2
    assert set(pq.read_table(shapes / "tiles" / "shapes.parquet")["tissue_id"].to_pylist()) == {0, 1}
