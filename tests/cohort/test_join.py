import random

import numpy as np
import pytest

from beph_store.cohort import join
from beph_store.errors import CohortError
from beph_store.records import Case, ClassTarget, SurvivalTarget
from tests.cohort.conftest import cohort_of

LABELS = "slide_id,case_id,label\nb2,P2,y\na1,P1,x\na2,P1,x\nc1,P3,x\nd1,P4,y\n"
SLIDES = ["s/a1.svs", "s/a2.svs", "s/b2.svs", "s/c1.svs", "s/d1.svs"]


def test_a_cohort_has_cases_in_order_with_their_slides(read):
    cohort = join(read(LABELS), SLIDES)
    assert cohort.cases == (
        Case("P1", ("s/a1.svs", "s/a2.svs")),
        Case("P2", ("s/b2.svs",)),
        Case("P3", ("s/c1.svs",)),
        Case("P4", ("s/d1.svs",)),
    )
    assert [label.case_id for label in cohort.labels] == list(cohort.case_ids) == ["P1", "P2", "P3", "P4"]
    assert [label.value for label in cohort.labels] == ["x", "y", "x", "y"]
    assert cohort.case_of["s/a2.svs"] == "P1"
    assert len(cohort) == 4
    assert cohort.task == "classify"


def test_slides_of_a_case_keep_the_order_of_the_table(read):
    cohort = join(read(LABELS.replace("a1,P1,x\na2,P1,x", "a2,P1,x\na1,P1,x")), SLIDES)
    assert cohort.cases[0].slide_ids == ("s/a2.svs", "s/a1.svs")


def test_what_falls_out_is_counted_on_both_sides(read):
    text = LABELS + "nowhere,P5,x\nother/a1.svs,P6,y\ne1,P7,\nA1.svs,P1,x\n"
    cohort = join(read(text), [*SLIDES, "s/new.svs", "s/a1.svs"])
    assert {(one.row, one.id, one.reason, one.detail) for one in cohort.dropped} == {
        (6, "nowhere", "no such slide in the store", ""),
        (7, "other/a1.svs", "the store has it under other folders or another UUID only", "s/a1.svs"),
        (8, "e1", "no class", ""),
        (9, "A1.svs", "repeats an earlier row", "row 2"),
        (None, "s/new.svs", "slide of the store without a label", ""),
    }
    flow = cohort.flow
    assert (flow.rows, flow.rows_usable, flow.rows_joined) == (9, 7, 5)
    assert (flow.store_slides, flow.slides_joined, flow.cases) == (6, 5, 4)
    assert flow.labels == (("x", 2), ("y", 2))
    assert flow.rows - flow.rows_joined == sum(one.row is not None for one in cohort.dropped)
    assert flow.store_slides - flow.slides_joined == sum(one.row is None for one in cohort.dropped)


def test_a_name_that_fits_two_slides_is_refused_not_chosen(read):
    cohort = join(read(LABELS + "e,P5,x\n"), [*SLIDES, "1/e.svs", "2/e.svs"])
    assert "P5" not in cohort.case_ids
    dropped = next(one for one in cohort.dropped if one.id == "e")
    assert (dropped.reason, dropped.detail) == ("fits several slides of the store", "1/e.svs, 2/e.svs")


@pytest.mark.parametrize("second", ["P9,x", "P1,y"])
def test_two_rows_that_contradict_each_other_about_a_slide(read, second):
    text = LABELS.replace("a2,P1,x\n", "") + f"s/a1.svs,{second}\n"
    with pytest.raises(CohortError, match=r"rows 2 and 5 .*slide s/a1.svs|P1: x, y"):
        join(read(text), SLIDES)


# ---- tables of cases --------------------------------------------------------------------------

CASES = "patient,label\nP1,x\nP2,y\nP3,x\nP4,y\n"


def test_cases_join_by_the_folder_or_the_name_of_the_slide(read):
    slides = ["P1/one.svs", "p1/two.svs", "study/P2/x.svs", "P3.svs", "P4.ome.tif", "P12/a.svs", "P1-2.svs"]
    cohort = join(read(CASES), slides)
    assert {case.case_id: case.slide_ids for case in cohort.cases} == {
        "P1": ("P1/one.svs", "p1/two.svs"),
        "P2": ("study/P2/x.svs",),
        "P3": ("P3.svs",),
        "P4": ("P4.ome.tif",),
    }
    assert [one.id for one in cohort.dropped] == ["P12/a.svs", "P1-2.svs"]


def test_the_case_that_the_store_recorded_goes_first(read):
    slides = ["a.svs", "b.svs", "c.svs", "P1/d.svs", "P1/e.svs"]
    recorded = {"a.svs": "P1", "b.svs": "P2", "c.svs": "P3", "P1/d.svs": "P4", "P1/e.svs": ""}
    cohort = join(read(CASES), slides, recorded)
    assert [case.slide_ids for case in cohort.cases] == [
        ("P1/e.svs", "a.svs"),
        ("b.svs",),
        ("c.svs",),
        ("P1/d.svs",),
    ]


def test_tcga_cases_join_by_patient(read):
    patients = [f"TCGA-AA-000{i}" for i in range(4)]
    text = "samples,label\n" + "".join(f"{p},{'xy'[i % 2]}\n" for i, p in enumerate(patients))
    slides = [f"TCGA-AA-9999/{p}-01Z-00-DX{n}.3c5a8f41.svs" for p in patients for n in (1, 2)]
    cohort = join(read(text), [*slides, "TCGA-AA-00011.svs"])
    assert cohort.case_ids == tuple(patients)
    assert cohort.cases[3].slide_ids == tuple(slides[6:])


