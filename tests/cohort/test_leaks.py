import pytest

from beph_store.cohort import SlideSplit, check_split, check_splits
from beph_store.cohort.leaks import _SEVERITY

CASE_OF = {f"s/{case}{n}.svs": case for case in "ABCDEF" for n in (1, 2)}


def split(train, val, test, name="s"):
    return SlideSplit(name, tuple(train.split()), tuple(val.split()), tuple(test.split()))


def kinds(leaks):
    return {(leak.kind, leak.subsets): leak.count for leak in leaks}


def test_a_clean_split_has_no_leak():
    clean = split("A1 A2 B1", "C1", "D1 E1 E2")
    assert check_split(clean, CASE_OF, CASE_OF) == ()
    assert check_splits([clean, split("D1 E1", "C1", "A1 A2 B1 B2")], CASE_OF, CASE_OF) == ()


def test_val_and_test_the_same():
    leaks = check_split(split("A1", "B1 C1", "C1 B1.svs"), CASE_OF)
    assert kinds(leaks) == {("val_is_test", ("val", "test")): 2}
    assert leaks[0].severity == "error"
    text = "s: val and test are the same 2 slides: what is chosen on val is chosen on test, for example B1"
    assert leaks[0].text == text


def test_empty_val_and_test_are_not_the_same():
    assert check_split(split("A1", "", "")) == ()


def test_test_slides_in_train_or_val():
    leaks = check_split(split("A1 B1 C1", "D1", "A1.svs B1 D1 E1"), CASE_OF)
    slides = next(leak for leak in leaks if leak.kind == "slides")
    assert (slides.subsets, slides.count, slides.examples) == (
        ("train", "val", "test"),
        3,
        ("A1", "B1", "D1"),
    )
    assert slides.text == "s: 3 of 4 test slides are also in train or val (train 2, val 1), for example A1"


def test_train_slides_in_test_where_val_is_test():
    leaks = check_split(split("A1 B1", "A1 C1", "A1 C1"), CASE_OF)
    assert kinds(leaks) == {
        ("val_is_test", ("val", "test")): 2,
        ("slides", ("train", "test")): 1,
        ("cases", ("train", "test")): 1,
    }


def test_cases_on_two_sides():
    leaks = check_split(split("A1 B1", "C1 B2", "A2 C2 D1"), CASE_OF)
    assert kinds(leaks) == {
        ("cases", ("train", "test")): 1,
        ("cases", ("val", "test")): 1,
        ("train_val_cases", ("train", "val")): 1,
    }
    assert leaks[0].examples == ("A",)
    assert leaks[0].text == "s: 1 of 3 cases of test also have slides in train, for example A"


def test_train_and_val_share_slides():
    leaks = check_split(split("A1 B1", "B1 C1", "D1"))
    assert kinds(leaks) == {("train_val_slides", ("train", "val")): 1}
    assert leaks[0].severity == "warning"


def test_a_slide_listed_twice():
    leaks = check_split(split("A1 a1.svs B1", "", "C1"))
    assert kinds(leaks) == {("listed_twice", ("train",)): 1}


def test_slides_that_the_store_has_not():
    leaks = check_split(split("A1 X1", "", "B1 Y1 Y2"), CASE_OF, CASE_OF)
    assert kinds(leaks) == {("missing", ("train",)): 1, ("missing", ("test",)): 2}
    assert leaks[1].text == "s: 2 of 3 test slides are not in the store, for example Y1"


def test_slides_in_several_test_sets_are_said_but_no_error():
    folds = [split("A1", "", "B1 C1", "f0"), split("B1", "", "C1 D1", "f1"), split("B1", "", "A1", "f2")]
    (leak,) = check_splits(folds)
    assert (leak.kind, leak.split, leak.count, leak.severity) == ("test_repeated", "all", 1, "info")
    assert leak.text == "all: 1 of 4 test slides are in the test sets of several splits, for example C1"
    (leak,) = check_splits([split("A1", "", "B1 C1", "f0"), split("D1", "", "C1 B1", "f1")])
    assert leak.text == "all: all 2 splits test the same 2 slides, for example B1"


def test_barcodes_tell_the_patient_where_nothing_else_does():
    one = split("TCGA-AA-0001-01Z-00-DX1.svs x1", "", "TCGA-AA-0001-01Z-00-DX2.svs x2")
    for case_of in (None, {}, {"x1.svs": "X"}):
        assert kinds(check_split(one, case_of)) == {("cases", ("train", "test")): 1}
    assert kinds(check_split(one, {"x1.svs": "X", "x2.svs": "X"})) == {("cases", ("train", "test")): 2}


def test_slides_of_other_folders_are_other_slides():
    assert check_split(split("P1/1.svs", "", "P2/1.svs")) == ()


@pytest.mark.parametrize("kind", sorted(_SEVERITY))
def test_every_kind_is_made_by_some_split(kind):
    many = [
        split("A1 A1 C1 Z", "C1 E1", "A1 B1 C2", "one"),
        split("A1 E1", "B1 E2", "B1 D1", "two"),
        split("A1", "B1", "B1", "three"),
    ]
    assert kind in {leak.kind for leak in check_splits(many, CASE_OF, CASE_OF)}
