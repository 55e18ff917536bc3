"""Every protocol on slides, end to end on stand-ins: figures, comparisons, what is missing, and going on."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from beph_store.engine.protocols.options import RunOptions
from beph_store.engine.protocols.run import run
from beph_store.engine.protocols.table import PROTOCOLS
from beph_store.errors import CohortError, UsageError

from .conftest import RESNET, cases_of, slide_split

SLIDES = [name for name, one in PROTOCOLS.items() if one.level != "tile"]
DINO = "timm:vit_small_patch16_224.dino"


def quick(stand_in, name: str, **more) -> RunOptions:
    one = PROTOCOLS[name]
    own = {"draws": 2, "fractions": (100,)} if one.level == "slide" else {"folds": 3}
    usual = {"store": stand_in.store, "cohort": stand_in.tables[one.table], "epochs": 2, "bootstrap": 40}
    return RunOptions(**(usual | own | more))


@pytest.mark.parametrize("name", SLIDES)
def test_each_protocol_goes_through(stand_in, tmp_path, name) -> None:
    one = PROTOCOLS[name]
    shares = (50, 100) if name == "subtype-rcc" else (100,)
    outcome = run(name, tmp_path / "out", quick(stand_in, name, fractions=shares))
    data = json.loads((tmp_path / "out" / "protocol.json").read_bytes())
    # Both encoders of the store ran at every share; DINO is not in it, and says how it would be.
    ran = {(r["encoder"], r["fraction"]) for r in data["results"]}
    assert ran == {(encoder, share) for encoder in ("table:signal", RESNET) for share in shares}
    roles = {e["name"]: (e["role"], e["ok"]) for e in data["encoders"]}
    assert roles == {
        "table:signal": (None, True),
        RESNET: ("ResNet-50", True),
        DINO: ("DINO ViT-S", False),
    }
    assert [text for text in outcome.failed if "--slides" in text] == outcome.failed != []
    # What is printed as published is what the abstract states, and nothing else.
    stated = {
        "slide": ("up to +8.8 %", "up to +7.2 %"),
        "survival": ("+6.44 % on average", "+3.28 % on average"),
    }
    assert data["published"] == dict(zip(("ResNet-50", "DINO ViT-S"), stated[one.level], strict=True))
    assert {c["stated"] for c in data["comparisons"]} == {stated[one.level][0]}
    assert len(data["comparisons"]) == len(shares)
    metric = one.headline[0]
    for result in data["results"]:
        assert result["metrics"][metric]["ci_low"] <= result["metrics"][metric]["ci_high"]
        assert result["spread"][metric]["n"] == (2 if one.level == "slide" else 3)
        assert (tmp_path / "out" / result["folder"] / "report.html").is_file()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<svg" in page
    for text in ("None of the encoders that ran is BEPH", *stated[one.level], "not run"):
        assert text in page
    if name == "subtype-rcc":
        assert any("very few cases (CCRCC 1, PRCC 1, CHRCC 1)" in note for note in data["notes"])
    assert (data["leaks"], data["splits"]) == ([], "by case")
    if one.table.endswith("_subset.csv"):
        assert data["dropped"]["no such slide in the store"] == 2
    else:
        assert data["dropped"]["the time is not above 0"] == 1


def test_no_patient_is_on_two_sides_and_the_test_set_is_one(stand_in, tmp_path) -> None:
    only = {"encoders": ("table:signal",), "baselines": False, "fractions": (50, 100), "draws": 3}
    run("subtype-nsclc", tmp_path / "out", quick(stand_in, "subtype-nsclc", **only))
    shares = [
        json.loads(p.read_bytes())["splits"] for p in (tmp_path / "out/results").glob("*/p*/train.json")
    ]
    assert len(shares) == 2
    for splits in shares:
        assert len(splits) == 3
        for split in splits:
            train, val, test = (set(split[part]) for part in ("train", "val", "test"))
            assert [train & val, train & test, val & test] == [set()] * 3
            assert val
    assert len({tuple(split["test"]) for splits in shares for split in splits}) == 1
    small, large = sorted(len(splits[0]["train"]) for splits in shares)
    assert small / large == pytest.approx(0.5, abs=0.06)


def test_what_is_planted_is_found_and_beats_noise(stand_in, tmp_path) -> None:
    # Splits of the user's own, without a leak, in which every case is tested once.
    kinds = [
        [case for case, label in cases_of(stand_in.tables["tcga_lung_subset.csv"]) if label == kind]
        for kind in ("LUAD", "LUSC")
    ]
    for fold in range(2):
        test = [case for cases in kinds for case in cases[fold::2]]
        train = [case for cases in kinds for case in cases[1 - fold :: 2]]
        slide_split(tmp_path / "mine" / f"splits_{fold}.csv", train[1:-1], [train[0], train[-1]], test)
    options = quick(stand_in, "subtype-nsclc", splits=tmp_path / "mine", epochs=20, bootstrap=200, draws=None)
    outcome = run("subtype-nsclc", tmp_path / "a", options)
    (found,) = outcome.comparisons
    assert outcome.to_json()["splits"] == "given, without leaks"
    assert found.difference.a > 0.9 > found.difference.b
    assert found.difference.ci_low > 0
    assert found.percent == pytest.approx(100 * found.difference.difference / found.difference.b)
    options = quick(stand_in, "survival-brca", epochs=40, bootstrap=200)
    (found,) = run("survival-brca", tmp_path / "b", options).comparisons
    assert found.difference.a > 0.65 > found.difference.b


def test_what_was_done_is_not_done_again(stand_in, tmp_path) -> None:
    options = quick(stand_in, "subtype-brca")
    first = run("subtype-brca", tmp_path / "out", options)
    assert not any(result.again for result in first.results)
    made = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/results").rglob("*") if p.is_file()}
    again = run("subtype-brca", tmp_path / "out", options)
    assert all(result.again for result in again.results)
    assert {p: p.stat().st_mtime_ns for p in made} == made
    assert [c.difference for c in again.comparisons] == [c.difference for c in first.comparisons]
    # One training is lost, and one more share is asked for: these two are made, and nothing else.
    only = {"encoders": ("table:signal",), "baselines": False}
    (tmp_path / "out" / first.results[0].folder / "train.json").unlink()
    more = run("subtype-brca", tmp_path / "out", quick(stand_in, "subtype-brca", fractions=(50, 100), **only))
    assert not any(result.again for result in more.results)
    assert more.result("table:signal", 100).metrics == first.result("table:signal", 100).metrics
    back = run("subtype-brca", tmp_path / "out", options)
    assert all(result.again for result in back.results)
    other = run("subtype-brca", tmp_path / "out", quick(stand_in, "subtype-brca", seed=1, **only))
    assert not any(result.again for result in other.results)


def test_an_encoder_is_named_by_name_or_key_and_what_is_not_there_is_a_row(stand_in, tmp_path) -> None:
    key = next(
        json.loads(p.read_bytes())["recipe"]["encoder"]["name"] == "table:signal" and p.stem
        for p in sorted(
            (stand_in.store / "recipes").glob("*.json"), key=lambda p: "signal" not in p.read_text()
        )
    )
    options = quick(stand_in, "survival-crc", encoders=(key[:8], "beph-mini"), baselines=False, bootstrap=20)
    outcome = run("survival-crc", tmp_path / "out", options)
    assert [(s.name, s.ok) for s in outcome.subjects] == [("table:signal", True), ("beph-mini", False)]
    assert "no vectors of beph-mini" in outcome.failed[0]
    assert len(outcome.results) == 1
    assert outcome.comparisons == ()


def test_where_no_encoder_can_run_that_is_all_that_is_said(stand_in, tmp_path) -> None:
    outcome = run(
        "survival-crc", tmp_path, quick(stand_in, "survival-crc", encoders=("beph",), baselines=False)
    )
    assert (outcome.results, outcome.comparisons) == ((), ())
    (why,) = outcome.failed
    assert why.startswith("beph: the store has no vectors of beph")
    assert why in (tmp_path / "report.html").read_text()


def test_a_class_without_enough_slides_is_said(stand_in, tmp_path) -> None:
    rows = pl.read_csv(stand_in.tables["tcga_kidney_subset.csv"], infer_schema=False)
    few = pl.concat(
        [rows.filter(pl.col("oncotree_code") != "CHRCC"), rows.filter(pl.col("oncotree_code") == "CHRCC")[:2]]
    )
    few.write_csv(tmp_path / "few.csv")
    options = quick(stand_in, "subtype-rcc", cohort=tmp_path / "few.csv")
    with pytest.raises(CohortError, match=r"CCRCC 10, PRCC 8, CHRCC \d: add slides of CHRCC"):
        run("subtype-rcc", tmp_path / "out", options)
    rows.filter(pl.col("oncotree_code") != "CHRCC").write_csv(tmp_path / "none.csv")
    with pytest.raises(CohortError, match="no row has the class CHRCC"):
        run("subtype-rcc", tmp_path / "out", quick(stand_in, "subtype-rcc", cohort=tmp_path / "none.csv"))
    with pytest.raises(CohortError, match="pass --folds"):
        run("survival-crc", tmp_path / "out", quick(stand_in, "survival-crc", folds=23))


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("subtype-rc", {}, "did you mean subtype-rcc"),
        ("subtype-rcc", {}, "pass --slides DIR, or --store"),
        ("subtype-rcc", {"store": "S"}, "pass --cohort"),
        ("subtype-rcc", {"images": "I"}, "--images is for"),
        ("subtype-rcc", {"store": "S", "cohort": "c.csv", "folds": 5}, "makes draws"),
        ("subtype-rcc", {"store": "S", "cohort": "c.csv", "as_published": True}, "--splits"),
        ("subtype-rcc", {"store": "S", "cohort": "c.csv", "fractions": (0,)}, "--fractions"),
        ("subtype-rcc", {"store": "S", "cohort": "c.csv", "limit_tiles": 4}, "pass --slides"),
        ("survival-crc", {"store": "S", "cohort": "c.csv", "draws": 0}, "--draws 0"),
        ("breakhis", {}, "--images"),
        ("breakhis", {"images": "I", "as_published": True}, "no splits of BreakHis were released"),
        ("lc25000", {"images": "I", "epochs": 3}, "--epochs is for protocols on slides"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_work(tmp_path, name, options, match) -> None:
    paths = {"store", "images", "cohort", "slides", "splits"}
    given = {k: Path(v) if k in paths else v for k, v in options.items()}
    with pytest.raises(UsageError, match=match):
        run(name, tmp_path / "out", RunOptions(**given))
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_things_is_left_alone(stand_in, tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        run("survival-crc", tmp_path, quick(stand_in, "survival-crc"))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
