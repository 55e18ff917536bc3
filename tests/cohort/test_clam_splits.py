import pytest

from beph_store.cohort import SlideSplit, k_fold, read_slide_splits, read_splits, write_splits
from beph_store.errors import AmbiguousColumn, CohortError
from beph_store.records import Split
from tests.cohort.conftest import class_cohort, cohort_of

RAGGED = ",train,val,test\n0,a1,c1,d1\n1,a2,,\n2,b1,,\n"
CASE_OF = {"s/a1.svs": "A", "s/a2.svs": "A", "s/b1.svs": "B", "s/c1.svs": "C", "s/d1.svs": "D"}


@pytest.mark.parametrize(
    "text",
    [
        RAGGED,
        "train,val,test\na1,c1,d1\na2,,\nb1,,\n",
        "train,val,test\na1.svs,c1.svs,d1.svs\na2.svs,nan,NaN\nb1.svs,,\n",
        "Unnamed: 0,test,val,train\n0,d1,c1,a1\n1,,,a2\n2,,,b1\n",
        "\ufefftrain,val,test\r\na1,c1,d1\r\na2,,\r\nb1,,\r\n",
    ],
)
def test_ragged_columns_with_and_without_row_numbers(write, text):
    path = write(text, "splits_0.csv")
    (split,) = read_splits(path, CASE_OF)
    assert split == Split("splits_0", ("A", "B"), ("C",), ("D",))
    (slides,) = read_slide_splits(path)
    assert [len(part) for _, part in slides.subsets()] == [3, 1, 1]


def test_a_folder_is_read_in_the_order_of_numbers_without_companions(write, tmp_path):
    for number in (10, 2, 0):
        write(RAGGED, f"splits_{number}.csv")
    write("slide_id,train,val,test\na1,True,False,False\n", "splits_0_bool.csv")
    write(",train\nA,2\n", "splits_0_descriptor.csv")
    assert [split.name for split in read_slide_splits(tmp_path)] == ["splits_0", "splits_2", "splits_10"]


def test_the_splits_of_our_own_come_back(tmp_path):
    cohort = class_cohort(12, 9)
    splits = k_fold(cohort, 3, seed=5)
    files = write_splits(splits, cohort, tmp_path / "new" / "folder")
    assert [file.name for file in files] == ["splits_0.csv", "splits_1.csv", "splits_2.csv"]
    back = read_splits(files[0].parent, cohort.case_of)
    assert [(s.train, s.val, s.test) for s in back] == [(s.train, s.val, s.test) for s in splits]


def test_every_slide_of_a_case_is_written_without_folder_and_suffix(tmp_path):
    cohort = cohort_of({"A": "x", "B": "y", "C": "x"}, slides=2)
    (file,) = write_splits([Split("only", ("A",), (), ("B", "C"))], cohort, tmp_path)
    assert file.read_text() == ",train,val,test\n0,A-0,,B-0\n1,A-1,,B-1\n2,,,C-0\n3,,,C-1\n"
    assert read_splits(file, cohort.case_of) == [Split("splits_0", ("A",), (), ("B", "C"))]


def test_splits_are_never_mixed_with_older_ones(tmp_path):
    cohort = class_cohort(4, 4)
    write_splits(k_fold(cohort, 3), cohort, tmp_path)
    with pytest.raises(CohortError, match="holds splits already"):
        write_splits(k_fold(cohort, 2), cohort, tmp_path)


def test_what_cannot_be_written(tmp_path):
    cohort = cohort_of({"A": "x", "B": "y"})
    with pytest.raises(CohortError, match="1 cases that the cohort has not: Z"):
        write_splits([Split("s", ("A",), (), ("Z",))], cohort, tmp_path)
    twins = cohort_of({"A": "x", "a": "y"})
    assert write_splits([Split("s", ("A",), (), ("a",))], twins, tmp_path)


def test_two_slides_of_one_name_cannot_be_told_apart_in_a_file(tmp_path, read):
    from beph_store.cohort import join

    text = "slide_id,case_id,label\n1/a.svs,A,x\n2/a.svs,B,y\nc,C,x\nd,D,y\n"
    cohort = join(read(text), ["1/a.svs", "2/a.svs", "c.svs", "d.svs"])
    with pytest.raises(CohortError, match="1 names belong to several slides"):
        write_splits(k_fold(cohort, 2), cohort, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (
            "train,val\na,b\n",
            CohortError,
            "needs the columns train, val and test, once each; it has train, val",
        ),
        ("train,val,test,test\na,b,c,d\n", AmbiguousColumn, "once each"),
        (",train,val,test\n0,,,\n", CohortError, "lists no slides"),
        ("", CohortError, "is empty"),
    ],
)
def test_files_that_are_no_splits(write, content, kind, message):
    with pytest.raises(kind, match=message):
        read_slide_splits(write(content, "splits_0.csv"))


def test_a_folder_without_splits(tmp_path):
    with pytest.raises(CohortError, match=r"has no splits_0.csv"):
        read_slide_splits(tmp_path)
    with pytest.raises(CohortError, match="no such table"):
        read_slide_splits(tmp_path / "none.csv")


def test_a_case_on_two_sides_is_refused_unless_asked_for(write):
    path = write("train,val,test\na1,b1,c1\n,,a2\n", "splits_3.csv")
    with pytest.raises(
        CohortError, match=r"splits_3: 1 cases are in train and in test \(A\): .*--allow-leaks"
    ):
        read_splits(path, CASE_OF)
    (split,) = read_splits(path, CASE_OF, allow_leaks=True)
    assert split == Split("splits_3", ("A",), ("B",), ("C", "A"))


def test_a_split_of_other_slides_is_refused(write):
    path = write("train,val,test\na1,b1,z9\n", "splits_0.csv")
    with pytest.raises(CohortError, match="none of its test slides is in the cohort, for example z9"):
        read_splits(path, CASE_OF)


def test_a_name_that_fits_slides_of_two_cases_is_refused(write):
    path = write("train,val,test\nx,,c1\n", "splits_0.csv")
    with pytest.raises(CohortError, match="slide x of the split may be of any of the cases P, Q"):
        read_splits(path, {"1/x.svs": "P", "2/x.svs": "Q", "c1.svs": "C"})
    (split,) = read_splits(path, {"1/x.svs": "P", "2/x.svs": "P", "c1.svs": "C"})
    assert split.train == ("P",)


def test_a_slide_split_lists_its_subsets():
    split = SlideSplit("s", ("a",), (), ("b",))
    assert dict(split.subsets()) == {"train": ("a",), "val": (), "test": ("b",)}
