"""``reproduce``: a training comes out again from its record, and whatever was changed is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import lance
import numpy as np
import pytest

from beph_store.cohort import ColumnChoice
from beph_store.engine.study.data import load_study
from beph_store.engine.study.reproduce import reproduce
from beph_store.engine.study.run import train_to
from beph_store.engine.study.train import SplitOptions, TrainOptions
from beph_store.errors import HeadError, RecipeMismatch
from beph_store.heads import HeadOptions
from beph_store.store import Store

from ...threads import one_torch_thread

FEW = SplitOptions(folds=3)
ROUNDS = {
    "linear": ("classify", TrainOptions(HeadOptions(), FEW, seed=4, draws=40)),
    "cox": ("survive", TrainOptions(HeadOptions(), FEW, seed=4, draws=40)),
    "abmil": ("classify", TrainOptions(HeadOptions("abmil", epochs=2), FEW, seed=4, draws=40)),
    "clam nll": ("survive", TrainOptions(HeadOptions("clam", loss="nll", epochs=2), FEW, seed=4, draws=40)),
    "shuffled": ("classify", TrainOptions(HeadOptions(), FEW, seed=4, draws=40, shuffle_labels=True)),
    "draws": (
        "classify",
        TrainOptions(HeadOptions(), SplitOptions("monte-carlo", repeats=2), seed=4, draws=40),
    ),
}


@pytest.fixture(scope="module", autouse=True)
def steady():
    with one_torch_thread():
        yield


@pytest.fixture(scope="module")
def trained(planted, tmp_path_factory):
    """Folder of each training by its name. Read only."""
    home = tmp_path_factory.mktemp("trained")
    for name, (task, options) in ROUNDS.items():
        columns = ColumnChoice(target="label" if task == "classify" else None)
        train_to(home / name, load_study(planted.store, planted.labels, task, columns=columns), options)
    return home


@pytest.mark.parametrize("name", ROUNDS)
def test_it_comes_out_again_to_the_last_bit(trained, name):
    found = reproduce(trained / name)
    assert found.ok, found.differing
    assert (found.worst_prediction, found.worst_metric) == (0, 0)
    by_name = {check.what: check for check in found.checks}
    assert {"recipe", "cohort", "embeddings", "splits", "weights", "predictions", "figures"} <= set(by_name)


@pytest.fixture
def own(trained, planted, tmp_path):
    """(folder, store) to change."""
    return shutil.copytree(trained / "linear", tmp_path / "run"), shutil.copytree(
        planted.store, tmp_path / "S"
    )


def altered(folder, change) -> None:
    about = json.loads((folder / "train.json").read_bytes())
    change(about)
    (folder / "train.json").write_text(json.dumps(about))


def failed(found) -> set[str]:
    return {check.what for check in found.checks if check.same is False}


def test_the_store_may_have_moved(own):
    folder, store = own
    altered(folder, lambda about: about.update(store="/nowhere"))
    assert reproduce(folder, store=store).ok


def test_another_seed_is_told(own):
    folder, store = own
    altered(folder, lambda about: about["options"].update(seed=5))
    assert {"splits", "weights"} & failed(reproduce(folder, store=store))


def test_another_label_is_told(own):
    folder, store = own
    altered(folder, lambda about: about["cohort"]["outcomes"].update(c00="tumour"))
    assert {"cohort", "weights", "predictions"} <= failed(reproduce(folder, store=store))


def test_other_embeddings_are_told(own, planted):
    folder, store = own
    opened = Store.open(store)
    row = next(row for row in opened.rows(planted.key) if row.slide_id.startswith("site1/"))
    rows = opened.slide_rows(row)
    changed = type(rows)(
        rows.origin_l0, rows.tissue, rows.ok, (rows.vectors + np.float16(0.5)).astype(np.float16)
    )
    path = str(opened.layout.tiles(planted.key))
    lance.dataset(path).delete(f"slide_id = '{row.slide_id}'")
    lance.write_dataset(changed.to_table(row.slide_id, row.ingest_id), path, mode="append")
    opened.registry.dataset().update({"sha256": f"'{changed.sha256()}'"}, where=f"key = '{row.key}'")
    shutil.rmtree(store / "cache", ignore_errors=True)
    assert {"embeddings", "weights", "predictions"} <= failed(reproduce(folder, store=store))


def test_a_tolerance_lets_last_digits_pass_and_no_more(own):
    import polars as pl

    folder, store = own
    file = folder / "predictions.parquet"
    frame = pl.read_parquet(file)
    frame.with_columns(pl.col("p_tumour") + 1e-7).write_parquet(file)
    assert failed(reproduce(folder, store=store)) == {"predictions"}
    assert reproduce(folder, store=store, tolerance=1e-5).ok
    frame.with_columns(pl.col("p_tumour") + 1e-3).write_parquet(file)
    assert not reproduce(folder, store=store, tolerance=1e-5).ok


def test_a_record_that_is_not_enough_is_refused(own):
    folder, store = own
    altered(folder, lambda about: about["cohort"].pop("outcomes"))
    with pytest.raises(HeadError, match="train again"):
        reproduce(folder, store=store)


@pytest.mark.parametrize(
    "change",
    [
        lambda about: about["options"].update(seed="x"),
        lambda about: about["options"]["head"].update(magic=1),
        lambda about: about["cohort"]["outcomes"].pop("c00"),
        lambda about: about["splits"][0].pop("test"),
        lambda about: about.update(splits=[]),
        lambda about: about.pop("machine"),
        lambda about: about["metrics"].update(auroc=0.5),
    ],
    ids=["seed", "option", "label", "split", "splits", "machine", "figure"],
)
def test_a_record_that_was_altered_is_refused_in_a_line(own, change):
    folder, store = own
    altered(folder, change)
    with pytest.raises(HeadError, match="altered"):
        reproduce(folder, store=store)


def test_a_flipped_bit_in_the_weights_on_the_disk_is_told_whatever_the_tolerance(own):
    folder, store = own
    file = folder / "heads" / "1" / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    assert failed(reproduce(folder, store=store, tolerance=1.0)) == {"files of heads"}


def test_other_names_of_classes_are_told(own):
    folder, store = own
    altered(folder, lambda about: about["classes"].reverse())
    assert "classes" in failed(reproduce(folder, store=store))


def test_another_store_is_refused(own, tmp_path):
    other = Store.create(tmp_path / "other", written_by="test")
    with pytest.raises(RecipeMismatch):
        reproduce(own[0], store=other.layout.root)


def test_the_command(own):
    folder, store = own

    def run():
        line = [
            sys.executable,
            "-m",
            "beph_store_cli",
            "reproduce",
            str(folder),
            "--store",
            str(store),
            "--json",
        ]
        done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
        return done.returncode, json.loads(done.stdout), done.stderr

    code, found, _ = run()
    assert (code, found["ok"], found["heads"]) == (0, True, 3)
    altered(folder, lambda about: about["cohort"]["outcomes"].update(c00="tumour"))
    code, found, said = run()
    assert (code, found["ok"]) == (1, False)
    assert "is not reproduced: cohort" in said
