"""The page's own unit tests: pure TypeScript, compiled and run by Node."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import beph_store.serve

PAGE = Path(beph_store.serve.__file__).parent / "page"


def test_pure_parts_of_the_page() -> None:
    if shutil.which("npm") is None:
        pytest.skip("no npm here: install Node.js 20 or newer")
    if not (PAGE / "node_modules").is_dir():
        pytest.skip("the page's packages are not installed: make page")
    done = subprocess.run(
        ["npm", "test", "--silent"], cwd=PAGE, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
