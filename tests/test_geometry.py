import pytest
from hypothesis import given
from hypothesis import strategies as st

from beph_store.errors import MppImplausible, MppMissing, SlideError
from beph_store.geometry import MPP_RANGE, check_mpp, check_scale, downsamples, level_for, to_level0


@pytest.mark.parametrize("pair", [(None, None), (0.5, None), (None, 0.5), (0.0, 0.5), (0, 0)])
def test_a_missing_scale_names_the_cure(pair):
    with pytest.raises(MppMissing, match="--slide-mpp"):
        check_mpp(*pair)


@pytest.mark.parametrize("value", [-0.5, 0.0499, 20.1, 2.3e-6, 352.8, float("inf"), float("nan")])
def test_an_impossible_scale(value):
    with pytest.raises(MppImplausible, match="outside"):
        check_mpp(value, value)


def test_square_within_a_percent():
    assert check_mpp(0.25, 0.2524) == (0.25, 0.2524)
    with pytest.raises(MppImplausible, match="not square"):
        check_mpp(0.25, 0.253)


@given(st.floats(*MPP_RANGE))
def test_every_scale_in_the_range_passes(mpp):
    assert check_mpp(mpp, mpp) == (mpp, mpp)


def test_a_slide_may_be_a_little_coarser_than_asked():
    check_scale(0.25, 0.2638)
    check_scale(1.0, 0.25)
    with pytest.raises(SlideError, match=r"0.5 µm per px, coarser than the requested 0.25: pass --mpp 0.5"):
        check_scale(0.25, 0.5)
    with pytest.raises(SlideError):
        check_scale(0.25, 0.2651)


def test_lengths():
    assert to_level0(224, 0.5, 0.25) == 448


SIZES = ((11621, 10877), (5810, 5438), (2905, 2719), (726, 679))


def test_downsamples_are_means_of_both_axes():
    found = downsamples(SIZES)
    assert found[0] == 1
    assert found[1] == pytest.approx((11621 / 5810 + 10877 / 5438) / 2)


@pytest.mark.parametrize(
    ("wanted", "level"),
    [(0.9, 0), (1, 0), (1.9, 0), (2.0, 1), (1.992, 1), (3.9, 1), (4.0, 2), (15, 2), (16, 3), (99, 3)],
)
def test_the_smallest_level_that_is_not_coarser(wanted, level):
    assert level_for(wanted, SIZES) == level


@given(st.floats(1, 200))
def test_a_chosen_level_is_never_coarser(wanted):
    assert downsamples(SIZES)[level_for(wanted, SIZES)] <= wanted * 1.005
