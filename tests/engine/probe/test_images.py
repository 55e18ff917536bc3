"""Sets of images: drawn ones in BreakHis's layout, vectors kept and used again, sizes resized on purpose."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from beph_store.cohort.image_sets import ImageChoice, read_image_set
from beph_store.engine.embed import fit_tile
from beph_store.engine.probe import images as module
from beph_store.engine.probe.images import Embedding, embed_set, image_tiles
from beph_store.engine.probe.run import ProbeOptions, probe
from beph_store.errors import UsageError
from beph_store.metrics.tiles import patient_accuracy

SIZE = (112, 74)


def breakhis(root, patients=8, magnifications=("40", "200")):
    """Malignant images are darker and bluer; one image a patient and magnification, two for every other patient."""
    rng = np.random.default_rng(0)
    for number in range(patients):
        tumour = "M" if number % 2 else "B"
        kind = "DC" if number % 2 else "A"
        for magnification in magnifications:
            for image in range(1 + number // 2 % 2):
                base = np.array([150, 90, 190] if number % 2 else [225, 150, 200])
                pixels = np.clip(base + rng.normal(0, 30, (SIZE[1], SIZE[0], 3)), 0, 255).astype(np.uint8)
                folder = root / tumour / f"14-{100 + number}" / f"{magnification}X"
                folder.mkdir(parents=True, exist_ok=True)
                name = f"SOB_{tumour}_{kind}-14-{100 + number}-{magnification}-{image + 1:03d}.png"
                Image.fromarray(pixels).save(folder / name)
    return root


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return breakhis(tmp_path_factory.mktemp("breakhis"))


@pytest.fixture(scope="module")
def embedded(drawn, tmp_path_factory):
    """The set with its vectors made, and where they are kept."""
    out = tmp_path_factory.mktemp("kept")
    images = read_image_set(drawn, "breakhis")
    return images, out, image_tiles(images, out, Embedding(fit="crop"))


def test_breakhis_is_probed_by_magnification_and_judged_by_patient(embedded):
    _, _, tiles = embedded
    assert tiles.groups == ("40", "200")
    found = probe(tiles, ProbeOptions(folds=3, draws=50))
    assert set(found.groups) == {"40", "200"}
    for name in ("accuracy", "patient_accuracy"):
        each = [found.groups[group][name].value for group in found.groups]
        assert found.metrics[name].value == pytest.approx(np.mean(each))
        assert found.spread[name] == pytest.approx(np.std(each))
    rows = tiles.group == 1
    by_hand = patient_accuracy(found.mean[rows], tiles.truth[rows], tiles.case[rows])[0]
    assert found.groups["200"]["patient_accuracy"].value == pytest.approx(by_hand)
    assert found.metrics["accuracy"].value > 0.8
    data = found.to_json()
    assert data["groups"]["40"]["tiles"] == int((tiles.group == 0).sum())
    assert data["vectors"]["fit"] == "crop"
    assert data["vectors"]["sizes"] == {"112 × 74": len(tiles)}
    assert any("112 × 74" in note and "BEPH" in note for note in data["notes"])
    # The folds of the patients are the same in both magnifications.
    sides = {(f.group, f.fold): f.test_cases for f in found.folds}
    assert all(sides["40", fold] == sides["200", fold] for fold in range(3))


def test_vectors_are_used_again_for_the_same_files_only(embedded, drawn, monkeypatch):
    images, out, tiles = embedded
    again = embed_set(images, out, Embedding(fit="crop"))
    assert again.again
    assert (again.vectors[[0]] == tiles.vectors[[0]]).all()
    key = json.loads((out / "vectors.json").read_text())["key"]
    assert key != module._key(images, again.bundle, Embedding(fit="squeeze"))
    fewer = read_image_set(drawn, "breakhis", ImageChoice(classes=("malignant",)))
    assert key != module._key(fewer, again.bundle, Embedding(fit="crop"))
    with (out / "vectors.npy").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    assert module._kept(out, key) is None


def test_a_run_that_was_stopped_goes_on_where_it_was(drawn, tmp_path, monkeypatch):
    images = read_image_set(drawn, "breakhis")
    monkeypatch.setattr(module, "_PART", 5)
    written = []
    real = module._write_part

    def stops(file, paths, run, fit):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(file.name)
        real(file, paths, run, fit)

    monkeypatch.setattr(module, "_write_part", stops)
    with pytest.raises(KeyboardInterrupt):
        embed_set(images, tmp_path, Embedding(fit="crop"))
    more = []
    monkeypatch.setattr(module, "_write_part", lambda f, p, r, t: (more.append(f.name), real(f, p, r, t)))
    made = embed_set(images, tmp_path, Embedding(fit="crop"))
    assert len(more) == -(-len(images.images) // 5) - 2
    assert not set(more) & set(written)
    assert np.isfinite(made.vectors).all()
    assert not (tmp_path / "parts").exists()


def test_other_sizes_are_refused_by_name_and_a_broken_image_is_left_out(drawn, tmp_path):
    images = read_image_set(drawn, "breakhis")
    with pytest.raises(UsageError, match=r"112 × 74 px.*--fit.*crop, squeeze, centre"):
        image_tiles(images, tmp_path / "a", Embedding())
    root = breakhis(tmp_path / "set", patients=6, magnifications=("40",))
    victim = sorted(root.rglob("*.png"))[0]
    victim.write_bytes(b"not an image")
    tiles = image_tiles(read_image_set(root, "breakhis"), tmp_path / "b", Embedding(fit="squeeze"))
    assert [one.reason for one in tiles.dropped] == ["it cannot be read as an image"]
    assert victim.name in tiles.dropped[0].id


def test_each_fit_shows_what_it_says():
    pixels = np.zeros((460, 700, 3), np.uint8)
    pixels[:, :, 0] = np.linspace(0, 255, 700).astype(np.uint8)
    pixels[:, :, 1] = np.linspace(0, 255, 460).astype(np.uint8)[:, None]
    squeezed = fit_tile(pixels, 224, "squeeze")
    assert squeezed[0, 0, 0] < 2
    assert squeezed[-1, -1, 0] > 253
    cropped = fit_tile(pixels, 224, "crop")
    side = round(460 * 7 / 8)
    assert abs(int(cropped[0, 0, 0]) - int(pixels[0, (700 - side) // 2, 0])) <= 1
    assert abs(int(cropped[-1, 0, 1]) - int(pixels[(460 + side) // 2 - 1, 0, 1])) <= 1
    middle = fit_tile(pixels, 224, "centre")
    assert (middle == pixels[118:342, 238:462]).all()
    with pytest.raises(UsageError, match="no middle"):
        fit_tile(pixels[:100], 224, "centre")
    same = pixels[:224, :224]
    assert all(fit_tile(same, 224, fit) is same for fit in ("crop", "squeeze", "centre"))


@pytest.mark.soak
def test_six_classes_of_ebhi_agree_with_scikit_learn(realdata, tmp_path):
    """All 994 fields; the other side is the protocol of the encoder's card on the same vectors, with its own folds."""
    images = read_image_set(realdata / "ebhi_seg" / "manifest.csv", "csv")
    tiles = image_tiles(images, tmp_path, Embedding())
    found = probe(tiles, ProbeOptions()).metrics["balanced_accuracy"]
    guess = np.empty_like(tiles.truth)
    folds = StratifiedGroupKFold(n_splits=5, shuffle=True, random_state=0)
    for train, test in folds.split(tiles.vectors, tiles.truth, tiles.case):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
        guess[test] = model.fit(tiles.vectors[train], tiles.truth[train]).predict(tiles.vectors[test])
    assert found.ci_low < balanced_accuracy_score(tiles.truth, guess) < found.ci_high


