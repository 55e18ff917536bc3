"""No patient on two sides, the same for a seed, nothing depends on an order, and what is saved comes back."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from beph_store.cohort import ColumnChoice, join, k_fold, monte_carlo, read_labels, read_splits, write_splits
from beph_store.cohort.grouped import TileFolds, draw_shots, held, tile_folds
from beph_store.cohort.tile_splits import SplitChoice, tile_splits
from beph_store.errors import CohortError
from beph_store.records import Split
from tests.laws import examples

seeds = st.integers(0, 2**32)
PARTS = ("train", "val", "test")


@st.composite
def tables(draw):
    """(case → class, case → its slides) of 8 to 30 cases with one to three slides each, in folders and not."""
    classes = draw(st.lists(st.integers(4, 10), min_size=2, max_size=3))
    label, slides = {}, {}
    for number, count in enumerate(classes):
        for i in range(count):
            case = f"P{number}{i:02d}"
            label[case] = "ABC"[number]
            folder = draw(st.sampled_from(["", "site 1/", "x/y/"]))
            slides[case] = [f"{folder}{case}-{n}.svs" for n in range(draw(st.integers(1, 3)))]
    return label, slides


def cohort_of_file(label, slides, order):
    """By way of a file whose rows, and a store whose slides, are in that order."""
    rows = [(slide, case) for case in slides for slide in slides[case]]
    rows = [rows[i] for i in order]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.csv"
        lines = [f"{slide},{case},{label[case]}" for slide, case in rows]
        path.write_text("\n".join(["slide_id,case_id,grade", *lines]) + "\n")
        table = read_labels(path, "classify", ColumnChoice(target="grade"))
    return join(table, [slide for slide, _ in reversed(rows)])


def sides_of(split: Split, cohort) -> dict[str, set[str]]:
    """Part → slides."""
    slides = {case.case_id: case.slide_ids for case in cohort.cases}
    return {part: {s for case in getattr(split, part) for s in slides[case]} for part in PARTS}


@examples(20)
@given(tables(), st.integers(2, 4), seeds, st.randoms(use_true_random=False))
def test_splits_do_not_depend_on_the_order_of_the_table_or_of_the_store(table, folds, seed, dice):
    order = list(range(sum(map(len, table[1].values()))))
    straight = cohort_of_file(*table, order)
    dice.shuffle(order)
    shuffled = cohort_of_file(*table, order)
    assert k_fold(shuffled, folds, 2, seed=seed) == k_fold(straight, folds, 2, seed=seed)
    assert monte_carlo(shuffled, 2, seed=seed) == monte_carlo(straight, 2, seed=seed)


@examples(20)
@given(tables(), st.integers(2, 4), seeds)
def test_no_slide_of_a_patient_is_on_another_side(table, folds, seed):
    cohort = cohort_of_file(*table, range(sum(map(len, table[1].values()))))
    for split in [*k_fold(cohort, folds, seed=seed), *monte_carlo(cohort, 2, seed=seed)]:
        sides = sides_of(split, cohort)
        patients = {part: {Path(slide).name.split("-")[0] for slide in sides[part]} for part in PARTS}
        assert sum(map(len, patients.values())) == len(set().union(*patients.values())) == len(cohort)
        assert sum(map(len, sides.values())) == sum(map(len, table[1].values()))


@examples(20)
@given(tables(), st.integers(2, 4), seeds, st.data())
def test_splits_that_are_written_come_back_and_one_slide_astray_is_refused(table, folds, seed, data):
    cohort = cohort_of_file(*table, range(sum(map(len, table[1].values()))))
    splits = k_fold(cohort, folds, seed=seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_splits(splits, cohort, folder)
        back = read_splits(folder, cohort.case_of)
        assert [[getattr(s, p) for p in PARTS] for s in back] == [
            [getattr(s, p) for p in PARTS] for s in splits
        ]
        several = [
            case for case in cohort.cases if len(case.slide_ids) > 1 and case.case_id in splits[0].train
        ]
        assume(several)
        astray = data.draw(st.sampled_from(several)).slide_ids[0]
        lines = files[0].read_text().splitlines()
        files[0].write_text("\n".join([*lines, f"{len(lines)},,,{Path(astray).stem}"]) + "\n")
        with pytest.raises(CohortError, match=r"1 cases are in train and in test .*by case"):
            read_splits(folder, cohort.case_of)


@st.composite
def mixtures(draw):
    """(truth, case) of tiles: 20 to 40 cases of one to three classes each; every class has six cases or more."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    cases, classes = draw(st.integers(20, 40)), draw(st.integers(2, 3))
    truth, case = [], []
    for number in range(cases):
        mine = {number % classes, *rng.integers(0, classes, rng.integers(0, 2)).tolist()}
        for label in mine:
            count = int(rng.integers(1, 8))
            truth += [label] * count
            case += [number] * count
    return np.array(truth, np.int64), np.array(case, np.int64), "abc"[:classes]


