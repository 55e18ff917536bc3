"""Every block of the documentation runs, or says why it does not; every link leads somewhere."""

import json
import os
import re
import shutil
import sys
from contextlib import nullcontext

import pytest
from filelock import FileLock

from tests.docs.blocks import LANGUAGES, ROOT, RUNNABLE, blocks, pages, workbench
from tests.docs.workbench import KINDS, run, served, shell

ALL = [block for page in pages() for block in blocks(page)]


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """What `KINDS` make, each made once, by the worker that needs it first; the name of one of them -> its folder."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def make(kind):
        folder, done = shared / f"docs-{kind}", shared / f"docs-{kind}.done"
        with FileLock(shared / f"docs-{kind}.lock"):
            if not done.exists():
                begins, more = KINDS[kind]
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed at it
                folder.mkdir()
                if begins is not None:
                    shutil.copytree(make(begins), folder, dirs_exist_ok=True)
                more(folder)
                done.touch()
        return folder

    return make


@pytest.fixture
def bench(request, tmp_path, made):
    """A page, the folder that it asks for, its own to write in, and the variables that its blocks may use."""
    kind = workbench(request.param)
    if kind != "empty":
        shutil.copytree(made(kind), tmp_path, dirs_exist_ok=True)
    with served(tmp_path) if kind == "server" else nullcontext({}) as names:
        yield request.param, tmp_path, names


@pytest.mark.parametrize("block", ALL, ids=lambda block: block.name)
def test_a_block_says_its_language_and_a_reason_belongs_to_what_could_run(block):
    assert block.language in LANGUAGES, (
        f"{block.name}: write one of {', '.join(LANGUAGES)} after the backquotes"
    )
    assert block.why_not is None or block.language in RUNNABLE, (
        f"{block.name}: nothing to run, so no reason is needed"
    )


@pytest.mark.parametrize("block", [b for b in ALL if b.language == "json"], ids=lambda block: block.name)
def test_json_is_json(block):
    json.loads(block.text.replace(", …", ""))


@pytest.mark.parametrize("block", [b for b in ALL if b.language == "python"], ids=lambda block: block.name)
def test_python_that_does_not_run_is_python_all_the_same(block):
    compile(block.text, block.name, "exec")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "bench",
    [page for page in pages() if any(block.runs for block in blocks(page))],
    ids=lambda page: str(page.relative_to(ROOT)),
    indirect=True,
)
def test_the_blocks_of_a_page_run_one_after_the_other(bench):
    page, folder, names = bench
    python = ""
    for block in blocks(page):
        if not block.runs:
            continue
        if block.language == "python":
            python += f"\n# {block.name}\n{block.text}"  # a page is one program: names live on
            run([sys.executable, "-c", python], folder)
        else:
            shell(block.commands.replace("http://127.0.0.1:8765", "$B"), folder, names)


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_project_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:|#", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path
        assert file.exists(), f"{page.name}: {target}"
        if anchor and file.suffix == ".md":
            assert anchor in _anchors(file), f"{page.name}: no heading {anchor!r} in {path}"


def _anchors(page):
    titles = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}
