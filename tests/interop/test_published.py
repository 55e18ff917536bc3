"""Files in the layouts that the tools publish become the slides, tiles and recipes that they describe."""

import h5py
import numpy as np
import pytest

from beph_store.engine.importing import ImportOptions, import_features
from beph_store.errors import UsageError
from beph_store.interop import FORMATS
from beph_store.store import Store, verify
from tests.interop import layouts

#: What each format leaves to be said, and what is then known of its slide.
ASKED = {
    "clam": ImportOptions(encoder_name="resnet50", mpp=0.5),
    "trident": ImportOptions(mpp=0.5),
    "stamp": ImportOptions(mpp_l0=0.25),
    "slide2vec": ImportOptions(),
    "atlaspatch": ImportOptions(mpp=0.5, only_encoder="uni_v2"),
    "bags": ImportOptions(encoder_name="resnet50", mpp=0.5, tile_px=256, footprint_l0=512),
}
ENCODERS = {
    "clam": "resnet50",
    "trident": "uni_v1",
    "stamp": "uni2",
    "slide2vec": "virchow2",
    "atlaspatch": "uni_v2",
    "bags": "resnet50",
}


def written(kind, root, slide):
    options = {"as_dict": True} if kind == "bags" else {}
    return getattr(layouts, kind)(root, slide, **options)


@pytest.fixture(scope="module", params=list(ASKED))
def imported(request, tmp_path_factory):
    """(format, report, store, slides) of a folder with two slides in its published layout."""
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    slides = [layouts.draw("TCGA-01.ab", 40), layouts.draw("TCGA-02.cd", 25, seed=3)]
    for slide in slides:
        written(kind, folder / "features", slide)
    report = import_features(kind, folder / "features", folder / "S", options=ASKED[kind])
    return kind, report, Store.open(folder / "S"), slides


def test_vectors_and_level0_places_are_those_of_the_files(imported):
    kind, report, store, slides = imported
    sign = -1 if kind == "atlaspatch" else 1
    assert [(o.slide_id, o.status, o.tiles) for o in report.slides] == [
        (slide.name, "done", len(slide.vectors)) for slide in slides
    ]
    for slide in slides:
        bag = store.bag(report.recipe, slide.name)
        np.testing.assert_array_equal(bag.vectors, (sign * slide.vectors).astype(np.float16))
        np.testing.assert_array_equal(bag.origin_l0, slide.origin)
    assert verify(store).ok


def test_the_recipe_says_imported_and_from_what(imported):
    kind, report, store, _ = imported
    record = store.recipe(report.recipe)
    encoder, tile = record.recipe.encoder, record.recipe.tile
    title = FORMATS[kind].title
    assert (encoder.name, encoder.variant) == (ENCODERS[kind], f"imported from {title}")
    assert record.encoder_source == f"imported from {title} features"
    assert (encoder.weights_sha256, encoder.licence, encoder.pooling) == ("not stated",) * 3
    assert (tile.tile_px, tile.mpp, tile.stride_px) == (256, 0.5, 256)
    assert tile.tissue_method == f"imported from {title}"
    assert any("--weights-sha256" in note for note in report.notes)


def test_the_slide_is_as_large_as_the_file_says_or_as_its_tiles_reach(imported):
    kind, report, store, slides = imported
    row = store.slide(report.recipe, slides[0].name)
    states_it = kind in ("trident", "slide2vec", "atlaspatch")
    reach = tuple((slides[0].origin.max(axis=0) + 512).tolist())
    assert (row.width_l0, row.height_l0) == (slides[0].size if states_it else reach)
    assert (row.mpp_x, row.mpp_source, row.footprint_l0, row.reader) == (0.25, "declared", 512, kind)
    assert row.path.startswith("features:/")


def test_what_float16_changed_is_said(imported):
    kind, report, _, slides = imported
    change = max(float(np.abs(s.vectors - s.vectors.astype(np.float16)).max()) for s in slides)
    assert report.largest_rounding == (0.0 if kind == "stamp" else pytest.approx(change))


def test_shares_of_tissue_are_kept_where_they_are_stated(imported):
    kind, report, store, slides = imported
    tissue = store.bag(report.recipe, slides[0].name).tissue
    if kind == "slide2vec":
        np.testing.assert_array_equal(tissue, np.linspace(0.3, 1, 40, dtype=np.float32))
    else:
        assert np.isnan(tissue).all()


