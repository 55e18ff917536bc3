"""The direct JPEG reader: OpenSlide's pixels, each macro-tile once, and OpenSlide itself where in doubt."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beph_store.records import TileSpec
from beph_store.slides import TileReader, open_slide
from beph_store.slides import jpeg as jpeg_module
from beph_store.testing.synthetic import SlidePlan, write_slide
from beph_store.testing.tiff import Coding, TiledTiff
from beph_store.tiling import tile_slide

CODINGS = {
    "444": Coding(subsampling="444"),
    "422": Coding(subsampling="422"),
    "420": Coding(subsampling="420"),
    "420 whole": Coding(subsampling="420", tables=False),
    "rgb": Coding(colour="rgb"),
    "rgb whole": Coding(colour="rgb", tables=False),
}


@pytest.fixture(scope="module", params=CODINGS)
def drawn(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("direct") / "slide.tif"
    write_slide(
        path, SlidePlan(size=(2100, 2070), seed=1, downsamples=(1, 2, 4), coding=CODINGS[request.param])
    )
    with open_slide(path) as direct, open_slide(path, prefer="openslide") as reference:
        assert (direct.backend, direct.note) == ("tiled-jpeg", "")
        yield direct, reference


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(x=st.integers(-40, 2110), y=st.integers(-40, 2080), w=st.integers(1, 600), h=st.integers(1, 600))
def test_level_0_is_openslides_to_the_last_bit(drawn, x, y, w, h):
    direct, reference = drawn
    assert np.array_equal(direct.read_level(0, x, y, w, h), reference.read_level(0, x, y, w, h))


def test_smaller_levels_are_openslides_where_it_does_not_resample(drawn):
    """From a corner, whole-numbered everywhere; elsewhere OpenSlide shifts by part of a pixel."""
    direct, reference = drawn
    for level, (width, height) in enumerate(direct.info.level_sizes):
        ours = direct.read_level(level, 0, 0, width, height)
        assert np.array_equal(ours, reference.read_level(level, 0, 0, width, height))


def test_overviews_agree(drawn):
    direct, reference = drawn
    for mpp in (0.5, 3.0, 8.0):
        ours, *scale = direct.overview(mpp)
        theirs, *their_scale = reference.overview(mpp)
        assert scale == their_scale
        assert np.abs(ours.astype(int) - theirs).mean() < 1


def test_a_difference_hands_the_slide_to_openslide(drawn_slide, monkeypatch):
    decode = jpeg_module.JpegReader.decode
    monkeypatch.setattr(jpeg_module.JpegReader, "decode", lambda self, data: decode(self, data) ^ 1)
    with open_slide(drawn_slide.path) as slide:
        assert slide.backend == "openslide"
        assert slide.note.startswith("read directly, level 0 at")
        assert "differs from OpenSlide by 1 on the mean" in slide.note


def test_strictness_that_openslide_does_not_share_hands_the_slide_to_it(drawn_slide, monkeypatch):
    def refuse(self, data):
        raise jpeg_module.JpegError("extraneous bytes")

    monkeypatch.setattr(jpeg_module.JpegReader, "decode", refuse)
    with open_slide(drawn_slide.path) as slide:
        assert slide.backend == "openslide"
        assert "is unreadable to it only" in slide.note
        assert slide.read_level(0, 0, 0, 9, 9).any()


def test_a_vendor_that_needs_openslide_is_left_to_it(tmp_path):
    """Gaps in the smaller levels of an SVS are OpenSlide's to fill."""
    path = tmp_path / "a.svs"
    with TiledTiff(path, None, description="Aperio Image|MPP = 0.5") as tiff:
        for side in (512, 256):
            level = tiff.add_level((side, side), Coding(), 128)
            for index in range(level.across * level.down - (side == 256)):
                tiff.put(level, index, np.full((128, 128, 3), 90, np.uint8))
    with open_slide(path) as slide:
        assert slide.backend == "openslide"


def read_all(path, cache_bytes, order=None):
    with open_slide(path, cache_bytes=cache_bytes) as slide:
        tiles = tile_slide(slide.info, TileSpec(224, 0.5, 224, 0.0, "none"))
        reader = TileReader(slide, tiles)
        order = reader.order() if order is None else order(len(tiles))
        out = np.empty((len(tiles), 224, 224, 3), np.uint8)
        assert reader.read(order, out).all()
        return slide.decodes, slide.distinct, out[np.argsort(order)]


def test_each_macro_tile_is_decoded_once(drawn_slide):
    decodes, distinct, _ = read_all(drawn_slide.path, 256 << 20)
    assert decodes == distinct == 90


def test_strips_save_a_small_cache(drawn_slide):
    """Raster order would decode most macro-tiles of 2560 px in two rows twice: the cache holds eight of them."""
    small = 8 * 256 * 256 * 3
    raster, distinct, same = read_all(drawn_slide.path, small, np.arange)
    strips, _, pixels = read_all(drawn_slide.path, small)
    assert raster > 1.5 * distinct
    assert strips < raster
    assert np.array_equal(same, pixels)


def test_the_cache_keeps_its_bound(drawn_slide):
    with open_slide(drawn_slide.path, cache_bytes=5 * 256 * 256 * 3) as slide:
        slide.read_level(0, 0, 0, 2560, 2304)
        held = sum(entry.nbytes for entry in slide._backend._cache._held.values())
        assert 0 < held <= 5 * 256 * 256 * 3
        slide.overview(0.5, max_px=100)
        assert not slide._backend._cache._held
