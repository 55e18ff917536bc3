"""Something goes wrong at a point: nothing is lost, nothing is doubled, and the same command goes on."""

import pytest

from tests.faults.harness import Trial
from tests.faults.operations import OPERATIONS

#: Points that every run tries; ``--soak`` goes through all of them.
FEW = {"ingest": 4, "import": 3, "import-clam": 2, "compact": 3, "index": 1, "train": 1, "pretrain": 1}


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    begun = {}

    def trial(name):
        if name not in begun:
            begun[name] = Trial.begin(name, tmp_path_factory.mktemp(name))
        return begun[name]

    return trial


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_few_faults(trials, name):
    trial = trials(name)
    assert trial.points(), "the operation reaches no site: it is not what is tested here"
    for fault in trial.drawn(FEW[name], seed=1):
        trial.interrupt(fault)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_fault(trials, name):
    trial = trials(name)
    for fault in trial.points():
        trial.interrupt(fault)
