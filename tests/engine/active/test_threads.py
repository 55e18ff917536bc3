"""The limit of one thread is lifted when the last one leaves, in whatever order they do."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from beph_store.engine.active.threads import one_thread


def threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_overlapping_limits_leave_nothing_behind() -> None:
    np.ones((2, 2)) @ np.ones((2, 2))
    with threadpool_limits(2):
        before = threads()
        first, second = one_thread(), one_thread()
        first.__enter__()
        assert threads() == {1}
        second.__enter__()
        first.__exit__(None, None, None)
        assert threads() == {1}
        second.__exit__(None, None, None)
        assert threads() == before


def test_an_error_lifts_it_too() -> None:
    before = threads()
    with pytest.raises(KeyError), one_thread():
        raise KeyError("x")
    assert threads() == before
