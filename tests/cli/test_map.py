"""``beph-store map`` as a user calls it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from ..engine.study.conftest import plant
from .calling import call, call_json


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return plant(tmp_path_factory.mktemp("map"), cases=8)


def test_one_object_tells_how_the_map_was_made(planted, tmp_path: Path) -> None:
    outputs = (tmp_path / "new" / "m.html", tmp_path / "m.png")
    options = ("--labels", planted.labels, "--colour", "label", "--sample", 40, "--method", "pca")
    facts = call_json("map", planted.store, *options, "-o", outputs[0], "-o", outputs[1])
    assert (facts["tiles"], facts["slides"], facts["method"], facts["seed"]) == (40, 10, "pca", 0)
    assert 0 < facts["quality"]["trustworthiness"] <= 1
    assert {row["name"] for row in facts["colour"]["legend"]} == {"normal", "tumour"}
    assert facts["thumbnails"] == {"from_slides": 0, "from_overviews": 40, "none": 0}
    assert facts["outputs"] == [str(path) for path in outputs]
    assert "default-src" in outputs[0].read_text("utf-8")
    assert Image.open(outputs[1]).width > 1000


def test_both_files_by_default_and_the_terminal_says_what_is_coarse(planted, tmp_path: Path) -> None:
    out, _ = call("map", planted.store, "--method", "pca", cwd=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"map.html", "map.png"}
    assert "Trustworthiness" in out
    assert "cut from stored overviews" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("-o", "map.pdf"), ".html or .png"),
        (("--method", "isomap"), "umap, tsne, pca"),
        (("--sample", "0", "--method", "pca"), "--sample"),
    ],
)
def test_what_cannot_be_meant_is_exit_2(planted, tmp_path: Path, options, says: str) -> None:
    _, err = call("map", planted.store, *options, code=2, cwd=tmp_path)
    assert says in err


def test_an_unknown_column_lists_those_there_are(planted, tmp_path: Path) -> None:
    _, err = call("map", planted.store, "--colour", "lable", "--method", "pca", code=1, cwd=tmp_path)
    assert "slide_id" in err
    assert err.count("\n") == 1
