"""Tables whose rows are single tiles."""

import pytest

from beph_store.cohort import ColumnChoice
from beph_store.cohort.tile_labels import names_tiles, read_tile_labels
from beph_store.errors import AmbiguousColumn, CohortError


def table(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_text(text)
    return path


def test_x_and_y_or_the_number_say_which_tile(tmp_path):
    path = table(
        tmp_path, "slide_id,case_id,x,y,label\na.svs,p1,224,0,t\na.svs,p1,448.0,0,n\nb.svs,p2,1.5,0,t\n"
    )
    assert names_tiles(path)
    read = read_tile_labels(path, ColumnChoice())
    assert not read.by_number
    assert read.place.tolist() == [[224, 0], [448, 0]]
    assert (read.slides, read.cases, read.labels) == (("a.svs", "a.svs"), ("p1", "p1"), ("t", "n"))
    assert [one.reason for one in read.dropped] == ["no whole numbers for its place"]
    path = table(tmp_path, "slide,tile,what\na.svs,7,t\n,8,t\na.svs,9,\n")
    read = read_tile_labels(path, ColumnChoice(target="what"))
    assert read.by_number
    assert read.place.tolist() == [[7, 0]]
    assert read.cases is None
    assert [one.reason for one in read.dropped] == ["no slide id", "no class"]


def test_slides_and_cases_are_not_taken_for_tiles(tmp_path):
    assert not names_tiles(table(tmp_path, "slide_id,x,label\na,1,t\n"))
    assert not names_tiles(table(tmp_path, "case_id,label\na,t\n"))


def test_tcga_slides_name_their_patients(tmp_path):
    path = table(tmp_path, "slide_id,tile,label\nTCGA-3C-AALI-01Z-00-DX1.svs,0,t\n")
    assert read_tile_labels(path, ColumnChoice()).cases == ("TCGA-3C-AALI",)


def test_classes_that_were_not_asked_for_are_counted(tmp_path):
    path = table(tmp_path, "slide_id,case_id,tile,label\na,p,0,t\na,p,1,n\na,p,2,fat\n")
    read = read_tile_labels(path, ColumnChoice(classes=("n", "t")))
    assert read.labels == ("t", "n")
    assert [one.reason for one in read.dropped] == ["a class that was not asked for"]
    with pytest.raises(CohortError, match="no row has the class tumour"):
        read_tile_labels(path, ColumnChoice(classes=("n", "tumour")))


def test_a_tile_of_nobody_is_left_out(tmp_path):
    path = table(tmp_path, "slide_id,case_id,tile,label\na,p,0,t\na,,1,n\n")
    assert [one.reason for one in read_tile_labels(path, ColumnChoice()).dropped] == ["no case id"]


def test_what_cannot_be_read_says_the_cure(tmp_path):
    with pytest.raises(CohortError, match="--slide-column"):
        read_tile_labels(table(tmp_path, "where,tile,label\na,0,t\n"), ColumnChoice())
    with pytest.raises(AmbiguousColumn, match="--target"):
        read_tile_labels(table(tmp_path, "slide_id,tile,label,subtype\na,0,t,u\n"), ColumnChoice())
    with pytest.raises(CohortError, match="none of 1 rows"):
        read_tile_labels(table(tmp_path, "slide_id,tile,label\na,first,t\n"), ColumnChoice())
