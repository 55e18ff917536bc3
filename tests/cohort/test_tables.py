import gzip

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beph_store.cohort import ColumnChoice, count_reasons, read_labels
from beph_store.errors import AmbiguousColumn, CohortError
from beph_store.records import ClassLabel

PLAIN = "slide_id,case_id,label\na.svs,P1,tumour\nb.svs,P1,tumour\nc.svs,P2,normal\n"


def classes(table):
    return [(row.slide_id, row.case_id, row.label.value) for row in table.rows]


EXPECTED = [("a.svs", "P1", "tumour"), ("b.svs", "P1", "tumour"), ("c.svs", "P2", "normal")]


def test_a_plain_table(read):
    table = read(PLAIN)
    assert classes(table) == EXPECTED
    assert table.rows[1].row == 2
    assert table.rows[1].label == ClassLabel("P1", "tumour")
    assert table.by_slide
    assert table.dropped == ()
    assert [str(use) for use in table.used] == [
        "slide: slide_id",
        "case: case_id",
        "class: label (normal, tumour)",
    ]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (PLAIN.replace(",", "\t"), "t.tsv"),
        (PLAIN.replace(",", "\t"), "t.csv"),
        (PLAIN.replace(",", ";"), "t.csv"),
        (PLAIN, "t.tsv"),
        (PLAIN, "t.CSV"),
        (PLAIN.replace("\n", "\r\n"), "t.csv"),
        (PLAIN.replace("slide_id", " SLIDE_ID ").replace("P1", " P1 "), "t.csv"),
        (PLAIN.replace("a.svs", '"a.svs"').replace("label", '"label"'), "t.csv"),
        (PLAIN.replace("\nc", "\n\n,,\nc"), "t.csv"),
        ("\n" + PLAIN, "t.csv"),
        (b"\xef\xbb\xbf" + PLAIN.encode(), "t.csv"),
        (PLAIN.encode("utf-16"), "t.csv"),
        (gzip.compress(PLAIN.encode(), mtime=0), "t.csv.gz"),
        (gzip.compress(PLAIN.replace(",", "\t").encode(), mtime=0), "t.tsv.gz"),
    ],
)
def test_every_way_to_write_it_reads_the_same(read, content, name):
    assert classes(read(content, name=name)) == EXPECTED


def test_parquet_reads_the_same(tmp_path):
    path = tmp_path / "t.parquet"
    pl.DataFrame(
        {
            "slide_id": ["a.svs", "b.svs", "c.svs", "d.svs"],
            "case_id": [1, 1, 2, 3],
            "label": pl.Series(["x", "x", "y", None], dtype=pl.Categorical),
            "gene": [[1], [2], [3], [4]],
        }
    ).write_parquet(path)
    table = read_labels(path, "classify")
    assert classes(table) == [("a.svs", "1", "x"), ("b.svs", "1", "x"), ("c.svs", "2", "y")]
    assert [(one.row, one.reason) for one in table.dropped] == [(4, "no class")]


def test_latin_1_is_read_and_said(read):
    table = read("slide_id,case_id,label\na,P1,Düsseldorf\n".encode("latin-1"))
    assert classes(table) == [("a", "P1", "Düsseldorf")]
    assert str(table.used[0]) == "table: labels.csv (the file is not UTF-8: read as Latin-1)"


def test_line_breaks_in_a_header_do_not_break_the_message(read):
    with pytest.raises(CohortError, match=r"it has slide_id, case_id, tumour grade$"):
        read('slide_id,case_id,"tumour\n grade"\na,P1,1\n')
    table = read('slide_id,case_id,"tumour\n grade"\na,P1,"1\n2"\n', target="tumour grade")
    assert str(table.used[-1]) == "class: tumour grade (1 2)"


