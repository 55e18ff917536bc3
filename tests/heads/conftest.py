"""Small cohorts with a planted signal: some tiles of each bag carry the vector of its class."""

from dataclasses import dataclass

import numpy as np
import pytest

from beph_store.records import Bags, ClassTarget, SurvivalTarget


@dataclass(frozen=True)
class Cohort:
    bags: Bags
    classes: ClassTarget
    survival: SurvivalTarget

    def split(self, parts=(0.6, 0.2, 0.2)):
        """Positions of train, val, test: the cases come in random order."""
        cuts = (np.cumsum(parts)[:-1] * len(self.bags)).astype(int)
        return np.split(np.arange(len(self.bags)), cuts)


def draw_cohort(cases=60, dim=16, classes=3, signal=3.0, tiles=(4, 40), seed=0, dtype=np.float16):
    """Half of a bag's tiles carry the signal; worse class, shorter life; a case has one or two slides."""
    rng = np.random.default_rng(seed)
    index = rng.permutation(np.arange(cases) % classes)
    means = np.linalg.qr(rng.normal(size=(dim, classes)))[0].T * signal
    rows, spans, at = [], [], 0
    for case in range(cases):
        count = int(rng.integers(*tiles, endpoint=True))
        bag = rng.normal(size=(count, dim))
        bag[: (count + 1) // 2] += means[index[case]]
        rows.append(bag[rng.permutation(count)])
        middle = at + count // 2
        whole = ((at, at + count),)
        spans.append(whole if case % 2 or count < 2 else ((at, middle), (middle, at + count)))
        at += count
    # Months, so that there are ties.
    days = np.ceil(rng.exponential(1, cases) * np.exp(-1.5 * (index - 1)) * 400 / 30) * 30
    event = rng.random(cases) < 0.7
    return Cohort(
        Bags(tuple(f"case{i:03}" for i in range(cases)), np.concatenate(rows).astype(dtype), tuple(spans)),
        ClassTarget(tuple("abcdefgh"[:classes]), index.astype(np.int64)),
        SurvivalTarget(event, days),
    )


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks this small are faster on one thread, and by far where the cores are busy with something else."""
    try:
        import torch
    except ModuleNotFoundError:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def cohort():
    """60 cases, 3 classes, 16-d. Read only."""
    return draw_cohort()


@pytest.fixture(scope="session")
def draw():
    """``draw_cohort``."""
    return draw_cohort


@pytest.fixture(scope="session")
def concordance():
    """Share of comparable pairs that the hazards order rightly."""

    def index(log_hazard, event, time):
        first = (time[:, None] < time[None]) & event[:, None]
        right = (log_hazard[:, None] > log_hazard[None]) + 0.5 * (log_hazard[:, None] == log_hazard[None])
        return float(right[first].mean())

    return index
