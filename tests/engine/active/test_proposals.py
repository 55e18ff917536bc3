"""What is proposed: never what is labelled, unlike each other, and worth more than tiles at random."""

from __future__ import annotations

import numpy as np
import pytest

from beph_store.engine.active import proposals
from beph_store.engine.active.labels import Labels
from beph_store.engine.active.picking import badge, directions, k_centre, typical, uncertainty
from beph_store.engine.active.proposals import COLD, WARM, propose
from beph_store.engine.active.refit import refit
from beph_store.errors import UsageError

from .conftest import KINDS

BATCH, MOST = 6, 72


def test_k_centre_is_the_greedy_one() -> None:
    rng = np.random.default_rng(0)
    pool = directions(rng.normal(size=(60, 7)), np.zeros(7))
    labelled = directions(rng.normal(size=(5, 7)), np.zeros(7))
    there = list(labelled)
    for position in k_centre(pool, labelled, 10).tolist():
        nearest = (pool @ np.stack(there).T).max(axis=1)
        assert nearest[position] == pytest.approx(nearest.min(), abs=1e-6)
        there.append(pool[position])
    first = k_centre(pool, labelled[:0], 3)
    assert first[0] == (pool @ pool.mean(axis=0)).argmax()
    assert sorted(k_centre(pool, labelled, 100).tolist()) == list(range(60))


def test_typical_tiles_stand_for_every_group_that_has_no_label() -> None:
    rng = np.random.default_rng(3)
    middles = rng.normal(size=(5, 20))
    group = np.repeat(np.arange(5), (200, 100, 60, 30, 20))
    pool = directions(middles[group] + 0.15 * rng.normal(size=(410, 20)), np.zeros(20))
    taken = typical(pool, pool[:0], 5, 0)
    assert group[taken].tolist() == [0, 1, 2, 3, 4]  # the largest group first
    to_middle = (pool * directions(middles, np.zeros(20))[group]).sum(axis=1)
    for g, position in enumerate(taken.tolist()):
        assert (to_middle[group == g] > to_middle[position]).mean() < 0.25
    again = typical(pool, pool[[5, 305]], 3, 0)
    assert group[again].tolist() == [1, 3, 4]
    alike = typical(np.ones((6, 4), np.float32) / 2, pool[:0, :4], 4, 0)
    assert len(set(alike.tolist())) == 4
    assert sorted(typical(pool[:7], pool[:0], 100, 0).tolist()) == list(range(7))


def test_badge_is_k_means_plus_plus_on_gradients() -> None:
    rng = np.random.default_rng(1)
    pool = directions(rng.normal(size=(80, 6)), np.zeros(6))
    chances = rng.dirichlet(np.ones(3), size=80)
    error = chances - np.eye(3)[chances.argmax(axis=1)]
    gradient = (error[:, :, None] * pool[:, None, :]).reshape(80, -1)
    draws = np.random.default_rng(7)
    taken = [int((gradient**2).sum(axis=1).argmax())]
    while len(taken) < 12:
        there = np.concatenate([np.zeros((1, 18)), gradient[taken]])
        away = ((gradient[:, None] - there[None]) ** 2).sum(axis=2).min(axis=1)
        taken.append(int(np.searchsorted(np.cumsum(away), draws.random() * away.sum(), side="right")))
    assert badge(pool, chances, 12, 7).tolist() == taken


def test_a_sure_head_still_gives_tiles_and_none_twice() -> None:
    pool = directions(np.random.default_rng(2).normal(size=(9, 4)), np.zeros(4))
    sure = np.tile([1.0, 0.0], (9, 1))
    assert sorted(badge(pool, sure, 20, 0).tolist()) == list(range(9))
    assert uncertainty(np.array([[0.5, 0.5, 0.0], [1, 0, 0], [0.2, 0.7, 0.1]])) == pytest.approx([1, 0, 0.5])


def test_before_there_is_a_head_tiles_are_diverse(tissue) -> None:
    found = propose(tissue.table, Labels(), None, 12)
    assert (found.method, found.version, found.pool) == (COLD, 0, len(tissue.table.flat))
    rows = [one.row for one in found.found]
    assert len(set(rows)) == 12
    assert all(one.uncertainty is None and one.probabilities is None for one in found.found)
    assert propose(tissue.table, Labels(), None, 12) == found


