"""Places agree where tissue is the same, and only there; ratios tell copies from look-alikes."""

from __future__ import annotations

import numpy as np
import pytest

from beph_store.engine.audit.tissue import FALSE_ALARMS
from beph_store.search import Searcher
from beph_store.search.duplicates import LookAlikes, Matches, Places, joined
from beph_store.search.placing import place, umeyama

from .conftest import Flat, flat_of

SIDE = 112.0
REACH = 0.75 * SIDE


def grid(columns: int, rows: int) -> np.ndarray:
    y, x = np.mgrid[:rows, :columns]
    return np.stack([x.ravel(), y.ravel()], axis=1) * SIDE + SIDE / 2


def moved(turn: float, flip: bool, scale: float, shift: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    matrix = scale * np.array([[cos, -sin], [sin, cos]]) @ np.diag([-1.0 if flip else 1.0, 1.0])
    return matrix, np.array(shift)


def on_grid(places: np.ndarray) -> np.ndarray:
    """The middle of the tile that each place falls into."""
    return np.floor(places / SIDE) * SIDE + SIDE / 2


@pytest.mark.parametrize(
    ("turn", "flip", "scale"),
    [
        (0, False, 1),
        (90, False, 1),
        (180, True, 1),
        (0, True, 1),
        (17, False, 1),
        (-123, True, 1.05),
        (4, False, 0.95),
    ],
)
def test_a_piece_among_chance_matches_is_placed(turn: float, flip: bool, scale: float) -> None:
    """Of 120 matches 30 are right, and off by up to half a tile, as grids are."""
    rng = np.random.default_rng(0)
    matrix, shift = moved(turn, flip, scale, (4000, 3000))
    a = grid(20, 15)[rng.choice(300, 120, replace=False)]
    other = on_grid(grid(20, 15) @ matrix.T + shift)
    b = other[rng.integers(0, 300, 120)]
    right = rng.choice(120, 30, replace=False)
    b[right] = on_grid(a[right] @ matrix.T + shift)
    found = place(a, b, np.unique(other, axis=0), REACH)
    assert found is not None
    assert found.log10_nfa < -8
    assert found.inliers[right].mean() > 0.8
    assert found.clear
    assert found.flipped == flip
    assert abs((found.turn - turn + 180) % 360 - 180) < 6
    away = np.linalg.norm(found.carry(a[right]) - b[right], axis=1)
    assert np.median(away) < REACH


def test_chance_matches_are_not_believed() -> None:
    """Neither anywhere on the other slide, nor anywhere in the right region of it, as tumour is like tumour."""
    rng = np.random.default_rng(1)
    tiles = grid(20, 20)
    middle = np.array([10, 10]) * SIDE
    least = []
    for trial in range(30):
        a, b = tiles[rng.integers(0, 400, 150)], tiles[rng.integers(0, 400, 150)]
        if trial % 2:
            left = (a < middle).all(axis=1)
            b[left] = tiles[(tiles < middle).all(axis=1)][rng.integers(0, 100, left.sum())]
        least.append(place(a, b, tiles, REACH, seed=trial).log10_nfa)
    assert min(least) > -3
    assert np.median(least) > 0


def test_slides_of_one_outline_are_hardly_ever_believed() -> None:
    """The worst case for places: the upper and left edges match the same edges of the other slide, at random."""
    rng = np.random.default_rng(3)
    tiles = grid(12, 12)
    kind = (tiles[:, 0] < 2 * SIDE).astype(int) + 2 * (tiles[:, 1] < 2 * SIDE)
    believed = 0
    for trial in range(40):
        to = np.array([rng.choice(np.flatnonzero(kind == one)) for one in kind])
        found = place(tiles, tiles[to], tiles, REACH, seed=trial)
        believed += found is not None and found.clear and found.log10_nfa < np.log10(FALSE_ALARMS)
    assert believed <= 1


def test_one_tile_like_all_others_is_one_witness() -> None:
    a = grid(20, 15)
    b = np.tile(a[:1], (300, 1)) + 5000
    found = place(a, b, a + 5000, REACH)
    assert found is None or found.inliers.sum() <= 3


def test_too_few_matches_say_nothing() -> None:
    assert place(grid(3, 1), grid(3, 1), grid(3, 1), REACH) is None


@pytest.mark.parametrize("flip", [False, True])
def test_umeyama_is_exact_on_exact_places(flip: bool) -> None:
    matrix, shift = moved(31, flip, 1.04, (12, -7))
    a = np.random.default_rng(0).uniform(0, 1000, (9, 2))
    fitted = umeyama(a, a @ matrix.T + shift, flip=flip)
    np.testing.assert_allclose(fitted[0], matrix, atol=1e-9)
    np.testing.assert_allclose(fitted[1], shift, atol=1e-6)
    assert umeyama(np.zeros((4, 2)), np.ones((4, 2)), flip=flip) is None


def planted() -> tuple[Flat, Places]:
    """Four slides of 60 tiles; 20 of slide 3's are those of slide 0, a little noisier."""
    rng = np.random.default_rng(2)
    tiles = [rng.standard_normal((60, 32)) + 3 for _ in range(4)]
    tiles[3][10:30] = tiles[0][20:40] + 0.05 * rng.standard_normal((20, 32))
    flat = flat_of([(f"s{i}", part.astype(np.float16)) for i, part in enumerate(tiles)])
    owner = np.repeat(np.arange(4, dtype=np.int32), 60)
    return flat, Places(owner, np.array([0, 1, 2, 3]), np.tile(grid(10, 6), (4, 1)), SIDE)


def test_copied_tiles_have_small_ratios_and_no_others() -> None:
    flat, places = planted()
    looks = LookAlikes(Searcher(flat), flat.vectors, flat.slide_ids, places)
    found = looks.of(0, np.arange(60), 20)
    alike = found[3].ratio < 0.3
    assert set(zip(found[3].row_a[alike].tolist(), found[3].row_b[alike].tolist(), strict=True)) == {
        (20 + i, 180 + 10 + i) for i in range(20)
    }
    assert (found[3].rank[alike] == 1).all()
    assert found[1].ratio.min() > 0.5
    assert set(found) == {1, 2, 3}
    assert all((places.slide_of[matches.row_b] == slide).all() for slide, matches in found.items())


def test_a_tile_elsewhere_on_the_own_slide_makes_a_match_worth_less() -> None:
    """Where a slide is full of the same, a match with another slide is no news."""
    flat, places = planted()
    flat.vectors[20:60] = flat.vectors[20]
    looks = LookAlikes(Searcher(flat), flat.vectors, flat.slide_ids, places)
    assert looks.of(0, np.array([20]), 20)[3].ratio.min() > 1


def test_joined_has_each_pair_once_with_its_better_ratio() -> None:
    def one(a: list[int], b: list[int], ratio: list[float]) -> Matches:
        rank = np.ones(len(a), np.int64)
        return Matches(np.array(a), np.array(b), np.array(ratio), np.array(ratio), rank)

    both = joined(one([1, 2], [8, 9], [0.5, 0.2]), one([8, 7], [1, 3], [0.4, 0.9]))
    assert both.row_a.tolist() == [2, 1, 3]
    assert both.row_b.tolist() == [9, 8, 7]
    assert both.ratio.tolist() == [0.2, 0.4, 0.9]
