"""Retrieval measures against naive loops, and the rules for ties and divisors one by one."""

from collections import Counter

import numpy as np
import pytest

from beph_store.errors import SearchError
from beph_store.search import evaluate, neighbours


def naive(ranked, labels, cases, k, divisor):
    """One item after the other, one place after the other."""
    per_item = []
    for item, found in enumerate(ranked):
        possible = sum(labels[o] == labels[item] and cases[o] != cases[item] for o in range(len(labels)))
        if possible == 0:
            continue
        kept = [labels[o] for o in found if o >= 0 and cases[o] != cases[item]][:k]
        votes = Counter(kept)
        winner = max(votes, key=lambda v: (votes[v], -kept.index(v))) if kept else None
        right = sum(label == labels[item] for label in kept)
        total = 0.0
        for place in range(1, len(kept) + 1):
            if kept[place - 1] == labels[item]:
                total += sum(label == labels[item] for label in kept[:place]) / place
        by = min(k, possible) if divisor == "possible" else right
        row = (float(winner == labels[item]), right / len(kept) if kept else 0, total / by if by else 0)
        per_item.append((labels[item], row))
    macro = [
        np.mean([row for label, row in per_item if label == value], axis=0)
        for value in sorted({label for label, _ in per_item})
    ]
    return np.mean([row for _, row in per_item], axis=0), np.mean(macro, axis=0), len(per_item)


@pytest.mark.parametrize("divisor", ["possible", "found"])
@pytest.mark.parametrize("seed", range(12))
def test_as_naive_loops(seed, divisor):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(6, 40))
    labels = [f"kind {value}" for value in rng.integers(0, 1 + seed % 5, n)] + ["alone"]
    cases = [f"case {value}" for value in rng.integers(0, max(2, n // 2), n)] + ["own"]
    similarity = np.round(rng.random((n + 1, n + 1)), 1)  # many ties
    ranked = neighbours(similarity, cases)
    k = int(rng.integers(1, 8))
    found = evaluate(ranked, labels, cases, k, divisor=divisor)
    mean, macro, items = naive(ranked, labels, cases, k, divisor)
    assert (found.majority_vote, found.precision, found.average_precision) == pytest.approx(tuple(mean))
    assert found.macro == pytest.approx(tuple(macro))
    assert (found.items, found.left_out, found.k) == (items, n + 1 - items, k)


def test_neighbours_leave_the_own_case_out_and_order_ties_by_number():
    similarity = np.array(
        [[9, 9, 1, 5, 5], [0, 9, 3, 2, np.nan], [1, 1, 9, 1, 1], [4, 3, 2, 9, 1], [0, 0, 0, 0, 9.0]]
    )
    ranked = neighbours(similarity, ["a", "a", "b", "c", "d"])
    assert [row.tolist() for row in ranked] == [[3, 4, 2], [2, 3], [0, 1, 3, 4], [0, 1, 2, 4], [0, 1, 2, 3]]
    with pytest.raises(SearchError, match="one row and column"):
        neighbours(similarity[:, :3], ["a"] * 5)


def one(found, labels, k, **options):
    """Scores of item 0, whose label is x, among neighbours of these labels; the others' rankings are empty."""
    ranked = [np.asarray(found)] + [np.empty(0, np.int64)] * len(labels)
    whole = evaluate(ranked, ["x", *labels], list(range(len(labels) + 1)), k, **options)
    share = whole.items  # the others score 0 each
    return tuple(value * share for value in (whole.majority_vote, whole.precision, whole.average_precision))


def test_a_tied_vote_goes_to_the_label_seen_first():
    assert one([1, 2, 3, 4], ["x", "y", "y", "x"], 4)[0] == 1
    assert one([2, 1, 3, 4], ["x", "y", "y", "x"], 4)[0] == 0


def test_the_divisors_differ_by_what_was_missed():
    labels = ["x", "y", "x", "x"]
    assert one([1, 2, 3], labels, 3)[2] == pytest.approx((1 + 2 / 3) / 3)
    assert one([1, 2, 3], labels, 3, divisor="found")[2] == pytest.approx((1 + 2 / 3) / 2)


def test_fewer_neighbours_than_k_are_judged_by_those_there_are():
    assert one([1, 2], ["x", "y", "y"], 10)[1] == 0.5
    assert one([1, -1, -1], ["x", "y", "y"], 10)[1] == 1


def test_own_case_in_a_ranking_is_passed_over():
    ranked = [np.array([1, 2, 3]), np.array([0, 3, 2]), np.array([3, 0]), np.array([2, 1])]
    found = evaluate(ranked, ["x", "x", "x", "y"], ["a", "a", "b", "c"], 1)
    assert (found.items, found.left_out) == (3, 1)
    assert found.majority_vote == pytest.approx(1 / 3)  # item 0 finds 2; items 1 and 2 find 3 first


def test_what_cannot_be_judged_is_refused():
    nothing = [np.array([1]), np.array([0])]
    with pytest.raises(SearchError, match="no label"):
        evaluate(nothing, ["x", "y"], ["a", "b"], 1)
    with pytest.raises(SearchError, match="k = 0"):
        evaluate(nothing, ["x", "x"], ["a", "b"], 0)
