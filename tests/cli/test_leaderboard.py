"""``encoder leaderboard`` by the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from beph_store_cli.main import main

from ..engine.leaderboard.conftest import draw_set
from .calling import call, call_json

QUICK = (
    "--folds", 3, "--shots", "1", "--shot-draws", 2, "--draws", 20, "--perturbed-tiles", 2, "--speed-seconds", 0,
)  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    return draw_set(tmp_path_factory.mktemp("drawn"), cases=3)


@pytest.fixture(scope="module")
def out(drawn, tmp_path_factory) -> Path:
    """Where the first run, for people, left its files; the others find their vectors there."""
    folder = tmp_path_factory.mktemp("made") / "out"
    said, _ = call("encoder", "leaderboard", drawn, "--encoder", "beph-mini", "--out", folder, *QUICK)
    (folder.parent / "said.txt").write_text(said)
    return folder


def test_the_screen_has_a_row_an_encoder_and_fits(out) -> None:
    said = (out.parent / "said.txt").read_text()
    assert max(map(len, said.splitlines())) <= 100
    for text in (
        "beph-mini",
        "colour",
        "linear",
        "minus beph-mini",
        "JPEG 40",
        "--speed-seconds 0",
        "report.html",
    ):
        assert text in said
    assert {path.name for path in out.iterdir()} == {
        "leaderboard.json", "leaderboard.png", "report.html", "vectors",
    }  # fmt: skip


def test_json_is_one_object_with_everything(drawn, out) -> None:
    said = call_json("encoder", "leaderboard", drawn, "--out", out, "--baseline", "colour", *QUICK)
    wanted = {"encoders", "baseline", "differences", "columns", "classes", "cases", "tiles", "dropped"}
    assert wanted | {"perturbations", "timing", "warnings", "notes", "out"} <= set(said)
    assert (said["baseline"], said["cases"], said["tiles"]) == ("colour", 3, 6)
    assert [one["encoder"] for one in said["differences"]] == ["beph-mini"]
    for row in said["encoders"]:
        assert set(row["metrics"]) == {column["key"] for column in said["columns"]}
        for one in row["metrics"].values():
            assert {"mean", "ci_low", "ci_high"} <= set(one)


@pytest.mark.parametrize(
    ("extra", "code", "cure"),
    [
        (("--baseline", "beph"), 2, "choose from beph-mini, colour"),
        (("--encoder", "beph-mini", "--encoder", "beph-mini"), 2, "name it once"),
        (("--encoder", "beph-midi"), 1, "no encoder 'beph-midi'"),
        (("--layout", "rows"), 2, "breakhis, lc25000, folders"),
        (("--shots", "few"), 2, "1,5,10,25"),
    ],
)
def test_what_cannot_be_done_is_one_line_with_a_cure(
    drawn, out, extra, code, cure, monkeypatch, capsys
) -> None:
    line = ["beph-store", "encoder", "leaderboard", drawn, "--out", out, *QUICK, *extra]
    monkeypatch.setattr("sys.argv", [str(word) for word in line])
    with pytest.raises(SystemExit) as end:
        main()
    err = capsys.readouterr().err
    assert end.value.code == code
    assert cure in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
