"""Heads: from a case's bag of embeddings to a class or a hazard.

>>> head = fit(HeadOptions(head="linear"), bags, target, train, val, seed=1)    # doctest: +SKIP
>>> head.predict(bags.bag(0)).values                                            # doctest: +SKIP

``HEADS`` lists them. Importing this loads no torch; the linear head needs none.
"""

from __future__ import annotations

from beph_store.heads.fitting import Progress, build_head, fit, fit_many, load_head, save_head
from beph_store.heads.head import Epoch, Head, HeadSpec, read_spec
from beph_store.heads.options import DeviceName, HeadOptions, Loss, Task
from beph_store.heads.table import HEADS, HeadRow, head_row

__all__ = [
    "HEADS",
    "DeviceName",
    "Epoch",
    "Head",
    "HeadOptions",
    "HeadRow",
    "HeadSpec",
    "Loss",
    "Progress",
    "Task",
    "build_head",
    "fit",
    "fit_many",
    "head_row",
    "load_head",
    "read_spec",
    "save_head",
]
