from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beph_store.cohort import k_fold, monte_carlo, preserved_site
from beph_store.errors import CohortError
from beph_store.records import ClassLabel, Split
from tests.cohort.conftest import class_cohort, cohort_of

FRACTIONS = (0.25, 0.5, 0.75, 1.0)
seeds = st.integers(0, 2**32)
class_cohorts = st.lists(st.integers(6, 25), min_size=2, max_size=4).map(lambda counts: class_cohort(*counts))
survival_cohorts = st.lists(st.tuples(st.booleans(), st.floats(0.5, 5000)), min_size=12, max_size=60).map(
    lambda rows: cohort_of({f"P{i:03d}": (event or i < 6, time) for i, (event, time) in enumerate(rows)})
)
cohorts = class_cohorts | survival_cohorts


def groups(cohort, cases):
    labels = {
        label.case_id: label.value if isinstance(label, ClassLabel) else label.event
        for label in cohort.labels
    }
    return Counter(labels[case] for case in cases)


def check_sound(cohort, split: Split):
    parts = (split.train, split.val, split.test)
    every = [case for part in parts for case in part]
    assert len(set(every)) == len(every), "a case is in two subsets"
    assert set(every) <= set(cohort.case_ids)
    assert split.train
    assert split.test
    assert all(list(part) == sorted(part) for part in parts)


@settings(max_examples=60, deadline=None)
@given(cohorts, st.integers(2, 6), st.integers(1, 3), st.sampled_from([0, 0.1, 0.15, 0.4]), seeds)
def test_every_case_is_in_one_test_fold_of_each_repeat(cohort, folds, repeats, val_fraction, seed):
    splits = k_fold(cohort, folds, repeats, val_fraction, seed)
    assert len({split.name for split in splits}) == len(splits) == folds * repeats
    for split in splits:
        check_sound(cohort, split)
        assert set(split.train) | set(split.val) | set(split.test) == set(cohort.case_ids)
        assert bool(split.val) == (val_fraction > 0)
    for repeat in range(repeats):
        tests = [case for split in splits[repeat * folds : (repeat + 1) * folds] for case in split.test]
        assert sorted(tests) == list(cohort.case_ids)


@settings(max_examples=60, deadline=None)
@given(cohorts, st.integers(2, 6), seeds)
def test_folds_are_balanced(cohort, folds, seed):
    splits = k_fold(cohort, folds, seed=seed)
    sizes = [len(split.test) for split in splits]
    assert max(sizes) - min(sizes) <= 1
    counts = [groups(cohort, split.test) for split in splits]
    for group in groups(cohort, cohort.case_ids):
        of_fold = [count[group] for count in counts]
        assert max(of_fold) - min(of_fold) <= 1
        if group is not False:
            assert min(of_fold) >= 1


@settings(max_examples=60, deadline=None)
@given(class_cohorts, st.integers(2, 6), seeds)
def test_val_holds_every_class_and_train_keeps_every_class(cohort, folds, seed):
    for split in k_fold(cohort, folds, seed=seed):
        rest = groups(cohort, split.train) + groups(cohort, split.val)
        for group, count in rest.items():
            in_val = groups(cohort, split.val)[group]
            assert abs(in_val - 0.15 * count) <= 1 or in_val == 1
            assert in_val >= (count >= 3)
            assert groups(cohort, split.train)[group] >= 1


@settings(max_examples=40, deadline=None)
@given(cohorts, st.integers(2, 6), seeds)
def test_smaller_fractions_lie_inside_larger_ones(cohort, folds, seed):
    for make in (
        lambda fraction: k_fold(cohort, folds, seed=seed, train_fraction=fraction),
        lambda fraction: monte_carlo(cohort, 3, seed=seed, train_fraction=fraction),
    ):
        ladder = [make(fraction) for fraction in FRACTIONS]
        for smaller, larger in pairwise(ladder):
            for a, b in zip(smaller, larger, strict=True):
                check_sound(cohort, a)
                assert a.test == b.test
                assert set(a.train) <= set(b.train)
                assert set(a.val) <= set(b.val)
        for fraction, splits in zip(FRACTIONS, ladder, strict=True):
            for split, whole in zip(splits, ladder[-1], strict=True):
                least = len(groups(cohort, whole.train)) * 3
                assert len(split.train) <= max(fraction * len(whole.train) + 0.5, least)
                assert len(split.train) >= min(fraction * len(whole.train) - 0.5, len(whole.train))
                assert groups(cohort, split.train).keys() == groups(cohort, whole.train).keys()