def test_layouts_made_of_real_fields_read_alike(realdata, tmp_path):
    """EBHI fields under names of each layout: the same images, classes and cases whatever the layout."""
    with (realdata / "ebhi_seg" / "manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] in ("adenocarcinoma", "polyp")]
    cases = sorted({row["case_id"] for row in rows if row["label"] == "polyp"})[:4]
    cases += sorted({row["case_id"] for row in rows if row["label"] != "polyp"} - set(cases))[:4]
    kept = [row for case in cases for row in [r for r in rows if r["case_id"] == case][:2]]
    folders = {"adenocarcinoma": ("M_DC", "colon_aca"), "polyp": ("B_A", "colon_n")}
    for number, row in enumerate(kept):
        letters, folder = folders[row["label"]]
        slide = cases.index(row["case_id"]) + 1000
        for target in (
            tmp_path / "breakhis" / f"SOB_{letters}-14-{slide}-400-{number:03d}.png",
            tmp_path / "lc25000" / "colon_image_sets" / folder / f"{folder}{number}.png",
            tmp_path / "folders" / row["label"] / f"{row['case_id']}-{number:03d}.png",
        ):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(realdata / "ebhi_seg" / row["path"])
    found = {
        "breakhis": read_image_set(tmp_path / "breakhis", "breakhis"),
        "lc25000": read_image_set(tmp_path / "lc25000", "lc25000"),
        "folders": read_image_set(tmp_path / "folders", "folders", ImageChoice(case_pattern=r"/([^/-]+)-")),
    }
    counts = {}
    for layout, images in found.items():
        tiles = image_tiles(images, tmp_path / f"out-{layout}", Embedding())
        assert len(tiles) == len(kept)
        counts[layout] = (sorted(np.bincount(tiles.truth).tolist()), len(tiles.case_ids))
        assert np.linalg.norm(tiles.vectors, axis=1).min() > 0
    assert counts["breakhis"] == counts["folders"] == (counts["lc25000"][0], 8)
    assert counts["lc25000"][1] == len(kept)
