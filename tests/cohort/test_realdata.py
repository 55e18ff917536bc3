"""The tables and splits that BEPH, HPL and MCAT released, and the GDC's own table."""

import csv
import tarfile

import pytest

from beph_store.cohort import (
    ColumnChoice,
    check_splits,
    count_reasons,
    join,
    k_fold,
    preserved_site,
    read_labels,
    read_slide_splits,
    read_splits,
)
from beph_store.cohort.ids import tcga_patient
from beph_store.errors import AmbiguousColumn, CohortError

NOT_POSITIVE = "the time is not above 0"


@pytest.fixture(scope="module")
def tables(realdata):
    return realdata / "beph" / "dataset_csv"


@pytest.fixture(scope="module")
def splits(realdata, tmp_path_factory):
    folder = tmp_path_factory.mktemp("splits")
    with tarfile.open(realdata / "beph" / "splits" / "splits.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def outcomes(table):
    return {row.case_id: (row.label.event, row.label.time_days) for row in table.rows}


# ---- labels -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "slides", "cases", "deaths", "zero"),
    [
        ("TCGA_CRC.csv", 315, 315, 78, 4),
        ("TCGA_KIRC.csv", 512, 512, 171, 4),
        ("TCGA_PRCC.csv", 260, 260, 40, 0),
        ("TCGA_LUAD.csv", 468, 468, 164, 4),
        ("TCGA_STAD.csv", 348, 348, 140, 3),
        ("TCGA_LUSC.csv", 506, 472, 201, 2),
    ],
)
def test_beph_survival_tables(tables, name, slides, cases, deaths, zero):
    table = read_labels(tables / name, "survive")
    assert [str(use) for use in table.used] == [
        "slide: slide_id",
        "case: case_id",
        "event: OSFL (1 = event)",
        "time: days (days)",
    ]
    assert count_reasons(table.dropped) == ({NOT_POSITIVE: zero} if zero else {})
    assert len(table.rows) == slides - zero
    with (tables / name).open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    expected = {r["case_id"]: (r["OSFL"] == "1", float(r["days"])) for r in rows}
    assert len(expected) == cases
    assert sum(event for event, _ in expected.values()) == deaths
    assert outcomes(table) == {case: pair for case, pair in expected.items() if pair[1] > 0}


def test_the_gdc_table_gives_the_outcomes_that_beph_used(tables):
    gdc = read_labels(tables / "CRC_clinical.tsv", "survive")
    beph = read_labels(tables / "TCGA_CRC.csv", "survive")
    ours, theirs = outcomes(gdc), outcomes(beph)
    assert set(theirs) - set(ours) == {"TCGA-F5-6812", "TCGA-F5-6813"}
    joined = set(ours) & set(theirs)
    assert {case: ours[case] for case in joined} == {case: theirs[case] for case in joined}
    gone = [{tcga_patient(d.id) for d in t.dropped if d.reason == NOT_POSITIVE} for t in (gdc, beph)]
    assert gone[1] < gone[0]
    assert len(joined) + len(gone[1]) == 313
    assert count_reasons(gdc.dropped) == {
        "repeats an earlier row": 598,
        NOT_POSITIVE: 58,
        "alive, but no days_to_last_follow_up": 2,
        "dead, but no days_to_death": 2,
        "no event status": 2,
    }


@pytest.mark.parametrize(
    ("name", "slides", "cases", "classes", "events"),
    [
        ("tcga_brca_subset.csv", 937, 897, 11, 131),
        ("tcga_kidney_subset.csv", 903, 864, 3, 222),
        ("tcga_lung_subset.csv", 958, 862, 2, 401),
    ],
)
def test_clam_style_tables(tables, name, slides, cases, classes, events):
    by_class = read_labels(tables / name, "classify")
    assert len(by_class.rows) == slides
    assert len({row.label.value for row in by_class.rows}) == classes
    survival = read_labels(tables / name, "survive")
    assert [str(use) for use in survival.used[2:]] == [
        "event: censorship (1 = censored)",
        "time: survival_months (months × 30.4375)",
    ]
    assert len(outcomes(survival)) == cases
    assert sum(row.label.event for row in survival.rows) == events


