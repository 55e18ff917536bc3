from pathlib import Path

import pytest

from tests.beside import TOGETHER, scope

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("folder", TOGETHER)
def test_a_folder_that_stays_together_is_there(folder):
    (first, *_) = sorted((ROOT / folder).glob("test_*.py"))
    assert scope(f"{folder}/{first.name}::test_a[x/y::z]") == folder


def test_a_file_stays_whole():
    assert scope("tests/engine/test_kill.py::test_a[x/y::z]") == "tests/engine/test_kill.py"
