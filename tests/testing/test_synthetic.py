import csv
import tracemalloc

import numpy as np
import openslide
import pytest
import tifffile

from beph_store.errors import UsageError
from beph_store.testing.synthetic import (
    Coding,
    SlidePlan,
    demo_cohort,
    demo_plans,
    draw,
    formula_pixels,
    formula_position,
    formula_slide,
    huge_slide,
    truth,
    write_slide,
)

SMALL = SlidePlan(size=(2048, 2048), seed=11, nuisances=())


def _read(path, x, y, level, w, h):
    with openslide.OpenSlide(str(path)) as slide:
        return np.asarray(slide.read_region((x, y), level, (w, h)).convert("RGB"))


def test_the_same_plan_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    plans = {"a": SMALL, "b": SMALL, "c": SlidePlan(size=(2048, 2048), seed=12, nuisances=())}
    for name, plan in plans.items():
        write_slide(tmp_path / name, plan)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_another_process_draws_the_same_bytes(tmp_path, run_python):
    write_slide(tmp_path / "here.tif", SMALL)
    code = (
        "import sys; from beph_store.testing.synthetic import *;"
        "write_slide(sys.argv[1], SlidePlan(size=(2048, 2048), seed=11, nuisances=()))"
    )
    run_python(code, tmp_path / "there.tif")
    assert (tmp_path / "here.tif").read_bytes() == (tmp_path / "there.tif").read_bytes()


def test_openslide_reads_size_levels_and_mpp(drawn_slide):
    with openslide.OpenSlide(str(drawn_slide.path)) as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert slide.level_dimensions == ((2560, 2304), (640, 576), (160, 144))
        assert slide.level_downsamples == (1.0, 4.0, 16.0)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5, rel=1e-6)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.5, rel=1e-6)


def test_any_part_is_drawn_alike_whatever_is_drawn_around_it(marked_slide):
    whole = draw(marked_slide.plan, 0, 0, 1300, 1100)
    part = draw(marked_slide.plan, 337, 401, 601, 299)
    np.testing.assert_array_equal(whole[401:700, 337:938], part)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_level_shows_the_drawing_in_its_place(drawn_slide, level):
    down, side = 4**level, 64
    x, y = 64 * 9, 64 * 11
    drawn = draw(drawn_slide.plan, x, y, side * down, side * down).astype(float)
    mean = drawn.reshape(side, down, side, down, 3).mean((1, 3))
    shown = _read(drawn_slide.path, x, y, level, side, side).astype(float)
    right = np.abs(shown - mean).mean()
    for axis in (0, 1):
        for shift in (-1, 1):
            assert right < 0.6 * np.abs(np.roll(shown, shift, axis) - mean).mean()


