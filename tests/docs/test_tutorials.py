"""A tutorial can be followed in an empty folder: what its pages begin with is all that their folder holds."""

import pytest

from tests.docs.blocks import ROOT, blocks, workbench
from tests.docs.workbench import ARCHIVE

PAGES = sorted(page for page in (ROOT / "docs" / "tutorials").glob("*.md") if workbench(page) == "archive")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_tutorial_makes_what_it_uses(page):
    runs = [block for block in blocks(page) if block.runs]
    assert runs[0].commands.startswith(ARCHIVE[0] + "\n")
    lines = "".join(block.commands for block in runs).splitlines()
    first_on_a_store = next(line for line in lines if " S" in line)
    assert first_on_a_store == ARCHIVE[1]
