"""A leaderboard on drawn images: a planted difference is found, a copy of an encoder is found to be one."""

import base64
import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from beph_store.encoders import load_bundle
from beph_store.encoders.table import normalisation
from beph_store.engine.folders import check_folder
from beph_store.engine.leaderboard import comparison as module
from beph_store.engine.leaderboard.colour import Colour, colour_vectors
from beph_store.engine.leaderboard.measure import mean_of, nearest, retrieval, weights_of
from beph_store.engine.leaderboard.perturb import Strength
from beph_store.engine.leaderboard.report import KNOWN, write
from beph_store.engine.leaderboard.robust import sample
from beph_store.engine.leaderboard.run import LeaderboardOptions, leaderboard
from beph_store.engine.leaderboard.source import Question, comparison_of
from beph_store.engine.leaderboard.speed import Timing, rates
from beph_store.engine.probe.run import ProbeOptions
from beph_store.engine.probe.tiles import ProbeTiles
from beph_store.errors import CohortError, UsageError
from beph_store.search import evaluate

from .conftest import draw_set

PROBE = ProbeOptions(folds=3, shots=(1, 2), shot_draws=4, draws=60)
OPTIONS = LeaderboardOptions(PROBE, tiles=6, timing=Timing(0))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_set(tmp_path_factory.mktemp("drawn"), cases=8)


@pytest.fixture(scope="module")
def made(drawn, tmp_path_factory):
    """beph-mini, a copy of it and the colours: (comparison, board, where it is written)."""
    folder = tmp_path_factory.mktemp("made")
    copy = shutil.copytree(load_bundle("beph-mini").path, folder / "copy")
    out = folder / "out"
    compared = comparison_of(drawn, out, Question(encoders=("beph-mini", str(copy))))
    board = leaderboard(compared, OPTIONS, out)
    write(board, out)
    return compared, board, out


def rows_of(board):
    return {row.entrant.name: row for row in board.rows}


def test_every_encoder_has_every_column(made):
    _, board, _ = made
    rows = rows_of(board)
    assert set(rows) == {"beph-mini", "copy", "colour"}
    assert [c.key for c in board.columns if c.part == "stain"] == [
        "stain.loss", "stain.same_class", "stain.cosine",
    ]  # fmt: skip
    for row in rows.values():
        assert set(row.metrics) == {column.key for column in board.columns}
        assert set(row.missing) == {"tiles_per_second"}  # no time was given to it
        for one in row.metrics.values():
            assert one.ci_low <= one.ci_high
    assert board.sampled == 6


def test_the_planted_difference_is_found_and_the_copy_is_one(made):
    _, board, _ = made
    rows = rows_of(board)
    assert rows["beph-mini"].metrics["linear.balanced_accuracy"].value > 0.9
    assert rows["colour"].metrics["linear.balanced_accuracy"].value < 0.75
    assert board.rows[-1].entrant.name == "colour"
    for key in ("linear.balanced_accuracy", "knn.balanced_accuracy", "retrieval.map5", "shots.2"):
        assert rows["colour"].differences[key].ci_high < 0, key
    for key, one in rows["copy"].differences.items():
        assert (one.difference, one.ci_low, one.ci_high) == (0, 0, 0), key
    assert rows["copy"].metrics == rows["beph-mini"].metrics


def test_what_is_written_agrees_and_is_self_contained(made):
    _, board, out = made
    said = json.loads((out / "leaderboard.json").read_text())
    assert [one["name"] for one in said["encoders"]] == [row.entrant.name for row in board.rows]
    assert said["baseline"] == "beph-mini"
    assert {one["encoder"] for one in said["differences"]} == {"copy", "colour"}
    first = said["encoders"][0]
    assert set(first["metrics"]) == {column["key"] for column in said["columns"]}
    assert said["perturbations"]["tiles"] == 6
    assert "× (1 ± 0.2) ± 0.03" in said["perturbations"]["kinds"]["stain"]
    png = (out / "leaderboard.png").read_bytes()
    with Image.open(out / "leaderboard.png") as image:
        assert image.size[0] > 1000
    page = (out / "report.html").read_text()
    assert base64.b64encode(png).decode() in page
    assert "http" not in page.replace("http-equiv", "")
    write(board, out)  # ours may be written anew
    (out / "thesis.docx").write_bytes(b"")
    with pytest.raises(UsageError, match="other things"):
        check_folder(out, KNOWN)
    (out / "thesis.docx").unlink()


