"""Tables as attackers: whatever a CSV holds it is read as it is meant or refused in one line, and soon."""

from __future__ import annotations

import csv
import gzip
import io
import time
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beph_store.cells import escaped, unescaped
from beph_store.cohort import read_labels
from beph_store.cohort.sheets import parse_sheet
from beph_store.engine.active.labels import Label, Labels, SlideMark, TileMark
from beph_store.engine.active.saving import slides_csv, tiles_csv
from beph_store.engine.csvs import as_csv
from beph_store.engine.plan import plan
from beph_store.errors import AmbiguousColumn, BephStoreError, CohortError

HEAD = "slide_id,case_id,label\n"
ROWS = "s1.svs,c1,a\ns2.svs,c2,b\n"


@pytest.fixture
def table(tmp_path):
    def write(content: str | bytes, name: str = "t.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def labels_of(path, task="classify"):
    return [(row.slide_id, row.case_id, row.label.value) for row in read_labels(path, task).rows]


def said(call):
    """What a call returns, or the one line of its refusal."""
    try:
        return call()
    except BephStoreError as error:
        return one_line(error)


def one_line(error: BaseException) -> str:
    assert len(str(error).splitlines()) == 1
    return str(error)


EXPECTED = [("s1.svs", "c1", "a"), ("s2.svs", "c2", "b")]


@pytest.mark.parametrize(
    "content",
    [
        (HEAD + ROWS).encode("utf-8"),
        (HEAD + ROWS).encode("utf-8-sig"),
        (HEAD + ROWS).encode("utf-16"),
        (HEAD + ROWS).encode("utf-16-le").join([b"\xff\xfe", b""]),
        b"\xfe\xff" + (HEAD + ROWS).encode("utf-16-be"),
        (HEAD + ROWS).replace("\n", "\r\n").encode(),
        (HEAD + ROWS).replace("\n", "\r").encode(),
        (HEAD + ROWS).replace(",", ";").encode(),
        (HEAD + ROWS).replace(",", "\t").encode(),
        ("\n\n" + HEAD + "\n" + ROWS + "\n\n").encode(),
        (HEAD + ROWS).replace("s1.svs", '"s1.svs"').encode(),
        (HEAD + ROWS).replace(",", " , ").encode(),
    ],
    ids=[
        "utf8",
        "bom",
        "utf16",
        "utf16le",
        "utf16be",
        "crlf",
        "cr",
        "semicolon",
        "tab",
        "blank",
        "quotes",
        "spaces",
    ],
)
def test_every_encoding_and_mark_reads_the_same(table, content):
    assert labels_of(table(content)) == EXPECTED


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"", "t.csv"),
        (b"\xff\xfe\x00", "t.csv"),
        ((HEAD + ROWS).encode("utf-32"), "t.csv"),
        (b"PK\x03\x04" + b"\0" * 99, "excel.csv"),
        (b"PAR1 no parquet PAR1", "t.parquet"),
        (gzip.compress(b"x" * 99, mtime=0)[:20], "t.csv.gz"),
        (HEAD.encode(), "t.csv"),
        ((HEAD + 's1.svs,"c1,a\n').encode(), "t.csv"),
        ((HEAD + "s1.svs,c1\n").encode(), "t.csv"),
        ((HEAD + "s1.svs,c1,a,b\n").encode(), "t.csv"),
        (b"slide_id\0,case_id,label\ns1,c1,a\n", "t.csv"),
        (b"nothing,of,use\n1,2,3\n", "t.csv"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(table, content, name):
    with pytest.raises(CohortError) as caught:
        read_labels(table(content, name), "classify")
    assert "\n" not in str(caught.value)


def test_doubled_columns_that_differ_are_refused(table):
    with pytest.raises(AmbiguousColumn):
        read_labels(table("slide_id,case_id,label,label\ns1,c1,a,b\ns2,c2,b,a\n"), "classify")
    with pytest.raises(AmbiguousColumn):
        read_labels(table("slide_id,slide_id,case_id,label\ns1,s9,c1,a\ns2,s8,c2,b\n"), "classify")


def test_mixed_ids_stay_text(table):
    """Numbers, leading zeros, exponents and dates are ids like any other: nothing is turned into a number."""
    ids = ["007", "7", "1e5", "100000", "2021-03-04", "3/4/21", "NaNcy", "1.0", "1", "TRUE", "0x10"]
    rows = "".join(f"{name},case-{i},{'ab'[i % 2]}\n" for i, name in enumerate(ids))
    assert [slide for slide, *_ in labels_of(table(HEAD + rows))] == ids


@pytest.mark.parametrize("value", ["2021-03-04", "04/03/2021", "1e400", "inf", "-5", "twelve"])
def test_a_time_that_is_no_length_of_time_is_left_out_or_refused(table, value):
    content = f"slide_id,case_id,time_days,event\ns1,c1,{value},1\ns2,c2,100,1\ns3,c3,200,0\ns4,c4,300,1\n"
    read = said(lambda: read_labels(table(content), "survive"))
    if not isinstance(read, str):
        assert "s1" not in [row.slide_id for row in read.rows]
        assert [one.row for one in read.dropped] == [1]


@pytest.mark.parametrize("count", [200_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
def test_a_table_of_a_million_rows_takes_seconds(table, count):
    lines = io.StringIO()
    lines.write("slide_id,case_id,label,site,stage\n")
    lines.writelines(
        f"slide-{i:07d}.svs,case-{i // 2:07d},{'ab'[i // 2 % 2]},s{i % 9},II\n" for i in range(count)
    )
    path = table(lines.getvalue())
    start = time.process_time()
    assert len(read_labels(path, "classify").rows) == count
    assert time.process_time() - start < count * 40e-6  # 10 µs a row here


def test_a_row_of_a_million_fields_and_a_field_of_megabytes_are_refused(table):
    with pytest.raises(CohortError):
        read_labels(table(HEAD + "x," * 1_000_000 + "\n"), "classify")
    with pytest.raises(CohortError):
        read_labels(table(HEAD + f"s1,{'c' * 3_000_000},a\n"), "classify")


@pytest.mark.parametrize(
    "path", ["../../../etc/passwd", "/etc/passwd", "~/x.svs", "sub/../../x.svs", "\x00.svs"]
)
def test_a_manifest_reaches_no_file_that_is_no_slide(tmp_path, path):
    """It may name any file that its user may read; what is no slide ends as a slide that failed."""
    (tmp_path / "m.csv").write_text(f"path,slide_id\n{path},x\n")
    tasks = said(lambda: plan([], manifest=tmp_path / "m.csv"))
    if not isinstance(tasks, str):
        assert all(task.error for task in tasks) or not any(str(task.path).startswith("~") for task in tasks)


# --- formulas in what we write --------------------------------------------------------------------------------------

FORMULAS = [
    "=1+1",
    '=HYPERLINK("http://x","y")',
    "+cmd|' /C calc'!A0",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    "＝1+1",
    "'=1+1",
    "''=1+1",
]
HARMLESS = [
    "-1",
    "+2.5",
    "-1.5e-3",
    "1e5",
    "-",
    "+",
    "=",
    "a=b",
    "slide-1.svs",
    "",
    "'tis",
    "'",
    "50%",
    "-.5",
]


@pytest.mark.parametrize("cell", FORMULAS)
def test_a_formula_is_quoted_and_comes_back(cell):
    assert escaped(cell)[0] == "'"
    assert escaped(cell) != cell
    assert unescaped(escaped(cell)) == cell


@pytest.mark.parametrize("cell", HARMLESS)
def test_what_is_no_formula_stays(cell):
    assert escaped(cell) == cell
    assert unescaped(cell) == cell


@given(st.text(max_size=20))
def test_whatever_it_is_it_comes_back_and_no_formula_leaves(cell):
    assert unescaped(escaped(cell)) == cell
    out = escaped(cell)
    assert out[:1] not in ("=", "+", "-", "@", "\t", "\r") or out == cell
    if len(out) > 1 and out[0] in "=@\t\r":
        raise AssertionError(out)


@pytest.mark.parametrize("cell", FORMULAS[:5])
def test_no_formula_leaves_in_predictions(cell):
    frame = pl.DataFrame(
        {"case_id": [cell, "c"], "predicted": ["a", cell], "log_hazard": [-1.5, 2.0], cell: [1, -2]}
    )
    header, *rows = list(csv.reader(io.StringIO(as_csv(frame))))
    assert header[3] == escaped(cell)
    assert rows[0][0] == rows[1][1] == escaped(cell)
    assert [row[2] for row in rows] == ["-1.5", "2.0"]


@pytest.mark.parametrize("cell", FORMULAS[:5])
def test_no_formula_leaves_in_labels_and_the_ids_come_back(cell):
    tile = Label("1.0", "Ann", "2026-01-01", TileMark(cell, 0, 0, 0, "tumour"))
    slide = Label("2.0", cell, "2026-01-01", SlideMark(cell, "label", "x"))
    for text in (
        tiles_csv(Labels(1, tiles={(cell, 0, 0): tile}), {cell: cell}),
        slides_csv(Labels(1, slides={(cell, "label"): slide}), {}),
    ):
        _, row = csv.reader(io.StringIO(text))
        assert row[0] == row[1] == escaped(cell)
        sheet = parse_sheet(text.encode(), Path("t.csv"), ".csv", lambda _: True)
        assert dict(sheet.columns)["slide_id"] == (cell,)


def test_every_csv_that_is_written_is_known():
    """A new writer of CSV must be looked at: does a person open it, and are its cells escaped?"""
    root = Path(__file__).resolve().parents[2]
    found = {
        path.relative_to(root).as_posix()
        for folder in ("beph_store", "cli")
        for path in (root / folder).rglob("*.py")
        if any(
            word in path.read_text(encoding="utf-8")
            for word in ("csv.writer", "write_csv(", "csv.DictWriter")
        )
    }
    escaped_ones = {"beph_store/engine/csvs.py", "beph_store/engine/active/saving.py"}
    # Read by programs, which must find the ids as they are: splits, manifests, labels of drawn and assembled slides.
    for_programs = {
        "beph_store/cohort/clam_splits.py",
        "beph_store/engine/protocols/ingesting.py",
        "beph_store/testing/assemble.py",
        "beph_store/testing/synthetic.py",
        "beph_store/testing/tutorial.py",
    }
    assert found == escaped_ones | for_programs
