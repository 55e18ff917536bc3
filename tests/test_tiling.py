"""The grid: no drift, no overhang, every tile once, tissue shares exact."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from beph_store.errors import SlideError
from beph_store.records import SlideInfo, TileSpec, TissueMask
from beph_store.tiling import origins, tile_slide


def info(size=(10_000, 8_000), mpp=0.25, mpp_y=None):
    return SlideInfo("s", "s.svs", size, mpp, mpp_y or mpp, "vendor", (size,), "0")


def spec(tile_px=224, mpp=0.5, stride_px=224, tissue_min=0.0):
    return TileSpec(tile_px, mpp, stride_px, tissue_min, "none")


grids = st.tuples(
    st.tuples(st.integers(1, 60_000), st.integers(1, 60_000)),
    st.floats(0.1, 1.0),
    st.integers(32, 1024),
    st.floats(0.2, 4.0),
    st.integers(64, 2048),
)


@settings(deadline=None)
@given(grids)
def test_any_grid(grid):
    size, mpp_l0, tile_px, mpp, stride_px = grid
    assume(mpp >= mpp_l0)
    assume(size[0] * size[1] * (mpp_l0 / (stride_px * mpp)) ** 2 < 1e5)
    tiles = tile_slide(info(size, mpp_l0), spec(tile_px, mpp, stride_px))
    footprint, stride = tiles.footprint_l0, stride_px * mpp / mpp_l0
    assert abs(footprint - tile_px * mpp / mpp_l0) <= 0.5
    assert tiles.origin_l0.dtype == np.int32
    assert tiles.tissue.dtype == np.float32
    assert (tiles.tissue == 1).all()
    per_axis = [
        max(0, int(np.floor((side - footprint) / stride + 1e-9)) + 1) if side >= footprint else 0
        for side in size
    ]
    for axis in (0, 1):
        starts = np.unique(tiles.origin_l0[:, axis])
        if not len(tiles):
            continue
        # No drift: the n-th start is within half a px of n strides, however long the slide.
        assert np.abs(starts - np.arange(len(starts)) * stride).max() <= 0.5
        # Inside, and the next one would not be.
        assert starts[0] == 0
        assert starts[-1] + footprint <= size[axis]
        assert round((len(starts)) * stride) + footprint > size[axis]
        # Rounding may win or lose half a px at the edge.
        assert abs(len(starts) - per_axis[axis]) <= 1
    assert len(np.unique(tiles.origin_l0, axis=0)) == len(tiles)
    raster = tiles.origin_l0[np.lexsort((tiles.origin_l0[:, 0], tiles.origin_l0[:, 1]))]
    assert np.array_equal(raster, tiles.origin_l0)


def test_tiles_side_by_side_cover_the_slide_but_for_the_edges():
    tiles = tile_slide(info((10_000, 8_000), 0.2527), spec())
    painted = np.zeros((8_000, 10_000), np.uint8)
    for x, y in tiles.origin_l0:
        painted[y : y + tiles.footprint_l0, x : x + tiles.footprint_l0] += 1
    right, below = tiles.origin_l0.max(axis=0) + tiles.footprint_l0
    # Side by side up to the rounding of a start: gaps and overlaps of at most one px.
    assert (painted[:below, :right] > 0).mean() > 0.996
    assert 10_000 - right < tiles.footprint_l0
    assert 8_000 - below < tiles.footprint_l0


def test_overlaps_and_gaps_are_legal():
    assert len(tile_slide(info((1000, 1000), 0.5), spec(stride_px=112))) == 49
    assert len(tile_slide(info((1000, 1000), 0.5), spec(stride_px=256))) == 16
    assert len(tile_slide(info((1000, 1000), 0.5), spec(stride_px=224))) == 16


def test_a_stride_below_a_pixel_makes_no_tile_twice():
    assert origins(20, 10, 0.4).tolist() == list(range(11))


def test_a_slide_smaller_than_a_tile_has_none():
    assert len(tile_slide(info((447, 5000)), spec())) == 0
    assert len(tile_slide(info((448, 448)), spec())) == 1


def test_a_slide_coarser_than_asked_is_refused_by_name():
    with pytest.raises(SlideError, match="--mpp"):
        tile_slide(info(mpp=0.5), spec(mpp=0.25))
    assert tile_slide(info(mpp=0.26), spec(mpp=0.25)).footprint_l0 == 215


def test_a_grid_beyond_all_measure_is_refused():
    with pytest.raises(SlideError, match="--stride-px"):
        tile_slide(info((4_000_000, 4_000_000), 0.5), spec(stride_px=1))


masks = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).random((41, 53)) > 0.5)


@settings(deadline=None, max_examples=30)
@given(masks, st.floats(0.2, 0.6), st.integers(40, 300))
def test_tissue_shares_are_exact(mask, mpp_l0, tile_px):
    """Against counting on a raster a thousand times finer."""
    extent = 53 * 8.0, 41 * 8.0
    slide = info((int(extent[0] / mpp_l0), int(extent[1] / mpp_l0)), mpp_l0)
    tiles = tile_slide(slide, spec(tile_px, 0.6, tile_px), TissueMask(mask, 8.0, 8.0, "x"))
    for (x, y), share in list(zip(tiles.origin_l0, tiles.tissue, strict=True))[:3]:
        points = (np.arange(2000) + 0.5) / 2000 * tiles.footprint_l0 * mpp_l0 / 8.0
        rows, columns = (y * mpp_l0 / 8.0 + points).astype(int), (x * mpp_l0 / 8.0 + points).astype(int)
        counted = mask[np.minimum(rows, 40)][:, np.minimum(columns, 52)].mean()
        assert share == pytest.approx(counted, abs=3e-3)


def test_only_enough_tissue_is_kept():
    mask = np.zeros((100, 100), bool)
    mask[:, :50] = True
    slide = info((1600, 1600), 0.5)
    tissue = TissueMask(mask, 8.0, 8.0, "x")
    kept = {share: tile_slide(slide, spec(160, 0.5, 160, share), tissue) for share in (0.0, 0.1, 0.5, 1.0)}
    assert {share: len(tiles) for share, tiles in kept.items()} == {0.0: 100, 0.1: 50, 0.5: 50, 1.0: 50}
    assert (kept[1.0].tissue == 1).all()
    half = tile_slide(slide, spec(320, 0.5, 320, 0.5), tissue)
    assert sorted(set(half.tissue.tolist())) == [0.5, 1.0]


def test_a_mask_of_another_shape_than_the_slide_is_laid_by_its_scale():
    """The overview's last block may hang over the edge, and its axes may differ by a hair."""
    mask = np.zeros((26, 51), bool)
    mask[:, 25:] = True
    slide = info((10_000, 5_000), 0.4)
    tiles = tile_slide(slide, spec(500, 0.4, 500), TissueMask(mask, 80.0, 80.0, "x"))
    assert np.array_equal(tiles.tissue, (tiles.origin_l0[:, 0] >= 5000).astype(np.float32))


def test_no_tissue_is_an_empty_set():
    tiles = tile_slide(info(), spec(tissue_min=0.1), TissueMask(np.zeros((50, 50), bool), 50.0, 50.0, "x"))
    assert len(tiles) == 0
    assert tiles.origin_l0.shape == (0, 2)
    assert tiles.origin_l0.dtype == np.int32
