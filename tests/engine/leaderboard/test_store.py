"""Recipes of one store: joined by place, what does not coincide is left out, and pixels come from what was kept."""

import csv
from pathlib import Path

import numpy as np
import pytest

from beph_store.encoders import load_bundle
from beph_store.engine.choosing import choose
from beph_store.engine.leaderboard.comparison import NEEDS_PIXELS
from beph_store.engine.leaderboard.perturb import Strength
from beph_store.engine.leaderboard.run import LeaderboardOptions, leaderboard
from beph_store.engine.leaderboard.source import Question, comparison_of
from beph_store.engine.leaderboard.speed import Timing
from beph_store.engine.leaderboard.store import coinciding
from beph_store.engine.probe.run import ProbeOptions
from beph_store.engine.search.table import open_table
from beph_store.errors import CohortError, UsageError
from beph_store.records import EncoderSpec, Rasters, Recipe, SlideInfo, TileSet, TileSpec, TissueMask
from beph_store.store import SlideRow, Store, pack

from .conftest import drawn_tile

SLIDES, CASES, SIDE = 12, 6, 4
PROBE = ProbeOptions(folds=3, shots=(1,), shot_draws=2, draws=30)


def seal(writer, spec, number, origin, fingerprint, vectors, pixels=None):
    """One slide from the claim to the sealed fragment, its tiles' pixels kept where they are given."""
    info = SlideInfo(
        f"s{number:02d}.svs", "nowhere", (4096, 4096), 0.5, 0.5, "declared", ((4096, 4096),), fingerprint
    )
    n = len(origin)
    claim = writer.claim(info.slide_id)
    tiles = TileSet(
        info.slide_id, spec, origin.astype(np.int32), spec.footprint_l0(0.5), np.ones(n, np.float32)
    )
    spool = writer.open_spool(claim, info, tiles)
    index = np.arange(n, dtype=np.int32)
    if pixels is not None:
        spool.keep(index, pack(pixels))
    spool.add(index, np.ones(n, bool), vectors)
    rasters = Rasters(
        np.full((8, 8, 3), 230, np.uint8), TissueMask(np.ones((8, 8), bool), 256.0, 256.0, "none")
    )
    row = SlideRow(writer.key, info.slide_id, "done", path="nowhere", fingerprint=fingerprint)
    writer.seal(claim, rasters, row)


def write(store, name, dim, spec, slides):
    """A recipe whose vectors spell where a tile is; ``slides``: (slide number, origins (n, 2), fingerprint)."""
    encoder = EncoderSpec(
        name, "test", "0" * 64, spec.tile_px, 0.5, dim, "none", (0.0,) * 3, (1.0,) * 3, "fp32", ""
    )
    writer = store.writer(Recipe(spec, encoder), run="test", encoder_source="nowhere", parity={})
    for number, origin, fingerprint in slides:
        vectors = np.zeros((len(origin), dim), np.float32)
        vectors[:, 0], vectors[:, 1:3] = number + 1, origin / 224
        seal(writer, spec, number, origin, fingerprint, vectors)
    writer.close()
    return writer.key


def grid(rows=SIDE):
    y, x = np.divmod(np.arange(SIDE * rows), SIDE)
    return np.stack([x, y], axis=1) * 224


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """``first`` has 16 tiles a slide, ``second`` the same at other numbers, less a row, with a slide moved and a file
    changed; ``coarse`` lies at the same places with another footprint.
    """
    folder = tmp_path_factory.mktemp("recipes")
    store = Store.create(folder / "S", written_by="test")
    spec = TileSpec(224, 0.5, 224, 0.0, "none")
    whole = [(i, grid(), "a" * 64) for i in range(SLIDES)]
    first = write(store, "first", 8, spec, whole)
    second = []
    for i in range(SLIDES):
        origin = grid()[4:][::-1] if i else grid()[4:][::-1] + 7
        second.append((i, origin, ("b" if i == 1 else "a") * 64))
    second.append((99, grid(), "a" * 64))
    second = write(store, "second", 5, spec, second)
    write(store, "coarse", 5, TileSpec(224, 1.0, 112, 0.0, "none"), whole)
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["slide_id", "case_id", "x", "y", "label"])
        for i in range(SLIDES):
            for x, y in grid().tolist():
                rows.writerow([f"s{i:02d}.svs", f"c{i % CASES}", x, y, "left" if x < 448 else "right"])
    return folder / "S", folder / "labels.csv", first, second


