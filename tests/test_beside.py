from pathlib import Path

import pytest

from tests.beside import APART, FIRST, TOGETHER, rank, scope

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("folder", TOGETHER)
def test_a_folder_that_stays_together_is_there(folder):
    (first, *_) = sorted((ROOT / folder).glob("test_*.py"))
    assert scope(f"{folder}/{first.name}::test_a[x/y::z]") == folder


def test_a_file_stays_whole():
    assert scope("tests/engine/test_kill.py::test_a[x/y::z]") == "tests/engine/test_kill.py"


@pytest.mark.parametrize("test", APART)
def test_a_test_that_stays_apart_is_there_and_each_of_its_parameters_runs_where_it_may(test):
    file, _, name = test.partition("::")
    assert f"def {name}(" in (ROOT / file).read_text()
    assert scope(f"{test}[docs/a.md]") == f"{test}[docs/a.md]"


@pytest.mark.parametrize("long", FIRST)
def test_what_comes_first_is_there_and_comes_in_that_order(long):
    file, _, test = long.partition("::")
    assert (ROOT / file).exists()
    one = long + "[x]" if test else f"{long}::test_a" if long.endswith(".py") else f"{long}/test_a.py::test_b"
    assert rank(one) == FIRST.index(long)


def test_all_else_comes_after():
    assert rank("tests/test_geometry.py::test_b") == len(FIRST)
