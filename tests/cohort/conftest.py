from pathlib import Path

import pytest

from beph_store.cohort import ColumnChoice, Flow, LabelTable, read_labels
from beph_store.cohort.join import Cohort
from beph_store.records import Case, ClassLabel, SurvivalLabel


@pytest.fixture
def write(tmp_path):
    """``write(content, name) -> path`` of a table file."""

    def write_file(content: str | bytes, name: str = "labels.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


@pytest.fixture
def read(write):
    """``read(content, task, name=…, **flags) -> LabelTable``."""

    def read_content(content, task="classify", name="labels.csv", **flags) -> LabelTable:
        return read_labels(write(content, name), task, ColumnChoice(**flags))

    return read_content


def cohort_of(labels: dict[str, str | tuple[bool, float]], slides: int = 1) -> Cohort:
    """Case id → class, or (event, days); each case with as many slides, called ``<case>/<case>-<n>.svs``."""
    ids = sorted(labels)
    cases = tuple(Case(c, tuple(f"{c}/{c}-{n}.svs" for n in range(slides))) for c in ids)
    made = tuple(
        SurvivalLabel(c, *labels[c]) if isinstance(labels[c], tuple) else ClassLabel(c, labels[c])
        for c in ids
    )
    flow = Flow(len(ids), len(ids), len(ids), len(ids) * slides, len(ids) * slides, len(ids), ())
    return Cohort(cases, made, (), flow)


def class_cohort(*counts: int) -> Cohort:
    """So many cases of class A, B, …"""
    return cohort_of({f"{chr(65 + k)}{i:03d}": chr(65 + k) for k, n in enumerate(counts) for i in range(n)})
