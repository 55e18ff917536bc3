"""Feature tables: what is read, what is refused and why, and what the store makes of it."""

import gzip

import numpy as np
import pytest

from beph_store.engine.importing import import_table
from beph_store.errors import UsageError
from beph_store.interop import read_feature_table
from beph_store.store import Store, verify

TABLE = """slide_id,age,a_rna,b_rna
s1,50,1.5,-2
s2,60,,3
s3,70,0,0
s4,55,1e9,1
s5,44,0.25,4
s6,44,1,4
s6,44,1,4
,44,1,4
"""


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "features.csv.gz"
    path.write_bytes(gzip.compress(TABLE.encode()))
    return path


def test_only_the_named_columns_and_whole_rows_are_read(table):
    read = read_feature_table(table, columns=".*_rna")
    assert read.columns == ("a_rna", "b_rna")
    assert read.slide_ids == ("s1", "s5")
    np.testing.assert_array_equal(read.vectors, np.array([[1.5, -2], [0.25, 4]], np.float32))


def test_every_refused_row_has_its_reason(table):
    refused = read_feature_table(table, columns=".*_rna").refused
    assert [name for name, _ in refused] == ["s2", "s3", "s4", "s6", "s6", "row 9"]
    reasons = [why for _, why in refused]
    assert reasons[0].startswith("1 of 2 values are missing")
    assert reasons[1] == "all values are zero"
    assert "beyond float16" in reasons[2]
    assert reasons[3] == reasons[4] == "2 rows have this id"
    assert reasons[5] == "the row names no slide"


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        ({"columns": ".*_dna"}, "--columns"),
        ({"columns": "("}, "regular expression"),
        ({"columns": ".*_rna", "id_column": "sample"}, "--slide-column"),
    ],
)
def test_what_cannot_be_meant_names_the_flag(table, arguments, cure):
    with pytest.raises(UsageError, match=cure):
        read_feature_table(table, **arguments)


def test_text_columns_are_not_features(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("slide_id,a_rna\ns1,high\n")
    with pytest.raises(UsageError, match="not numeric"):
        read_feature_table(path, columns="a.*")


def test_a_table_becomes_bags_of_one_and_a_second_import_adds_nothing(table, tmp_path):
    report = import_table(table, tmp_path / "S", columns=".*_rna")
    assert [outcome.status for outcome in report.slides].count("done") == 2
    assert len(report.failed) == 6
    store = Store.open(tmp_path / "S")
    np.testing.assert_array_equal(store.bag(report.recipe, "s5").vectors, [[0.25, 4]])
    assert verify(store).ok
    again = import_table(table, tmp_path / "S", columns=".*_rna")
    assert again.recipe == report.recipe
    assert [o.status for o in again.slides].count("skipped") == 2
    assert verify(store).ok


def test_another_selection_of_columns_is_another_feature_space(table, tmp_path):
    first = import_table(table, tmp_path / "S", columns=".*_rna")
    second = import_table(table, tmp_path / "S", columns="a_rna|age")
    assert first.recipe != second.recipe
