"""What ``train`` says beside its figures: which columns it read, how few cases there were, what it replaced."""

from __future__ import annotations

import json

import pytest

from tests.cli.calling import call, one_object
from tests.engine.study.conftest import plant


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """12 cases; a column ``grade`` stands beside ``label``."""
    return plant(tmp_path_factory.mktemp("few"), cases=12)


@pytest.fixture(scope="module")
def first(few):
    """(stdout, stderr) of the first training."""
    return call(*_line(few))


def _line(few):
    out = few.store.parent / "out"
    return "train", few.store, "--task", "classify", "--cohort", few.labels, "--folds", "3", "--out", out


def test_the_column_and_the_positive_class_are_named(first) -> None:
    assert "class column label: normal / tumour (positive; --classes sets the order)" in first[0].splitlines()


def test_few_cases_are_told_in_the_terminal_the_page_and_the_json(few, first) -> None:
    assert "Few cases: 6 of normal, 6 of tumour" in first[0]
    folder = few.store.parent / "out"
    assert "Few cases: 6 of normal, 6 of tumour" in (folder / "report.html").read_text()
    warnings = json.loads((folder / "train.json").read_text())["warnings"]
    assert any(text.startswith("Few cases: 6 of normal, 6 of tumour") for text in warnings)


def test_a_result_that_is_replaced_is_told_on_stderr(few, first) -> None:
    assert "replaces" not in first[1]
    out, err = call(*_line(few), "--json")
    assert one_object(out)["warnings"]
    assert f"{few.store.parent / 'out'} holds the result of an earlier training" in err


def test_splits_too_small_for_a_figure_are_counted(few) -> None:
    line = ("--task", "survive", "--cohort", few.labels, "--folds", "5", "--out", few.store.parent / "lived")
    out, _ = call("train", few.store, *line)
    assert "event column event: 1 = event" in out
    assert "Few events: 11 in 12 cases" in out
    assert "2 of 5 splits" in out
    assert "time-dependent AUC in 449 of 1,000" in " ".join(out.split())
