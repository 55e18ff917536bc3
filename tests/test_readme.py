"""The quick start of the README, as it is there, on drawn slides."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from beph_store.testing.synthetic import SlidePlan, write_slide

README = Path(__file__).resolve().parents[1] / "README.md"
MARK = "# quick start"


def quick_start(page: str) -> str | None:
    """The fenced Python block of which a line is ``# quick start``."""
    blocks = re.findall(r"^```python[^\n]*\n(.*?)^```", page, flags=re.M | re.S)
    return next((block for block in blocks if MARK in block.splitlines()), None)


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    (folder / "slides").mkdir()
    for number in (1, 2):
        plan = SlidePlan(size=(2048, 2048), seed=number, tumour=0.4, nuisances=())
        write_slide(folder / "slides" / f"case-{number}.svs", plan)
    return folder


def test_the_quick_start_runs_as_it_stands(slides: Path) -> None:
    code = quick_start(README.read_text())
    assert code is not None, f"the README has no Python block with the line {MARK!r}"
    lines = [line for line in code.splitlines() if line.strip() and line.strip() != MARK]
    assert len(lines) <= 12, "a quick start of ten lines"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=slides, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "case-1.svs" in done.stdout


def test_the_block_is_found_by_its_mark() -> None:
    page = f"```python\nx = 1\n```\n\n```bash\n{MARK}\n```\n\n```python\n{MARK}\ny = 2\n```\n"
    assert quick_start(page) == f"{MARK}\ny = 2\n"
    assert quick_start("```python\nx = 1\n```\n") is None
