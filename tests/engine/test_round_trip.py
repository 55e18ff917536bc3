"""Store → each format → store: the same vectors and places; and heads trained on either are the same head."""

import dataclasses
import itertools
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beph_store.cohort import ColumnChoice
from beph_store.engine.exporting import ExportOptions, export_features, export_names
from beph_store.engine.heatmap import slide_overlay
from beph_store.engine.importing import ImportOptions, import_features
from beph_store.engine.importing_recipe import grid_step
from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.engine.study.data import load_study
from beph_store.engine.study.run import train_to
from beph_store.engine.study.train import SplitOptions, TrainOptions
from beph_store.errors import RecipeMismatch, UsageError
from beph_store.heads import HeadOptions
from beph_store.records import EncoderSpec, Rasters, Recipe, SlideInfo, TileSet, TileSpec, TissueMask
from beph_store.store import SlideRow, Store, verify
from tests.interop import layouts

OURS = ("clam", "trident", "stamp", "slide2vec", "atlaspatch", "bags")
#: What brings the bare files of a format back, of slides at 0.5 µm with tiles of 224 px at 0.5.
BARE = {
    "clam": ImportOptions(encoder_name="toy", mpp=0.5, tile_px=224, sidecar=False),
    "trident": ImportOptions(mpp=0.5, sidecar=False),
    "stamp": ImportOptions(mpp_l0=0.5, sidecar=False),
    "slide2vec": ImportOptions(sidecar=False),
    "atlaspatch": ImportOptions(mpp=0.5, sidecar=False),
}


def recipe(dim: int) -> Recipe:
    spec = TileSpec(224, 0.5, 224, 0.25, "otsu-saturation")
    return Recipe(
        spec,
        EncoderSpec("toy", "v1", "0" * 64, 224, 0.5, dim, "mean", (1.0,) * 3, (2.0,) * 3, "fp32", "MIT"),
    )


