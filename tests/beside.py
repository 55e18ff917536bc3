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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file stays whole, some folders too; in the order they are collected in, so that what is short comes last."""
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
    file = nodeid.partition("::")[0]
    folder = file.rpartition("/")[0]
    return folder if folder in TOGETHER else file