@settings(max_examples=40, deadline=None)
@given(cohorts, seeds, st.sampled_from([0.1, 0.3]), st.integers(1, 5))
def test_monte_carlo_has_one_test_set(cohort, seed, test_fraction, draws):
    splits = monte_carlo(cohort, draws, test_fraction, seed=seed)
    assert len(splits) == draws
    for split in splits:
        check_sound(cohort, split)
        assert split.test == splits[0].test
        assert set(split.train) | set(split.val) | set(split.test) == set(cohort.case_ids)
    assert abs(len(splits[0].test) - test_fraction * len(cohort)) <= 4
    longer = monte_carlo(cohort, draws + 1, test_fraction, 0.3, seed)
    assert longer[0].test == splits[0].test


@settings(max_examples=30, deadline=None)
@given(cohorts, st.integers(2, 6), seeds)
def test_the_same_seed_gives_the_same_splits(cohort, folds, seed):
    assert k_fold(cohort, folds, 2, seed=seed) == k_fold(cohort, folds, 2, seed=seed)
    assert monte_carlo(cohort, 2, seed=seed) == monte_carlo(cohort, 2, seed=seed)


def test_seeds_repeats_and_draws_differ():
    cohort = class_cohort(30, 30)
    first, second = k_fold(cohort, 3, seed=0), k_fold(cohort, 3, seed=1)
    assert first[0].test != second[0].test
    repeats = k_fold(cohort, 3, repeats=2)
    assert repeats[0].test != repeats[3].test
    draws = monte_carlo(cohort, 3)
    assert len({split.train for split in draws}) == 3
    assert monte_carlo(cohort, 1, seed=1)[0].test != draws[0].test


def test_splits_are_the_same_on_every_machine():
    """Written down once: a change of the generator or of the dealing changes published splits."""
    splits = k_fold(class_cohort(6, 4), 2, seed=7)
    assert [split.name for split in splits] == ["fold-0", "fold-1"]
    assert splits[0] == Split(
        "fold-0",
        ("A001", "A004", "B001", "B003"),
        ("A002",),
        ("A000", "A003", "A005", "B000", "B002"),
    )
    assert k_fold(class_cohort(6, 4), 2, 2, seed=7)[2].name == "repeat-1-fold-0"


def test_times_are_balanced_too():
    cohort = cohort_of({f"P{i:03d}": (i % 2 == 0, float(i + 1)) for i in range(120)})
    time = {label.case_id: label.time_days for label in cohort.labels}
    for split in k_fold(cohort, 4, seed=3):
        thirds = Counter(int(time[case] - 1) // 40 for case in split.test)
        assert max(thirds.values()) - min(thirds.values()) <= 2


def test_val_fraction_is_a_share_of_what_is_not_test():
    split = monte_carlo(class_cohort(437, 438), 1)[0]
    assert [len(split.train), len(split.val), len(split.test)] == [708, 79, 88]  # as BEPH's


# ---- a fixed test set -------------------------------------------------------------------------


def test_a_fixed_test_set_stays():
    cohort = class_cohort(20, 20)
    test = ["B003", "A001", "A001", "B004"]
    for split in monte_carlo(cohort, 3, test=test, train_fraction=0.5):
        assert split.test == ("A001", "B003", "B004")
        check_sound(cohort, split)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (["A001", "X", "Y"], "2 test cases are not in the cohort .X, Y."),
        ([], "test set is empty"),
        ([f"B{i:03d}" for i in range(5)], "0 cases of class 'B', too few outside the test set"),
    ],
)
def test_a_fixed_test_set_that_cannot_be(test, message):
    with pytest.raises(CohortError, match=message):
        monte_carlo(class_cohort(9, 5), test=test)


