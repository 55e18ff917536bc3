"""What is proposed: never what is labelled, unlike each other, and worth more than tiles at random."""

from __future__ import annotations

import numpy as np
import pytest

from beph_store.engine.active import proposals
from beph_store.engine.active.labels import Labels
from beph_store.engine.active.picking import badge, directions, k_centre, uncertainty
from beph_store.engine.active.proposals import COLD, WARM, propose
from beph_store.engine.active.refit import refit
from beph_store.errors import HeadError, UsageError

BATCH, MOST = 6, 96


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


def curve(tissue, start: Labels, rows: list[int], choose) -> list[float]:
    """Balanced accuracy on two cases that are never labelled, after each batch of labels."""
    cases = np.array(tissue.table.case_of)[tissue.table.slide_of]
    test = np.flatnonzero((cases == "c00") | (cases == "c01"))
    found = []
    labelled: list[int] = []
    while len(labelled) < MOST:
        labels = tissue.labels(labelled, version=len(labelled)) if labelled else Labels()
        try:
            head = refit(tissue.table, labels)
        except HeadError:
            head = None
        labelled += choose(labels, head, labelled)
        if head is not None:
            said = np.array(head.classes)[head.probabilities(tissue.table.flat.vectors[test]).argmax(axis=1)]
            truth = np.array(["stroma", "fat", "muscle", "tumour", "necrosis"])[tissue.kind[test]]
            found.append(float(np.mean([(said[truth == k] == k).mean() for k in np.unique(truth)])))
        else:
            found.append(0.0)
    return found


def test_proposals_need_fewer_labels_than_chance(tissue) -> None:
    """Measured over six starts: labels until four fifths of a rare-and-common mixture are told apart, by recall."""
    slides = [i for i, case in enumerate(tissue.table.case_of) if case not in ("c00", "c01")]
    allowed = np.concatenate([np.arange(*tissue.table.flat.spans[i]) for i in slides])
    needed: dict[str, list[int]] = {"proposed": [], "random": []}
    for seed in range(6):
        rng = np.random.default_rng(seed)

        def proposed(labels, head, labelled, seed=seed):
            found = propose(tissue.table, labels, head, BATCH, slides=slides, seed=seed)
            return [one.row for one in found.found]

        def random(labels, head, labelled, rng=rng):
            return rng.choice(np.setdiff1d(allowed, labelled), BATCH, replace=False).tolist()

        for name, choose in (("proposed", proposed), ("random", random)):
            reached = np.array(curve(tissue, Labels(), [], choose)) >= 0.8
            needed[name].append(BATCH * int(reached.argmax()) if reached.any() else MOST)
    fewer = [a < b for a, b in zip(needed["proposed"], needed["random"], strict=True)]
    assert sum(fewer) >= 5, needed
    assert np.mean(needed["proposed"]) < 0.75 * np.mean(needed["random"]), needed
