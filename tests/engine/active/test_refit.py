"""The refitted head: what it learns, and that its held-out figures are honest."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from beph_store.engine.active.labels import Labels
from beph_store.engine.active.refit import MAX_TILES, refit
from beph_store.errors import HeadError
from beph_store.heads import tile_refit, tilewise

from .conftest import KINDS, label_rows


def some(tissue, count: int, seed: int = 0, among=None) -> np.ndarray:
    rows = np.arange(len(tissue.kind)) if among is None else np.flatnonzero(among)
    return np.random.default_rng(seed).choice(rows, count, replace=False)


def test_it_learns_and_its_held_out_figure_is_what_new_cases_give(tissue) -> None:
    cases = np.array(tissue.table.case_of)[tissue.table.slide_of]
    common = tissue.kind < 4
    known = (cases != "c04") & (cases != "c05")
    head = refit(tissue.table, tissue.labels(some(tissue, 300, among=known & common)))
    assert set(head.classes) == set(KINDS[:4])
    assert (head.tiles, head.slides, head.cases) == (300, 8, 4)
    new = np.flatnonzero(~known & common)
    said = head.probabilities(tissue.table.flat.vectors[new])
    assert said.sum(axis=1) == pytest.approx(np.ones(len(new)), abs=1e-5)
    right = np.mean([head.classes[i] for i in said.argmax(axis=1)] == np.array(KINDS)[tissue.kind[new]])
    assert head.held_out.by == "case"
    assert head.held_out.majority is not None
    assert right > head.held_out.majority + 0.15
    assert head.held_out.accuracy == pytest.approx(right, abs=0.07)
    assert head.held_out.tiles == 300


def test_labels_that_mean_nothing_are_not_flattered(tissue) -> None:
    """Nested choice and folds by case: labels by the toss of a coin for each case are right half of the time."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(8):
        rows = some(tissue, 120, int(rng.integers(1 << 30)))
        given = {int(row): ("heads", "tails")[int(rng.integers(2))] for row in rows}
        found.append(refit(tissue.table, label_rows(tissue.table, given)).held_out.balanced_accuracy)
    assert np.mean(found) == pytest.approx(0.5, abs=0.06)


def test_it_is_the_linear_probe_at_its_penalty(tissue) -> None:
    rows = some(tissue, 200)
    truth = np.unique(tissue.kind[rows], return_inverse=True)[1].astype(np.int64)
    vectors = tissue.table.flat.vectors[rows].astype(np.float32)
    fold = np.arange(200) % 4
    ours = tile_refit.refit(vectors, truth, int(truth.max()) + 1, fold)
    probe = tilewise.fit_linear(vectors, truth, int(truth.max()) + 1, None, (ours.probe.penalty,))
    np.testing.assert_allclose(ours.probe.probabilities(vectors), probe.probabilities(vectors), atol=5e-3)
    # A fold's chances are those of a fit without it.
    out = fold == 2
    part = tilewise.fit_linear(vectors[~out], truth[~out], int(truth.max()) + 1, None, (ours.probe.penalty,))
    assert (part.probabilities(vectors[out]).argmax(1) == ours.held_out[out].argmax(1)).mean() > 0.9


def test_by_slide_where_cases_are_too_few_and_by_nothing_where_slides_are(tissue) -> None:
    cases = np.array(tissue.table.case_of)[tissue.table.slide_of]
    two = tissue.kind < 2
    head = refit(tissue.table, tissue.labels(some(tissue, 60, among=two & (cases == "c01"))))
    assert head.held_out.by == "slide"
    assert "flatters" in head.held_out.note
    assert "of one case" in head.held_out.note
    assert head.held_out.accuracy is not None
    slide = tissue.table.slide_of == 3
    head = refit(tissue.table, tissue.labels(some(tissue, 40, among=two & slide)))
    assert head.held_out.by == "none"
    assert head.held_out.accuracy is None
    assert "of one slide: label it in another" in head.held_out.note
    assert head.penalty == tilewise.FEW_SHOT_PENALTY


@pytest.mark.parametrize("count", [0, 1, 30])
def test_fewer_than_two_classes_are_explained(tissue, count) -> None:
    rows = np.flatnonzero(tissue.kind == 1)[:count]
    labels = tissue.labels(rows) if count else Labels()
    with pytest.raises(
        HeadError, match=r"of one class \(fat\): label tiles of a second" if count else "no tile"
    ):
        refit(tissue.table, labels)


def test_two_tiles_are_enough_to_begin(tissue) -> None:
    rows = [int(np.flatnonzero(tissue.kind == kind)[0]) for kind in (0, 1)]
    head = refit(tissue.table, tissue.labels(rows))
    assert head.probabilities(tissue.table.flat.vectors[rows]).argmax(axis=1).tolist() == [0, 1]


def test_a_dragged_region_does_not_slow_it_down(tissue) -> None:
    rows = np.flatnonzero(tissue.kind < 3)
    head = refit(tissue.table, tissue.labels(rows))
    assert head.tiles == len(rows) > MAX_TILES
    assert 0.8 * MAX_TILES < head.used <= MAX_TILES


def test_tiles_that_the_store_lost_are_left_out(tissue) -> None:
    labels = tissue.labels(some(tissue, 100))
    label = next(iter(labels.tiles.values()))
    moved = dataclasses.replace(label, mark=dataclasses.replace(label.mark, x=label.mark.x + 3))
    gone = dataclasses.replace(label, mark=dataclasses.replace(label.mark, slide_id="nowhere.svs"))
    tiles = {**labels.tiles, moved.mark.subject: moved, gone.mark.subject: gone}
    head = refit(tissue.table, dataclasses.replace(labels, tiles=tiles))
    assert head.tiles == 100


def test_a_fold_that_takes_a_class_away_is_refused() -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    with pytest.raises(HeadError, match="takes the only tiles of a class"):
        tile_refit.refit(vectors, np.arange(20) // 10, 2, np.arange(20) // 10)
