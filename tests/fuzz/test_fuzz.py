"""A few hundred of the ways to break a slide; `make soak` tries all of them on real ones."""

import itertools

import pytest

from beph_store.engine import readers
from beph_store.testing.synthetic import SlidePlan, write_slide
from tests.fuzz.corpus import broken, impostors, strange_files
from tests.fuzz.harness import Findings, ingest_folder, run


@pytest.fixture
def found(monkeypatch):
    monkeypatch.setattr(readers, "STALL_SECONDS", readers.STALL_SECONDS)  # the harness shortens it
    return Findings()


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "good.tif"
    write_slide(path, SlidePlan(size=(2048, 2048), seed=1, nuisances=()))
    return path


def _kept_its_promises(found):
    assert not found.hangs
    assert not found.blank
    assert not found.silent


def test_broken_slides_end_with_a_reason_or_with_true_tiles(good, found, tmp_path):
    run(itertools.islice(broken(good, seed=0), 0, None, 4), tmp_path, found)
    _kept_its_promises(found)
    assert found.total > 40
    assert {"done", "failed"} <= set(found.inputs)


def test_files_that_are_no_slides_end_with_a_reason(found, tmp_path):
    run(impostors(), tmp_path, found)
    _kept_its_promises(found)
    assert found.inputs["failed"] == found.total > 15


def test_pipes_circles_and_odd_names(good, found, tmp_path):
    slides = tmp_path / "slides"
    slides.mkdir()
    made = strange_files(slides, good)
    ingest_folder(slides, tmp_path / "S", found)
    _kept_its_promises(found)
    assert 0 < found.total < len(made), "pipes, folders and links that lead nowhere are no slides"
    assert found.inputs["failed"] == 1, "the one whose name is not UTF-8"