def test_the_two_senses_of_events_agree_across_tables(tables):
    for days, months, shared in (("TCGA_KIRC.csv", "kidney", 489), ("TCGA_LUAD.csv", "lung", 430)):
        one = outcomes(read_labels(tables / days, "survive"))
        other = outcomes(read_labels(tables / f"tcga_{months}_subset.csv", "survive"))
        joined = one.keys() & other.keys()
        assert len(joined) == shared
        assert all(one[case][0] == other[case][0] for case in joined)
        far = [case for case in joined if abs(one[case][1] - other[case][1]) > 31]
        assert len(far) <= 0.02 * len(joined)


def test_hpl_tables_are_months_by_their_numbers(realdata):
    folder = realdata / "survival_tables" / "hpl"
    deaths = {
        "BLCA": 172,
        "BRCA": 142,
        "CESC": 50,
        "COAD": 83,
        "LUAD": 203,
        "LUSC": 218,
        "PRAD": 12,
        "SKCM": 185,
    }
    deaths |= {"STAD": 135, "UCEC": 80}
    for name, expected in deaths.items():
        table = read_labels(folder / f"{name}_overall_survival.csv", "survive")
        assert "time: os_event_data (months × 30.4375)" in map(str, table.used)
        assert "event: os_event_ind (1 = event)" in map(str, table.used)
        assert abs(sum(row.label.event for row in table.rows) - expected) <= 1
        assert table.by_slide == (name in ("LUAD", "LUSC"))


def test_hpl_and_beph_agree_about_lung(realdata, tables):
    hpl = outcomes(read_labels(realdata / "survival_tables" / "hpl" / "LUAD_overall_survival.csv", "survive"))
    clam = outcomes(read_labels(tables / "tcga_lung_subset.csv", "survive"))
    joined = hpl.keys() & clam.keys()
    assert len(joined) > 400
    assert sum(hpl[case][0] == clam[case][0] for case in joined) >= 0.99 * len(joined)
    assert sum(abs(hpl[case][1] - clam[case][1]) < 5 for case in joined) >= 0.95 * len(joined)


@pytest.mark.parametrize(
    ("name", "rows", "cases"), [("luad", 516, 453), ("blca", 437, 373), ("ucec", 539, 480)]
)
def test_mcat_tables(realdata, name, rows, cases):
    (path,) = (realdata / "survival_tables" / "mcat").glob(f"*tcga_{name}_all_clean.csv.gz")
    table = read_labels(path, "survive")
    assert len(table.rows) == rows
    assert len(outcomes(table)) == cases


def test_two_columns_of_classes_are_not_chosen_from(realdata):
    path = realdata / "beph" / "demo_data" / "demo_subtypingClassifications_BRCA.csv"
    with pytest.raises(AmbiguousColumn, match="--target"):
        read_labels(path, "classify")
    table = read_labels(path, "classify", ColumnChoice(target="oncotree_code"))
    assert {row.label.value for row in table.rows} == {"IDC", "ILC"}


def test_patients_of_the_mixed_table_are_patients(tables):
    """Its case_id is the slide: 40 patients would straddle splits."""
    table = read_labels(tables / "BRCA2CAM.csv", "classify")
    assert (len(table.rows), len({row.case_id for row in table.rows})) == (1297, 1257)


def test_biopsies_of_two_diagnoses_are_refused_by_name(realdata):
    path = realdata / "ebhi_seg" / "manifest.csv"
    with pytest.raises(CohortError, match="cases have rows with different labels"):
        read_labels(path, "classify")
    table = read_labels(path, "classify", ColumnChoice(conflicts="drop"))
    assert any("GTxc2014131 = GTXC2014131" in str(use) for use in table.used)
    assert "its case has contradicting labels" in count_reasons(table.dropped)


# ---- joins ------------------------------------------------------------------------------------


def test_placeholders_join_with_the_real_names(tables):
    lung = read_labels(tables / "tcga_lung_subset.csv", "survive")
    stored = [f"luad/{row.slide_id}.svs" for row in lung.rows]
    cohort = join(read_labels(tables / "TCGA_LUAD.csv", "survive"), stored)
    assert cohort.flow.slides_joined == cohort.flow.rows_joined > 400
    assert all(slide[5:17] == case.case_id for case in cohort.cases for slide in case.slide_ids)
    reasons = count_reasons(cohort.dropped)
    assert (
        sum(reasons.values()) == cohort.flow.rows + cohort.flow.store_slides - 2 * cohort.flow.slides_joined
    )


