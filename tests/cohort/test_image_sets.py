"""Data sets of images are read by their names: BreakHis, LC25000, folders, tables, and what is odd in them."""

import pytest

from beph_store.cohort.image_sets import ImageChoice, read_image_set
from beph_store.errors import CohortError, UsageError


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")


def test_breakhis_names_carry_patient_class_type_and_magnification(tmp_path):
    home = "histology_slides/breast"
    touch(
        tmp_path,
        f"{home}/benign/SOB/adenosis/SOB_B_A_14-22549AB/40X/SOB_B_A-14-22549AB-40-001.png",
        f"{home}/benign/SOB/adenosis/SOB_B_A_14-22549G/400X/SOB_B_A-14-22549G-400-012.png",
        f"{home}/malignant/SOB/ductal_carcinoma/SOB_M_DC_14-13412/100X/SOB_M_DC-14-13412-100-007.png",
        f"{home}/malignant/SOB/lobular_carcinoma/SOB_M_LC_14-13412/200X/SOB_M_LC-14-13412-200-003.png",
        f"{home}/benign/SOB/phyllodes_tumor/x/SOB_B_PT-14-29315EF-40-001.PNG",
        f"{home}/README.png",
    )
    found = read_image_set(tmp_path, "breakhis")
    rows = {(x.label, x.case_id, x.group) for x in found.images}
    assert rows == {
        ("benign", "14-22549AB", "40"),
        ("benign", "14-22549G", "400"),
        ("benign", "14-29315EF", "40"),
        ("malignant", "14-13412", "100"),
        ("malignant", "14-13412", "200"),
    }
    assert found.by_patient
    assert [one.id for one in found.dropped] == [f"{home}/README.png"]
    assert any("14-22549AB = 14-22549G" in note for note in found.notes)
    assert any("14-13412" in note and "82" in note for note in found.notes)
    types = read_image_set(tmp_path, "breakhis", ImageChoice(target="type"))
    assert {x.label for x in types.images} == {
        "adenosis",
        "phyllodes tumour",
        "ductal carcinoma",
        "lobular carcinoma",
    }


def test_lc25000_has_no_patients_and_says_so(tmp_path):
    touch(
        tmp_path,
        "lung_colon_image_set/lung_image_sets/lung_aca/lungaca1.jpeg",
        "lung_colon_image_set/lung_image_sets/lung_scc/lungscc1.jpeg",
        "lung_colon_image_set/colon_image_sets/colon_n/colonn1.jpeg",
        "lung_colon_image_set/figure.png",
    )
    found = read_image_set(tmp_path, "lc25000")
    assert [x.label for x in found.images] == ["colon_n", "lung_aca", "lung_scc"]
    assert len({x.case_id for x in found.images}) == 3
    assert not found.by_patient
    assert "copies" in found.notes[0]
    assert len(found.dropped) == 1


def test_folders_take_a_class_a_subfolder_and_cases_by_a_pattern(tmp_path):
    touch(
        tmp_path, "tumour/P1-01.png", "tumour/deep/P2-01.jpg", "normal/P1-02.tif", "stray.png", "normal/x.txt"
    )
    found = read_image_set(tmp_path, "folders")
    assert [(x.label, x.case_id) for x in found.images] == [
        ("normal", "normal/P1-02.tif"),
        ("tumour", "tumour/P1-01.png"),
        ("tumour", "tumour/deep/P2-01.jpg"),
    ]
    assert not found.by_patient
    assert "No patients" in found.notes[0]
    assert [one.id for one in found.dropped] == ["stray.png"]
    cased = read_image_set(tmp_path, "folders", ImageChoice(case_pattern=r"(P\d)-"))
    assert [x.case_id for x in cased.images] == ["P1", "P1", "P2"]
    assert cased.by_patient
    assert not cased.notes


def test_a_table_gives_path_class_case_and_group(tmp_path):
    touch(tmp_path, "a.png", "b.png", "sub/c.png")
    table = tmp_path / "t.csv"
    table.write_text(
        "path,kind,case_id,group\nb.png,x,p1,40\na.png,y,p2,100\nsub/c.png,,p2,40\nno.png,x,p3,40\n"
    )
    found = read_image_set(table, "csv", ImageChoice(target="kind"))
    assert [(x.path, x.label, x.case_id, x.group) for x in found.images] == [
        ("a.png", "y", "p2", "100"),
        ("b.png", "x", "p1", "40"),
    ]
    assert [one.reason for one in found.dropped] == ["no path, class or case", "no such image"]
    only = read_image_set(table, "csv", ImageChoice(target="kind", classes=("x",)))
    assert [x.label for x in only.images] == ["x"]


def test_a_table_without_cases_is_refused_unless_each_image_is_said_to_be_one(tmp_path):
    touch(tmp_path, "a.png", "b.png")
    table = tmp_path / "t.csv"
    table.write_text("path,label\na.png,x\nb.png,y\n")
    with pytest.raises(CohortError, match="--case-column path"):
        read_image_set(table, "csv")
    found = read_image_set(table, "csv", ImageChoice(case="path"))
    assert not found.by_patient
    assert found.notes


@pytest.mark.parametrize(
    ("layout", "choice", "said"),
    [
        ("imagenet", ImageChoice(), "choose from breakhis"),
        ("lc25000", ImageChoice(target="class"), "--target is for layout breakhis and csv"),
        ("breakhis", ImageChoice(target="grade"), "class and type"),
        ("folders", ImageChoice(case_pattern="P1"), "0 groups"),
        ("folders", ImageChoice(case_pattern="(("), "no regular expression"),
        ("csv", ImageChoice(case_pattern="(P)"), "for layout folders"),
    ],
)
def test_flags_that_do_not_serve_are_refused(tmp_path, layout, choice, said):
    touch(tmp_path, "x/P1.png")
    with pytest.raises(UsageError, match=said):
        read_image_set(tmp_path, layout, choice)


def test_the_wrong_layout_says_why_nothing_was_found(tmp_path):
    touch(tmp_path, "x/P1.png")
    with pytest.raises(CohortError, match="1 × its name is not of this layout; try another --layout"):
        read_image_set(tmp_path, "breakhis")
    with pytest.raises(CohortError, match="no image is of class z"):
        read_image_set(tmp_path, "folders", ImageChoice(classes=("z",)))
