"""Saved heads open with the library, keep what they were learned from, and are never half there."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import polars as pl
import pytest

from beph_store.cohort.labels import ColumnChoice
from beph_store.cohort.tile_labels import read_tile_labels
from beph_store.engine.active.refit import refit
from beph_store.engine.active.saving import (
    NameTaken,
    packed,
    remove_saved,
    save_tile_head,
    saved_folder,
    saved_heads,
    slug,
)
from beph_store.errors import HeadError, UsageError
from beph_store.heads.tile_classifier import load_classifier

from .conftest import grow


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    return grow(tmp_path_factory.mktemp("grown"), slides=4)


@pytest.fixture(scope="module")
def labelled(grown):
    labels = grown.labels(np.random.default_rng(0).choice(len(grown.kind), 80, replace=False), version=7)
    return labels, refit(grown.table, labels)


def test_a_saved_head_says_the_same_of_every_tile(grown, labelled) -> None:
    labels, head = labelled
    about = save_tile_head(grown.table, head, labels, "Tumour map, 2nd", "Ann")
    layout, key = grown.table.store.layout, grown.table.flat.recipe_key
    assert (about["name"], about["title"], about["who"], about["version"]) == (
        "tumour-map-2nd",
        "Tumour map, 2nd",
        "Ann",
        7,
    )
    assert saved_heads(layout, key) == [about]
    folder = saved_folder(layout, key, "tumour-map-2nd")
    opened = load_classifier(folder)
    assert opened.classes == head.classes
    assert opened.encoder == "tissue"
    said = opened.probabilities(grown.table.flat.vectors)
    np.testing.assert_allclose(said, head.probabilities(grown.table.flat.vectors), atol=1e-5)
    table = pl.read_csv(folder / "labels.csv")
    assert table.columns == ["slide_id", "case_id", "tile", "x", "y", "label", "who", "at"]
    assert table.height == 80
    assert table["case_id"].n_unique() == 2
    read = read_tile_labels(folder / "labels.csv", ColumnChoice())
    assert (len(read.labels), read.dropped) == (80, ())
    with zipfile.ZipFile(io.BytesIO(packed(folder))) as archive:
        assert archive.testzip() is None
        assert {name.split("/")[1] for name in archive.namelist()} == {
            "about.json",
            "classifier.json",
            "classifier.npz",
            "labels.csv",
        }


def test_a_name_is_used_once_and_free_again_when_deleted(grown, labelled) -> None:
    labels, head = labelled
    layout, key = grown.table.store.layout, grown.table.flat.recipe_key
    save_tile_head(grown.table, head, labels, "once", "Ann")
    with pytest.raises(NameTaken, match="once already"):
        save_tile_head(grown.table, head, labels, "ONCE!", "Bob")
    assert not [path for path in layout.classifiers(key).iterdir() if path.name.startswith(".")]
    remove_saved(layout, key, "once")
    assert "once" not in {about["name"] for about in saved_heads(layout, key)}
    assert save_tile_head(grown.table, head, labels, "once", "Ann")["name"] == "once"
    (layout.classifiers(key) / "torn").mkdir()
    (layout.classifiers(key) / "torn" / "about.json").write_text("{")
    for name in ("..", "torn", "../../slides.lance", "", "twice"):
        with pytest.raises(HeadError, match="no saved head"):
            saved_folder(layout, key, name)


@pytest.mark.parametrize(
    ("title", "name"),
    [("Übersicht 3", "ubersicht-3"), ("../../etc/passwd", "etc-passwd"), ("a" * 80, "a" * 60), ("-x-", "x")],
)
def test_names_become_plain_folders(title, name) -> None:
    assert slug(title) == name


def test_a_name_without_letters_is_refused() -> None:
    with pytest.raises(UsageError, match="no letter"):
        slug("癌…")