def test_a_table_joins_with_slides_by_path_and_by_barcode(tables):
    """Two of its slides are DX1 and DX10 of one patient, whose first 23 characters are the same."""
    table = read_labels(tables / "tcga_lung_subset.csv", "classify")
    names = [row.slide_id or "" for row in table.rows]
    assert len({name[:23] for name in names}) == len(names) - 1
    for stored in ([f"x/{name}.svs" for name in names], [f"{name.split('.')[0]}.svs" for name in names]):
        cohort = join(table, stored)
        assert (cohort.flow.slides_joined, len(cohort), cohort.dropped) == (958, 862, ())


def test_outcomes_by_case_join_with_slides(realdata, tables):
    slides = [row.slide_id or "" for row in read_labels(tables / "TCGA_STAD.csv", "survive").rows]
    cohort = join(
        read_labels(realdata / "survival_tables" / "hpl" / "STAD_overall_survival.csv", "survive"), slides
    )
    assert cohort.flow.slides_joined > 300
    assert all(tcga_patient(case.slide_ids[0]) == case.case_id for case in cohort.cases)


def test_brca_splits_by_case_and_by_site(tables):
    table = read_labels(tables / "tcga_brca_subset.csv", "classify", ColumnChoice(classes=("IDC", "ILC")))
    cohort = join(table, [row.slide_id or "" for row in table.rows])
    share = dict(cohort.flow.labels)["ILC"] / len(cohort)
    value = {label.case_id: label.value for label in cohort.labels}
    sites = []
    for split in preserved_site(cohort, 5):
        sites.append({case[5:7] for case in split.test})
        ilc = sum(value[case] == "ILC" for case in split.test) / len(split.test)
        assert abs(ilc - share) < 0.03
    assert sum(map(len, sites)) == len(set.union(*sites))
    for split in k_fold(cohort, 10):
        assert not set(split.test) & {*split.train, *split.val}


# ---- BEPH's released splits -------------------------------------------------------------------


def found(leaks, kind, subsets):
    return [leak.count for leak in leaks if leak.kind == kind and leak.subsets == subsets]


def numbered(folder):
    return read_slide_splits(next(folder.rglob("splits_0.csv")).parent)


def test_val_is_test_in_all_released_survival_splits(splits):
    folders = sorted((splits / "5foldcv_survival").iterdir())
    leaks = [leak for folder in folders for leak in check_splits(numbered(folder))]
    assert len(found(leaks, "val_is_test", ("val", "test"))) == 30
    assert sorted(found(leaks, "cases", ("train", "test"))) == [17, 19, 19, 22, 25]
    assert {leak.kind for leak in leaks} == {"val_is_test", "cases"}


@pytest.mark.parametrize(("fraction", "seen"), [("p25", 21), ("p50", 45), ("p75", 63), ("p100", 0)])
def test_brca_test_slides_are_in_train_or_val(splits, fraction, seen):
    leaks = check_splits(numbered(splits / "10foldcv_subtype" / "tcga_brca" / fraction))
    assert found(leaks, "slides", ("train", "val", "test")) == [seen] * (10 if seen else 0)
    assert found(leaks, "test_repeated", ("test",)) == [88]
    if seen:
        first = next(leak for leak in leaks if leak.kind == "slides")
        assert f"{seen} of 88 test slides are also in train or val" in first.text


@pytest.mark.parametrize(
    ("cohort", "fewest", "most", "tested"), [("brca", 5, 8, 88), ("kidney", 3, 4, 86), ("lung", 9, 10, 96)]
)
def test_patients_straddle_the_released_subtype_splits(splits, tables, cohort, fewest, most, tested):
    table = read_labels(tables / f"tcga_{cohort}_subset.csv", "classify")
    case_of = {row.slide_id or "": row.case_id for row in table.rows}
    folder = splits / "10foldcv_subtype" / f"tcga_{cohort}" / "p100"
    leaks = check_splits(numbered(folder), case_of, case_of)
    patients = found(leaks, "cases", ("train", "test"))
    assert (len(patients), min(patients), max(patients)) == (10, fewest, most)
    assert found(leaks, "test_repeated", ("test",)) == [tested]
    assert not [leak for leak in leaks if leak.kind in ("missing", "slides", "val_is_test")]
    with pytest.raises(CohortError, match="--allow-leaks"):
        read_splits(next(folder.rglob("splits_0.csv")).parent, case_of)
    read = read_splits(next(folder.rglob("splits_0.csv")).parent, case_of, allow_leaks=True)
    assert [len(set(split.train) & set(split.test)) for split in read] == patients
