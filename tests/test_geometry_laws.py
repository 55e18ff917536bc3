"""Units and frames: there and back, scaling, bounds; for any scale, size and pyramid."""

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from beph_store.errors import MppImplausible, SlideError
from beph_store.geometry import (
    ANISOTROPY_MAX,
    MPP_RANGE,
    UPSAMPLING_MAX,
    check_mpp,
    check_scale,
    downsamples,
    level_for,
    to_level0,
)
from beph_store.records import TileSpec
from tests.laws import examples

scales = st.floats(*MPP_RANGE)
lengths = st.floats(1e-3, 1e7)
factors = st.sampled_from([0.5, 2.0, 4.0, 8.0])  # powers of two: no rounding, so laws hold to the bit


@examples(200)
@given(lengths, scales, scales)
def test_a_length_comes_back_from_level_0(px, mpp, mpp_l0):
    assert to_level0(to_level0(px, mpp, mpp_l0), mpp_l0, mpp) == pytest.approx(px, rel=1e-12)


@examples(200)
@given(lengths, scales, scales, scales)
def test_by_way_of_another_frame_it_is_as_long(px, mpp, between, mpp_l0):
    there = to_level0(to_level0(px, mpp, between), between, mpp_l0)
    assert there == pytest.approx(to_level0(px, mpp, mpp_l0), rel=1e-12)


@examples(200)
@given(lengths, scales, scales, factors)
def test_only_the_ratio_of_two_scales_counts(px, mpp, mpp_l0, factor):
    assert to_level0(px, mpp * factor, mpp_l0 * factor) == to_level0(px, mpp, mpp_l0)
    assert to_level0(px * factor, mpp, mpp_l0) == factor * to_level0(px, mpp, mpp_l0)
    assert to_level0(px, mpp, mpp_l0) * mpp_l0 == pytest.approx(px * mpp, rel=1e-12)  # the same µm


@examples(200)
@given(st.integers(1, 4096), scales, scales)
def test_a_footprint_is_off_by_half_a_px_at_most_and_a_stride_by_nothing(tile_px, mpp, mpp_l0):
    spec = TileSpec(tile_px, mpp, tile_px, 0.5, "x")
    true = tile_px * mpp / mpp_l0
    side = spec.footprint_l0(mpp_l0)
    assert side >= 1
    assert isinstance(side, int)
    assert abs(side - true) <= 0.5 or side == 1 > true
    assert spec.stride_l0(mpp_l0) == pytest.approx(true, rel=1e-12)


@examples(200)
@given(scales, scales)
def test_a_pair_of_scales_is_taken_as_it_is_or_refused(x, y):
    askew = abs(x - y) / min(x, y)
    assume(abs(askew - ANISOTROPY_MAX) > 1e-9)
    if askew > ANISOTROPY_MAX:
        with pytest.raises(MppImplausible, match="not square"):
            check_mpp(x, y)
    else:
        assert check_mpp(x, y) == (x, y)


@examples(200)
@given(st.floats(allow_nan=True, allow_infinity=True))
def test_what_is_no_scale_of_a_microscope_is_refused(mpp):
    assume(not MPP_RANGE[0] <= mpp <= MPP_RANGE[1])
    with pytest.raises(SlideError, match="--slide-mpp"):
        check_mpp(mpp, mpp)


@examples(200)
@given(scales, scales)
def test_a_slide_is_coarse_enough_to_be_refused_or_it_is_not(mpp, mpp_l0):
    assume(abs(mpp * (1 + UPSAMPLING_MAX) / mpp_l0 - 1) > 1e-9)
    if mpp_l0 / mpp > 1 + UPSAMPLING_MAX:
        with pytest.raises(SlideError, match="--mpp"):
            check_scale(mpp, mpp_l0)
    else:
        check_scale(mpp, mpp_l0)


@st.composite
def pyramids(draw):
    """Level sizes as scanners write them: each level a power of two or so smaller, rounded up or down."""
    size = draw(st.tuples(st.integers(2_000, 200_000), st.integers(2_000, 200_000)))
    steps = draw(st.lists(st.sampled_from([2, 3, 4]), max_size=4))
    levels, down = [size], 1
    for step in steps:
        down *= step
        levels.append(tuple(max(1, side // down + draw(st.integers(0, 1))) for side in size))
    return tuple(levels)


@examples(200)
@given(pyramids(), st.floats(0.25, 300), st.floats(0.25, 300))
def test_the_level_that_is_read_is_the_coarsest_fine_enough_one(levels, one, other):
    down = downsamples(levels)
    assert down[0] == 1
    assert all(a < b for a, b in pairwise(down))
    for wanted in (one, other):
        level = level_for(wanted, levels)
        assert level == 0 or down[level] <= wanted * 1.005
        assert all(down[coarser] > wanted * 1.005 for coarser in range(level + 1, len(levels)))
    finer, coarser = sorted([one, other])
    assert level_for(finer, levels) <= level_for(coarser, levels)
    assert [level_for(each, levels) for each in down] == list(range(len(levels)))