def test_only_the_same_tiles_are_compared_and_the_others_are_counted(planted, tmp_path):
    store, labels, *_ = planted
    compared = comparison_of(store, tmp_path, Question(("first", "second"), labels))
    tiles = compared.tiles
    same = (SLIDES - 2) * 12
    assert len(tiles) == tiles.about["tiles_coinciding"] == same
    assert not {"s00.svs", "s01.svs", "s99.svs"} & set(tiles.names["slide_id"])
    a, b, colour = compared.entrants
    assert (a.vectors[:, :3] == b.vectors[:, :3]).all()  # each spells its slide and place
    assert (a.vectors.shape[1], b.vectors.shape[1]) == (8, 5)
    assert ((a.vectors[:, 1] < 2) == (tiles.truth == 0)).all()
    of_second, of_first = (SLIDES * 12 + 16) - same, SLIDES * 16 - same
    assert any(f"{same} tiles of second" in n and f"{of_second} of its own and {of_first} of first" in n
               for n in tiles.notes)  # fmt: skip
    assert colour.vectors is None
    assert colour.missing == NEEDS_PIXELS


def test_the_join_is_by_place_footprint_and_file(planted):
    store, _, first, second = planted
    a, b = open_table(store, recipe=first), open_table(store, recipe=second)
    rows = coinciding(a, b)
    assert (rows >= 0).sum() == (SLIDES - 2) * 12
    for row in np.flatnonzero(rows >= 0)[::7]:
        there = rows[row]
        assert a.flat.origin_l0[row].tolist() == b.flat.origin_l0[there].tolist()
        assert a.flat.slide_ids[a.slide_of[row]] == b.flat.slide_ids[b.slide_of[there]]


def test_what_needs_pixels_says_so_and_the_rest_is_there(planted, tmp_path):
    store, labels, *_ = planted
    compared = comparison_of(store, tmp_path, Question(("second", "first"), labels))
    board = leaderboard(compared, LeaderboardOptions(PROBE, timing=Timing(0.1)), tmp_path)
    assert board.baseline == "second"
    rows = {row.entrant.name: row for row in board.rows}
    assert rows["first"].metrics["linear.accuracy"].value > 0.9
    assert rows["first"].missing["stain.loss"] == NEEDS_PIXELS
    assert rows["first"].missing["tiles_per_second"] == NEEDS_PIXELS
    assert not rows["colour"].metrics
    assert set(rows["colour"].missing) == {"tiles_per_second", *(c.key for c in board.columns)}
    assert "linear.accuracy" in rows["first"].differences
    assert board.to_json()["perturbations"]["tiles"] == 0


def test_recipes_without_a_tile_in_common_are_refused(planted, tmp_path):
    store, labels, *_ = planted
    with pytest.raises(CohortError, match="same footprint"):
        comparison_of(store, tmp_path, Question(("first", "coarse"), labels))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Six slides of drawn tiles as `ingest --keep-tiles` would leave them, written directly."""
    folder = tmp_path_factory.mktemp("kept")
    store, bundle = Store.create(folder / "S", written_by="test"), load_bundle("beph-mini")
    spec = TileSpec(224, 0.5, 224, 0.0, "none")
    recipe = Recipe(spec, bundle.spec)
    writer = store.writer(recipe, run="test", encoder_source="beph-mini", parity={}, keep_tiles=True)
    rng, run = np.random.default_rng(0), choose(bundle).runtime
    kinds = ["checks", "stripes"] * 2
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["slide_id", "case_id", "tile", "label"])
        for number in range(6):
            pixels = np.stack([drawn_tile(kind, rng) for kind in kinds])
            seal(writer, spec, number, grid(1), "a" * 64, run.encode(pixels), pixels)
            rows.writerows([f"s{number:02d}.svs", f"c{number}", i, kind] for i, kind in enumerate(kinds))
    writer.close()
    return folder / "S", folder / "labels.csv", pixels


def test_with_kept_tiles_all_columns_are_there(kept, tmp_path):
    store, labels, last = kept
    compared = comparison_of(store, tmp_path, Question(labels=labels))
    for entrant in compared.entrants:
        assert not entrant.missing
        assert (entrant.source.pixels(23) == last[3]).all()
    options = LeaderboardOptions(PROBE, tiles=4, strength=Strength(0, 0, (20,)), timing=Timing(0))
    board = leaderboard(compared, options, tmp_path)
    rows = {row.entrant.name: row for row in board.rows}
    for row in rows.values():
        assert set(row.missing) == {"tiles_per_second"}  # no time was given to it
        # Stored vectors are float16, those of the perturbed tiles are not.
        assert row.metrics["stain.cosine"].value > 0.9999
        assert row.metrics["jpeg20.cosine"].value < row.metrics["stain.cosine"].value
    assert rows["colour"].differences["linear.balanced_accuracy"].ci_high < 0


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (Question(("third",), Path("x")), "no recipe"),
        (Question(("first", "first"), Path("x")), "there twice"),
        (Question(), "--labels"),
        (Question(labels=Path("x"), layout="folders"), "--layout is not for a store"),
    ],
)
def test_what_cannot_be_meant_is_refused(planted, tmp_path, question, said):
    with pytest.raises(UsageError, match=said):
        comparison_of(planted[0], tmp_path, question)