@pytest.mark.parametrize("size", [(2560, 2304), (2309, 2101)])
def test_tifffile_and_openslide_agree_on_every_pixel_of_every_level(tmp_path, size):
    path = tmp_path / "slide.tif"
    write_slide(path, SlidePlan(size=size, seed=5))
    with tifffile.TiffFile(path) as tiff:
        for number, page in enumerate(tiff.pages):
            pixels = page.asarray()
            assert pixels.shape == (size[1] // 4**number, size[0] // 4**number, 3)
            np.testing.assert_array_equal(pixels, _read(path, 0, 0, number, pixels.shape[1], pixels.shape[0]))


@pytest.mark.parametrize(
    "coding",
    [
        Coding(subsampling="444"),
        Coding(subsampling="422"),
        Coding(colour="rgb"),
        Coding(tables=False),
        Coding("deflate"),
        Coding("none"),
    ],
    ids=str,
)
def test_every_coding_is_read_alike_and_is_near_the_drawing(tmp_path, coding):
    plan = SlidePlan(size=(2048, 2048), seed=3, coding=coding)
    write_slide(tmp_path / "slide.tif", plan)
    shown = _read(tmp_path / "slide.tif", 700, 700, 0, 400, 400)
    with tifffile.TiffFile(tmp_path / "slide.tif") as tiff:
        page = tiff.pages[0]
        np.testing.assert_array_equal(shown, page.asarray()[700:1100, 700:1100])
        assert (page.jpegtables is not None) == (coding.compression == "jpeg" and coding.tables)
    difference = np.abs(shown.astype(int) - draw(plan, 700, 700, 400, 400)).mean()
    assert difference < 6
    assert (difference == 0) == (coding.compression != "jpeg")


def test_the_truth_is_what_is_seen(drawn_slide):
    kinds = drawn_slide.truth.kinds
    with tifffile.TiffFile(drawn_slide.path) as tiff:
        overview = tiff.pages[2].asarray().astype(float)
    kinds = kinds[: overview.shape[0], : overview.shape[1]]
    dark = {k: 255 - overview[kinds == k].mean() for k in range(4)}
    assert dark[0] < 20 < dark[3] < dark[2]
    assert dark[1] < dark[2] - 20
    tissue = kinds > 0
    assert 0.3 < tissue.mean() < 0.75
    assert (kinds == 2).sum() / tissue.sum() == pytest.approx(0.4, abs=0.03)


def test_the_truth_of_a_tile(drawn_slide):
    side = 224
    shares = {
        (x, y): drawn_slide.truth.share("tumour", x, y, side)
        for x in range(0, 2300, side)
        for y in range(0, 2000, side)
    }
    (x, y), most = max(shares.items(), key=lambda item: item[1])
    assert most == 1.0
    assert drawn_slide.truth.at(x + side // 2, y + side // 2) == "tumour"
    assert drawn_slide.truth.at(4, 4) == "glass"
    assert drawn_slide.truth.share("glass", 0, 0, 32) == 1.0


@pytest.mark.parametrize("mark", ["pale", "fold", "pen", "bubble"])
def test_a_nuisance_changes_its_place_only(mark):
    base = {"size": (2048, 2048), "seed": 21, "tumour": 0.3}
    clean = draw(SlidePlan(nuisances=(), **base), 0, 0, 2048, 2048)
    marked = draw(SlidePlan(nuisances=(mark,), **base), 0, 0, 2048, 2048)
    changed = np.abs(clean.astype(int) - marked).max(axis=2) > 8
    assert 0.001 < changed.mean() < 0.3
    np.testing.assert_array_equal(
        truth(SlidePlan(nuisances=(), **base)).kinds, truth(SlidePlan(nuisances=(mark,), **base)).kinds
    )


def test_slides_are_dyed_unlike():
    plans = [SlidePlan(size=(2048, 2048), seed=s, tumour=1.0, nuisances=()) for s in range(4)]
    means = [draw(plan, 768, 768, 512, 512) for plan in plans]
    colours = np.array([m.reshape(-1, 3).mean(0) for m in means])
    assert np.ptp(colours, axis=0).max() > 6


def test_memory_does_not_grow_with_the_slide(tmp_path):
    peaks = []
    for height in (2048, 6144):
        write_slide(tmp_path / "warm.tif", SMALL)
        tracemalloc.start()
        write_slide(tmp_path / "tall.tif", SlidePlan(size=(2048, height), seed=1, nuisances=()))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.6 * peaks[0] + 4e6
    assert peaks[1] < 60e6


def test_a_formula_slide_spells_every_position(formula_path):
    for level, down in ((0, 1), (1, 4)):
        with tifffile.TiffFile(formula_path) as tiff:
            x, y = formula_position(tiff.pages[level].asarray())
        assert x.shape == (1100 // down, 1500 // down)
        np.testing.assert_array_equal(x, np.broadcast_to(np.arange(x.shape[1]) * down, x.shape))
        np.testing.assert_array_equal(y, np.broadcast_to(np.arange(x.shape[0])[:, None] * down, y.shape))
    x, y = formula_position(_read(formula_path, 1203, 777, 0, 80, 60))
    assert (x[0, 0], y[0, 0], x[-1, -1], y[-1, -1]) == (1203, 777, 1282, 836)


def test_the_formula_is_its_own_inverse_up_to_4096():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 4096, (2, 5000))
    back = formula_position(formula_pixels(x, y))
    np.testing.assert_array_equal(back, (x, y))


def test_a_huge_slide_is_a_small_file_that_openslide_reads(tmp_path):
    path = tmp_path / "huge.tif"
    huge_slide(path)
    assert path.stat().st_size < 30e6
    with openslide.OpenSlide(str(path)) as slide:
        assert slide.level_dimensions[0] == (100_352, 100_352)
        assert slide.level_downsamples == (1.0, 4.0, 16.0, 64.0)
        corner = np.asarray(slide.read_region((100_000, 100_000), 0, (200, 200)).convert("RGB"))
        assert np.ptp(corner) < 6
        fine = np.asarray(slide.read_region((49_152, 49_152), 0, (1024, 1024)).convert("RGB")).astype(float)
        coarse = np.asarray(slide.read_region((49_152, 49_152), 1, (256, 256)).convert("RGB")).astype(float)
    mean = fine.reshape(256, 4, 256, 4, 3).mean((1, 3))
    assert np.abs(coarse - mean).mean() < 0.5 * np.abs(np.roll(coarse, 1, 0) - mean).mean()
    with tifffile.TiffFile(path) as tiff:
        assert len(tiff.pages[0].dataoffsets) == 392**2
        assert len(set(tiff.pages[0].dataoffsets)) == 17


def test_how_much_of_a_huge_slide_is_tissue(tmp_path):
    for wanted in (0.0, 0.5, 1.0):
        huge_slide(tmp_path / "huge.tif", 16_384 * 4, tissue=wanted)
        with tifffile.TiffFile(tmp_path / "huge.tif") as tiff:
            have = (tiff.pages[3].asarray() < 235).any(axis=2).mean()
        assert have == pytest.approx(wanted, abs=0.1)


def test_the_demo_cohort_has_cases_of_both_classes_and_a_table(tmp_path):
    paths = demo_cohort(tmp_path, n=3, size=(2048, 2048))
    rows = list(csv.DictReader((tmp_path / "labels.csv").open()))
    assert [row["slide_id"] for row in rows] == [path.name for path in paths]
    assert {row["label"] for row in rows} == {"normal", "tumour"}
    assert all((tmp_path / row["path"]).is_file() for row in rows)
    before = paths[0].stat().st_mtime_ns
    assert demo_cohort(tmp_path, n=3, size=(2048, 2048)) == paths
    assert paths[0].stat().st_mtime_ns == before


def test_demo_cases_keep_their_class_and_slides_have_enough_tissue():
    slides = demo_plans()
    labels = {slide.case_id: {s.label for s in slides if s.case_id == slide.case_id} for slide in slides}
    assert len(slides) == 8
    assert len(labels) == 6
    assert all(len(own) == 1 for own in labels.values())
    assert sum(slide.label == "tumour" for slide in slides) == 4
    for slide in slides:
        known = truth(slide.plan)
        width, height = slide.plan.size
        tiles = sum(
            known.share("glass", x, y, 224) <= 0.5
            for x in range(0, width - 223, 224)
            for y in range(0, height - 223, 224)
        )
        assert 100 <= tiles <= 150, slide.slide_id
        assert ((known.kinds == 2).sum() > 0.15 * known.tissue.sum()) == (slide.label == "tumour")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: SlidePlan(nuisances=("hair",)), "hair"),
        (lambda p: SlidePlan(size=(512, 512)), "2048"),
        (lambda p: SlidePlan(downsamples=(1, 4, 6)), "multiple"),
        (lambda p: SlidePlan(downsamples=(2, 4)), "start with 1"),
        (lambda p: Coding("lzw"), "lzw"),
        (lambda p: Coding(subsampling="411"), "411"),
        (lambda p: formula_slide(p, (5000, 100)), "4096"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, make, says):
    with pytest.raises(UsageError, match=says):
        make(tmp_path / "x.tif")