def test_with_a_head_they_are_unsure_and_not_labelled(tissue) -> None:
    rows = np.random.default_rng(0).choice(len(tissue.kind), 60, replace=False)
    labels = tissue.labels(rows)
    head = refit(tissue.table, labels)
    found = propose(tissue.table, labels, head, 20)
    assert found.method == WARM
    picked = np.array([one.row for one in found.found])
    assert not set(picked) & set(rows.tolist())
    chances = head.probabilities(tissue.table.flat.vectors)
    assert [one.probabilities for one in found.found] == [
        pytest.approx(row, abs=1e-5) for row in chances[picked].tolist()
    ]
    everywhere = uncertainty(chances)
    assert everywhere[picked].mean() > everywhere.mean() + 0.15
    # Unlike each other: less alike than the most uncertain ones are.
    pool = directions(tissue.table.flat.vectors, tissue.table.flat.vectors.mean(axis=0))
    surest = np.argsort(-everywhere)[:20]
    alike = [(pool[i] @ pool[i].T)[np.triu_indices(20, 1)].mean() for i in (picked, surest)]
    assert alike[0] < alike[1]
    assert propose(tissue.table, labels, head, 20) == found
    assert propose(tissue.table, labels, head, 20, seed=1) != found


def test_of_one_slide_and_of_a_sample(tissue, monkeypatch) -> None:
    labels = tissue.labels([5, 800])
    head = refit(tissue.table, labels) if len(labels.classes) > 1 else None
    found = propose(tissue.table, labels, head, 8, slides=[2])
    span = tissue.table.span(2)
    assert all(span.start <= one.row < span.stop for one in found.found)
    assert found.pool == span.stop - span.start
    monkeypatch.setattr(proposals, "POOL", 100)
    found = propose(tissue.table, labels, head, 8)
    assert found.pool == 100
    every = tissue.labels(range(span.start, span.stop))
    assert propose(tissue.table, every, None, 8, slides=[2]).found == ()
    with pytest.raises(UsageError, match="at least 1"):
        propose(tissue.table, labels, head, 0)


def labels_needed(tissue, choose) -> int:
    """Labels until four fifths of a mixture of rare and common kinds are told apart, by mean recall on two cases that
    are never labelled; ``MOST`` where that is not reached.
    """
    cases = np.array(tissue.table.case_of)[tissue.table.slide_of]
    test = np.flatnonzero((cases == "c00") | (cases == "c01"))
    truth = np.array(KINDS)[tissue.kind[test]]
    labelled: list[int] = []
    head = None
    while len(labelled) < MOST:
        labels = tissue.labels(labelled, version=len(labelled)) if labelled else Labels()
        labelled += choose(labels, head, labelled)
        head = refit(tissue.table, tissue.labels(labelled, version=len(labelled)))
        said = np.array(head.classes)[head.probabilities(tissue.table.flat.vectors[test]).argmax(axis=1)]
        if np.mean([(said[truth == k] == k).mean() for k in np.unique(truth)]) >= 0.8:
            return len(labelled)
    return MOST


def test_proposals_need_fewer_labels_than_chance(tissue) -> None:
    """Measured from five starts, each compared with tiles drawn at random from the same slides."""
    slides = [i for i, case in enumerate(tissue.table.case_of) if case not in ("c00", "c01")]
    allowed = np.concatenate([np.arange(*tissue.table.flat.spans[i]) for i in slides])
    ours, chance = [], []
    for seed in range(5):
        rng = np.random.default_rng(seed)

        def proposed(labels, head, labelled, seed=seed):
            found = propose(tissue.table, labels, head, BATCH, slides=slides, seed=seed)
            return [one.row for one in found.found]

        def random(labels, head, labelled, rng=rng):
            return rng.choice(np.setdiff1d(allowed, labelled), BATCH, replace=False).tolist()

        ours.append(labels_needed(tissue, proposed))
        chance.append(labels_needed(tissue, random))
    assert np.mean(ours) < 0.6 * np.mean(chance), (ours, chance)
    assert sum(a <= b for a, b in zip(ours, chance, strict=True)) >= 4, (ours, chance)
