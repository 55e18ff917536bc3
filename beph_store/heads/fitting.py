"""Train heads: check what is given, hand it to the head's module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from beph_store.errors import HeadError
from beph_store.heads.head import Epoch, Head, HeadSpec, Weights, read_head, write_head
from beph_store.heads.options import DeviceName, HeadOptions, resolved, task_of
from beph_store.heads.table import head_row, implementation
from beph_store.records import Bags, ClassTarget, SurvivalTarget, Target

Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Progress:
    """Split ``split`` of ``splits`` has ended an epoch, or, where ``epoch`` is None, its training."""

    split: int
    splits: int
    epoch: Epoch | None


def fit(
    options: HeadOptions,
    bags: Bags,
    target: Target,
    train: ArrayLike,
    val: ArrayLike,
    seed: int,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Head:
    """Train one head on the cases ``train`` (positions in ``bags``), choosing by ``val``, which may be empty.

    Torch heads stop early on the loss of ``val`` and keep the best epoch; without ``val`` they train all epochs. The
    linear head chooses its penalty on ``val``, else by folds of ``train``. The same seed gives the same head.
    HeadError names cases without tiles or with vectors that are not finite, and classes or events that are missing.
    """

    def report(progress: Progress) -> None:
        if on_epoch is not None and progress.epoch is not None:
            on_epoch(progress.epoch)

    return fit_many(options, bags, target, [(train, val)], seed, report)[0]


def fit_many(
    options: HeadOptions,
    bags: Bags,
    target: Target,
    splits: Sequence[tuple[ArrayLike, ArrayLike]],
    seed: int,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Head]:
    """Train one head for each (train, val); see ``fit``.

    The linear head solves ten splits with all their penalties as one batch; torch heads run one after the other.
    """
    row = head_row(options.head)
    options = resolved(options, task_of(target))
    if not splits:
        return []
    pairs = [
        (_positions(train, len(bags), "train"), _positions(val, len(bags), "val")) for train, val in splits
    ]
    _check_target(bags, target)
    for number, (train, val) in enumerate(pairs):
        _check_split(f"split {number + 1}", bags, target, train, val)

    def report(split: int, epoch: Epoch | None) -> None:
        if on_progress is not None:
            on_progress(Progress(split, len(pairs), epoch))

    heads: list[Head] = implementation(row).fit_many(options, bags, target, pairs, seed, report)
    return heads


def save_head(head: Head, folder: str | Path) -> Path:
    """Write ``head.json`` and ``weights.safetensors`` into a folder, made if need be; returns it."""
    write_head(head, Path(folder))
    return Path(folder)


def load_head(folder: str | Path, device: DeviceName | None = None) -> Head:
    """The head in a folder written by ``save_head``; ``device`` goes before the one in its options.

    HeadError: no head, an unknown format, altered weights or shapes that do not fit. MissingExtra: it needs torch.
    """
    spec, weights = read_head(Path(folder))
    if device is not None:
        spec = replace(spec, options=replace(spec.options, device=device))
    return build_head(spec, weights)


def build_head(spec: HeadSpec, weights: Weights) -> Head:
    """A head from its record and its ``weights()``; the same as the one they are of."""
    module: Any = implementation(head_row(spec.name))
    head: Head = module.build(spec, weights)
    return head


def _positions(cases: ArrayLike, count: int, what: str) -> Index:
    found = np.asarray(cases)
    if found.size == 0:
        return np.zeros(0, np.int64)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise HeadError(f"{what} must be whole numbers, positions of cases in the bags; got {found.dtype}")
    if found.min() < 0 or found.max() >= count:
        raise HeadError(f"{what} names case {int(found.max())}, but the bags hold {count}, numbered from 0")
    if len(np.unique(found)) != len(found):
        raise HeadError(f"{what} names a case twice; give each once")
    return found.astype(np.int64)


def _check_target(bags: Bags, target: Target) -> None:
    count = len(target.index) if isinstance(target, ClassTarget) else len(target.event)
    if count != len(bags):
        raise HeadError(f"{count} labels for {len(bags)} bags: give one label a case, in the bags' order")
    if isinstance(target, ClassTarget):
        if len(target.classes) < 2:
            raise HeadError("a classification needs at least two classes")
        if count and not 0 <= int(target.index.min()) <= int(target.index.max()) < len(target.classes):
            raise HeadError(f"a class index lies outside 0 to {len(target.classes) - 1}")
    elif len(target.time_days) != count or not (np.isfinite(target.time_days) & (target.time_days > 0)).all():
        raise HeadError("survival times must be finite and above 0 days, one a case")


def _check_split(where: str, bags: Bags, target: Target, train: Index, val: Index) -> None:
    if not len(train):
        raise HeadError(f"{where} has no training cases")
    shared = np.intersect1d(train, val)
    if len(shared):
        raise HeadError(f"{where} has case {bags.case_ids[shared[0]]} in both train and val: keep them apart")
    empty = [bags.case_ids[case] for case in (*train, *val) if not bags.tiles(int(case))]
    if empty:
        raise HeadError(
            f"{where} has {len(empty)} cases without tiles: {', '.join(empty[:5])}; leave them out"
        )
    if isinstance(target, ClassTarget):
        missing = sorted(set(range(len(target.classes))) - set(target.index[train].tolist()))
        if missing:
            names = ", ".join(target.classes[k] for k in missing)
            raise HeadError(
                f"{where} has no training case of class {names}: merge classes or use fewer folds"
            )
    elif not _informative(target, train):
        raise HeadError(
            f"{where} has no event with another training case still at risk: nothing to learn from"
        )


def _informative(target: SurvivalTarget, train: Index) -> bool:
    """Whether some event has at least one other case in its risk set."""
    seen = target.event[train]
    time = target.time_days[train]
    return bool(seen.any() and (len(train) > 1) and time[seen].min() <= np.sort(time)[-2])
