"""``protocol`` as a user calls it: drawn slides through real ingest to figures, and what is said of what is missing."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from beph_store.engine.protocols.table import PROTOCOLS
from beph_store.testing.assemble import assemble
from beph_store.testing.synthetic import SlidePlan, draw

from .calling import call, call_json, one_object, spawn


def run(*arguments: object, code: int = 0) -> tuple[str, str]:
    """Without the network: what would be fetched is looked for in the cache of an empty home."""
    variables = {"HF_HUB_OFFLINE": "1", "HF_HOME": "/nonexistent", "OMP_NUM_THREADS": "1"}
    return spawn("protocol", *arguments, code=code, **variables)


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> tuple[Path, Path]:
    """(folder, table): 14 drawn slides, two kinds of tissue; one broken, one of nobody, one of the table absent."""
    folder = tmp_path_factory.mktemp("slides")
    tissue = [
        draw(SlidePlan((4096, 4096), seed=7, tumour=share, nuisances=()), 1600, 1600, 1200, 600)
        for share in (0.0, 0.9)
    ]
    rows = []
    for number in range(14):
        kind = number % 2
        name = f"TCGA-A2-{number:04d}-01Z-00-DX1.{number:08X}-1111-2222-3333-444444444444"
        left = 40 * (number // 2)
        assemble(
            [tissue[kind][:, left : left + 600]], folder / "deep" / f"{name}.svs.tif", mpp=0.25, gap_px=200
        )
        rows.append([f"TCGA-A2-{number:04d}", f"{name}.svs", ("IDC", "ILC")[kind]])
    (folder / "TCGA-A2-9001-01Z-00-DX1.svs").write_bytes(b"not a slide")
    rows.append(["TCGA-A2-9001", "TCGA-A2-9001-01Z-00-DX1.svs", "IDC"])
    rows.append(["TCGA-A2-9002", "TCGA-A2-9002-01Z-00-DX1.svs", "ILC"])
    assemble([tissue[0][:, :600]], folder / "TCGA-ZZ-0000-01Z-00-DX1.tif", mpp=0.25, gap_px=200)
    table = folder.parent / "cohort.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["case_id", "slide_id", "oncotree_code"], *rows])
    return folder, table


def test_slides_become_figures_and_what_cannot_be_had_is_said(slides, tmp_path) -> None:
    folder, table = slides
    line = ["run", "subtype-brca", "--slides", folder, "--cohort", table, "--out", tmp_path / "out"]
    line += ["--draws", 2, "--fractions", "50,100", "--epochs", 2, "--limit-tiles", 2, "--bootstrap", 40]
    data = one_object(run(*line, "--json", code=1)[0])
    assert data["ok"] is False
    # The bundled encoder ran on its tiles; the baselines say how they are had.
    assert [(e["name"], e["role"], e["ok"]) for e in data["encoders"]] == [
        ("beph-mini", None, True),
        ("timm:resnet50.tv_in1k", "ResNet-50", False),
        ("timm:vit_small_patch16_224.dino", "DINO ViT-S", False),
    ]
    for encoder in data["encoders"][1:]:
        assert f"--weights {encoder['name']}=FILE" in encoder["error"]
        assert "\n" not in encoder["error"]
    assert [(r["encoder"], r["fraction"]) for r in data["results"]] == [("beph-mini", 50), ("beph-mini", 100)]
    assert data["counts"] == {"IDC": 7, "ILC": 7}
    assert data["dropped"] == {"no such slide in the store": 2}
    assert any(text.startswith("TCGA-A2-9001-01Z-00-DX1.svs: ") for text in data["failed"])
    assert len(data["failed"]) == 3
    assert data["published"] == {"ResNet-50": "up to +8.8 %", "DINO ViT-S": "up to +7.2 %"}
    # Only slides of the table were ingested, at the protocol's scale.
    recipe = json.loads(next((tmp_path / "out/store/recipes").glob("*.json")).read_bytes())["recipe"]
    assert (recipe["tile"]["mpp"], recipe["tile"]["limit"]) == (0.25, 2)
    with (tmp_path / "out/slides.csv").open() as file:
        listed = [row["slide_id"] for row in csv.DictReader(file)]
    assert len(listed) == 15
    assert not any("ZZ" in slide for slide in listed)
    out, err = run(*line, "--no-baselines", code=1)
    assert [line for line in err.splitlines() if line.startswith("error:")] == [
        f"error: {next(text for text in data['failed'] if text.startswith('TCGA-A2-9001'))}"
    ]
    for text in (
        "beph-mini",
        "Beside the paper",
        "up to +8.8 %",
        "not run",
        "IDC 7, ILC 7",
        "small stand-in",
    ):
        assert text in out
    assert max(map(len, out.splitlines())) <= 100
    again = json.loads((tmp_path / "out/protocol.json").read_bytes())["results"]
    assert all(result["again"] for result in again)


def test_list_tells_of_every_protocol() -> None:
    rows = call_json("protocol", "list")["protocols"]
    assert [row["name"] for row in rows] == list(PROTOCOLS)
    assert len(rows) == 11
    for row in rows:
        assert row["needs"]
        assert row["head"]
        assert row["splits"]
    out, _ = call("protocol", "list")
    for name in PROTOCOLS:
        assert name in out
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "subtype-brc", "--out", "o"), "did you mean subtype-brca"),
        (("run", "subtype-brca", "--out", "o"), "--slides"),
        (("run", "breakhis", "--out", "o", "--images", "i", "--fractions", "half"), "--fractions 'half'"),
        (("run", "breakhis", "--out", "o", "--images", "i", "--weights", "file.pth"), "as NAME=FILE"),
    ],
)
def test_what_cannot_be_meant_is_one_line(arguments, says) -> None:
    _, err = call("protocol", *arguments, code=2)
    assert err.startswith("error: ")
    assert says in err
    assert err.count("\n") == 1