def put(store: Store, slides: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> str:
    """Slides of (vectors float16 (N, D), places (N, 2), ok (N,)) as an ingest leaves them; the recipe's key."""
    dim = next(iter(slides.values()))[0].shape[1]
    writer = store.writer(recipe(dim), run="ingest", encoder_source="toy", parity={"onnxruntime fp32": {}})
    for number, (slide_id, (vectors, origin, ok)) in enumerate(slides.items()):
        claim = writer.claim(slide_id)
        size = (1 << 20, 1 << 20)
        info = SlideInfo(slide_id, f"/s/{slide_id}", size, 0.5, 0.5, "vendor", (size,), f"{number:064}")
        tissue = np.linspace(0.3, 1, len(vectors), dtype=np.float32)
        tiles = TileSet(slide_id, writer.recipe.tile, origin.astype(np.int32), 224, tissue)
        spool = writer.open_spool(claim, info, tiles)
        if len(vectors):
            spool.add(np.arange(len(vectors), dtype=np.int32), ok, vectors.astype(np.float32))
        mask = TissueMask(np.eye(9, 7, dtype=bool), 8.0, 8.0, "otsu-saturation")
        thumbnail = np.full((9, 7, 3), number, np.uint8)
        row = SlideRow(writer.key, slide_id, "done", case_id=f"case{number}", file_bytes=9, file_mtime_ns=8)
        writer.seal(claim, Rasters(thumbnail, mask), row)
    writer.close()
    return writer.key


def drawn(n: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng([n, dim, seed])
    vectors = rng.normal(size=(n, dim)).astype(np.float16)
    places = np.stack(np.divmod(np.arange(n), 7), axis=1) * 224 + rng.integers(0, 1000, 2)
    return vectors, places, np.ones(n, bool)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A store with a slide in a folder, one with an unreadable tile, one without tiles."""
    folder = tmp_path_factory.mktemp("stored")
    store = Store.create(folder / "S", written_by="test")
    vectors, places, ok = drawn(45, 10, 1)
    ok[7] = False
    vectors[7] = 0
    slides = {
        "site/a.svs": drawn(30, 10, 0),
        "TCGA-01.b4e6.svs": (vectors, places, ok),
        "none.tif": drawn(0, 10, 2),
    }
    return store, put(store, slides)


def seen(store: Store, key: str) -> dict[str, tuple]:
    """All that a reader sees of each slide, by id."""
    found = {}
    for row in store.rows(key):
        rasters = store.rasters(key, row.slide_id)
        kept = dataclasses.replace(
            row, ingest_id=None, run=None, created_at=store.rows(key)[0].created_at, seconds=None
        )
        found[row.slide_id] = (kept, rasters.thumbnail.tolist(), rasters.tissue.mask.tolist())
    return found


@pytest.mark.parametrize("kind", OURS)
def test_with_what_is_kept_beside_the_files_nothing_is_lost(stored, tmp_path, kind):
    store, key = stored
    out = export_features(kind, store.layout.root, tmp_path / "out")
    assert not out.failed
    back = import_features(kind, tmp_path / "out", tmp_path / "S")
    assert back.recipe == key
    again = Store.open(tmp_path / "S")
    expected = seen(store, key)
    if kind in ("clam", "stamp", "bags"):  # there is no file of a slide without tiles
        del expected["none.tif"]
    assert seen(again, key) == expected
    assert again.recipe().encoder_source == "toy"
    assert verify(again).ok


@pytest.mark.parametrize("kind", list(BARE))
def test_the_files_alone_bring_vectors_and_places_back(stored, tmp_path, kind):
    store, key = stored
    export_features(kind, store.layout.root, tmp_path / "out", options=ExportOptions(sidecar=False))
    assert not list((tmp_path / "out").rglob("*beph-store*"))
    back = import_features(kind, tmp_path / "out", tmp_path / "S", options=BARE[kind])
    assert not back.failed
    assert back.recipe != key, "what was not known to be equal must not be taken for it"
    again = Store.open(tmp_path / "S")
    for name in ("site/a.svs", "TCGA-01.b4e6.svs"):
        have, found = store.bag(key, name), again.bag(back.recipe, name_in(kind, name))
        np.testing.assert_array_equal(found.vectors, have.vectors)
        np.testing.assert_array_equal(found.origin_l0, have.origin_l0)
    row = again.slide(back.recipe, name_in(kind, "site/a.svs"))
    assert (row.footprint_l0, row.mpp_x) == (224, 0.5)


def name_in(kind: str, slide_id: str) -> str:
    stem = slide_id.removesuffix(".svs")
    return stem if kind == "stamp" else stem.split("/")[-1]


_ROUND = itertools.count()


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_vectors_and_places_come_back_the_same(tmp_path_factory, data):
    """fp16 as it is stored, fp32 as most formats hold it, µm as STAMP does."""
    n, dim = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 9))
    finite = st.floats(-65504, 65504, width=16).filter(bool)
    values = data.draw(st.lists(finite, min_size=n * dim, max_size=n * dim))
    places = data.draw(
        st.lists(st.tuples(*[st.integers(0, (1 << 20) - 1)] * 2), min_size=n, max_size=n, unique=True)
    )
    vectors = np.array(values, np.float16).reshape(n, dim)
    folder = tmp_path_factory.mktemp(f"any{next(_ROUND)}")
    store = Store.create(folder / "S", written_by="test")
    key = put(store, {"a.svs": (vectors, np.array(places), np.ones(n, bool))})
    kind = data.draw(st.sampled_from(list(BARE)))
    export_features(kind, folder / "S", folder / "out")
    for options, name in ((BARE[kind], "a"), (ImportOptions(), "a.svs")):
        target = folder / f"T{name}"
        back = import_features(kind, folder / "out", target, options=options)
        assert not back.failed, back.failed
        bag = Store.open(target).bag(back.recipe, name)
        np.testing.assert_array_equal(bag.vectors, vectors)
        np.testing.assert_array_equal(bag.origin_l0, places)
    assert back.recipe == key
    shutil.rmtree(folder)


def test_an_export_goes_on_where_it_was_and_does_nothing_twice(stored, tmp_path):
    store, _ = stored
    for kind in OURS:
        out = tmp_path / kind
        one = ExportOptions(slides=("TCGA-01.b4e6.svs",))
        assert [o.status for o in export_features(kind, store.layout.root, out, options=one).slides] == [
            "done"
        ]
        stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*TCGA*") if path.is_file()}
        rest = export_features(kind, store.layout.root, out)
        assert {o.slide_id: o.status for o in rest.slides}["TCGA-01.b4e6.svs"] == "skipped"
        assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
        again = {o.status for o in export_features(kind, store.layout.root, out).slides}
        assert again <= {"skipped", "empty"}


def test_a_file_that_is_somebody_elses_is_not_touched(stored, tmp_path):
    store, key = stored
    theirs = layouts.draw("a", n=9, dim=10)
    layouts.clam(tmp_path, theirs)
    before = {path: path.read_bytes() for path in tmp_path.rglob("a.*")}
    report = export_features("clam", store.layout.root, tmp_path)
    assert [o.slide_id for o in report.failed] == ["site/a.svs"]
    assert "pass --overwrite" in (report.failed[0].error or "")
    assert {path: path.read_bytes() for path in before} == before
    export_features("clam", store.layout.root, tmp_path, options=ExportOptions(overwrite=True))
    back = import_features("clam", tmp_path, tmp_path / "S")
    assert back.recipe == key


def test_an_export_that_was_altered_is_not_taken_for_what_was_exported(stored, tmp_path):
    import h5py

    store, _ = stored
    export_features("trident", store.layout.root, tmp_path / "out")
    (path,) = (tmp_path / "out").rglob("features_toy/a.h5")
    with h5py.File(path, "r+") as file:
        file["features"][0, 0] += 1
    report = import_features("trident", tmp_path / "out", tmp_path / "S")
    assert [o.slide_id for o in report.failed] == ["site/a.svs"]
    assert "is not what beph-store exported: --no-sidecar" in (report.failed[0].error or "")
    other = import_features("trident", tmp_path / "out", tmp_path / "S2", options=BARE["trident"])
    assert not other.failed


def test_a_second_encoder_joins_the_file_of_the_first(stored, tmp_path):
    store, _ = stored
    for name in ("toy", "twin"):
        options = ExportOptions(encoder_name=name, slides=("site/a.svs",), sidecar=False)
        export_features("atlaspatch", store.layout.root, tmp_path / "out", options=options)
    back = import_features("atlaspatch", tmp_path / "out", tmp_path / "S", options=BARE["atlaspatch"])
    assert len(back.recipes) == 2


def test_what_stands_between_recipes_and_folders_is_said(stored, tmp_path):
    store, _ = stored
    with pytest.raises(UsageError, match="clam, trident"):
        export_features("hdf", store.layout.root, tmp_path)
    with pytest.raises(RecipeMismatch):
        export_features("clam", store.layout.root, tmp_path, options=ExportOptions(recipe="ff"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        export_features("clam", store.layout.root, tmp_path / "file")


def test_names_of_files_are_short_where_they_can_be():
    ids = ["x/a.svs", "y/a.svs", "b.1234.svs", "c.svs", "c.tif"]
    names = export_names(ids, nested=False)
    assert names == {
        "x/a.svs": "x__a",
        "y/a.svs": "y__a",
        "b.1234.svs": "b.1234",
        "c.svs": "c.svs",
        "c.tif": "c.tif",
    }
    assert export_names(ids[:3], nested=True) == {"x/a.svs": "x/a", "y/a.svs": "y/a", "b.1234.svs": "b.1234"}


def test_the_step_of_a_grid_is_seen_where_there_is_one():
    grid = np.stack(np.divmod(np.arange(400), 20), 1).astype(np.int32)
    assert grid_step(grid * 512) == 512
    assert grid_step(np.concatenate([grid * 512, grid * 512 + (130, 77)])) == 512
    assert grid_step(grid[:5] * 512) is None
    assert grid_step(np.random.default_rng(0).integers(0, 1 << 20, (500, 2)).astype(np.int32)) is None


def test_a_blank_slide_is_drawn_on_white_and_said_to_be(stored, tmp_path):
    store, _ = stored
    options = dataclasses.replace(BARE["trident"], weights_sha256="ab" * 32)
    export_features("trident", store.layout.root, tmp_path / "out", options=ExportOptions(sidecar=False))
    back = import_features("trident", tmp_path / "out", tmp_path / "S", options=options)
    again = Store.open(tmp_path / "S")
    assert again.recipe().recipe.encoder.weights_sha256 == "ab" * 32
    bag = again.bag(back.recipe, "a")
    picture = slide_overlay(again, bag, np.linspace(0, 1, len(bag)))
    assert picture.width > 500
    rasters = again.rasters(back.recipe, "a")
    assert (rasters.thumbnail == 255).all()
    assert rasters.tissue.mask.any()


def test_without_places_no_heatmap_is_drawn(stored, tmp_path):
    store, _ = stored
    export_features("bags", store.layout.root, tmp_path / "out", options=ExportOptions(sidecar=False))
    options = ImportOptions(encoder_name="toy", mpp=0.5)
    back = import_features("bags", tmp_path / "out", tmp_path / "S", options=options)
    again = Store.open(tmp_path / "S")
    bag = again.bag(back.recipe, "a")
    with pytest.raises(UsageError, match="without the places of its tiles"):
        slide_overlay(again, bag, np.zeros(len(bag)))


def test_slides_at_hand_give_size_scale_picture_and_id(drawn_slide, tmp_path):
    """The features go by the name of the slide's file, which is drawn at 0.5 µm/px."""
    slide = layouts.draw("drawn", n=12)
    slide.origin = np.stack(np.divmod(np.arange(12), 4), 1) * 512
    slide.size = drawn_slide.plan.size
    layouts.stamp(tmp_path / "f", dataclasses.replace(slide, mpp_l0=0.5))
    folder = tmp_path / "slides"
    folder.mkdir()
    (folder / "drawn.tif").symlink_to(drawn_slide.path)
    manifest = tmp_path / "m.csv"
    manifest.write_text("slide_id,case_id\ndrawn.tif,patient 7\n")
    options = ImportOptions(slides=folder, manifest=manifest)
    report = import_features("stamp", tmp_path / "f", tmp_path / "S", options=options)
    assert [(o.slide_id, o.status) for o in report.slides] == [("drawn.tif", "done")]
    store = Store.open(tmp_path / "S")
    row = store.slide(report.recipe, "drawn.tif")
    assert ((row.width_l0, row.height_l0), row.mpp_x, row.case_id) == (
        drawn_slide.plan.size,
        0.5,
        "patient 7",
    )
    assert row.path == str(folder / "drawn.tif")
    assert store.rasters(report.recipe, "drawn.tif").thumbnail.std() > 5
    np.testing.assert_array_equal(store.bag(report.recipe, "drawn.tif").origin_l0, slide.origin)
    assert not any("no thumbnail" in note for note in report.notes)
    again = import_features("stamp", tmp_path / "f", tmp_path / "S", options=options)
    assert [o.status for o in again.slides] == ["skipped"]


def test_features_of_another_slide_than_the_one_at_hand_are_refused(drawn_slide, tmp_path):
    slide = dataclasses.replace(layouts.draw("drawn", n=12), size=(1000, 999))
    slide.origin = np.stack(np.divmod(np.arange(12), 4), 1) * 64
    layouts.trident(tmp_path / "f", slide)
    options = ImportOptions(mpp=1.0, slides=drawn_slide.path.parent)
    report = import_features("trident", tmp_path / "f", tmp_path / "S", options=options)
    assert "1000 × 999" in (report.failed[0].error or "")


@pytest.mark.parametrize("head", ["linear", "abmil"])
def test_a_head_from_imported_clam_features_is_the_head_from_our_own_ingest(tmp_path, head):
    """To the last digit: predictions of every fold, from the files alone."""
    pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    slides, rows = {}, ["slide_id,case_id,grade"]
    for number in range(12):
        vectors, places, ok = drawn(int(rng.integers(8, 20)), 10, number)
        slides[f"s{number:02}.svs"] = ((vectors + (number % 2)).astype(np.float16), places, ok)
        rows.append(f"s{number:02},c{number:02},{'low' if number % 2 else 'high'}")
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(rows) + "\n")
    key = put(Store.create(tmp_path / "ours", written_by="test"), slides)
    export_features("clam", tmp_path / "ours", tmp_path / "clam", options=ExportOptions(sidecar=False))
    import_features("clam", tmp_path / "clam", tmp_path / "theirs", options=BARE["clam"])
    assert Store.open(tmp_path / "theirs").recipe().recipe.key != key
    ours, theirs = (trained(tmp_path / name, labels, head) for name in ("ours", "theirs"))
    assert ours[0].equals(theirs[0]), "what the heads say of each case"
    assert ours[1] == theirs[1], "and their weights"


def trained(store: Path, labels: Path, head: str) -> tuple[pl.DataFrame, list[bytes]]:
    from tests.threads import one_torch_thread

    study = load_study(store, labels, "classify", columns=ColumnChoice(target="grade"))
    epochs = None if head == "linear" else 1
    options = TrainOptions(HeadOptions(head, epochs=epochs), SplitOptions(folds=2), draws=5)
    out = store.parent / f"{store.name}-{head}"
    with one_torch_thread():
        train_to(out, study, options)
    weights = [path.read_bytes() for path in sorted(out.rglob("*.safetensors"))]
    assert len(weights) >= 2
    return pl.read_parquet(out / "predictions.parquet"), weights


ATLAS = ("pancreas_pdac_trucut_HE3_20x",)


@pytest.fixture(scope="module")
def atlas(realdata, tmp_path_factory):
    """Two real slides, ingested with the bundled encoder, some tiles of each."""
    store = tmp_path_factory.mktemp("atlas") / "S"
    paths = [realdata / "wsi_atlas" / f"{name}.tif" for name in ATLAS]
    report = ingest(paths, store, options=IngestOptions(limit_tiles=40))
    assert not report.failed
    return Store.open(store), report.recipe


@pytest.mark.parametrize("kind", OURS)
def test_real_slides_come_back_the_same(realdata, atlas, tmp_path, kind):
    store, key = atlas
    out = export_features(kind, store.layout.root, tmp_path / "out")
    assert not out.failed
    assert import_features(kind, tmp_path / "out", tmp_path / "S").recipe == key
    assert seen(Store.open(tmp_path / "S"), key) == seen(store, key)
    if kind == "bags":
        return
    spec = store.recipe().recipe.tile
    options = dataclasses.replace(
        BARE[kind], tile_px=spec.tile_px, stride_px=spec.stride_px, slides=realdata / "wsi_atlas"
    )
    if kind != "slide2vec":
        options = dataclasses.replace(options, mpp=spec.mpp, mpp_l0=None)
    bare = import_features(kind, tmp_path / "out", tmp_path / "B", options=options)
    assert not bare.failed
    again = Store.open(tmp_path / "B")
    for name in ATLAS:
        have, found = store.bag(key, f"{name}.tif"), again.bag(bare.recipe, f"{name}.tif")
        np.testing.assert_array_equal(found.vectors, have.vectors)
        np.testing.assert_array_equal(found.origin_l0, have.origin_l0)
        ours, theirs = store.slide(key, f"{name}.tif"), again.slide(bare.recipe, f"{name}.tif")
        for column in ("width_l0", "height_l0", "mpp_x", "mpp_source", "footprint_l0", "fingerprint"):
            assert getattr(ours, column) == getattr(theirs, column)
        pictures = (
            one.thumbnail
            for one in (store.rasters(key, f"{name}.tif"), again.rasters(bare.recipe, f"{name}.tif"))
        )
        np.testing.assert_array_equal(*pictures)