def test_a_slide_that_fits_two_cases_and_a_case_without_slides(read):
    cohort = join(read(CASES + "P5,x\n"), ["P1/P2.svs", "P1/a.svs", "P2/a.svs", "P3.svs", "P4.svs"])
    assert {(one.row, one.id, one.reason) for one in cohort.dropped} == {
        (None, "P1/P2.svs", "slide of the store that fits several cases"),
        (5, "P5", "no slide of this case in the store"),
    }


# ---- what cannot be learned from --------------------------------------------------------------


def test_nothing_fits(read):
    with pytest.raises(
        CohortError, match=r"the table has b2, a1 and 3 more; the store has x.svs; try --slide-column"
    ):
        join(read(LABELS), ["x.svs"])
    with pytest.raises(CohortError, match="the store holds no slides"):
        join(read(LABELS), [])
    with pytest.raises(CohortError, match="--manifest"):
        join(read(CASES), ["x.svs"])


def test_nothing_fits_but_another_column_would(read):
    text = "case_id,scan no,label\nP1,a,x\nP2,b,y\nP3,c,x\n"
    with pytest.raises(
        CohortError, match=r"the store has a.svs, b.svs; try --slide-column 'scan no', which names 2"
    ):
        join(read(text), ["a.svs", "b.svs"])
    table = read(text, slide="scan no")
    assert join(table, ["a.svs", "b.svs", "c.svs"], min_cases=2).flow.slides_joined == 3


def test_too_few_cases(read):
    with pytest.raises(CohortError, match="3 cases have a label and slides in the store, fewer than 4"):
        join(read(LABELS), SLIDES[:-1])
    assert len(join(read(LABELS), SLIDES[:-1], min_cases=2)) == 3


def test_one_class(read):
    with pytest.raises(CohortError, match="all 4 cases are of class 'x'"):
        join(read(LABELS.replace(",y", ",x")), SLIDES)


def test_no_event(read):
    text = "slide_id,case_id,event,days\n" + "".join(f"{s[2:]},{s},0,9\n" for s in SLIDES)
    with pytest.raises(CohortError, match=r"none of the 5 cases has an event.*--event-means"):
        join(read(text, "survive"), SLIDES)


def test_a_table_that_separates_what_the_store_recorded_as_one_case(read):
    recorded = {"s/a1.svs": "patient-1", "s/b2.svs": "patient-1", "s/c1.svs": "patient-3"}
    with pytest.raises(CohortError, match=r"patient-1 is P1, P2 there\): .*--case-column"):
        join(read(LABELS), SLIDES, recorded)
    assert len(join(read(LABELS), SLIDES, {"s/a1.svs": "p", "s/a2.svs": "p"})) == 4


# ---- targets and identity ---------------------------------------------------------------------


def test_the_class_target_is_aligned_and_sorted():
    target = cohort_of({"P1": "b", "P2": "a", "P3": "c", "P4": "a"}).target("classify")
    assert isinstance(target, ClassTarget)
    assert target.classes == ("a", "b", "c")
    assert target.index.dtype == np.int64
    assert target.index.tolist() == [1, 0, 2, 0]


def test_classes_are_in_the_order_that_was_asked_for(read):
    table = read(LABELS.replace(",y", ",high").replace(",x", ",low"), classes=("low", "high"))
    assert join(table, SLIDES).target("classify").classes == ("low", "high")


def test_the_survival_target_is_aligned():
    cohort = cohort_of({"P2": (True, 20.0), "P1": (False, 10.5)})
    target = cohort.target("survive")
    assert isinstance(target, SurvivalTarget)
    assert (target.event.dtype, target.event.tolist()) == (np.bool_, [False, True])
    assert (target.time_days.dtype, target.time_days.tolist()) == (np.float64, [10.5, 20.0])
    with pytest.raises(CohortError, match="are to survive, not to classify"):
        cohort.target("classify")


def test_the_hash_is_of_the_content_whatever_the_order(read):
    head, *lines = LABELS.splitlines()
    first = join(read(LABELS), SLIDES).cohort_sha256
    assert len(first) == 64
    for seed in range(4):
        random.Random(seed).shuffle(lines)
        assert join(read("\n".join([head, *lines]) + "\n"), SLIDES[::-1]).cohort_sha256 == first


@pytest.mark.parametrize(
    "other",
    [
        {"P1": "x", "P2": "y"},
        {"P1": "x", "P2": "x", "P3": "y"},
        {"P1": "x", "P2": "y", "P4": "y"},
        {"P1": (True, 1.0), "P2": (False, 1.0), "P3": (False, 1.0)},
    ],
)
def test_the_hash_is_of_all_of_the_content(other):
    assert cohort_of(other).cohort_sha256 != cohort_of({"P1": "x", "P2": "y", "P3": "y"}).cohort_sha256


def test_the_hash_sees_slides_and_times():
    one = cohort_of({"P1": (True, 1.0), "P2": (False, 2.0)})
    hashes = {
        one.cohort_sha256,
        cohort_of({"P1": (True, 1.0), "P2": (False, 2.0)}, slides=2).cohort_sha256,
        cohort_of({"P1": (True, 1.0), "P2": (False, 2.5)}).cohort_sha256,
        cohort_of({"P1": (True, 1.0), "P2": (True, 2.0)}).cohort_sha256,
    }
    assert len(hashes) == 4
