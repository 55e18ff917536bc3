"""Where nothing says which slides are of one patient, whoever asks by case is told so, on stderr."""

from __future__ import annotations

import polars as pl
import pytest

from tests.cli.calling import call, one_object
from tests.engine.study.conftest import plant

NOTE = "each slide counts as a case of its own"
SLIDE = "site1/c01-0.svs"
ASKED = [
    ("search", "--slide", SLIDE),
    ("slides-like", "--slide", SLIDE),
    ("audit", "--no-pixels"),
]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """12 cases of one to two slides; the registry knows no case, ``labels.csv`` does."""
    return plant(tmp_path_factory.mktemp("planted"), cases=12)


@pytest.mark.parametrize("line", ASKED, ids=[command for command, *_ in ASKED])
def test_a_store_without_cases_says_so_beside_the_answer(planted, line) -> None:
    command, *rest = line
    out, err = call(command, planted.store, *rest, "--json")
    assert one_object(out)
    assert err.count(NOTE) == 1


@pytest.mark.parametrize("line", ASKED, ids=[command for command, *_ in ASKED])
def test_a_table_of_cases_is_the_cure(planted, line) -> None:
    command, *rest = line
    assert NOTE not in call(command, planted.store, *rest, "--labels", planted.labels)[1]


def test_who_does_not_ask_by_case_is_not_bothered(planted) -> None:
    assert NOTE not in call("search", planted.store, "--slide", SLIDE, "--exclude", "slide")[1]


def test_with_cases_the_other_slides_of_a_patient_are_left_out(planted) -> None:
    frame = pl.read_csv(planted.labels)
    case = frame["case_id"].value_counts().filter(pl.col("count") > 1)["case_id"].sort()[0]
    own = frame.filter(pl.col("case_id") == case)["slide_id"].to_list()
    line = ("slides-like", planted.store, "--slide", own[0], "--top", 20, "--json")
    alone = {hit["slide_id"] for hit in one_object(call(*line)[0])["hits"]}
    told = {hit["slide_id"] for hit in one_object(call(*line, "--labels", planted.labels)[0])["hits"]}
    assert own[1] in alone
    assert told == alone - {own[1]}
