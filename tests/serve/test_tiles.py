"""Tiles are the slide's own pixels, in the right place, at every level and edge; and what becomes of moved files."""

from __future__ import annotations

import dataclasses
import shutil
import threading

import numpy as np
import pytest

from beph_store.errors import SlideUnreadable
from beph_store.serve import slide_tiles
from beph_store.serve.shelf import handle
from beph_store.serve.slide_tiles import (
    OVERLAP,
    TILE_PX,
    Encoded,
    OpenSlides,
    SlideGone,
    level_size,
    max_level,
    read_tile,
    tile_box,
)
from beph_store.slides import open_slide
from beph_store.store import SlideRow, Store
from beph_store.testing.synthetic import formula_position, formula_slide
from beph_store_kernels import reduce_area

from .conftest import NASTY, client_of

TOP = 11  # of 1500 × 1100 px


def never() -> np.ndarray:
    raise AssertionError("the overview is not wanted here")


def assembled(slide, level: int, overview=never, off: int = 0) -> np.ndarray:
    """The whole level from its tiles; where they overlap they must agree."""
    width, height = level_size(slide.info.size_l0, level)
    image = np.zeros((height, width, 3), np.uint8)
    seen = np.zeros((height, width), bool)
    for row in range(-(-height // TILE_PX)):
        for column in range(-(-width // TILE_PX)):
            x, y, w, h = tile_box(slide.info.size_l0, level, column, row)
            tile = read_tile(slide, level, (x, y, w, h), overview)
            assert tile.shape == (h, w, 3)
            old, new = seen[y : y + h, x : x + w], image[y : y + h, x : x + w]
            assert (abs(new[old].astype(int) - tile[old]) <= off).all()
            new[...], old[...] = tile, True
    assert seen.all()
    return image


def test_the_frame_is_deep_zooms() -> None:
    assert [max_level(size) for size in ((1, 1), (2, 1), (1024, 5), (1025, 5), (5, 100_352))] == [
        0,
        1,
        10,
        11,
        17,
    ]
    assert level_size((1500, 1100), TOP) == (1500, 1100)
    assert level_size((1500, 1100), 0) == (1, 1)
    assert level_size((1501, 3), TOP - 2) == (376, 1)
    assert tile_box((1500, 1100), TOP, 0, 0) == (0, 0, TILE_PX + OVERLAP, TILE_PX + OVERLAP)
    assert tile_box((1500, 1100), TOP, 5, 4) == (1269, 1015, 231, 85)
    for outside in ((TOP, 6, 0), (TOP, 0, 5), (TOP + 1, 0, 0), (-1, 0, 0), (TOP, -1, 0), (0, 1, 0)):
        assert tile_box((1500, 1100), *outside) is None


@pytest.fixture(scope="module", params=[(1500, 1100), (1501, 1103), (1023, 257), (508, 254), (1019, 2200)])
def slide(request, tmp_path_factory):
    """Sizes that are whole multiples and such that are not."""
    path = tmp_path_factory.mktemp("sizes") / "f.tif"
    formula_slide(path, request.param, downsamples=(1, 4))
    with open_slide(
        path, prefer="tiff"
    ) as opened:  # OpenSlide interpolates where levels are no whole fractions
        yield opened


def test_every_level_put_together_is_the_slide(slide) -> None:
    width, height = slide.info.size_l0
    whole = slide.read_level(0, 0, 0, width, height)
    top = max_level(slide.info.size_l0)
    assert np.array_equal(assembled(slide, top), whole)
    assert np.array_equal(assembled(slide, top - 1), reduce_area(whole, 2))
    quarter = assembled(slide, top - 2)
    w, h = slide.info.level_sizes[1]
    assert np.array_equal(quarter[:h, :w], slide.read_level(1, 0, 0, w, h))
    x, y = formula_position(quarter)
    assert (abs(x - 4 * np.arange(quarter.shape[1])) <= 4).all()
    assert (abs(y - 4 * np.arange(quarter.shape[0])[:, None]) <= 4).all()


def test_a_level_that_is_no_power_of_two_is_resampled_without_drift(tmp_path) -> None:
    """Levels 1 and 3, asked for at 4: a drift would be 33 %."""
    formula_slide(tmp_path / "f.tif", (1530, 1020), downsamples=(1, 3))
    with open_slide(tmp_path / "f.tif") as slide:
        level = max_level(slide.info.size_l0) - 2
        image = assembled(slide, level, off=1)
        x, y = formula_position(image)
        wanted_x, wanted_y = 4 * np.arange(image.shape[1]), 4 * np.arange(image.shape[0])
        inner_x = (wanted_x % 256 > 12) & (wanted_x % 256 < 240)  # where a mean of positions is a position
        inner_y = (wanted_y % 256 > 12) & (wanted_y % 256 < 240)
        assert (abs(x - wanted_x)[np.ix_(inner_y, inner_x)] <= 4).all()
        assert (abs(y - wanted_y[:, None])[np.ix_(inner_y, inner_x)] <= 4).all()


def test_far_out_the_overview_is_shown_instead_of_reading_everything(tmp_path) -> None:
    formula_slide(tmp_path / "f.tif", (2048, 1024), downsamples=(1,))
    with open_slide(tmp_path / "f.tif") as slide:
        small = np.zeros((64, 128, 3), np.uint8)
        small[:, 64:] = 255
        level = max_level(slide.info.size_l0) - 4
        image = assembled(slide, level, lambda: small, off=1)
        assert image.shape == (64, 128, 3)
        assert image[:, :63].max() == 0
        assert image[:, 65:].min() == 255
        assert read_tile(slide, 0, (0, 0, 1, 1), lambda: small).shape == (1, 1, 3)
        assembled(slide, level + 1)  # still from the file


def test_tiles_over_http_are_the_slides_pixels(served) -> None:
    with open_slide(served.slides / NASTY) as slide:
        for column, row in ((0, 0), (2, 1), (5, 4)):
            x, y, w, h = tile_box((1500, 1100), TOP, column, row)
            url = served.url(NASTY, f"/image_files/{TOP}/{column}_{row}")
            wanted = slide.read_level(0, x, y, w, h)
            assert np.array_equal(served.pixels(f"{url}.png"), wanted)
            lossy = served.pixels(f"{url}.jpg")
            assert lossy.shape == wanted.shape
    with open_slide(served.slides / "drawn.tif") as slide:
        url = served.url("drawn.tif", f"/image_files/{max_level(slide.info.size_l0)}/3_3")
        drawn = slide.read_level(0, *tile_box(slide.info.size_l0, max_level(slide.info.size_l0), 3, 3))
        assert np.array_equal(served.pixels(f"{url}.png"), drawn)
        assert abs(served.pixels(f"{url}.jpeg").astype(int) - drawn).mean() < 4


@pytest.mark.parametrize(
    ("rest", "status"),
    [
        ("12/0_0.jpg", 404),
        (f"{TOP}/6_0.jpg", 404),
        (f"{TOP}/0_5.jpg", 404),
        ("x/0_0.jpg", 422),
        (f"{TOP}/-1_0.jpg", 422),
    ],
)
def test_there_are_no_other_tiles(served, rest: str, status: int) -> None:
    assert set(served.json(served.url(NASTY, f"/image_files/{rest}"), status)) == {"error"}


def test_a_browser_may_keep_tiles_that_name_their_content(served) -> None:
    version = served.json(served.url(NASTY))["image"]["version"]
    url = served.url(NASTY, f"/image_files/{TOP}/0_0.jpg")
    assert "immutable" in served.client.get(url, params={"v": version}).headers["cache-control"]
    assert served.client.get(url).headers["cache-control"] == "private, no-cache"
    assert served.client.get(url, params={"v": "0"}).headers["cache-control"] == "private, no-cache"


def test_the_slide_tells_its_frame_and_the_descriptor_agrees(served) -> None:
    data = served.json(served.url(NASTY))
    assert data["file"] is True
    assert data["level_sizes"] == [[1500, 1100], [375, 275]]
    assert {k: v for k, v in data["image"].items() if k != "version"} == {
        "width": 1500,
        "height": 1100,
        "tile_px": 254,
        "overlap": 1,
        "max_level": TOP,
    }
    text = served.client.get(served.url(NASTY, "/image.dzi")).text
    assert 'Overlap="1" TileSize="254"' in text
    assert '<Size Width="1500" Height="1100"/>' in text
    assert served.json(served.url("broken.tif"))["file"] is False


def test_a_stored_tile_is_what_the_encoder_saw(served) -> None:
    store = Store.open(served.store)
    bag, row = store.bag(served.key, NASTY), store.slide(served.key, NASTY)
    tile = int(bag.tile_index[3])
    x, y = bag.origin_l0[3]
    with open_slide(served.slides / NASTY) as slide:
        wanted = slide.read_level(0, int(x), int(y), 224, 224)
    assert row.footprint_l0 == 224
    assert np.array_equal(served.pixels(served.url(NASTY, f"/tiles/{tile}.png")), wanted)
    served.json(served.url(NASTY, "/tiles/999999.png"), 404)
    served.json(served.url("broken.tif", "/tiles/0.png"), 404)


@pytest.fixture
def moving(served, tmp_path, monkeypatch):
    """A client over a store whose registry says that the slides lie in ``tmp_path``; looked for at every request."""
    for path in served.slides.iterdir():
        shutil.copy(path, tmp_path / path.name)
    monkeypatch.setattr(slide_tiles, "_LOOK_SECONDS", 0.0)
    original = Store.rows

    def rows(self, key):
        return [dataclasses.replace(r, path=str(tmp_path / r.slide_id)) for r in original(self, key)]

    monkeypatch.setattr(Store, "rows", rows)
    with client_of(served.store) as client:
        yield client, tmp_path


def test_when_the_file_moves_tiles_are_gone_and_the_thumbnail_remains(served, moving) -> None:
    client, folder = moving
    url = served.url(NASTY, f"/image_files/{TOP}/1_1.jpg")
    assert client.get(url).status_code == 200
    (folder / NASTY).rename(folder / "elsewhere.tif")
    for path in (url, served.url(NASTY, f"/image_files/{TOP}/2_2.jpg")):
        gone = client.get(path)  # the first is held as an image: it is gone all the same
        assert gone.status_code == 410
        assert "not where it was" in gone.json()["error"]
    assert client.get(served.url(NASTY, "/thumbnail.png")).status_code == 200
    told = client.get(served.url(NASTY)).json()
    assert (told["file"], "thumbnail remains" in told["note"]) == (False, True)
    tile = int(Store.open(served.store).bag(served.key, NASTY).tile_index[0])
    cut = client.get(served.url(NASTY, f"/tiles/{tile}.jpg"))
    assert (cut.status_code, cut.headers["x-cut-from"]) == (200, "thumbnail")
    (folder / "elsewhere.tif").rename(folder / NASTY)
    assert client.get(url).status_code == 200


def test_another_file_of_that_name_is_not_the_slide(served, moving) -> None:
    client, folder = moving
    url = served.url(NASTY, f"/image_files/{TOP}/1_1.jpg")
    assert client.get(url).status_code == 200
    (folder / NASTY).unlink()
    formula_slide(folder / NASTY, downsamples=(1, 2))
    gone = client.get(url)
    assert gone.status_code == 410
    assert "changed" in gone.json()["error"]


def rows_of(folder, n: int) -> list[SlideRow]:
    made = []
    for number in range(n):
        path = folder / f"{number}.tif"
        formula_slide(path, (300, 200))
        made.append(SlideRow("recipe", path.name, "done", path=str(path), mpp_x=0.5))
    return made


def test_open_slides_are_bounded_and_closed(tmp_path) -> None:
    rows = rows_of(tmp_path, 5)
    slides = OpenSlides(most=2)
    seen = []
    with slides.lease(rows[0]) as first:
        for row in rows[1:]:
            with slides.lease(row) as reader:
                seen.append(reader)
            assert len(slides) <= 2
        assert first.read_level(0, 0, 0, 4, 4).shape == (4, 4, 3)  # off the list, but being read
    with pytest.raises(ValueError, match="closed"):
        first.read_level(0, 0, 0, 4, 4)
    with pytest.raises(ValueError, match="closed"):
        seen[0].read_level(0, 0, 0, 4, 4)
    slides.close()
    assert len(slides) == 0
    with pytest.raises(ValueError, match="closed"):
        seen[-1].read_level(0, 0, 0, 4, 4)


def test_many_readers_of_few_places(tmp_path) -> None:
    rows = rows_of(tmp_path, 4)
    slides = OpenSlides(most=2)
    wrong: list[BaseException] = []

    def look(seed: int) -> None:
        try:
            for step in range(30):
                with slides.lease(rows[(seed + step * step) % 4]) as slide:
                    x, y = formula_position(slide.read_level(0, 7, 9, 1, 1))
                    assert (x.item(), y.item()) == (7, 9)
        except (AssertionError, ValueError, SlideGone, SlideUnreadable) as error:
            wrong.append(error)

    threads = [threading.Thread(target=look, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(slides) <= 2


def test_finished_images_are_bounded_by_bytes() -> None:
    images = Encoded(most_bytes=800)
    for number in range(100):
        images.put((number,), b"x" * 90)
        assert images.nbytes <= 800
    assert images.get((0,)) is None
    assert images.get((99,)) == b"x" * 90
    images.put(("large",), b"x" * 500)
    assert images.get(("large",)) is None
    images.put((99,), b"y")
    assert images.nbytes == 90 * (len(images) - 1) + 1
    assert handle("a") != handle("b")
