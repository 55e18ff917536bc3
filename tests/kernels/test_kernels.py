"""The fast versions against the reference, and the reference against plain sense."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import beph_store_kernels as kernels
from beph_store_kernels import dispatch, fast, reference

images = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3, 4])),
    elements=st.integers(0, 255),
)
sizes = st.tuples(st.integers(1, 50), st.integers(1, 50))


@settings(deadline=None)
@given(images, sizes)
def test_resize_is_the_reference_to_the_last_bit(image, size):
    assert np.array_equal(fast.resize_area(image, size), reference.resize_area(image, size))


@settings(deadline=None)
@given(images, st.integers(1, 45))
def test_reduce_is_the_reference_to_the_last_bit(image, factor):
    assert np.array_equal(fast.reduce_area(image, factor), reference.reduce_area(image, factor))


@settings(deadline=None)
@given(
    hnp.arrays(np.bool_, st.tuples(st.integers(1, 30), st.integers(1, 30))),
    hnp.arrays(np.float64, (12, 4), elements=st.floats(-5, 35)),
)
def test_tissue_fraction_is_the_reference(mask, boxes):
    boxes[:, 2:] = boxes[:, :2] + np.abs(boxes[:, 2:]) + 0.01
    assert np.allclose(fast.tissue_fraction(mask, boxes), reference.tissue_fraction(mask, boxes), atol=1e-6)


@pytest.mark.parametrize("side", [222, 226, 250, 358, 444, 448, 896, 1001])
def test_the_sizes_that_slides_have(side):
    image = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    assert np.array_equal(fast.resize_area(image, (224, 224)), reference.resize_area(image, (224, 224)))


@pytest.mark.parametrize("factor", [11, 12, 17, 300])
def test_sums_do_not_overflow(factor):
    white = np.full((factor * 2 + 1, factor * 2 + 3, 3), 255, np.uint8)
    assert (fast.reduce_area(white, factor) == 255).all()
    assert (fast.resize_area(white, (7, 5)) == 255).all()


def test_what_an_area_average_is():
    image = np.array([[[0], [100], [200]]], np.uint8)
    assert reference.resize_area(image, (1, 1)).ravel().tolist() == [100]
    # Two thirds of 0 and one of 100, one third of 100 and two of 200: pixels of 1.5.
    assert reference.resize_area(image, (2, 1)).ravel().tolist() == [33, 167]
    assert reference.resize_area(image, (6, 1)).ravel().tolist() == [0, 0, 100, 100, 200, 200]
    assert reference.resize_area(np.array([[[0], [1]]], np.uint8), (1, 1)).item() == 1  # a half goes up


@given(images, sizes)
@settings(deadline=None, max_examples=30)
def test_the_mean_is_kept_and_nothing_overshoots(image, size):
    out = kernels.resize_area(image, size)
    assert abs(out.mean() - image.mean()) <= 0.5 + 1e-9
    assert image.min() <= out.min()
    assert out.max() <= image.max()


def test_ragged_blocks_are_means_of_what_there_is():
    image = np.arange(15, dtype=np.uint8).reshape(3, 5, 1)
    assert kernels.reduce_area(image, 2)[..., 0].tolist() == [[3, 5, 7], [11, 13, 14]]


def test_the_input_is_left_alone():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    before = image.copy()
    for size in [(8, 8), (4, 4), (5, 3)]:
        out = kernels.resize_area(image, size)
        out[:] = 0
    kernels.reduce_area(image, 1)[:] = 0
    assert np.array_equal(image, before)


@pytest.mark.parametrize("module", [fast, reference])
def test_what_is_refused(module):
    good = np.zeros((4, 4, 3), np.uint8)
    for image in [good.astype(float), good[0], good[:0]]:
        with pytest.raises(ValueError, match="expected a non-empty"):
            module.resize_area(image, (2, 2))
        with pytest.raises(ValueError, match="expected a non-empty"):
            module.reduce_area(image, 2)
    with pytest.raises(ValueError, match="at least 1"):
        module.resize_area(good, (0, 2))
    with pytest.raises(ValueError, match="at least 1"):
        module.reduce_area(good, 0)


def test_no_boxes():
    assert kernels.tissue_fraction(np.ones((3, 3), bool), np.zeros((0, 4))).shape == (0,)


def test_the_environment_names_an_implementation(monkeypatch):
    dispatch.implementation.cache_clear()
    monkeypatch.setenv("BEPH_STORE_KERNELS", "reference")
    assert dispatch.implementation("resize_area") is reference.resize_area
    dispatch.implementation.cache_clear()
    monkeypatch.setenv("BEPH_STORE_KERNELS", "abacus")
    with pytest.raises(ValueError, match="BEPH_STORE_KERNELS=abacus: resize_area has numpy, reference"):
        dispatch.implementation("resize_area")
    dispatch.implementation.cache_clear()


def test_every_operation_has_a_reference_and_a_row_in_the_readme():
    from pathlib import Path

    text = (Path(kernels.__file__).parents[1] / "README.md").read_text()
    for op, row in dispatch.TABLE.items():
        assert "reference" in row
        assert f"`{op}`" in text
