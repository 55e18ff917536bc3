"""Perturbations by arithmetic: nothing at no strength, and what was asked for otherwise."""

import numpy as np
import pytest

from beph_store.engine.leaderboard.perturb import (
    STAINS,
    Strength,
    from_amounts,
    jitter_stain,
    jpeg,
    perturbations,
    restain,
    stain_amounts,
)


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def test_no_strength_changes_no_pixel(noise):
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    for pixels in (noise, greys):
        assert (restain(pixels, np.ones(3), np.zeros(3)) == pixels).all()
        assert (jitter_stain(pixels, (1,), strength=Strength(0, 0)) == pixels).all()
    assert (jitter_stain(noise, (1,), strength=Strength()) != noise).mean() > 0.9


def test_taken_apart_and_put_together_is_the_same(noise):
    assert (from_amounts(stain_amounts(noise)) == noise).all()


@pytest.mark.parametrize("stain", range(3))
def test_a_stain_alone_is_found_alone_and_doubles(stain):
    """Beer and Lambert by hand: 256 · 10^(−amount · vector) − 1."""
    amount = 0.3
    pure = 256 * 10 ** (-amount * STAINS[stain]) - 1
    found = stain_amounts(np.rint(pure).astype(np.uint8)[None, None])[0, 0]
    assert found[stain] == pytest.approx(amount, abs=0.02)
    assert np.abs(np.delete(found, stain)).max() < 0.02
    alpha = np.where(np.arange(3) == stain, 2.0, 1.0)
    doubled = restain(np.rint(pure).astype(np.uint8)[None, None], alpha, np.zeros(3))[0, 0]
    assert np.abs(doubled - (256 * 10 ** (-2 * amount * STAINS[stain]) - 1)).max() < 3


def test_an_addition_stains_glass():
    glass = np.full((2, 2, 3), 255, np.uint8)
    pink = restain(glass, np.ones(3), np.array([0, 0.1, 0]))
    assert (pink[0, 0] == np.rint(256 * 10 ** (-0.1 * STAINS[1]) - 1)).all()
    assert pink[0, 0, 1] < pink[0, 0, 0]  # eosin takes green
    assert (restain(glass, np.full(3, 1.7), np.zeros(3)) == glass).all()  # what has no stain gains none


def test_the_jitter_stays_within_its_strength_and_is_its_seeds():
    strength = Strength(alpha=0.2, beta=0.03)
    before = np.array([0.3, 0.2, 0.1])
    pixels = from_amounts(np.broadcast_to(before, (4, 4, 3)))
    drawn = np.array(
        [stain_amounts(jitter_stain(pixels, (0, i), strength=strength))[0, 0] for i in range(200)]
    )
    change = drawn - stain_amounts(pixels)[0, 0]
    most = 0.2 * before + 0.03 + 0.02  # 0.02: rounding to 8 bits
    assert (np.abs(change) < most).all()
    assert (change.max(axis=0) > 0.5 * most).all()
    assert (change.min(axis=0) < -0.5 * most).all()
    once, again, other = (jitter_stain(pixels, seed, strength=strength) for seed in ((3,), (3,), (4,)))
    assert (once == again).all()
    assert (once != other).any()


def test_jpeg_loses_more_at_less_quality_and_nothing_of_one_colour(noise):
    plain = np.full((32, 32, 3), (200, 150, 190), np.uint8)
    assert np.abs(jpeg(plain, 70).astype(int) - plain).max() <= 4  # the chroma quantised
    off = [np.abs(jpeg(noise, q).astype(int) - noise).mean() for q in (95, 70, 40, 20)]
    assert off == sorted(off)
    assert off[0] < off[-1]
    assert jpeg(noise[:33, :47], 20).shape == (33, 47, 3)


def test_the_table_applies_what_it_names(noise):
    kinds = perturbations(Strength(qualities=(20, 70)))
    assert [kind.name for kind in kinds] == ["stain", "jpeg70", "jpeg20"]
    assert (kinds[0].apply(noise, (5,)) == jitter_stain(noise, (5,), strength=Strength())).all()
    for kind, quality in zip(kinds[1:], (70, 20), strict=True):
        assert (kind.apply(noise, (5,)) == jpeg(noise, quality)).all()
        assert str(quality) in kind.what
