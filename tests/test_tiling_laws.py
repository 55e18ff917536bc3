"""The grid: what it covers, what changes nothing, and what tissue may do to it."""

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import beph_store.tiling as tiling
from beph_store.records import SlideInfo, TileSpec, TissueMask
from beph_store.tiling import origins, tile_slide, tissue_shares
from tests.laws import examples


@st.composite
def cut(draw, most=3_000):
    """A slide, a spec without a tissue minimum, and a mask of the slide or None; not too many tiles."""
    size = draw(st.tuples(st.integers(1, 9_000), st.integers(1, 9_000)))
    mpp_l0, tile_px = draw(st.floats(0.1, 1.0)), draw(st.integers(32, 512))
    mpp, stride = draw(st.floats(1.0, 4.0)), draw(st.integers(32, 700))
    assume(size[0] * size[1] < most * (stride * mpp / mpp_l0) ** 2)
    info = SlideInfo("s", "s.svs", size, mpp_l0, mpp_l0, "vendor", (size,), "0")
    spec = TileSpec(tile_px, mpp, stride, 0.0, "x")
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    seed = draw(st.integers(0, 2**32 - 1))
    tissue = np.random.default_rng(seed).random(shape) < draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    scale = (size[0] * mpp_l0 / shape[1], size[1] * mpp_l0 / shape[0])
    return info, spec, TissueMask(tissue, *scale, "x") if draw(st.booleans()) else None


def places(tiles):
    return {tuple(place): share for place, share in zip(tiles.origin_l0.tolist(), tiles.tissue, strict=True)}


@examples(150)
@given(st.integers(0, 50_000), st.integers(1, 3_000), st.floats(0.3, 3_000))
def test_starts_cover_an_axis_as_far_as_tiles_fit(length, footprint, stride):
    starts = origins(length, footprint, stride)
    assert (len(starts) > 0) == (length >= footprint)
    if not len(starts):
        return
    assert starts[0] == 0
    assert starts[-1] + footprint <= length
    assert (np.diff(starts) >= 1).all()
    assert (np.abs(np.diff(starts) - stride) <= 1).all() or stride < 1
    assert length - footprint - starts[-1] < stride + 1  # another would not fit
    if stride <= footprint:  # no gaps but of the rounding of a start
        assert (np.diff(starts) <= footprint + 1).all()
        covered = np.zeros(starts[-1] + footprint, bool)
        for start in starts[:200]:
            covered[start : start + footprint] = True
        assert not stride <= footprint - 1 or covered[: starts[:200][-1] + footprint].all()


@examples(60)
@given(cut())
def test_every_tile_lies_inside_and_is_there_once(case):
    info, spec, mask = case
    tiles = tile_slide(info, spec, mask)
    assert (tiles.origin_l0 >= 0).all()
    assert (tiles.origin_l0 + tiles.footprint_l0 <= np.array(info.size_l0)).all()
    assert len(places(tiles)) == len(tiles)
    assert ((tiles.tissue >= 0) & (tiles.tissue <= 1)).all()
    assert tiles.footprint_l0 == spec.footprint_l0(info.mpp)
    row_by_row = np.lexsort((tiles.origin_l0[:, 0], tiles.origin_l0[:, 1]))
    assert np.array_equal(row_by_row, np.arange(len(tiles)))


@examples(60)
@given(cut(), st.floats(0, 1), st.floats(0, 1))
def test_more_tissue_asked_is_fewer_tiles_and_no_others(case, one, other):
    info, spec, mask = case
    low, high = (
        places(tile_slide(info, dataclasses.replace(spec, tissue_min=share), mask))
        for share in sorted([one, other])
    )
    assert high.items() <= low.items()
    assert all(share >= max(one, other) for share in high.values())
    every = places(tile_slide(info, spec, mask))
    assert {place for place, share in every.items() if share >= min(one, other)} == set(low)


@examples(60)
@given(cut(), st.integers(0, 2**32 - 1), st.floats(0, 0.9))
def test_more_tissue_found_never_lowers_a_share(case, seed, minimum):
    info, spec, mask = case
    assume(mask is not None)
    found = mask.mask | (np.random.default_rng(seed).random(mask.mask.shape) < 0.2)
    more = dataclasses.replace(mask, mask=found)
    before, after = (places(tile_slide(info, spec, each)) for each in (mask, more))
    assert before.keys() == after.keys()
    assert all(after[place] >= share - 1e-6 for place, share in before.items())
    gone = dataclasses.replace(mask, mask=~mask.mask)
    rest = places(tile_slide(info, spec, gone))
    assert all(rest[place] + share == pytest.approx(1, abs=1e-5) for place, share in before.items())


@examples(60)
@given(cut(), st.sampled_from([1, 2, 7, 64]), st.floats(0, 1))
def test_the_bands_it_is_worked_through_in_change_nothing(case, chunk, minimum):
    info, spec, mask = case
    spec = dataclasses.replace(spec, tissue_min=minimum)
    whole = tile_slide(info, spec, mask)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiling, "_CHUNK_TILES", chunk)
        banded = tile_slide(info, spec, mask)
    assert np.array_equal(banded.origin_l0, whole.origin_l0)
    assert np.array_equal(banded.tissue, whole.tissue)
    assert banded.origin_l0.dtype == whole.origin_l0.dtype == np.int32


@examples(60)
@given(cut(), st.integers(0, 2**32 - 1))
def test_a_share_depends_on_its_own_tile_alone(case, seed):
    info, spec, mask = case
    tiles = tile_slide(info, spec, mask)
    order = np.random.default_rng(seed).permutation(len(tiles))
    some = tissue_shares(info, mask, tiles.origin_l0[order], tiles.footprint_l0)
    np.testing.assert_array_equal(some, tiles.tissue[order])


@examples(60)
@given(cut(), st.sampled_from([0.5, 2.0]))
def test_a_slide_and_a_spec_scaled_alike_have_the_same_tiles(case, factor):
    """Only ratios of µm/px count: twice the pixel and twice the tile's scale is the same grid of pixels."""
    info, spec, mask = case
    far = dataclasses.replace(info, mpp_x=info.mpp_x * factor, mpp_y=info.mpp_y * factor)
    wide = dataclasses.replace(spec, mpp=spec.mpp * factor)
    large = mask and dataclasses.replace(mask, mpp_x=mask.mpp_x * factor, mpp_y=mask.mpp_y * factor)
    assert places(tile_slide(far, wide, large)) == places(tile_slide(info, spec, mask))


@examples(60)
@given(cut(), st.integers(2, 4))
def test_a_coarser_grid_of_the_same_tiles_is_part_of_the_finer_one(case, times):
    info, spec, mask = case
    fine = tile_slide(info, spec, mask)
    coarse = tile_slide(info, dataclasses.replace(spec, stride_px=spec.stride_px * times), mask)
    assert places(coarse).items() <= places(fine).items()
