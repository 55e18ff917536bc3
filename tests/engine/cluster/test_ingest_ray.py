"""`ingest --ray` on three nodes, and whatever is lost of them: the store is what one machine makes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.errors import ClusterUnavailable, UsageError
from beph_store.store import Store, compact, verify
from beph_store.testing.synthetic import SlidePlan, write_slide
from tests.engine.cluster import chaos, namespace

pytestmark = namespace.needed()
LIMIT = 48


def _ingested(
    slides: Path, out: Path, limit: int, *, kills: int, seed: int, timeout: float
) -> dict[str, Any]:
    """What `chaos` answers, with the same slides ingested here into ``out / "L"``."""
    options = IngestOptions(limit_tiles=limit, runtime="onnxruntime")
    ingest([slides], out / "L", options=options)
    arguments = (str(slides), str(out), str(limit), str(kills), str(seed))
    run = namespace.run_alone("tests.engine.cluster.chaos", *arguments, timeout=timeout)
    assert run.returncode == 0, run.stderr[-4000:]
    answer: dict[str, Any] = json.loads((out / "answer.json").read_text())
    return answer


def _rows(store: Path) -> pl.DataFrame:
    opened = Store.open(store)
    tiles = opened.tiles(opened.recipe().recipe.key).drop("ingest_id").collect()
    return tiles.sort("slide_id", "tile")


def _same(ours: Path, theirs: Path) -> None:
    """Equal bit for bit, nothing left over, and nothing on the disk that the store does not know once it is compact."""
    assert_frame_equal(_rows(ours), _rows(theirs))
    registry = [Store.open(store).slides().sort("slide_id") for store in (ours, theirs)]
    same = [
        "slide_id",
        "status",
        "tiles",
        "unreadable",
        "sha256",
        "fingerprint",
        "mpp_x",
        "footprint_l0",
        "reader",
    ]
    assert_frame_equal(registry[0].select(same), registry[1].select(same))
    report = verify(Store.open(ours))
    assert report.ok, report.problems
    assert not [path for path in (ours / "staging").rglob("*") if path.is_file()]
    compact(Store.open(ours))
    report = verify(Store.open(ours))
    assert (report.ok, report.notes) == (True, [])


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def answer(drawn_slide, out: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Four slides and one that is none, on three nodes."""
    slides = tmp_path_factory.mktemp("slides")
    for name in "abcd":
        shutil.copy(drawn_slide.path, slides / f"{name}.tif")
    (slides / "broken.svs").write_bytes(b"not a slide")
    return _ingested(slides, out, LIMIT, kills=len(chaos.KINDS), seed=1, timeout=480)


@pytest.mark.timeout(600)
def test_whatever_is_lost_the_store_is_what_one_machine_makes(answer: dict[str, Any], out: Path) -> None:
    said = answer["chaos"]
    assert said["kills"] == dict.fromkeys(chaos.KINDS, 1), said["stderr"]
    assert said["code"] == 1  # of the slide that is none
    outcomes = {slide["slide_id"]: slide["status"] for slide in said["report"]["slides"]}
    assert outcomes == {"broken.svs": "failed", **{f"{name}.tif": "done" for name in "abcd"}}
    assert {slide["status"] for slide in said["again"]["slides"]} == {"failed", "skipped"}
    _same(out / "R", out / "L")


def test_the_report_is_that_of_one_machine_and_says_what_of_the_cluster_took_part(
    answer: dict[str, Any],
) -> None:
    report = answer["chaos"]["report"]
    assert set(report["stages"]) == {"read", "encode", "write"}
    assert report["runtime"] == "onnxruntime"
    assert report["decode_amplification"] >= 1.0
    cluster = report["cluster"]
    assert cluster["encoders"] == cluster["nodes"] >= 3
    assert cluster["restarts"] >= 1


def test_stopped_by_ctrl_c(answer: dict[str, Any], out: Path) -> None:
    said = answer["stopped"]
    assert said["code"] == 130
    assert said["stderr"].splitlines()[-1].startswith("error: stopped; run the same command again")
    assert said["staged"] or list((out / "C").glob("tiles/*.lance/data/*.lance"))  # what was encoded is kept
    assert verify(Store.open(out / "C")).ok


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wrong token", "refused the token"),
        ("no gpu", "onnxruntime-cuda needs a GPU: the cluster has 3 nodes"),
        ("crowded", "of which 0 cores and 0 GPUs are free"),
    ],
)
def test_what_cannot_be_is_one_line_and_no_hang(answer: dict[str, Any], name: str, words: str) -> None:
    said = answer["refused"][name]
    assert said["code"] == 1
    last = said["stderr"].splitlines()[-1]
    assert last.startswith("error: ")
    assert words in last
    assert json.loads(said["stdout"]) == {"ok": False, "error": last.removeprefix("error: ")}


def test_refused_before_anything_is_started(
    drawn_slide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tried(**options: Any) -> None:
        ingest([drawn_slide.path], tmp_path / "S", options=IngestOptions(**options))

    with pytest.raises(UsageError, match="one machine only"):
        tried(ray_address="local", keep_tiles=True)
    with pytest.raises(UsageError, match="host:port"):
        tried(ray_address="somewhere")
    with pytest.raises(UsageError, match="host:port"):
        tried(ray_address="ray://head:10001")
    with pytest.raises(ClusterUnavailable, match="no Ray cluster at 127"):
        tried(ray_address="127.0.0.1:1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ClusterUnavailable, match="no token"):
        tried(ray_address="auto")
    assert not (tmp_path / "S").exists()


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_store_in_a_bucket_over_two_nodes(drawn_slide, tmp_path: Path) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    for name in "ab":
        shutil.copy(drawn_slide.path, slides / f"{name}.tif")
    ingest([slides], tmp_path / "L", options=IngestOptions(limit_tiles=16, runtime="onnxruntime"))
    run = namespace.run_alone("tests.engine.cluster.bucket", str(slides), str(tmp_path), "16", timeout=300)
    assert run.returncode == 0, run.stderr[-4000:]
    said = json.loads((tmp_path / "answer.json").read_text())
    assert (said["code"], said["problems"]) == (0, []), said["stderr"]
    assert said["report"]["cluster"]["nodes"] == 2
    assert_frame_equal(pl.read_parquet(tmp_path / "rows.parquet"), _rows(tmp_path / "L"))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_twenty_losses_on_larger_slides(tmp_path: Path) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    for number in range(8):
        plan = SlidePlan(size=(4096, 3584), seed=number, tumour=0.4, nuisances=())
        write_slide(slides / f"{number}.tif", plan)
    said = _ingested(slides, tmp_path, 400, kills=20, seed=7, timeout=3000)["chaos"]
    assert said["code"] == 0, said["stderr"]
    assert sum(said["kills"].values()) >= 16
    _same(tmp_path / "R", tmp_path / "L")
