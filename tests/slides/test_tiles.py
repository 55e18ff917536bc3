"""From origins in level-0 px to pixels."""

import numpy as np
import pytest

from beph_store.records import TileSet, TileSpec
from beph_store.slides import TileReader, open_slide
from beph_store.testing.synthetic import formula_pixels, formula_position, formula_slide
from beph_store.tiling import tile_slide
from beph_store_kernels import resize_area
from tests.slides.drawing import piece


def tiles_at(origins, *, tile_px=224, mpp=0.5, footprint=224):
    origin = np.asarray(origins, np.int32).reshape(-1, 2)
    return TileSet(
        "s", TileSpec(tile_px, mpp, tile_px, 0.0, "none"), origin, footprint, np.ones(len(origin), np.float32)
    )


def read(slide, tiles, indices=None):
    reader = TileReader(slide, tiles)
    indices = range(len(tiles)) if indices is None else indices
    out = np.zeros((len(indices), tiles.spec.tile_px, tiles.spec.tile_px, 3), np.uint8)
    return reader, reader.read(indices, out), out


@pytest.fixture
def slide(formula_path):
    with open_slide(formula_path) as slide:
        yield slide


def test_native_scale_is_read_as_it_is(slide):
    origins = [(0, 0), (1276, 876), (37, 411)]
    reader, ok, out = read(slide, tiles_at(origins))
    assert (reader.level, reader.region_px) == (0, 224)
    assert ok.all()
    for (x, y), pixels in zip(origins, out, strict=True):
        found = formula_position(pixels)
        assert (found[0] == np.arange(x, x + 224)).all()
        assert (np.arange(y, y + 224) == found[1].T).all()


def test_a_level_of_that_scale_is_read_as_it_is(slide):
    reader, _, out = read(slide, tiles_at([(0, 0), (400, 100)], tile_px=96, mpp=2.0, footprint=384))
    assert (reader.level, reader.region_px) == (1, 96)
    for (x, y), pixels in zip([(0, 0), (100, 25)], out, strict=True):
        ys, xs = np.mgrid[y : y + 96, x : x + 96]
        assert np.array_equal(pixels, formula_pixels(xs * 4, ys * 4))


@pytest.mark.parametrize(
    ("mpp", "level", "side"),
    [(1.0, 0, 128), (0.75, 0, 96), (0.51, 0, 65), (1.992, 1, 64), (4.0, 1, 128), (0.49, 0, 63)],
)
def test_between_levels_it_is_resampled_once(slide, mpp, level, side):
    reader, ok, out = read(slide, tiles_at([(40, 80)], tile_px=64, mpp=mpp, footprint=round(64 * mpp / 0.5)))
    assert (reader.level, reader.region_px) == (level, side)
    assert ok.all()
    step = 4**level
    expected = slide.read_level(level, 40 // step, 80 // step, side, side)
    assert np.array_equal(out[0], resize_area(expected, (64, 64)))


def test_levels_of_odd_sizes_do_not_push_a_tile_over_the_edge(tmp_path):
    """1501 px halve to 750: the last tile would end one px outside, in white."""
    formula_slide(tmp_path / "a.tif", (1501, 1101), downsamples=(1, 2))
    with open_slide(tmp_path / "a.tif") as slide:
        tiles = tiles_at([(1501 - 448, 1101 - 448)], mpp=1.0, footprint=448)
        reader, ok, out = read(slide, tiles)
        assert reader.level == 1
        assert ok.all()
        assert np.array_equal(out[0], slide.read_level(1, 750 - 224, 550 - 224, 224, 224))


def test_any_indices_into_any_buffer(slide):
    tiles = tile_slide(slide.info, TileSpec(100, 0.5, 100, 0.0, "none"))
    _, _, everything = read(slide, tiles)
    reader = TileReader(slide, tiles)
    buffer = np.zeros((7, 100, 100, 3), np.uint8)
    ok = reader.read(np.array([5, 3, 140], np.int32), buffer)
    assert ok.tolist() == [True] * 3
    assert np.array_equal(buffer[:3], everything[[5, 3, 140]])
    assert not buffer[3:].any()
    assert reader.read([], buffer).shape == (0,)


def test_one_unreadable_tile_does_not_stop_the_others(tmp_path):
    path = tmp_path / "a.tif"
    formula_slide(path, compression="jpeg")
    offset, count = piece(path, 7)
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = bytes(count)
    path.write_bytes(data)
    for backend in (None, "openslide"):
        with open_slide(path, prefer=backend) as slide:
            tiles = tile_slide(slide.info, TileSpec(128, 0.5, 128, 0.0, "none"))
            reader, ok, out = read(slide, tiles)
            bad = [i for i, (x, y) in enumerate(tiles.origin_l0) if 256 <= x < 512 and 256 <= y < 512]
            assert np.flatnonzero(~ok).tolist() == bad
            assert len(bad) == 4
            assert sorted(reader.errors) == bad
            assert all("\n" not in why for why in reader.errors.values())
            assert all(pixels.any() for pixels in out[ok])


def test_a_slide_without_tiles(slide):
    reader, ok, _ = read(slide, tiles_at([]))
    assert len(ok) == 0
    assert reader.order().shape == (0,)


def test_order_is_row_by_row_and_a_permutation(slide):
    tiles = tile_slide(slide.info, TileSpec(100, 0.5, 70, 0.0, "none"))
    reader = TileReader(slide, tiles)
    shuffled = np.random.default_rng(0).permutation(len(tiles))[:60].astype(np.int32)
    order = reader.order(shuffled)
    assert order.dtype == np.int32
    assert order.tolist() == sorted(shuffled.tolist())
    assert reader.order().tolist() == list(range(len(tiles)))
