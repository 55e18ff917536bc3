"""Tiles divided by case: nobody on two sides, every class on every side that can have it, a split column checked."""

import numpy as np
import pytest

from beph_store.cohort.grouped import tile_folds
from beph_store.cohort.tile_splits import SplitChoice, given_split, read_parts, tile_splits, whole_split
from beph_store.errors import CohortError

CLASSES = ("a", "b", "c")


def drawn(cases=40, seed=0):
    """Tiles of cases, some of which hold two classes; class c is rare."""
    rng = np.random.default_rng(seed)
    truth, case = [], []
    for number in range(cases):
        main = 2 if number % 8 == 0 else number % 2
        count = int(rng.integers(2, 9))
        truth += [main] * count
        if number % 5 == 0:
            truth.append((main + 1) % 2)
            count += 1
        case += [number] * count
    return np.array(truth, np.int64), np.array(case, np.int64)


def sides(split, case):
    return [set(case[rows].tolist()) for rows in (split.train, split.val, split.test)]


@pytest.mark.parametrize("folds", [1, 3, 5])
def test_no_case_is_on_two_sides_and_every_tile_is_on_one(folds):
    truth, case = drawn()
    splits = tile_splits(truth, case, CLASSES, SplitChoice(folds=folds))
    assert len(splits) == folds
    for split in splits:
        train, val, test = sides(split, case)
        assert not train & val
        assert not train & test
        assert not val & test
        assert sorted([*split.train, *split.val, *split.test]) == list(range(len(truth)))
        assert set(truth[split.train]) == set(truth[split.test]) == {0, 1, 2}
        assert 0.05 < len(val) / len(train | val) < 0.3
    if folds > 1:
        tested = np.concatenate([split.test for split in splits])
        assert sorted(tested) == list(range(len(truth)))


def test_the_test_folds_are_those_of_the_probe_and_the_seed_decides():
    truth, case = drawn()
    probe = tile_folds(truth, case, CLASSES, 5, seed=(3, 0)).fold
    splits = tile_splits(truth, case, CLASSES, SplitChoice(folds=5, seed=3))
    for number, split in enumerate(splits):
        assert set(probe[case[split.test]]) == {number}
    again = tile_splits(truth, case, CLASSES, SplitChoice(folds=5, seed=3))
    other = tile_splits(truth, case, CLASSES, SplitChoice(folds=5, seed=4))
    assert all((a.val == b.val).all() for a, b in zip(splits, again, strict=True))
    assert any(len(a.val) != len(b.val) or (a.val != b.val).any() for a, b in zip(splits, other, strict=True))


def test_a_training_fraction_takes_from_training_and_validation_only():
    truth, case = drawn(80)
    whole = tile_splits(truth, case, CLASSES, SplitChoice(folds=4))
    half = tile_splits(truth, case, CLASSES, SplitChoice(folds=4, train_fraction=0.5))
    for a, b in zip(whole, half, strict=True):
        assert (a.test == b.test).all()
        used = [len(set(case[[*s.train, *s.val]])) for s in (a, b)]
        assert used[1] == pytest.approx(used[0] / 2, abs=3)


def test_the_final_model_is_trained_on_everybody():
    truth, case = drawn()
    split = whole_split(truth, case, CLASSES, SplitChoice(folds=5))
    assert not len(split.test)
    assert sorted([*split.train, *split.val]) == list(range(len(truth)))
    assert set(truth[split.train]) == {0, 1, 2}


def test_training_keeps_a_class_that_one_case_has():
    truth = np.array([0, 0, 1, 1, 0, 1, 2, 0, 1], np.int64)
    case = np.array([0, 0, 1, 1, 2, 3, 4, 5, 6], np.int64)
    for seed in range(20):
        split = whole_split(truth, case, CLASSES, SplitChoice(val_fraction=0.5, seed=seed))
        assert 2 in truth[split.train]


def test_a_given_split_is_kept_and_a_leak_is_refused():
    truth, case = drawn(12)
    ids = [f"P{number}" for number in range(12)]
    parts = ["test" if number >= 8 else "train" for number in case]
    split = given_split(parts, truth, case, ids, CLASSES, SplitChoice())
    train, val, test = sides(split, case)
    assert test == {8, 9, 10, 11}
    assert val
    assert not train & val
    named = ["val" if number in (1, 2) else part for number, part in zip(case, parts, strict=True)]
    assert sides(given_split(named, truth, case, ids, CLASSES, SplitChoice()), case)[1] == {1, 2}
    with pytest.raises(CohortError, match=r"1 cases are on several sides .*P0.*never both"):
        given_split(["test", *parts[1:]], truth, case, ids, CLASSES, SplitChoice())
    with pytest.raises(CohortError, match="no test tiles"):
        given_split(["train"] * len(parts), truth, case, ids, CLASSES, SplitChoice())
    lacking = ["test" if number % 8 == 0 else "train" for number in case]
    with pytest.raises(CohortError, match="no training tile is of class c"):
        given_split(lacking, truth, case, ids, CLASSES, SplitChoice())


def test_a_split_column_is_read_and_what_it_cannot_mean_refused(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("path,label,case_id,part\na.png,x,1,Train\nb.png,x,2,validation\nc.png,y,3,TEST\n")
    assert read_parts(file, "part") == {"a.png": "train", "b.png": "val", "c.png": "test"}
    file.write_text("path,label,case_id,part\na.png,x,1,fold 1\n")
    with pytest.raises(CohortError, match=r"says fold 1: it has to say train, val or test"):
        read_parts(file, "part")
    with pytest.raises(CohortError, match="no column 'side'"):
        read_parts(file, "side")


@pytest.mark.parametrize(
    ("choice", "cure"), [({"folds": 2}, "3 and more"), ({"test_fraction": 0.8}, "--test-fraction")]
)
def test_choices_that_cannot_be_meant(choice, cure):
    with pytest.raises(CohortError, match=cure):
        SplitChoice(**choice)


def test_a_class_with_few_cases_asks_for_a_larger_test_part():
    truth = np.array([0] * 10 + [1] * 4, np.int64)
    case = np.arange(14, dtype=np.int64)
    with pytest.raises(CohortError, match=r"4 cases of class 'b'.*pass --test-fraction 0\.25"):
        tile_splits(truth, case, ("a", "b"), SplitChoice())
    (split,) = tile_splits(truth, case, ("a", "b"), SplitChoice(test_fraction=0.25))
    assert set(truth[split.test]) == {0, 1}
    with pytest.raises(CohortError, match=r"2 cases of class 'b'.*add cases"):
        tile_splits(truth[:12], case[:12], ("a", "b"), SplitChoice())