# ---- sites ------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=6, max_size=20),
    st.integers(2, 4),
    seeds,
)
def test_no_site_is_in_two_test_folds(sizes, folds, seed):
    labels, site_of = {}, {}
    for site, (a, b) in enumerate(sizes):
        for i in range(a + b):
            case = f"S{site:02d}-{i:02d}"
            labels[case], site_of[case] = "A" if i < a else "B", f"site {site}"
    cohort = cohort_of(labels)
    splits = preserved_site(cohort, folds, site_of, seed=seed)
    assert splits == preserved_site(cohort, folds, site_of, seed=seed)
    assert sorted(case for split in splits for case in split.test) == list(cohort.case_ids)
    for split in splits:
        check_sound(cohort, split)
        elsewhere = {site_of[case] for case in (*split.train, *split.val)}
        assert elsewhere.isdisjoint(site_of[case] for case in split.test)


def test_sites_are_placed_to_balance_classes():
    labels = {f"TCGA-{s:02d}-{i:04d}": "A" if s < 8 else "B" for s in range(16) for i in range(5)}
    splits = preserved_site(cohort_of(labels), 4)
    for split in splits:
        assert Counter(labels[case] for case in split.test) == {"A": 10, "B": 10}
        assert len({case[5:7] for case in split.test}) == 4


def test_sites_of_other_names_have_to_be_given():
    cohort = class_cohort(6, 6)
    with pytest.raises(CohortError, match=r"12 cases have no site \(no TCGA barcode\).*: use --scheme"):
        preserved_site(cohort, 2)
    with pytest.raises(CohortError, match="11 cases have no site in the sites given"):
        preserved_site(cohort, 2, {"A000": "x"})


def test_sites_that_cannot_be_spread():
    labels = {f"{site}{i}": "B" if site == "x" else "A" for site in "xyz" for i in range(5)}
    site_of = {case: case[0] for case in labels}
    with pytest.raises(CohortError, match="3 sites, fewer than 4 folds: pass --folds 3"):
        preserved_site(cohort_of(labels), 4, site_of)
    with pytest.raises(CohortError, match=r"would hold no 'B': .*fewer --folds"):
        preserved_site(cohort_of(labels), 2, site_of)


# ---- arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: k_fold(c, 5), "3 cases of class 'B', too few for 5 folds: pass --folds 3"),
        (lambda c: k_fold(c, 1), "1 folds: pass at least 2"),
        (lambda c: k_fold(c, 2, repeats=0), "0 repeats"),
        (lambda c: k_fold(c, 2, val_fraction=1), "val fraction of 1"),
        (lambda c: k_fold(c, 2, val_fraction=-0.1), "val fraction of -0.1"),
        (lambda c: k_fold(c, 2, train_fraction=0), "train fraction of 0"),
        (lambda c: k_fold(c, 2, train_fraction=1.5), "train fraction of 1.5"),
        (lambda c: k_fold(c, 2, seed=-1), "seed of -1"),
        (lambda c: monte_carlo(c, 0), "0 draws"),
        (lambda c: monte_carlo(c, test_fraction=0), "test fraction of 0"),
        (lambda c: monte_carlo(c, test_fraction=1), "test fraction of 1"),
        (lambda c: preserved_site(c, 4), "3 cases of class 'B', too few for 4 folds"),
    ],
)
def test_arguments_that_cannot_be_meant(call, message):
    with pytest.raises(CohortError, match=message):
        call(class_cohort(9, 3))


def test_a_class_too_small_for_any_fold():
    with pytest.raises(CohortError, match=r"1 cases of class 'B', too few for folds: .*--classes"):
        k_fold(class_cohort(9, 1), 2)
    with pytest.raises(CohortError, match="2 cases of class 'B', too few for train, val and test"):
        monte_carlo(class_cohort(9, 2))
    # The smallest is named, not the first that is too small.
    with pytest.raises(CohortError, match="2 cases of class 'B', too few for 5 folds: pass --folds 2"):
        k_fold(class_cohort(3, 2), 5)


def test_too_few_events_for_the_folds():
    cohort = cohort_of({f"P{i:02d}": (i < 3, i + 1.0) for i in range(30)})
    with pytest.raises(CohortError, match="3 cases with an event, too few for 5 folds: pass --folds 3"):
        k_fold(cohort, 5)


def test_events_alone_need_no_censored_cases():
    cohort = cohort_of({f"P{i:02d}": (True, i + 1.0) for i in range(9)})
    assert sorted(case for split in k_fold(cohort, 3) for case in split.test) == list(cohort.case_ids)
