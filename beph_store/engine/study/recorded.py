"""What ``train.json`` keeps so that the training can be done again, and how it is read back."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from typing import Any

from beph_store.cohort.labels import Label
from beph_store.engine.study.data import Study
from beph_store.errors import HeadError
from beph_store.records import ClassLabel, SurvivalLabel

#: Distributions whose versions may move a last digit.
VERSIONS = ("beph-store", "numpy", "scipy", "torch", "torchsurv", "pylance")


def outcomes(study: Study) -> dict[str, Any]:
    """Case id → class, or [event, days], as the heads learned them."""
    return {label.case_id: plain(label) for label in study.cohort.labels}


def plain(label: Label) -> Any:
    """A label as JSON data."""
    return label.value if isinstance(label, ClassLabel) else [label.event, label.time_days]


def label_of(case_id: str, data: Any) -> Label:
    """The inverse of ``plain``; HeadError for what is none."""
    if isinstance(data, str):
        return ClassLabel(case_id, data)
    if isinstance(data, list) and len(data) == 2 and isinstance(data[0], bool):
        return SurvivalLabel(case_id, data[0], float(data[1]))
    raise HeadError(f"the record of the run has no label for case {case_id}: it was altered")


def content_sha256(study: Study) -> str:
    """SHA-256, hex, over the slides of the cohort and the hash of what the store holds of each."""
    rows = {row.slide_id: row for row in study.store.rows(study.record.recipe.key)}
    used = sorted(slide for case in study.cohort.cases for slide in case.slide_ids)
    listed = [[slide, rows[slide].sha256 if slide in rows else None] for slide in used]
    return hashlib.sha256(json.dumps(listed, ensure_ascii=True).encode()).hexdigest()


def numerics() -> dict[str, Any]:
    """What the last digits depend on besides versions: threads, and the processor's vector units as torch uses them."""
    torch = sys.modules.get("torch")
    return {
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "torch_threads": None if torch is None else torch.get_num_threads(),
        "vector_units": None if torch is None else torch.backends.cpu.get_cpu_capability(),
    }
