import pytest

from beph_store.cohort.ids import SlideIndex, slide_key, stem, tcga_patient, tcga_site, tcga_slide

UUID = "F6E9A5DF-D8FB-45CF-B4BD-C6B76294C291"
OTHER = "CF4496E0-AB52-4F3E-BDF5-C34833B91B7C"
BARCODE = "TCGA-3C-AALI-01Z-00-DX1"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("S1.svs", "S1"),
        ("a\\b\\S1.SVS", "S1"),
        ("a/S1.ome.tif", "S1"),
        ("S1.h5", "S1"),
        ("S1.2", "S1.2"),
        (".svs", ".svs"),
        ("normal_001.hhhhh", "normal_001"),
        (f"{BARCODE}.hhhh.svs", BARCODE),
        (f"{BARCODE}.{UUID}.svs", f"{BARCODE}.{UUID}"),
        ("", ""),
    ],
)
def test_a_stem_has_no_folders_suffixes_or_placeholder(name, expected):
    assert stem(name) == expected


def test_a_slide_key_keeps_folders_and_forgets_capitals():
    assert slide_key("P1/Slide.svs") == slide_key("p1/slide") != slide_key("P2/slide")


@pytest.mark.parametrize(
    "name", ["TCGA-3C-AALI", f"x/{BARCODE}.{UUID}.svs", "tcga-3c-aali-01", "TCGA-3C-AALI.svs"]
)
def test_a_tcga_patient_is_twelve_characters(name):
    assert tcga_patient(name) == "TCGA-3C-AALI"
    assert tcga_site(name) == "3C"


@pytest.mark.parametrize("name", ["TCGA-3C-AALIX", "xTCGA-3C-AALI", "patient-1", "TCGA-3C"])
def test_what_only_looks_like_one_is_none(name):
    assert tcga_patient(name) is None
    assert tcga_site(name) is None


def test_a_tcga_slide_barcode_ends_before_the_uuid():
    assert tcga_slide(f"s/{BARCODE}.{UUID}.svs") == (BARCODE, UUID.lower())
    assert tcga_slide(f"{BARCODE}.hhhh.svs") == (BARCODE, None)
    assert tcga_slide("TCGA-3C-AALI-01Z-00-DX10.svs") == ("TCGA-3C-AALI-01Z-00-DX10", None)
    assert tcga_slide("TCGA-3C-AALI-01A") is None


@pytest.mark.parametrize(
    "name",
    [
        "sub/S1.ome.tif",
        "sub\\S1.ome.tif",
        "/data/sub/S1.ome.tif",
        "S1.ome.tif",
        "S1",
        "s1",
        "S1.h5",
        "sub/S1",
    ],
)
def test_a_slide_is_found_by_path_file_name_and_stem(name):
    assert SlideIndex(["sub/S1.ome.tif", "sub/S10.ome.tif"]).find(name) == ("sub/S1.ome.tif",)


def test_the_exact_path_goes_before_all_else():
    index = SlideIndex(["S1.svs", "a/S1.svs", "a/S1.tif"])
    assert index.find("S1.svs") == ("S1.svs",)
    assert index.find("a/S1.svs") == ("a/S1.svs",)
    assert set(index.find("S1")) == {"S1.svs", "a/S1.svs", "a/S1.tif"}


def test_the_same_file_name_in_another_folder_is_another_slide():
    index = SlideIndex(["P2/slide1.svs"])
    assert index.find("P1/slide1.svs") == ()
    assert index.find("P1/slide1") == ()
    assert index.near("P1/slide1.svs") == ("P2/slide1.svs",)


@pytest.mark.parametrize(
    "name", [BARCODE, f"{BARCODE}.hhhh.svs", f"{BARCODE}.{UUID}", f"old/{BARCODE}.{UUID.lower()}.svs"]
)
def test_a_tcga_slide_is_found_by_its_barcode(name):
    stored = f"sub/{BARCODE}.{UUID}.svs"
    assert SlideIndex([stored, "sub/TCGA-3C-AALI-01Z-00-DX2.svs"]).find(name) == (stored,)


def test_a_full_name_finds_a_slide_stored_without_its_uuid():
    assert SlideIndex([f"{BARCODE}.svs"]).find(f"{BARCODE}.{UUID}.svs") == (f"{BARCODE}.svs",)


def test_two_uuids_are_two_slides():
    index = SlideIndex([f"{BARCODE}.{OTHER}.svs"])
    assert index.find(f"{BARCODE}.{UUID}.svs") == ()
    assert index.near(f"{BARCODE}.{UUID}.svs") == (f"{BARCODE}.{OTHER}.svs",)


def test_a_barcode_that_two_files_share_is_ambiguous_without_uuid():
    index = SlideIndex([f"{BARCODE}.{UUID}.svs", f"{BARCODE}.{OTHER}.svs"])
    assert len(index.find(BARCODE)) == 2
    assert index.find(f"{BARCODE}.{OTHER}") == (f"{BARCODE}.{OTHER}.svs",)


def test_a_patient_alone_never_finds_a_slide():
    assert SlideIndex([f"{BARCODE}.svs"]).find("TCGA-3C-AALI") == ()
    assert SlideIndex(["a.svs"]).find("") == ()
