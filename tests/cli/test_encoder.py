"""`encoder list`, `info`, `pull` and `export --timm` as a user calls them."""

import os

import pytest
import timm
import torch

from tests.cli.calling import call, call_json
from tests.encoders.conftest import save, seeded_state
from tests.encoders.servers import serving


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("BEPH_STORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    assert os.environ["BEPH_STORE_CACHE"]


def test_the_list_says_licence_gate_size_and_what_is_here():
    rows = {row["name"]: row for row in call_json("encoder", "list")["encoders"]}
    assert len(rows) == 22
    assert (rows["beph-mini"]["here"], rows["beph"]["here"]) == ("bundled", "")
    row = rows["virchow2"]
    assert (row["licence"], row["gated"], row["dim"], row["mpp"]) == ("CC-BY-NC-ND-4.0", True, 2560, 0.5)
    assert (row["variants"], row["pooling"], row["unconfirmed"]) == (["default", "cls"], "cls+mean", [])
    out, _ = call("encoder", "list")
    assert max(map(len, out.splitlines())) <= 100
    assert "not confirmed by its authors' own words" in out


def test_info_tells_all_of_a_row_and_of_a_bundle():
    facts = call_json("encoder", "info", "uni2-h")
    assert facts["timm"]["architecture"] == "vit_huge_patch14_224"
    assert (facts["parameters"], facts["source"]["place"]) == (681_394_176, "MahmoodLab/UNI2-h")
    out, _ = call("encoder", "info", "gpfm")
    assert "CC-BY-NC-4.0" in out
    assert max(map(len, out.splitlines())) <= 100
    from beph_store.encoders import load_bundle

    assert call_json("encoder", "info", load_bundle("beph-mini").path)["dim"] == 512
    _, err = call("encoder", "info", "virchow-2", code=1)
    assert "did you mean virchow2?" in err


def test_pull_asks_for_consent_and_then_works(tmp_path):
    with serving() as shelf:
        shelf.files["/b.pth"] = save(tmp_path / "b.pth", seeded_state()).read_bytes()
        url = f"{shelf.url}/b.pth"
        _, err = call("encoder", "pull", "beph", "--from", url, code=2)
        assert "licence of the weights: not stated by the authors" in err
        assert "error: read the terms at https://github.com/Zhcyoung/BEPH, then pass --yes" in err
        assert shelf.asked == []
        got = call_json("encoder", "pull", "beph", "--from", url, "--yes")
        assert (got["new"], got["spec"]["name"], got["kept"]["place"]) == (True, "beph", url)
    assert {r["name"]: r["here"] for r in call_json("encoder", "list")["encoders"]}["beph"] == "weights"
    made = call_json("encoder", "export", "beph", "--out", tmp_path / "bundle")
    assert made["spec"]["weights_sha256"] == got["spec"]["weights_sha256"]
    out, err = call("encoder", "pull", "beph")
    assert "here already" in out
    assert "licence" not in err


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The command that exports one's own encoder, what it said with all its options, and the bundle. Made once."""
    folder = tmp_path_factory.mktemp("own")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), folder / "w.pth")
    given = ("encoder", "export", "mine", "--timm", "test_vit", "--weights", folder / "w.pth")
    made = call_json(
        *given, "--mpp", 0.5, "--tile-px", 224, "--mean", "0.7,0.5,0.6", "--std", "0.2,0.2,0.2",
        "--pooling", "cls+mean", "--set", "patch_size=16", "--licence", "ours", "--out", folder / "mine",
    )  # fmt: skip
    return given, made, folder / "mine"


def test_ones_own_encoder_is_exported_by_its_architecture(own, tmp_path):
    given, made, _ = own
    spec = made["spec"]
    assert (spec["name"], spec["dim"], spec["mpp"], spec["licence"]) == ("mine", 128, 0.5, "ours")
    assert spec["tile_px"] == 224
    out = ("--out", tmp_path / "other")
    for arguments, words in (
        ((*given, *out), "needs --mpp"),
        ((*given[:5], "--mpp", 0.5, *out), "needs --weights FILE"),
        ((*given, "--mpp", 0.5, "--mean", "0.5,0.5,0.5", *out), "--mean and --std go together"),
        ((*given, "--mpp", 0.5, "--mean", "127,127,127", "--std", "1,1,1", *out), "on the 0–1 scale"),
        ((*given, "--mpp", 0.5, "--pooling", "max", *out), "choose from cls, mean, cls+mean, model"),
        ((*given, "--mpp", 0.5, "--set", "depth", *out), "write KEY=VALUE"),
        (("encoder", "export", "uni", "--pooling", "mean", *out), "--pooling: only for your own encoder"),
    ):
        _, err = call(*arguments, code=2)
        assert words in err, err


def test_several_encoders_share_a_reading(own, drawn_slide, tmp_path):
    _, _, mine = own
    given = ("ingest", drawn_slide.path, "--store", tmp_path / "S", "--limit-tiles", 6)
    both = call_json(*given, "--encoder", "beph-mini", "--encoder", mine)
    assert [recipe["tiles"] for recipe in both["recipes"]] == [6, 6]
    assert both["tiles"] == 12
    rows = call_json("info", tmp_path / "S")["recipes"]
    assert {row["encoder"] for row in rows} == {"beph-mini", "mine"}
    out, _ = call(*given, "--encoder", "beph-mini", "--encoder", mine)
    assert out.count("skipped") == 2
    _, err = call(*given, "--encoder", "beph-mini", "--encoder", "beph-mini", code=2)
    assert err.splitlines()[-1] == "error: beph-mini is named twice: once is enough"
