"""Blur, emptiness and stain are measured, and what a tile shows cancels out of the first."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from beph_store.search.quality import hue_saturation_density, measure, robust_z, slide_stain, stain_z
from beph_store.testing.synthetic import SlidePlan, draw


@pytest.fixture(scope="module")
def tiles() -> np.ndarray:
    plan = SlidePlan(size=(2560, 2304), seed=4, nuisances=())
    picture = draw(plan, 768, 768, 896, 896)
    return np.stack(
        [picture[y : y + 224, x : x + 224] for y in range(0, 896, 224) for x in range(0, 896, 224)]
    )


def test_blur_lowers_focus_of_every_tile_more_than_tiles_differ(tiles) -> None:
    sharp = measure(tiles).focus
    blurred = measure(np.stack([ndimage.gaussian_filter(tile, (1.5, 1.5, 0)) for tile in tiles])).focus
    assert (blurred < sharp - 0.5).all()
    assert blurred.max() < sharp.min()


def test_contrast_does_not_look_like_blur(tiles) -> None:
    faint = (240 - (240 - tiles.astype(np.float32)) * 0.5).astype(np.uint8)
    np.testing.assert_allclose(measure(faint).focus, measure(tiles).focus, atol=0.25)


def test_flat_tiles_are_blank_whatever_their_colour_and_noise(tiles) -> None:
    rng = np.random.default_rng(0)
    flat = np.array([[[244, 243, 245]], [[225, 150, 190]]], np.uint8)[:, None]
    flat = (flat + rng.integers(-3, 4, (2, 224, 224, 3))).clip(0, 255).astype(np.uint8)
    assert measure(flat).blank.all()
    assert not measure(tiles).blank.any()


def test_density_is_that_of_the_stained_pixels() -> None:
    tile = np.full((1, 224, 224, 3), 255, np.uint8)
    tile[:, :56] = (100, 50, 200)
    found = measure(tile)
    assert found.stained[0] == 0.25
    np.testing.assert_allclose(found.density[0], -np.log(np.array([100, 50, 200]) / 255), rtol=1e-5)
    np.testing.assert_allclose(slide_stain(found), found.density[0])
    assert slide_stain(measure(np.full((2, 224, 224, 3), 255, np.uint8))) is None


def test_chromaticity_does_not_depend_on_the_amount_of_dye() -> None:
    """Beer and Lambert: twice the dye is twice the density in every channel."""
    one = np.array([[0.3, 0.6, 0.2]])
    thin, thick = hue_saturation_density(one), hue_saturation_density(2 * one)
    np.testing.assert_allclose(thin[0, 1:], thick[0, 1:])
    assert thick[0, 0] - thin[0, 0] == pytest.approx(np.log(2))
    grey = hue_saturation_density(np.full((1, 3), 0.4))
    np.testing.assert_allclose(grey[0, 1:], 0, atol=1e-12)


def test_another_stain_stands_out_and_a_little_more_dye_does_not() -> None:
    cohort = np.tile([0.25, 0.55, 0.3], (8, 1)) * np.linspace(0.9, 1.1, 8)[:, None]
    cohort[3] = [0.35, 0.4, 0.6]
    z = stain_z(cohort)
    assert np.flatnonzero(z > 3.5).tolist() == [3]


def test_robust_z_by_hand() -> None:
    values = np.array([1.0, 2, 3, 4, 100, np.nan])
    z = robust_z(values, floor=0.1)
    np.testing.assert_allclose(z[:5], (values[:5] - 3) / 1.4826)
    assert np.isnan(z[5])
    np.testing.assert_allclose(robust_z(np.array([5.0, 5, 5.2]), floor=0.1), [0, 0, 2])
    assert np.isnan(robust_z(np.full(2, np.nan), floor=0.1)).all()