def test_the_speed_is_measured_in_turn_and_its_conditions_are_noted(made, tmp_path):
    compared, _, _ = made
    colours = dataclasses.replace(compared, entrants=compared.entrants[-1:])
    options = LeaderboardOptions(PROBE, tiles=2, timing=Timing(0.02, 3))
    said = leaderboard(colours, options, tmp_path).to_json()
    rate = said["encoders"][0]["tiles_per_second"]
    assert 0 < rate["slowest"] <= rate["tiles_per_second"] <= rate["fastest"]
    assert (rate["runtime"], rate["rounds"]) == ("numpy", 3)
    assert said["timing"]["cores"]
    order = []

    class Slow(Colour):
        def encode(self, pixels):
            order.append(id(self))
            return super().encode(pixels)

    both = [(Slow(32), 32, "fp32"), (Slow(32), 32, "fp32")]
    found = rates(both, Timing(0.01, 2), lambda steps: None)
    assert len(found) == 2
    changes = [a for a, b in zip(order, [*order[1:], None], strict=True) if a != b]
    assert changes == [id(machine) for machine, _, _ in both] * 2


def test_nothing_is_embedded_twice(made, drawn, monkeypatch):
    compared, board, out = made
    copy = compared.entrants[1].about["asked"]

    def refuses(*_, **__):
        raise AssertionError("opened an encoder")

    monkeypatch.setattr(module, "choose", refuses)
    again = comparison_of(drawn, out, Question(encoders=("beph-mini", copy)))
    second = leaderboard(again, OPTIONS, out)
    assert rows_of(second)["beph-mini"].metrics == rows_of(board)["beph-mini"].metrics
    assert "speed" in rows_of(second)["colour"].missing["tiles_per_second"]
    with pytest.raises(AssertionError, match="opened"):
        leaderboard(again, LeaderboardOptions(PROBE, tiles=8, strength=Strength(0.1)), out)


def test_no_perturbation_costs_nothing(made, tmp_path):
    """At zero strength the encoder is asked again for the same tiles, and says the same."""
    compared, _, _ = made
    options = LeaderboardOptions(PROBE, "colour", tiles=4, strength=Strength(0, 0, ()), timing=Timing(0))
    rows = rows_of(leaderboard(compared, options, tmp_path))
    for name in ("beph-mini", "colour"):
        found = rows[name].metrics
        assert found["stain.loss"].value == found["stain.loss"].ci_high == 0
        assert found["stain.same_class"].value == 1
        assert found["stain.cosine"].value == pytest.approx(1, abs=1e-6)
    assert rows["beph-mini"].differences["linear.auroc"].a == rows["beph-mini"].metrics["linear.auroc"].value
    assert rows["beph-mini"].differences["linear.auroc"].b == rows["colour"].metrics["linear.auroc"].value


def test_an_image_that_one_cannot_read_is_left_out_for_all(tmp_path):
    table = draw_set(tmp_path, cases=3)
    (tmp_path / "images" / "c01-checks.png").write_bytes(b"no image")
    compared = comparison_of(table, tmp_path / "out", Question())
    assert [one.reason for one in compared.tiles.dropped] == ["it cannot be read as an image"]
    assert all(len(entrant.vectors) == len(compared.tiles) == 5 for entrant in compared.entrants)


def test_a_folder_with_its_table_and_a_folder_of_folders(drawn, tmp_path):
    folder = drawn.parent / "images"
    kept = comparison_of(folder, tmp_path / "a", Question(labels=drawn, classes=("stripes", "checks")))
    assert len(kept.tiles) == 16
    assert kept.tiles.classes == ("stripes", "checks")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CohortError, match="none of the 16 images of the table lies under"):
        comparison_of(tmp_path / "empty", tmp_path / "b", Question(labels=drawn))


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (Question(), "--layout"),
        (Question(where="x > 1", layout="folders"), "--where is not for images"),
        (Question(encoders=("beph-mini", "beph-mini"), layout="folders"), "there twice"),
        (Question(encoders=("colour",), layout="folders"), "always compared"),
    ],
)
def test_what_cannot_be_meant_is_refused(drawn, tmp_path, question, said):
    folder = tmp_path / "set"
    for kind in ("a", "b"):
        (folder / kind).mkdir(parents=True)
        shutil.copy(drawn.parent / "images" / "c00-checks.png", folder / kind / "1.png")
    with pytest.raises(UsageError, match=said):
        comparison_of(folder, tmp_path / "out", question)


def test_a_baseline_that_is_not_there_is_refused_before_the_work(made, tmp_path):
    compared, _, _ = made
    with pytest.raises(UsageError, match="choose from beph-mini, copy, colour"):
        leaderboard(compared, LeaderboardOptions(PROBE, "beph"), tmp_path)


def test_colours_are_mean_and_spread_of_the_channels():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    pixels[1] = 255
    usual = normalisation("histology")
    flat = pixels.reshape(3, -1, 3)
    mean, spread = (flat.mean(axis=1) - usual.mean) / usual.std, flat.std(axis=1) / usual.std - 1
    assert colour_vectors(pixels) == pytest.approx(np.concatenate([mean, spread], axis=1), abs=1e-5)


