"""How the tests are shared out when several workers run them: ``pytest -n 2``, as `make test` does."""

from __future__ import annotations

from typing import Any

import pytest

#: Folders that stay on one worker: their files share what takes long to make, or a machine that no other may load.
TOGETHER = (
    "tests/encoders",
    "tests/engine/cluster",
    "tests/engine/finetune",
    "tests/engine/protocols",
    "tests/pretrain",
    "tests/serve/page",
)
#: Tests that may run on any worker, each of their parameters by itself: what they share, the workers share.
APART = ("tests/docs/test_blocks.py::test_the_blocks_of_a_page_run_one_after_the_other",)
#: What takes longest is begun first, or one worker would end long after the other.
FIRST = (
    "tests/faults/test_faults.py",
    *APART,
    "tests/engine/cluster",
    "tests/serve/page",
    "tests/encoders",
    "tests/engine/protocols",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file stays whole, some folders too; in the order they are collected in, which is that of `long_ones_first`."""
    if config.option.dist != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Shared(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope(nodeid)

    config.option.loadscopereorder = False
    return Shared(config, log)


def scope(nodeid: str) -> str:
    """What has to run on the same worker as this test.

    >>> scope("tests/serve/page/test_page.py::test_a[x/y::z]"), scope("tests/test_geometry.py::test_b")
    ('tests/serve/page', 'tests/test_geometry.py')
    """
    if nodeid.partition("[")[0] in APART:
        return nodeid
    file = nodeid.partition("::")[0]
    folder = file.rpartition("/")[0]
    return folder if folder in TOGETHER else file


def long_ones_first(items: list[pytest.Item]) -> None:
    """What `FIRST` names comes in its order, the rest after it as it was."""
    items.sort(key=lambda item: rank(item.nodeid))


def rank(nodeid: str) -> int:
    """The place in `FIRST` of a test, of its file or of its folder; behind all of them if it has none."""
    file = nodeid.partition("::")[0]
    known = (nodeid.partition("[")[0], file, file.rpartition("/")[0])
    return next((at for at, long in enumerate(FIRST) if long in known), len(FIRST))
