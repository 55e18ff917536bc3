import csv
import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from beph_store.errors import UsageError
from beph_store.slides import open_slide
from beph_store.testing.tutorial import CASES, tutorial, tutorial_slides
from beph_store_cli.main import app


@pytest.fixture
def folder(tmp_path):
    """Where all slides but the first lie already."""
    (tmp_path / "slides").mkdir()
    for case in range(2, CASES + 1):
        (tmp_path / "slides" / f"case-{case}.svs").touch()
    return tmp_path


def test_tables_name_the_slides_that_are_drawn_beside_them(folder):
    drawn = [path.name for path in tutorial(folder) if path.suffix == ".svs"]
    labels = list(csv.DictReader((folder / "labels.csv").open()))
    manifest = list(csv.DictReader((folder / "manifest.csv").open()))
    clinical = list(csv.DictReader((folder / "clinical.tsv").open(), delimiter="\t"))
    assert [row["slide_id"] for row in labels] == [row["slide_id"] for row in manifest] == drawn
    assert all((folder / row["path"]).exists() for row in manifest)
    assert {row["case_submitter_id"] for row in clinical} == {row["case_id"] for row in labels}
    assert {row["grade"] for row in labels} == {"high", "low"}
    assert Image.open(folder / "tile.png").size == (224, 224)
    with open_slide(folder / "slides" / "case-1.svs") as slide:
        assert slide.info.size_l0 == (2048, 2048)
    assert not list((folder / "slides").glob("*.part"))


def test_what_is_there_stays_and_a_table_of_ones_own_is_not_overwritten(folder):
    assert tutorial(folder) == tutorial(folder)
    (folder / "labels.csv").write_text("slide_id,mine\n")
    with pytest.raises(UsageError, match=r"labels\.csv is there already"):
        tutorial(folder)
    assert (folder / "labels.csv").read_text() == "slide_id,mine\n"


def test_as_many_slides_as_asked_for(folder):
    assert [path.name for path in tutorial_slides(folder / "slides", 2)] == ["case-1.svs", "case-2.svs"]


def test_the_command_says_what_it_wrote_and_runs_nothing_else(folder):
    done = CliRunner().invoke(app, ["demo", "--tutorial", str(folder), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["ok"], len(told["slides"]), len(told["files"])) == (True, CASES, 4)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("clinical.tsv", "labels.csv", "manifest.csv", "slides", "tile.png")
    ]
    refused = CliRunner().invoke(app, ["demo", "--tutorial", str(folder), "--real"])
    assert refused.exit_code != 0