def labelled(truth, case, vectors):
    truth, case = np.asarray(truth), np.asarray(case)
    names = tuple(f"c{i}" for i in range(case.max() + 1))
    classes = tuple(f"k{i}" for i in range(truth.max() + 1))
    zero = np.zeros(len(truth), np.int64)
    about = {"encoder": "x"}
    return ProbeTiles(
        truth,
        case,
        zero,
        classes,
        names,
        ("",),
        {},
        len(truth),
        (),
        (),
        about,
        vectors=np.asarray(vectors, np.float32),
    )


def test_neighbours_are_those_of_a_naive_loop():
    rng = np.random.default_rng(0)
    vectors = rng.integers(-2, 3, (60, 3)).astype(np.float32) + 0.5  # many equal cosines
    case = rng.integers(0, 9, 60)
    found = nearest(vectors, vectors, case, case, 7)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    for i, row in enumerate(found):
        others = [j for j in range(60) if case[j] != case[i]]
        best = sorted(others, key=lambda j: (-cosines[i, j], j))[:7]
        assert row.tolist() == best
    few = nearest(vectors[:1], vectors[:3], case[:1], np.array([case[0], 99, 98]), 5)
    assert (few[0] == -1).sum() == 3
    assert 0 not in few


def test_retrieval_is_what_search_says_and_its_draws_are_of_cases():
    rng = np.random.default_rng(1)
    truth, case = rng.integers(0, 3, 80), np.repeat(np.arange(20), 4)
    tiles = labelled(truth, case, rng.normal(size=(80, 6)) + truth[:, None])
    weights = weights_of(tiles, ProbeOptions(draws=30))
    found = retrieval(tiles, weights)
    ranked = nearest(tiles.vectors, tiles.vectors, case, case, 10)
    scores = evaluate(list(ranked), [str(t) for t in truth], [str(c) for c in case], 5)
    point = [found[f"retrieval.{name}"][0] for name in ("mmv5", "p5", "map5", "map5_macro")]
    assert point == pytest.approx(
        [scores.majority_vote, scores.precision, scores.average_precision, scores.macro[2]]
    )
    values = rng.normal(size=80)
    by_hand = [np.repeat(values, w[case]).mean() for w in weights.astype(int)]
    assert mean_of(values, case, weights) == pytest.approx(by_hand)


def test_the_sample_takes_every_class_and_case_in_turn():
    truth = np.array([0] * 90 + [1] * 8 + [2] * 30)
    case = np.concatenate([np.arange(90) % 3, np.arange(8), np.arange(30) % 15])
    tiles = labelled(truth, case, np.zeros((128, 2)))
    rows = sample(tiles, 30, seed=0)
    assert np.bincount(truth[rows]).tolist() == [11, 8, 11]
    assert len(set(case[rows][truth[rows] == 2])) == 11
    assert np.bincount(case[rows][truth[rows] == 0]).min() >= 3
    assert (rows == sample(tiles, 30, seed=0)).all()
    assert (rows != sample(tiles, 30, seed=1)).any()
    assert (sample(tiles, 128, seed=0) == np.arange(128)).all()


def test_real_fields(realdata, tmp_path):
    """60 fields of EBHI, as a smoke test: every column is there and an encoder beats its colours."""
    lines = (realdata / "ebhi_seg" / "manifest.csv").read_text().splitlines()
    table, place = [lines[0]], {name: i for i, name in enumerate(lines[0].split(","))}
    count: dict[tuple[str, str], int] = {}
    for line in lines[1:]:
        cells = line.split(",")
        label, case = cells[place["label"]], cells[place["case_id"]]
        cases = {c for kind, c in count if kind == label}
        if label in ("adenocarcinoma", "polyp") and (case in cases or len(cases) < 15):
            count[label, case] = count.get((label, case), 0) + 1
            if count[label, case] <= 2:
                cells[place["path"]] = str(realdata / "ebhi_seg" / cells[place["path"]])
                table.append(",".join(cells))
    (tmp_path / "t.csv").write_text("\n".join(table))
    compared = comparison_of(tmp_path / "t.csv", tmp_path / "out", Question(target="label"))
    assert 45 <= len(compared.tiles) <= 60
    timed = LeaderboardOptions(PROBE, tiles=6, timing=Timing(0.05, 1))
    board = leaderboard(compared, timed, tmp_path / "out")
    rows = rows_of(board)
    assert not any(row.missing for row in board.rows)
    assert rows["colour"].differences["linear.auroc"].difference < 0
    assert rows["beph-mini"].metrics["jpeg70.cosine"].value > rows["beph-mini"].metrics["jpeg20.cosine"].value
