"""The CLI's contract, called as a user calls it: exit codes, one JSON object on stdout, one error line."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from beph_store.engine import demo
from beph_store.testing.synthetic import demo_cohort, demo_plans

from .calling import call, call_json, one_object, spawn


@pytest.fixture(scope="module")
def store(drawn_slide, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    report = call_json("ingest", drawn_slide.path, "--store", folder / "S", "--limit-tiles", 10)
    assert [slide["status"] for slide in report["slides"]] == ["done"]
    assert set(report["slides"][0]) == {"slide_id", "status", "tiles", "seconds", "error"}
    assert set(report["stages"]) == {"read", "encode", "write"}
    assert all(0 <= stage["busy"] <= 1 for stage in report["stages"].values())
    for field in ("tiles", "tiles_per_second", "bottleneck", "decode_amplification", "recipe"):
        assert field in report
    assert report["decode_amplification"] >= 1
    return folder / "S"


def test_info_verify_and_slides_agree(store: Path) -> None:
    (recipe,) = call_json("info", store)["recipes"]
    assert {"key", "encoder", "mpp", "tile_px", "dim", "slides", "tiles", "bytes"} <= set(recipe)
    assert (recipe["slides"], recipe["tiles"], recipe["encoder"]) == (1, 10, "beph-mini")
    checked = call_json("verify", store)
    assert (checked["ok"], checked["problems"], checked["tiles"]) == (True, [], 10)
    (slide,) = call_json("slides", store)["slides"]
    assert (slide["slide_id"], slide["tiles"], slide["mpp_source"]) == ("drawn.tif", 10, "tiff")


def test_a_process_of_its_own_ends_like_that_too(store: Path, tmp_path: Path) -> None:
    """The other tests call within this process; here are the real streams and the real exit codes."""
    out, err = spawn("verify", store, "--json")
    assert (one_object(out)["ok"], err) == (True, "")
    assert "beph-mini" in spawn("info", store)[0]
    out, err = spawn("info", tmp_path / "none", "--json", code=1)
    assert one_object(out)["ok"] is False
    assert err.startswith("error: no store at")
    assert err.count("\n") == 1
    assert "Traceback" in spawn("info", tmp_path / "none", "--debug", code=1)[1]
    out, err = spawn("ingest", "--store", "S", "--json", code=2, cwd=tmp_path)
    assert one_object(out)["ok"] is False
    assert err.startswith("error: ")


def test_recipes_that_differ_in_their_grid_look_different(drawn_slide, tmp_path: Path) -> None:
    for stride in (224, 448):
        call("ingest", drawn_slide.path, "--store", tmp_path / "S", "--stride-px", stride, "--limit-tiles", 1)
    out, _ = call("info", tmp_path / "S")
    assert sum("224 px @ 0.5 " in line for line in out.splitlines()) == 1
    assert sum("224 px @ 0.5, step 448" in line for line in out.splitlines()) == 1


def test_the_same_command_again_skips(store: Path, drawn_slide) -> None:
    report = call_json("ingest", drawn_slide.path, "--store", store, "--limit-tiles", 10)
    assert [slide["status"] for slide in report["slides"]] == ["skipped"]


def test_a_failed_slide_is_exit_1_and_one_line(store: Path, drawn_slide, tmp_path: Path) -> None:
    (tmp_path / "bad.svs").write_bytes(b"nonsense")
    out, err = call(
        "ingest",
        tmp_path / "bad.svs",
        drawn_slide.path,
        "--store",
        tmp_path / "S",
        "--limit-tiles",
        2,
        code=1,
    )
    assert "failed" in out
    assert [line for line in err.splitlines() if line.startswith("error:")] == ["error: 1 of 2 slides failed"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("ingest",),
        ("ingest", "--store", "S"),
        ("ingest", "nowhere.svs", "--store", "S"),
        ("ingest", "x", "--store", "S", "--no-such-option"),
        ("query", "S"),
        ("nonsense",),
    ],
)
def test_usage_errors_are_exit_2(arguments: tuple[str, ...], tmp_path: Path) -> None:
    _, err = call(*arguments, code=2, cwd=tmp_path)
    assert err.strip()
    assert "Traceback" not in err
    out, err = call(*arguments, "--json", code=2, cwd=tmp_path)
    assert json.loads(out)["ok"] is False
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "command", [("info",), ("verify",), ("slides",), ("compact",), ("query", "SELECT 1")]
)
def test_what_is_no_store_is_one_line(command: tuple[str, ...], tmp_path: Path) -> None:
    name, *rest = command
    _, err = call(name, tmp_path / "none", *rest, code=1)
    assert err.startswith("error: no store at")
    assert err.count("\n") == 1
    assert call_json(name, tmp_path / "none", *rest, code=1)["ok"] is False
    _, err = call(name, tmp_path / "none", *rest, "--debug", code=1)
    assert "Traceback" in err


def test_query_to_the_screen_and_to_parquet(store: Path, tmp_path: Path) -> None:
    sql = "SELECT slide_id, count(*) AS n FROM tiles GROUP BY slide_id"
    assert call_json("query", store, sql)["data"] == [{"slide_id": "drawn.tif", "n": 10}]
    out, _ = call("query", store, "SELECT slide_id, tile, embedding FROM tiles LIMIT 2")
    assert "[512 values]" in out
    call("query", store, "SELECT * FROM tiles", "-o", tmp_path / "t.parquet")
    assert pl.read_parquet(tmp_path / "t.parquet").height == 10


def test_compact_keeps_what_is_there(store: Path) -> None:
    call("compact", store)
    assert call_json("verify", store)["ok"] is True


def test_embed_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, side in (("a.png", 224), ("b.png", 224), ("c.png", 100)):
        Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(tmp_path / name)
    data = call_json(
        "embed", tmp_path / "b.png", tmp_path / "a.png", "--encoder", "beph-mini", "-o", tmp_path / "v.npy"
    )
    vectors = np.load(tmp_path / "v.npy")
    assert data["shape"] == [2, 512] == list(vectors.shape)
    assert [Path(p).name for p in data["images"]] == ["b.png", "a.png"]
    _, err = call("embed", tmp_path, "-o", tmp_path / "w.npy", code=2)
    assert "100 × 100 px" in err
    call("embed", tmp_path, "--resize", "-o", tmp_path / "w.npy")
    assert np.load(tmp_path / "w.npy").shape == (3, 512)
    np.testing.assert_allclose(np.load(tmp_path / "w.npy")[0], vectors[1], atol=1e-5)


def test_the_bundled_encoder_passes_its_gate() -> None:
    data = call_json("encoder", "check", "beph-mini")
    assert data["ok"] is True
    assert data["mean"] >= 0.9999
    assert [row["name"] for row in call_json("encoder", "list")["encoders"]][:2] == ["beph-mini", "beph"]


def test_an_encoder_without_weights_says_how_to_get_them(drawn_slide, tmp_path: Path) -> None:
    _, err = call("ingest", drawn_slide.path, "--store", tmp_path / "S", "--encoder", "beph", code=1)
    assert "encoder export beph --weights" in err


def test_doctor_finds_this_machine_fit() -> None:
    data = call_json("doctor")
    assert data["ok"] is True
    assert {"machine", "package", "reader", "runtime", "encoder"} == {f["kind"] for f in data["findings"]}


@pytest.mark.parametrize("size", [(2048, 2048), pytest.param((3584, 3328), marks=pytest.mark.soak)])
def test_demo(tmp_path: Path, monkeypatch, size: tuple[int, int]) -> None:
    """On slides of a third of its area; .ci/run makes it as it is, from the wheel."""
    monkeypatch.setattr(demo, "demo_plans", partial(demo_plans, size=size))
    monkeypatch.setattr(demo, "demo_cohort", partial(demo_cohort, size=size))
    data = call_json("demo", "--out", tmp_path / "demo")
    assert data["ok"] is True
    assert len(data["slides"]) == 8
    assert data["tiles"] > 500 * (size[0] * size[1]) / (3584 * 3328)
    assert data["separation"] > 0.7
    with Image.open(data["picture"]) as picture:
        assert picture.width > 800
