"""Dividing labelled tiles by case: balance, no case on two sides, few cases, caps, and the shuffled control."""

from itertools import pairwise

import numpy as np
import pytest

from beph_store.cohort.grouped import capped, draw_shots, held, shuffle_classes, tile_folds
from beph_store.errors import CohortError


def mixed(seed=0, cases=60):
    """Tiles of cases that mostly hold one of three classes; every fifth holds two."""
    rng = np.random.default_rng(seed)
    truth, case = [], []
    for number in range(cases):
        main = number % 3 if number % 4 else 0
        tiles = int(rng.integers(2, 12))
        own = np.full(tiles, main)
        if number % 5 == 0:
            own[: tiles // 2] = (main + 1) % 3
        truth += own.tolist()
        case += [number] * tiles
    return np.array(truth), np.array(case)


CLASSES = ("a", "b", "c")


def test_each_fold_holds_about_its_share_of_each_class():
    truth, case = mixed()
    fold = tile_folds(truth, case, CLASSES, 5).fold[case]
    for number in range(3):
        counts = np.bincount(fold[truth == number], minlength=5)
        assert counts.sum() == (truth == number).sum()
        assert counts.max() - counts.min() <= 12  # no more than one case makes


def test_seeds_differ_and_the_same_seed_repeats():
    truth, case = mixed()
    first = tile_folds(truth, case, CLASSES, 5, seed=(1,)).fold
    assert (first == tile_folds(truth, case, CLASSES, 5, seed=(1,)).fold).all()
    assert (first != tile_folds(truth, case, CLASSES, 5, seed=(2,)).fold).any()


def test_smaller_fractions_lie_within_larger_ones_and_keep_every_class():
    truth, case = mixed()
    pools = [tile_folds(truth, case, CLASSES, 5, train_fraction=f).pool for f in (0.25, 0.5, 0.75, 1.0)]
    for small, large in pairwise(pools):
        assert (large >= small).all()
        assert large.sum() > small.sum()
    assert abs(pools[1].mean() - 0.5) < 0.05
    assert (held(truth, case, 3)[pools[0]] > 0).sum(axis=0).min() >= 3


@pytest.mark.parametrize(
    ("folds", "fraction", "said"),
    [(2, 1.0, "at least 3"), (5, 0.0, "train fraction"), (30, 1.0, "too few for 30 folds: pass --folds")],
)
def test_what_cannot_be_divided_is_refused(folds, fraction, said):
    truth, case = mixed()
    with pytest.raises(CohortError, match=said):
        tile_folds(truth, case, CLASSES, folds, train_fraction=fraction)


def test_a_class_of_two_cases_is_refused_with_its_name():
    truth, case = mixed()
    rare = np.concatenate([truth, [3, 3]]), np.concatenate([case, [0, 1]])
    with pytest.raises(CohortError, match=r"2 cases of class 'rare'.*--classes"):
        tile_folds(*rare, (*CLASSES, "rare"), 5)


def test_shots_are_cases_of_one_class_each_and_at_most_half_of_a_class():
    truth, case = mixed()
    totals = (held(truth, case, 3) > 0).sum(axis=0)
    for shots in (1, 5, 100):
        drawn = draw_shots(truth, case, 3, shots, (0, shots))
        assert drawn.taken == tuple(min(shots, int(total) // 2) for total in totals)
        assert drawn.cases.sum() == sum(drawn.taken)
        for number in range(3):
            assert len(np.unique(case[drawn.rows & (truth == number)])) == drawn.taken[number]
        # A drawn case lends tiles of one class only.
        assert all(
            len(np.unique(truth[drawn.rows & (case == one)])) == 1 for one in np.flatnonzero(drawn.cases)
        )


def test_the_cap_is_even_over_classes_of_cases_and_leaves_no_case_out():
    truth, case = mixed()
    keep = capped(truth, case, 150, seed=3)
    assert len(keep) <= 150
    assert (np.diff(keep) > 0).all()
    before, after = held(truth, case, 3), held(truth[keep], case[keep], 3)
    limit = after.max()
    assert (after == np.minimum(before, limit)).all()
    assert len(capped(truth, case, 10, seed=3)) == (before > 0).sum()
    assert len(capped(truth, case, len(truth), seed=3)) == len(truth)


def test_shuffled_labels_stay_together_and_keep_the_count_of_each_class():
    truth, case = mixed()
    other = shuffle_classes(truth, case, 1)
    assert (other != truth).any()
    pairs = {(c, t): set(other[(case == c) & (truth == t)]) for c, t in zip(case, truth, strict=True)}
    assert all(len(new) == 1 for new in pairs.values())
    new = np.bincount([values.pop() for values in pairs.values()])
    assert (new == np.bincount([t for _, t in pairs])).all()
