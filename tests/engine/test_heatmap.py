"""Heatmaps: squares where the tiles are, to a fraction of a pixel; nothing where there is nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beph_store.engine.heatmap import (
    HeatmapStyle,
    overlay,
    paint_tiles,
    round_length,
    slide_overlay,
    to_geojson,
)
from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.engine.reader_process import thumbnail
from beph_store.errors import UsageError
from beph_store.records import Rasters, TissueMask
from beph_store.slides import open_slide
from beph_store.store import Store

TOP, LEFT = 80, 36  # of the slide on a page with a title
YELLOW, PURPLE = (253, 231, 37), (68, 1, 84)  # the ends of viridis
SOLID = HeatmapStyle(title="t", opacity=1.0, longest_px=1000, value_range=(0.0, 1.0))


def rasters(width: int, height: int, mpp: float = 8.0, step: int = 1) -> Rasters:
    """Of a slide that is a colour gradient; ``step`` as the thumbnail of a large slide is shrunk."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    image = np.stack([x * 200 // width, y * 200 // height, np.full_like(x, 90)], -1).astype(np.uint8)
    small = thumbnail(image, -(-max(width, height) // step))
    return Rasters(small, TissueMask(np.ones((height, width), bool), mpp, mpp, "none"))


def slide_on(page: Image.Image, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(page.crop((LEFT, TOP, LEFT + size[0], TOP + size[1])))


def origins(*places: tuple[int, int]) -> np.ndarray:
    return np.array(places, np.int32).reshape(-1, 2)


def by_counting(origin, side, values, extent, size):
    """``paint_tiles`` by adding up whole level-0 px, where these divide the pixels."""
    total, weight = np.zeros((extent[1], extent[0])), np.zeros((extent[1], extent[0]))
    for (x, y), value in zip(origin.tolist(), values, strict=True):
        if np.isfinite(value):
            total[max(y, 0) : max(y + side, 0), max(x, 0) : max(x + side, 0)] += value
            weight[max(y, 0) : max(y + side, 0), max(x, 0) : max(x + side, 0)] += 1
    fold = (size[1], extent[1] // size[1], size[0], extent[0] // size[0])
    total, weight = (a.reshape(fold).mean(axis=(1, 3)) for a in (total, weight))
    with np.errstate(invalid="ignore"):
        return np.where(weight > 0, total / weight, np.nan), weight


@pytest.mark.parametrize("seed", range(6))
def test_painting_is_exact_under_overlap_gaps_and_over_the_edge(seed: int) -> None:
    rng = np.random.default_rng(seed)
    side = int(rng.integers(1, 30))
    extent, size = (120, 84), (int(rng.choice([120, 40, 24, 8])), int(rng.choice([84, 28, 12])))
    origin = rng.integers(-10, 115, size=(int(rng.integers(1, 40)), 2))
    values = rng.normal(size=len(origin))
    values[rng.random(len(origin)) < 0.2] = np.nan
    value, cover = paint_tiles(origin, side, values, extent, size)
    expected, weight = by_counting(origin, side, values, extent, size)
    np.testing.assert_allclose(value, expected, atol=1e-12)
    np.testing.assert_allclose(cover, np.minimum(weight, 1), atol=1e-12)


def test_borders_between_pixels_are_shares_of_pixels() -> None:
    """One tile of 10 px at (3, 5), where a raster pixel is 4 × 8 px: columns 0.75 to 3.25, rows 0.625 to 1.875."""
    value, cover = paint_tiles(origins((3, 5)), 10, np.array([7.0]), (40, 40), (10, 5))
    np.testing.assert_allclose(cover[:2, :4], np.outer([0.375, 0.875], [0.25, 1, 1, 0.25]))
    assert np.count_nonzero(cover) == 8
    assert np.nansum(value == 7.0) == 8
    assert np.isnan(value[2:]).all()


def test_an_odd_scale_does_not_drift() -> None:
    """400 abutting tiles whose side is no whole number of px cover everything once, and each has its place."""
    side, n = 37, 400
    origin = np.stack([np.arange(n) * side, np.zeros(n, int)], 1)
    value, cover = paint_tiles(origin, side, np.arange(n, dtype=float), (n * side, side), (1013, 1))
    np.testing.assert_allclose(cover, 1.0, atol=1e-9)
    middle = (np.arange(1013) + 0.5) * n / 1013
    assert np.abs(value[0] - (middle - 0.5)).max() <= 0.5 + 1e-9


def test_the_tile_is_where_it_is_on_the_slide_and_the_rest_is_the_slide() -> None:
    page = overlay(rasters(250, 200), (2000, 1600), origins((400, 800)), 200, np.array([1.0]), style=SOLID)
    picture = slide_on(page, (1000, 800))
    plain = slide_on(
        overlay(rasters(250, 200), (2000, 1600), origins(), 200, np.empty(0), style=SOLID), (1000, 800)
    )
    inside = np.zeros((800, 1000), bool)
    inside[400:500, 200:300] = True
    assert (picture[inside] == YELLOW).all()
    np.testing.assert_array_equal(picture[~inside], plain[~inside])
    expected = np.asarray(
        Image.fromarray(rasters(250, 200).thumbnail).resize((1000, 800), Image.Resampling.BICUBIC)
    )
    np.testing.assert_array_equal(plain, expected)


def test_a_gap_shows_the_slide_and_an_overlap_the_mean() -> None:
    places = origins((0, 0), (300, 0), (0, 400), (100, 400))
    page = overlay(rasters(250, 250), (1000, 1000), places, 200, np.array([0.0, 1.0, 0.0, 1.0]), style=SOLID)
    picture = slide_on(page, (1000, 1000))
    slide = np.asarray(
        Image.fromarray(rasters(250, 250).thumbnail).resize((1000, 1000), Image.Resampling.BICUBIC)
    )
    assert (picture[:200, :200] == PURPLE).all()
    assert (picture[:200, 300:500] == YELLOW).all()
    np.testing.assert_array_equal(picture[:400, 200:300], slide[:400, 200:300])
    assert (picture[400:600, :100] == PURPLE).all()
    assert (picture[400:600, 100:200] == (33, 145, 140)).all()  # the middle of viridis
    assert (picture[400:600, 200:300] == YELLOW).all()


def test_opacity_lets_the_tissue_through_in_grey() -> None:
    flat = Rasters(np.full((250, 250, 3), (200, 100, 160), np.uint8), rasters(250, 250).tissue)
    style = HeatmapStyle(title="t", opacity=0.25, longest_px=1000, value_range=(0.0, 1.0))
    page = overlay(flat, (1000, 1000), origins((0, 0)), 500, np.array([1.0]), style=style)
    grey = 0.299 * 200 + 0.587 * 100 + 0.114 * 160
    mixed = [round(grey + (c - grey) * 0.25) for c in YELLOW]
    assert slide_on(page, (1000, 1000))[100, 100].tolist() == mixed
    # The upper end of the colour bar is the same colour.
    bar = np.asarray(page)[:, LEFT + 1000 + 26]
    assert (bar == mixed).all(axis=-1).any()
    clear = HeatmapStyle(title="t", opacity=0.0, longest_px=1000)
    page = overlay(flat, (1000, 1000), origins((0, 0)), 500, np.array([1.0]), style=clear)
    assert (slide_on(page, (1000, 1000))[:500, :500] == round(grey)).all()


def test_a_thumbnail_that_lost_its_last_rows_is_not_stretched() -> None:
    """An overview of 1003 × 806 px shrunk by 5 loses 3 columns and a row: what is left shows 1000 × 805 px of it."""
    small = rasters(1003, 806, step=5)
    assert small.thumbnail.shape == (161, 200, 3)
    page = overlay(small, (10030, 8060), origins((5000, 4025)), 1000, np.array([1.0]), style=SOLID)
    picture = slide_on(page, (800, 644))  # enlarged four times: 12.5 level-0 px a pixel
    assert (picture[322:402, 400:480] == YELLOW).all()
    painted = (picture == YELLOW).all(axis=-1)
    assert painted.sum() == 80 * 80


@pytest.mark.parametrize("values", [[], [np.nan, np.nan], [np.inf, -np.inf]])
def test_without_a_value_the_page_says_so(values: list[float]) -> None:
    n = len(values)
    places = np.zeros((n, 2), np.int32)
    style = HeatmapStyle(title="t", longest_px=1000)
    page = overlay(rasters(250, 200), (2000, 1600), places, 200, np.array(values), style=style)
    bare = overlay(rasters(250, 200), (2000, 1600), origins(), 200, np.empty(0), style=style)
    assert page.tobytes() == bare.tobytes()
    legend = np.asarray(page.crop((LEFT + 1026, TOP, page.width, TOP + 60)))
    assert (legend < 160).any()
    assert (legend.max(axis=-1).astype(int) - legend.min(axis=-1) < 40).all()  # words, no colours
    assert to_geojson(places, 200, np.array(values), name="v")["features"] == []


def test_nan_tiles_show_the_slide_and_do_not_move_the_range() -> None:
    places, style = origins((0, 0), (500, 0), (0, 500)), HeatmapStyle(title="t", opacity=1.0, longest_px=1000)
    page = overlay(rasters(250, 250), (1000, 1000), places, 200, np.array([-3.0, 5.0, np.nan]), style=style)
    picture = slide_on(page, (1000, 1000))
    assert tuple(picture[100, 100]) == PURPLE
    assert tuple(picture[100, 600]) == YELLOW
    slide = np.asarray(
        Image.fromarray(rasters(250, 250).thumbnail).resize((1000, 1000), Image.Resampling.BICUBIC)
    )
    np.testing.assert_array_equal(picture[500:], slide[500:])


def test_one_value_alone_is_the_middle_of_the_palette() -> None:
    style = HeatmapStyle(title="t", opacity=1.0, longest_px=1000)
    page = overlay(
        rasters(250, 250), (1000, 1000), origins((0, 0), (500, 500)), 200, np.full(2, 0.3), style=style
    )
    assert slide_on(page, (1000, 1000))[100, 100].tolist() == [33, 145, 140]


def test_values_beyond_the_range_are_clipped_and_the_bar_has_a_tip() -> None:
    def tips(values: list[float]) -> tuple[bool, bool]:
        places = origins((0, 0), (500, 500))
        page = overlay(rasters(250, 250), (1000, 1000), places, 200, np.array(values), style=SOLID)
        assert tuple(slide_on(page, (1000, 1000))[100, 100]) == PURPLE
        bar = np.asarray(page)[:, LEFT + 1026 : LEFT + 1026 + 18]
        return tuple(
            bool((((bar == colour).all(axis=-1).sum(axis=1) % 18) > 0).any()) for colour in (PURPLE, YELLOW)
        )  # type: ignore[return-value]

    assert tips([0.0, 1.0]) == (False, False)
    assert tips([0.0, 1.5]) == (False, True)
    assert tips([-1.0, 1.0]) == (True, False)
    assert tips([-1.0, 2.0]) == (True, True)


@pytest.mark.parametrize(
    ("um", "expected"), [(1, 1), (1.99, 1), (2, 2), (4.9, 2), (640, 500), (5000, 5000), (0.3, 0.2)]
)
def test_a_scale_bar_has_a_round_length(um: float, expected: float) -> None:
    assert round_length(um) == pytest.approx(expected)


@pytest.mark.parametrize(("mpp_l0", "expected"), [(0.5, 200), (0.2643, 100), (1.37, 500), (0.013, 5)])
def test_the_scale_bar_is_as_long_as_it_says(mpp_l0: float, expected: float) -> None:
    """A slide of 2000 px on 1000: a pixel is two level-0 px."""
    small = rasters(250, 200, mpp=mpp_l0 * 8)
    page = overlay(small, (2000, 1600), origins((0, 0)), 10, np.array([1.0]), style=SOLID)
    line = np.asarray(page)[TOP + 800 + 16 + 8, LEFT : LEFT + 1000]
    dark = (line == (32, 33, 40)).all(axis=-1)
    length = int(dark.argmin())
    assert length == pytest.approx(expected / (2 * mpp_l0), abs=1)
    assert 60 < length <= 201


def test_a_page_holds_texts_of_any_length() -> None:
    long = HeatmapStyle(
        title="µ Größe " * 80, legend="Aufmerksamkeitsanteilswahrscheinlichkeit " * 5, caption="x" * 900
    )
    for size in ((2000, 200), (200, 2000), (40, 40)):
        page = overlay(
            rasters(size[0] // 8, size[1] // 8), size, origins((0, 0)), 20, np.array([1.0]), style=long
        )
        pixels = np.asarray(page)
        assert (pixels[:, -20:] > 250).all()  # nothing runs over the right margin
        assert page.width >= 300


def test_what_does_not_fit_together_is_refused() -> None:
    small = rasters(50, 50)
    for places, values in [((3, 2), (2,)), ((3, 3), (3,)), ((3,), (3,)), ((3, 2), (3, 1))]:
        with pytest.raises(UsageError, match="one value a tile"):
            overlay(small, (400, 400), np.zeros(places, np.int32), 10, np.zeros(values))
        with pytest.raises(UsageError, match="one value a tile"):
            to_geojson(np.zeros(places, np.int32), 10, np.zeros(values), name="v")
    with pytest.raises(UsageError, match="no palette 'rainbows'"):
        overlay(small, (400, 400), origins((0, 0)), 10, np.ones(1), style=HeatmapStyle(palette="rainbows"))
    with pytest.raises(UsageError, match="opacity"):
        HeatmapStyle(opacity=1.2)
    with pytest.raises(UsageError, match="lower to a higher"):
        HeatmapStyle(value_range=(1.0, 1.0))
    with pytest.raises(UsageError, match="at least 1 px"):
        HeatmapStyle(longest_px=0)


def test_geojson_keeps_every_square_and_value() -> None:
    rng = np.random.default_rng(0)
    places = rng.integers(0, 200_000, size=(500, 2)).astype(np.int32)
    values = rng.normal(size=500)
    text = json.dumps(to_geojson(places, 448, values, name="risk"), allow_nan=False)
    features = json.loads(text)["features"]
    rings = np.array([feature["geometry"]["coordinates"] for feature in features])
    assert rings.shape == (500, 1, 5, 2)
    assert rings.dtype.kind == "i"
    np.testing.assert_array_equal(rings[:, 0, 0], rings[:, 0, 4])
    np.testing.assert_array_equal(rings[:, 0].min(axis=1), places)
    np.testing.assert_array_equal(rings[:, 0].max(axis=1), places + 448)
    assert [f["properties"]["measurements"]["risk"] for f in features] == values.tolist()


def test_geojson_says_what_qupath_reads() -> None:
    made = to_geojson(
        origins((0, 0), (10, 0), (20, 0), (30, 0), (40, 0)),
        10,
        np.array([0.0, 0.26, 1.0, np.nan, 7.0], np.float32),
        name="tumour",
        properties={"slide_id": "a.svs", "head": "abmil"},
        style=HeatmapStyle(value_range=(0.0, 1.0)),
    )
    assert made["type"] == "FeatureCollection"
    assert made["properties"] == {"slide_id": "a.svs", "head": "abmil"}
    assert len(made["features"]) == 4
    first, second, third, beyond = (feature["properties"] for feature in made["features"])
    assert made["features"][0]["type"] == "Feature"
    assert {f["geometry"]["type"] for f in made["features"]} == {"Polygon"}
    assert {p["objectType"] for p in (first, second, third, beyond)} == {"tile"}
    assert first["color"] == list(PURPLE)
    assert third["color"] == beyond["color"] == list(YELLOW)
    assert [p["classification"]["name"] for p in (first, second, third, beyond)] == [
        "tumour 0 to 0.1",
        "tumour 0.2 to 0.3",
        "tumour 0.9 to 1",
        "tumour 0.9 to 1",
    ]
    for p in (first, second, third):
        assert len(p["classification"]["color"]) == 3
        assert np.abs(np.subtract(p["classification"]["color"], p["color"])).max() < 40
    assert second["measurements"]["tumour"] == float(np.float32(0.26))
    assert beyond["measurements"]["tumour"] == 7.0


@pytest.fixture(scope="module")
def stored(drawn_slide, tmp_path_factory):
    """A store of one slide, its file, and values of its tiles: one has one."""
    folder = tmp_path_factory.mktemp("heatmap")
    path = folder / "a.tif"
    shutil.copy(drawn_slide.path, path)
    report = ingest([path], folder / "S", options=IngestOptions(limit_tiles=9))
    store = Store.open(folder / "S")
    bag = store.bag(report.recipe, "a.tif")
    values = np.full(len(bag), np.nan)
    values[4] = 1.0
    return store, path, bag, values


def test_the_slide_itself_lies_under_a_picture_of_a_wanted_width(stored) -> None:
    store, path, bag, values = stored
    page = slide_overlay(store, bag, values, style=SOLID, width=1280)
    shown = slide_on(page, (1280, 1152))
    assert page.width == LEFT + 1280 + LEFT + 190
    painted = np.argwhere((shown == YELLOW).all(axis=-1))
    x, y = (bag.origin_l0[4] / 2).tolist()
    assert painted.min(axis=0).tolist() == [pytest.approx(y, abs=1), pytest.approx(x, abs=1)]
    assert painted.max(axis=0).tolist() == [pytest.approx(y + 111, abs=1), pytest.approx(x + 111, abs=1)]
    with open_slide(path) as slide:
        true = slide.read_level(0, 0, 0, 2560, 2304).reshape(1152, 2, 1280, 2, 3).mean(axis=(1, 3))
    rest = np.ones(true.shape[:2], bool)
    rest[int(y) - 2 : int(y) + 115, int(x) - 2 : int(x) + 115] = False
    stretched = slide_on(slide_overlay(store, bag, values, style=SOLID), (640, 576)).repeat(2, 0).repeat(2, 1)
    own, blurred = (np.abs(each - true)[rest].mean() for each in (shown, stretched))
    assert own < 2
    assert blurred > 2 * own


@pytest.mark.parametrize("width", [63, 4001])
def test_a_width_has_bounds(stored, width: int) -> None:
    store, _, bag, values = stored
    with pytest.raises(UsageError, match="from 64 to 4000"):
        slide_overlay(store, bag, values, width=width)


def test_a_file_that_changed_is_no_backdrop(stored, formula_path: Path, tmp_path: Path) -> None:
    store, path, bag, values = stored
    kept = path.rename(tmp_path / "kept.tif")
    try:
        shutil.copy(formula_path, path)
        with pytest.raises(UsageError, match=r"a\.tif: the slide's file has changed.*leave --width out"):
            slide_overlay(store, bag, values, width=500)
        path.write_bytes(b"no slide")
        with pytest.raises(UsageError, match="cannot be read"):
            slide_overlay(store, bag, values, width=500)
    finally:
        kept.replace(path)


def test_a_stored_slide_is_drawn_when_its_file_is_gone(stored) -> None:
    store, path, bag, values = stored
    path.unlink()
    with pytest.raises(UsageError, match="is not where it was"):
        slide_overlay(store, bag, values, width=500)
    page = slide_overlay(store, bag, values, style=SOLID)
    # 2560 × 2304 px at 0.5 µm: a thumbnail of 160 × 144, enlarged four times to 640 × 576.
    painted = np.argwhere((slide_on(page, (640, 576)) == YELLOW).all(axis=-1))
    x, y = (bag.origin_l0[4] / 4).tolist()
    assert painted.min(axis=0).tolist() == [pytest.approx(y, abs=1), pytest.approx(x, abs=1)]
    assert painted.max(axis=0).tolist() == [pytest.approx(y + 55, abs=1), pytest.approx(x + 55, abs=1)]
    titled = slide_overlay(store, bag, values, style=HeatmapStyle(longest_px=1000))
    assert titled.height == page.height  # the slide's id is its title where none is given