@examples(40)
@given(mixtures(), st.sampled_from([1, 3, 4]), st.integers(0, 1000), st.sampled_from([0.6, 1.0]))
def test_a_case_lends_its_tiles_to_one_side(mixture, folds, seed, fraction):
    truth, case, classes = mixture
    choice = SplitChoice(folds=folds, seed=seed, train_fraction=fraction)
    try:
        splits = tile_splits(truth, case, classes, choice)
    except CohortError:
        assert fraction < 1, "only a share of the cases may be too few of a class"
        return
    for split in splits:
        sides = [set(case[rows].tolist()) for rows in (split.train, split.val, split.test)]
        assert sum(map(len, sides)) == len(set().union(*sides))
        rows = np.concatenate([split.train, split.val, split.test])
        assert len(np.unique(rows)) == len(rows)
        assert all(len(side) for side in sides)
        for side, mine in zip(sides, (split.train, split.val, split.test), strict=True):
            assert len(mine) == np.isin(case, list(side)).sum(), "all tiles of a case, or none"
        if fraction == 1:
            assert len(rows) == len(truth)
            assert set(truth[split.train].tolist()) == set(range(len(classes)))
    if folds > 1:
        tested = np.concatenate([split.test for split in splits])
        assert np.array_equal(np.sort(tested), np.arange(len(truth)))


@examples(40)
@given(mixtures(), st.integers(3, 5), seeds, st.integers(0, 2**32 - 1))
def test_folds_of_tiles_are_even_and_depend_on_no_order(mixture, folds, seed, dice):
    truth, case, classes = mixture

    def make(order) -> TileFolds:
        return tile_folds(truth[order], case[order], classes, folds, seed=(seed,))

    straight = make(np.arange(len(truth)))
    shuffled = make(np.random.default_rng(dice).permutation(len(truth)))
    assert np.array_equal(straight.fold, shuffled.fold)
    counts = held(truth, case, len(classes))
    of_fold = np.array([counts[straight.fold == fold].sum(axis=0) for fold in range(folds)])
    assert (of_fold.sum(axis=0) == counts.sum(axis=0)).all()
    # Greedy, the largest case first: no fold is off by more than two of the largest cases.
    assert (of_fold.max(axis=0) - of_fold.min(axis=0) <= 2 * counts.sum(axis=1).max()).all()
    assert min(Counter(straight.fold.tolist()).values()) >= 1


@examples(40)
@given(mixtures(), st.integers(1, 8), st.integers(0, 1000))
def test_shots_are_of_their_class_and_more_shots_hold_the_fewer(mixture, shots, seed):
    truth, case, classes = mixture
    drawn = draw_shots(truth, case, len(classes), shots, (seed,))
    assert np.array_equal(draw_shots(truth, case, len(classes), shots, (seed,)).rows, drawn.rows)
    totals = (held(truth, case, len(classes)) > 0).sum(axis=0)
    for label, taken in enumerate(drawn.taken):
        assert taken <= min(shots, max(1, int(totals[label]) // 2))
        assert len(np.unique(case[drawn.rows & (truth == label)])) == taken
    assert set(case[drawn.rows].tolist()) == set(np.flatnonzero(drawn.cases).tolist())