def test_quoted_separators_and_line_breaks_stay_in_their_cell(read):
    table = read('slide_id,case_id,note,label\na,P1,"one, ""two""\nthree",x\nb,P2,,y\n')
    assert classes(table) == [("a", "P1", "x"), ("b", "P2", "y")]


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("", "t.csv", "is empty"),
        ("\n \n", "t.csv", "is empty"),
        (b"\xef\xbb\xbf", "t.csv", "is empty"),
        ("slide_id,case_id,label\n", "t.csv", "a header but no rows"),
        ("slide_id,case_id,label\na,P1\n", "t.csv", "line 2: 2 fields, but the header has 3"),
        ("slide_id,case_id,label\na,P1,x\nb,P2,x,y\n", "t.csv", "line 3: 4 fields"),
        ('slide_id,case_id,label\na,P1,"x\n', "t.csv", "line 2: unexpected end of data"),
        (b"PK\x03\x04\0\0", "t.csv", "is not text"),
        (b"\xff\xfea", "t.csv", "begins as UTF-16 but is not"),
        (PLAIN, "t.xlsx", "save it as CSV"),
        (PLAIN, "labels", "save it as CSV"),
        (PLAIN, "t.csv.gz", "cannot be read"),
        (gzip.compress(PLAIN.encode(), mtime=0)[:-9], "t.csv.gz", "cannot be read"),
        (PLAIN, "t.parquet", "cannot be read as Parquet"),
        ("a,b\n1,2\n", "t.csv", "--slide-column or --case-column; it has a, b"),
        ("slide_id,case_id,grade\na,P1,1\n", "t.csv", "--target; it has slide_id, case_id, grade"),
    ],
)
def test_a_damaged_table_is_refused_with_the_place_and_the_cure(read, content, name, message):
    with pytest.raises(CohortError) as caught:
        read(content, name=name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(CohortError, match="no such table"):
        read_labels(tmp_path / "none.csv", "classify")


@pytest.mark.parametrize("missing", ["", "NA", "nan", "'--", "[Not Available]", "not reported", "NULL"])
def test_rows_that_say_nothing_are_dropped_with_their_reason(read, missing):
    table = read(f"slide_id,case_id,label\na,P1,{missing}\n{missing},P2,x\nc,{missing},x\nd,P4,x\n")
    assert classes(table) == [("d", "P4", "x")]
    assert [(one.row, one.id, one.reason) for one in table.dropped] == [
        (1, "a", "no class"),
        (2, "P2", "no slide id"),
        (3, "c", "no case id"),
    ]


@pytest.mark.parametrize("word", ["None", "unknown"])
def test_words_that_can_be_classes_are_classes(read, word):
    assert classes(read(f"slide_id,case_id,label\na,P1,{word}\n")) == [("a", "P1", word)]


def test_a_table_without_one_usable_row_says_why(read):
    with pytest.raises(CohortError, match="no row can be used: 2 × no class; 1 × no case id"):
        read("slide_id,case_id,label\na,P1,\nb,,x\nc,P3,NA\n")


def test_a_repeated_row_is_counted_once(read):
    table = read(PLAIN + "A,P1,tumour\na.svs,P1,tumour\n")
    assert classes(table) == EXPECTED
    assert [(one.row, one.reason, one.detail) for one in table.dropped] == [
        (4, "repeats an earlier row", "row 1"),
        (5, "repeats an earlier row", "row 1"),
    ]


# ---- contradictions ---------------------------------------------------------------------------

TORN = "slide_id,case_id,label\na,P1,x\nb,P1,y\nc,P2,x\nd,P3,y\n"


def test_a_case_with_two_labels_is_refused_by_name(read):
    with pytest.raises(CohortError, match=r"1 of 3 cases .*P1: x, y.*--on-conflict drop"):
        read(TORN)


def test_or_dropped_on_demand_with_all_its_rows(read):
    table = read(TORN, conflicts="drop")
    assert classes(table) == [("c", "P2", "x"), ("d", "P3", "y")]
    assert [(one.row, one.reason, one.detail) for one in table.dropped] == [
        (1, "its case has contradicting labels", "x, y"),
        (2, "its case has contradicting labels", "x, y"),
    ]


def test_one_slide_with_two_labels_is_refused(read):
    with pytest.raises(CohortError, match="P1: x, y"):
        read("slide_id,case_id,label\na,P1,x\na.svs,P1,y\n")


@pytest.mark.parametrize("label", ["x", "y"])
def test_one_slide_of_two_cases_is_refused(read, label):
    with pytest.raises(CohortError, match="slide a is of case P1 in row 1 and of P2 in row 2"):
        read(f"slide_id,case_id,label\na,P1,x\na,P2,{label}\n", conflicts="drop")


def test_classes_that_differ_in_capitals_only_are_refused(read):
    with pytest.raises(AmbiguousColumn, match="'LUAD' and 'luad' one class"):
        read("slide_id,case_id,label\na,P1,LUAD\nb,P2,luad\n")


def test_cases_that_differ_in_capitals_only_are_one_patient(read):
    table = read("slide_id,case_id,label\na,GTX1,x\nb,GTx1,x\n")
    assert [row.case_id for row in table.rows] == ["GTX1", "GTX1"]
    assert str(table.used[1]) == "case: case_id (capitals aside, GTx1 = GTX1)"


# ---- which column -----------------------------------------------------------------------------


@pytest.mark.parametrize("slide", ["slide_id", "slide", "FILENAME", "file_name", "Slide Name", "slides"])
@pytest.mark.parametrize("case", ["case_id", "case", "PATIENT", "patient_id", "submitter_id", "participants"])
@pytest.mark.parametrize("target", ["label", "class", "target", "oncotree_code"])
def test_aliases(read, slide, case, target):
    table = read(f"{target},{slide},{case},age\nx,a,P1,60\n")
    assert classes(table) == [("a", "P1", "x")]
    assert [use.column for use in table.used] == [slide, case, target]


def test_file_holds_slides_where_nothing_else_does_and_its_cells_look_like_it(read):
    assert classes(read("file,case_id,label\na.tif,P1,x\n,P2,y\nb.SVS,P2,y\n")) == [
        ("a.tif", "P1", "x"),
        ("b.SVS", "P2", "y"),
    ]
    assert read("slide,file,case_id,label\nb,a.xml,P1,x\n").rows[0].slide_id == "b"
    for cell in ("report.xml", ""):
        assert not read(f"file,case_id,label\n{cell},P1,x\n").by_slide


def test_flags_name_columns_of_any_name(read):
    text = "label,grade,block,who,slide_id,case_id\nx,g2,B1,Ann,a,P1\n"
    table = read(text, slide="block", case="who", target="Grade")
    assert classes(table) == [("B1", "Ann", "g2")]


@pytest.mark.parametrize(
    ("flag", "name"), [("slide", "--slide-column"), ("case", "--case-column"), ("target", "--target")]
)
def test_a_flag_that_names_no_column(read, flag, name):
    with pytest.raises(CohortError, match=f"no column 'nope' \\({name}\\); it has slide_id, case_id, label"):
        read(PLAIN, **{flag: "nope"})


def test_several_class_columns_need_a_flag(read):
    text = "slide_id,case_id,label,oncotree_code\na,P1,0,IDC\n"
    with pytest.raises(AmbiguousColumn, match=r"label, oncotree_code .*--target"):
        read(text)
    assert classes(read(text, target="oncotree_code")) == [("a", "P1", "IDC")]


def test_doubled_columns_matter_only_where_they_differ_and_are_used(read):
    head = "slide_id,case_id,label,gene,gene,"
    assert classes(read(head + "label\na,P1,x,1,2,x\n")) == [("a", "P1", "x")]
    with pytest.raises(AmbiguousColumn, match="2 different columns called 'label': rename"):
        read(head + "label\na,P1,x,1,2,y\n")
    with pytest.raises(AmbiguousColumn, match=r"2 columns called 'gene' \(--target\): rename"):
        read(head + "z\na,P1,x,1,2,y\n", target="gene")


def test_only_some_classes(read):
    text = "slide_id,case_id,label\na,P1,IDC\nb,P2,ILC\nc,P3,MBC\n"
    table = read(text, classes=("IDC", "ILC"))
    assert len(table.rows) == 2
    assert count_reasons(table.dropped) == {"a class that was not asked for": 1}
    with pytest.raises(CohortError, match=r"no row has the class DCIS .*there are IDC, ILC, MBC"):
        read(text, classes=("DCIS",))


def test_slide_columns_that_disagree_need_a_flag(read):
    text = "slide_name,filename,case_id,label\na,{},P1,x\n"
    assert classes(read(text.format("a.svs"))) == [("a.svs", "P1", "x")]
    with pytest.raises(
        AmbiguousColumn, match=r"'filename' and 'slide_name' name different slides.*--slide-column"
    ):
        read(text.format("b.svs"))
    assert classes(read(text.format("b.svs"), slide="slide_name")) == [("a", "P1", "x")]


def test_slide_id_is_the_word_for_slides(read):
    table = read("slide_name,slide_id,case_id,label\nfirst slide,a.svs,P1,x\n")
    assert classes(table) == [("a.svs", "P1", "x")]


def test_case_columns_that_disagree_need_a_flag(read):
    text = "slide_id,case_id,patient,label\na,C1,P1,x\nb,C2,P1,x\n"
    with pytest.raises(AmbiguousColumn, match=r"'case_id' and 'patient' name different cases.*--case-column"):
        read(text)
    assert [row.case_id for row in read(text, case="patient").rows] == ["P1", "P1"]


def test_uuids_stand_back_where_another_column_names_cases(read):
    uuid = "3c5a8f41-0000-4000-8000-0123456789ab"
    table = read(f"slide_id,case_id,submitter_id,label\na,{uuid},P1,x\n")
    assert table.rows[0].case_id == "P1"
    assert read(f"slide_id,case_id,label\na,{uuid},x\n").rows[0].case_id == uuid


def test_tcga_cases_are_patients(read):
    slides = [f"TCGA-3C-AALI-01Z-00-DX{n}.hhhh.svs" for n in (1, 2)]
    for header in ("slide_id,case_id,label", "slide_id,label"):
        lines = [",".join([slide] * (header.count(",")) + ["x"]) for slide in slides]
        table = read("\n".join([header, *lines]) + "\n")
        assert [row.case_id for row in table.rows] == ["TCGA-3C-AALI"] * 2
        assert "TCGA barcodes cut to the patient" in str(table.used[1])


def test_slides_without_cases_are_not_taken_for_patients(read):
    text = "slide_id,label\na,x\nb,y\n"
    with pytest.raises(AmbiguousColumn, match="--case-column slide_id"):
        read(text)
    assert [row.case_id for row in read(text, case="slide_id").rows] == ["a", "b"]


def test_a_table_of_cases(read):
    table = read("patient,label\nP1,x\nP2,y\nP2,y\n")
    assert classes(table) == [(None, "P1", "x"), (None, "P2", "y")]
    assert not table.by_slide
    assert count_reasons(table.dropped) == {"repeats an earlier row": 1}


@pytest.mark.parametrize(
    ("cell", "slide", "case"),
    [
        ("TCGA-3C-AALI", None, "TCGA-3C-AALI"),
        ("TCGA-3C-AALI-01", None, "TCGA-3C-AALI"),
        ("TCGA-3C-AALI-01Z-00-DX1", "TCGA-3C-AALI-01Z-00-DX1", "TCGA-3C-AALI"),
    ],
)
def test_samples_are_what_their_barcodes_say(read, cell, slide, case):
    assert classes(read(f"samples,label\n{cell},x\n")) == [(slide, case, "x")]


def test_samples_that_do_not_say_need_a_flag(read):
    text = "samples,patient,label\nS1,P1,x\n"
    with pytest.raises(AmbiguousColumn, match="--slide-column or --case-column"):
        read(text)
    assert classes(read(text, slide="samples")) == [("S1", "P1", "x")]
    assert classes(read("slide_id," + text.replace("S1", "a,S1"))) == [("a", "P1", "x")]


def test_the_default_choice_says_nothing():
    assert ColumnChoice().columns() == ()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=60) | st.text(alphabet='ab,;\t"\n\r 01', max_size=60).map(str.encode),
    st.sampled_from([b"", b"slide_id,case_id,label\n", b"case,event,days\n", b"\xef\xbb\xbf"]),
    st.sampled_from(["classify", "survive"]),
    st.sampled_from(["t.csv", "t.tsv", "t.csv.gz", "t.parquet"]),
)
def test_whatever_a_file_holds_it_is_read_or_refused_in_one_line(write, content, head, task, name):
    try:
        table = read_labels(write(head + content, name), task)
    except CohortError as error:
        message = str(error)
    else:
        message = ""
        assert table.rows
        assert all(row.case_id for row in table.rows)
    assert "\n" not in message
