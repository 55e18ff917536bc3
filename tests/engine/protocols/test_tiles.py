"""The two protocols on images: drawn sets in their layouts, through a real encoder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from beph_store.engine.protocols.options import RunOptions
from beph_store.engine.protocols.run import run
from beph_store.errors import CohortError, UsageError

CLASSES = ("colon_aca", "colon_n", "lung_aca", "lung_n", "lung_scc")
TINY = "timm:test_vit.r160_in1k"


def picture(path: Path, base: tuple[int, int, int], size: tuple[int, int], rng: np.random.Generator) -> None:
    pixels = np.clip(np.array(base) + rng.normal(0, 30, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def breakhis(tmp_path_factory) -> Path:
    """8 patients at two magnifications, malignant images darker; one file that is no image."""
    root, rng = tmp_path_factory.mktemp("BreaKHis_v1"), np.random.default_rng(0)
    for number in range(8):
        tumour, kind = ("M", "DC") if number % 2 else ("B", "A")
        for magnification in ("40", "200"):
            name = f"SOB_{tumour}_{kind}-14-{100 + number}-{magnification}-001.png"
            base = (150, 90, 190) if number % 2 else (225, 150, 200)
            picture(root / kind / f"{magnification}X" / name, base, (105, 69), rng)
    (root / "A/40X/SOB_B_A-14-100-40-002.png").write_bytes(b"not an image")
    return root


@pytest.fixture(scope="module")
def lc25000(tmp_path_factory) -> Path:
    """Six images a class in the folders that the archive has."""
    root, rng = tmp_path_factory.mktemp("lung_colon_image_set"), np.random.default_rng(1)
    for number, name in enumerate(CLASSES):
        organ = "colon_image_sets" if name.startswith("colon") else "lung_image_sets"
        for image in range(6):
            base = (140 + 20 * number, 60 + 30 * number, 200 - 10 * number)
            picture(root / organ / name / f"{name.replace('_', '')}{image + 1}.jpeg", base, (96, 96), rng)
    return root


def test_breakhis_goes_through_by_patient_and_magnification(breakhis, tmp_path) -> None:
    options = RunOptions(images=breakhis, baselines=False, folds=3, draws=2, bootstrap=40)
    outcome = run("breakhis", tmp_path / "out", options)
    data = json.loads((tmp_path / "out/protocol.json").read_bytes())
    (result,) = data["results"]
    assert result["over"] == "2 magnifications"
    assert result["cases"] == 8
    assert result["metrics"]["patient_accuracy"]["mean"] > 0.8
    assert data["counts"] == {"benign": 9, "malignant": 8}
    # What could not be read is said, and decides the exit code; the rest went on.
    assert outcome.failed == ["A/40X/SOB_B_A-14-100-40-002.png: it cannot be read as an image"]
    assert set(data["published"].values()) == {"not stated in the abstract"}
    for text in ("beph-mini, a small stand-in", "no images at 100x, 400x"):
        assert any(text in note for note in data["notes"])
    page = (tmp_path / "out/report.html").read_text()
    assert "%" not in "".join(data["published"].values())
    assert "+8.8" not in page
    assert "not stated in the abstract" in page
    assert all(result.again for result in run("breakhis", tmp_path / "out", options).results)


def test_lc25000_goes_through_against_another_encoder(lc25000, tmp_path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_vit.r160_in1k", pretrained=False, num_classes=0)
    torch.save(model.state_dict(), tmp_path / "tiny.pth")
    options = RunOptions(
        images=lc25000,
        encoders=("beph-mini", TINY),
        weights={TINY: tmp_path / "tiny.pth"},
        baselines=False,
        folds=3,
        draws=1,
        fractions=(50, 100),
        bootstrap=40,
    )
    outcome = run("lc25000", tmp_path / "out", options)
    assert outcome.failed == []
    assert [(r.encoder, r.fraction) for r in outcome.results] == [
        (name, share) for share in (50, 100) for name in ("beph-mini", TINY)
    ]
    assert len(outcome.comparisons) == 2
    for found in outcome.comparisons:
        one, two = (outcome.result(name, found.fraction) for name in (found.first, found.second))
        means = [r.metrics["accuracy"]["mean"] for r in (one, two)]
        assert (found.difference.a, found.difference.b) == pytest.approx(means)
        assert found.stated == "not stated in the abstract"
    assert any("copies" in note for note in outcome.data.notes)
    # The export is kept for the same weights, under the whole name: models differ after the dot.
    bundle = tmp_path / "out/encoders/timm-test_vit.r160_in1k/encoder.json"
    made = bundle.stat().st_mtime_ns
    assert all(result.again for result in run("lc25000", tmp_path / "out", options).results)
    assert bundle.stat().st_mtime_ns == made
    assert bundle.parent.with_name("timm-test_vit.r160_in1k.json").is_file()


def test_a_set_without_a_class_or_with_too_few_cases_is_refused(breakhis, lc25000, tmp_path) -> None:
    with pytest.raises(CohortError, match="has no image of lung_aca, lung_n, lung_scc"):
        run("lc25000", tmp_path / "a", RunOptions(images=lc25000 / "colon_image_sets", baselines=False))
    with pytest.raises(CohortError, match=r"4 cases of class 'benign'.* --folds 4"):
        run("breakhis", tmp_path / "b", RunOptions(images=breakhis, baselines=False, folds=5))
    wrong = RunOptions(images=breakhis, baselines=False, weights={"timm:x": tmp_path / "x"})
    with pytest.raises(UsageError, match="no encoder of that name runs here"):
        run("breakhis", tmp_path / "c", wrong)
