"""Fits over a Ray cluster are the fits made here, and calls that go wrong end as an error or are made again."""

import json
import os
from unittest import mock

import pytest

from beph_store.engine.cluster.fanout import Needs, each
from beph_store.errors import CohortError

from .namespace import needed, run_alone


def test_here_it_is_a_loop():
    heard = []
    found = each(lambda shared, item: shared + item, [1, 2], shared=10, progress=lambda *at: heard.append(at))
    assert found == [11, 12]
    assert heard == [(1, 2), (2, 2)]

    def refuse(shared, item):
        raise CohortError("no")

    with pytest.raises(CohortError, match="no"):
        each(refuse, [1], shared=None)


def test_a_call_takes_as_many_cores_as_the_environment_says():
    with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "3"}):
        assert Needs().cpus == 3
    with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "4,2"}):
        assert Needs().cpus == 4
    with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "many"}):
        assert Needs().cpus == 1


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fan")
    with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}):
        done = run_alone("tests.engine.cluster.fanning", str(folder), timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


over_ray = needed()


@over_ray
def test_results_come_in_the_order_of_the_items(told):
    assert told["order"] == [18, 2, 8]
    assert told["none"] == []


@over_ray
def test_a_call_has_the_threads_that_it_takes(told):
    assert told["threads"] == ["1", 1]


@over_ray
def test_an_error_is_raised_as_itself(told):
    assert told["refused"] == ["CohortError", "that one cannot be", "s2"]
    assert told["broken"][0] == "ZeroDivisionError"


@over_ray
def test_what_has_no_room_anywhere_is_an_error_and_no_wait(told):
    kind, said, _ = told["no room"]
    assert kind == "ClusterUnavailable"
    assert "512 CPU" in said
    assert told["no cluster"].startswith("no Ray cluster at 127.0.0.1:1")


@over_ray
def test_a_call_whose_worker_is_killed_is_made_again(told):
    assert told["killed"] == list(range(7))


@over_ray
@pytest.mark.parametrize(("head", "splits"), [("linear", 12), ("abmil", 3)])
def test_heads_predictions_and_figures_are_those_made_here(told, head, splits):
    assert told[head] == {"heads": splits, "predictions": True, "figures": True, "progress": 1.0}


@over_ray
@pytest.mark.parametrize(("method", "parts"), [("linear", 9), ("knn", 3)])
def test_a_probe_says_the_same(told, method, parts):
    assert told[f"probe {method}"] == {"bits": True, "json": True, "parts": parts, "progress": True}


@over_ray
def test_a_machine_that_does_not_see_the_store_says_so(told):
    assert (
        "keep it on a disk that all machines of the cluster share, or on object storage" in told["lost store"]
    )