def test_a_second_import_passes_everything_over(imported):
    kind, report, store, _ = imported
    root = store.layout.root
    again = import_features(kind, root.parent / "features", root, options=ASKED[kind])
    assert [o.status for o in again.slides] == ["skipped"] * 2
    assert again.recipe == report.recipe
    assert again.nbytes == 0


def test_the_same_files_elsewhere_make_the_same_recipe(imported, tmp_path):
    kind, report, _, slides = imported
    written(kind, tmp_path / "other", slides[1])
    there = import_features(kind, tmp_path / "other", tmp_path / "S2", options=ASKED[kind])
    assert there.recipe == report.recipe


@pytest.mark.parametrize(
    ("kind", "options", "flag"),
    [
        ("clam", ImportOptions(mpp=0.5), "--encoder-name"),
        ("clam", ImportOptions(encoder_name="x"), "--mpp"),
        ("trident", ImportOptions(), "--mpp"),
        ("atlaspatch", ImportOptions(), "--mpp"),
        ("bags", ImportOptions(encoder_name="x", tile_px=256, footprint_l0=512), "--mpp"),
    ],
)
def test_what_files_do_not_say_is_asked_for_and_nothing_is_made(tmp_path, kind, options, flag):
    written(kind, tmp_path / "f", layouts.draw("a"))
    with pytest.raises(UsageError, match=flag):
        import_features(kind, tmp_path / "f", tmp_path / "S", options=options)
    assert not (tmp_path / "S").exists()


@pytest.mark.parametrize(
    ("kind", "options", "flag"),
    [
        ("stamp", ImportOptions(), "--mpp-l0 or --slides"),
        (
            "bags",
            ImportOptions(encoder_name="x", mpp=0.5, tile_px=256),
            "--footprint-l0, --mpp-l0 or --slides",
        ),
        ("bags", ImportOptions(encoder_name="x", mpp=0.5, footprint_l0=512), "--tile-px"),
        ("trident", ImportOptions(mpp=0.5, mpp_l0=0.5), "--mpp"),
    ],
)
def test_what_one_slide_lacks_is_said_of_that_slide(tmp_path, kind, options, flag):
    written(kind, tmp_path / "f", layouts.draw("a"))
    report = import_features(kind, tmp_path / "f", tmp_path / "S", options=options)
    assert flag in (report.failed[0].error or "")
    assert not (tmp_path / "S").exists()


def test_clam_without_h5_files_takes_the_tensors_with_the_places_of_patches(tmp_path):
    slide = layouts.draw("a")
    layouts.clam(tmp_path / "f", slide, h5=False)
    report = import_features("clam", tmp_path / "f", tmp_path / "S", options=ASKED["clam"])
    np.testing.assert_array_equal(Store.open(tmp_path / "S").bag(report.recipe, "a").origin_l0, slide.origin)


def test_clam_features_and_tiles_may_lie_in_two_folders(tmp_path):
    slide = layouts.draw("a")
    layouts.clam(tmp_path / "f", slide)
    (tmp_path / "tiles").mkdir()
    (tmp_path / "f" / "patches").rename(tmp_path / "tiles" / "patches")
    options = ImportOptions(encoder_name="resnet50", mpp=0.5, coords=tmp_path / "tiles")
    report = import_features("clam", tmp_path / "f", tmp_path / "S", options=options)
    assert Store.open(tmp_path / "S").slide(report.recipe, "a").footprint_l0 == 512


def test_trident_keeps_encoders_and_scales_apart(tmp_path):
    for encoder in ("uni_v1", "conch_v15"):
        layouts.trident(tmp_path / "f", layouts.draw("a"), encoder=encoder)
    tight = layouts.draw("a")
    tight.origin = tight.origin // 2
    layouts.trident(tmp_path / "f", tight, overlap=128)
    both = import_features("trident", tmp_path / "f", tmp_path / "S", options=ImportOptions(mpp=0.5))
    assert len(set(both.recipes)) == 3
    one = ImportOptions(mpp=0.5, only_encoder="uni_v1", only_group="20x_256px_0px_overlap")
    assert import_features("trident", tmp_path / "f", tmp_path / "S", options=one).recipe in both.recipes
    recipes = [record.recipe for record in Store.open(tmp_path / "S").recipes()]
    made = {(recipe.encoder.name, recipe.tile.stride_px) for recipe in recipes}
    assert made == {("uni_v1", 128), ("uni_v1", 256), ("conch_v15", 256)}


def test_atlaspatch_brings_every_encoder_of_a_file(tmp_path):
    slide = layouts.draw("a")
    layouts.atlaspatch(tmp_path / "f", slide)
    report = import_features("atlaspatch", tmp_path / "f", tmp_path / "S", options=ImportOptions(mpp=0.5))
    store = Store.open(tmp_path / "S")
    by_name = {record.recipe.encoder.name: record.recipe.key for record in store.recipes()}
    assert set(by_name) == {"resnet50", "uni_v2"}
    assert set(report.recipes) == set(by_name.values())
    half = slide.vectors.astype(np.float16)
    np.testing.assert_array_equal(store.bag(by_name["resnet50"], "a").vectors, half)
    np.testing.assert_array_equal(store.bag(by_name["uni_v2"], "a").vectors, -half)


def test_stamp_keeps_the_folders_of_slides(tmp_path):
    layouts.stamp(tmp_path / "f", layouts.draw("site 1/a"))
    layouts.stamp(tmp_path / "f", layouts.draw("site 2/a"))
    report = import_features("stamp", tmp_path / "f", tmp_path / "S", options=ASKED["stamp"])
    assert [o.slide_id for o in report.slides] == ["site 1/a", "site 2/a"]


def test_slide2vec_as_npz_in_another_order_and_a_slide_without_tiles(tmp_path):
    slide = layouts.draw("b")
    layouts.slide2vec(tmp_path / "f", slide, npz=True)
    layouts.slide2vec(tmp_path / "f", layouts.draw("a", n=0))
    turned = tmp_path / "f" / "tile_embeddings" / "b.npz"
    np.savez_compressed(turned, features=slide.vectors[::-1], tile_index=np.arange(40, dtype=np.int32)[::-1])
    report = import_features("slide2vec", tmp_path / "f", tmp_path / "S")
    assert [(o.slide_id, o.status) for o in report.slides] == [("a", "empty"), ("b", "done")]
    bag = Store.open(tmp_path / "S").bag(report.recipe, "b")
    np.testing.assert_array_equal(bag.origin_l0, slide.origin[::-1])
    np.testing.assert_array_equal(bag.vectors, slide.vectors[::-1].astype(np.float16))


def test_trident_without_a_tile_is_an_empty_slide(tmp_path):
    layouts.trident(tmp_path / "f", layouts.draw("a", n=0))
    report = import_features("trident", tmp_path / "f", tmp_path / "S", options=ImportOptions(mpp=0.5))
    assert [o.status for o in report.slides] == ["empty"]
    assert Store.open(tmp_path / "S").recipe().recipe.encoder.dim == 12


def test_bags_without_places_are_bags_all_the_same(tmp_path):
    slide = layouts.draw("a")
    layouts.bags(tmp_path / "f", slide)
    options = ImportOptions(encoder_name="resnet50", mpp=0.5)
    report = import_features("bags", tmp_path / "f", tmp_path / "S", options=options)
    store = Store.open(tmp_path / "S")
    np.testing.assert_array_equal(store.bag(report.recipe, "a").vectors, slide.vectors.astype(np.float16))
    assert store.recipe().recipe.tile.tissue_method.endswith("without places")
    assert verify(store).ok


def test_long_runs_of_chunks_are_read_as_hdf5_reads_them(tmp_path):
    from beph_store.interop.hdf5 import _read_in_runs

    rng = np.random.default_rng(0)
    for rows, total in ((1, 300), (32, 3001), (7, 449)):
        path = tmp_path / f"{rows}.h5"
        data = rng.normal(size=(total, 24)).astype(np.float32)
        with h5py.File(path, "w") as file:
            one = layouts.resizable(file, "features", data[:100], rows)
            two = layouts.resizable(file, "more", data[:50], rows)
            for dataset in (one, two):  # interleaved, so that no dataset is one run
                dataset.resize(total, axis=0)
                dataset[:] = data
        with h5py.File(path) as file:
            for name in ("features", "more"):
                read = _read_in_runs(file[name], path)
                assert read is not None
                np.testing.assert_array_equal(read, data)
