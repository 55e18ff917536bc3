"""What someone asks of a training, as plain data: checked once, the same for whoever asks and for who trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from beph_store.cohort import ColumnChoice, Task
from beph_store.engine.study.train import SplitOptions, TrainOptions
from beph_store.errors import HeadError, UsageError
from beph_store.heads import HEADS, HeadOptions, Progress, head_row
from beph_store.heads.options import resolved

_LONGEST = 200
_MOST_CLASSES = 100


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """``cohort`` is the id of a kept table of labels; ``columns`` and ``options`` are what `train` takes."""

    cohort: str
    task: Task
    columns: ColumnChoice
    options: TrainOptions
    title: str


def train_request(data: Mapping[str, Any]) -> TrainRequest:
    """The request in a JSON object whose fields are named like the flags of `beph-store train`, with underscores.

    ``cohort`` and ``task`` are needed; null, "" and [] leave a field to its default. Raises UsageError for a field that
    nobody reads, for a value that cannot be meant, and for options that contradict each other.
    """
    given = checked(data, TRAIN_FIELDS)
    lacking = [name for name in ("cohort", "task") if name not in given]
    if lacking:
        raise UsageError(f"{lacking[0]} is missing: {_NEEDED[lacking[0]]}")
    if given["task"] == "survive" and (given.get("classes") or given.get("target")):
        raise UsageError("target and classes are for the task classify: leave them out")
    return TrainRequest(
        given["cohort"], given["task"], column_choice(given), _train_options(given), given.get("title", "")
    )


def column_choice(given: Mapping[str, Any]) -> ColumnChoice:
    """The columns that checked fields name."""
    return ColumnChoice(
        case=given.get("case_column"),
        slide=given.get("slide_column"),
        target=given.get("target"),
        classes=given.get("classes", ()),
        event=given.get("event_column"),
        time=given.get("time_column"),
        time_unit=given.get("time_unit"),
        event_means=given.get("event_means"),
        event_value=given.get("event_value"),
        conflicts=given.get("on_conflict", "refuse"),
    )


def _train_options(given: Mapping[str, Any]) -> TrainOptions:
    def some(*names: str) -> dict[str, Any]:
        return {name: given[name] for name in names if name in given}

    try:
        head = HeadOptions(
            **some("head", "loss", "epochs", "lr", "tiles_per_epoch", "patience", "precision", "device")
        )
        resolved(head, given["task"])
    except HeadError as error:
        raise UsageError(str(error)) from None
    split = SplitOptions(
        **some("scheme", "folds", "repeats", "val_fraction", "test_fraction", "train_fraction")
    )
    return TrainOptions(head, split, **some("seed", "draws", "shuffle_labels"))


def steps(at: Progress, options: TrainOptions, task: Task) -> tuple[int, int]:
    """(done, in all) of a training, in ``unit``; of splits that stopped early all epochs are done."""
    if unit(options) == "folds":
        return at.split + 1, at.splits
    most = resolved(options.head, task).epochs or 1
    inside = most if at.epoch is None else min(at.epoch.number, most - 1)
    return at.split * most + inside, at.splits * most


def unit(options: TrainOptions) -> str:
    """What ``steps`` counts: epochs, or folds where the head is not trained by epochs."""
    return "epochs" if head_row(options.head.head).needs_torch else "folds"


def epoch_event(at: Progress, options: TrainOptions, task: Task) -> dict[str, Any] | None:
    """The epoch that has ended as plain data, None at the end of a split. Losses are means per case, of ``fold``."""
    if at.epoch is None:
        return None
    return {
        "kind": "epoch",
        "fold": at.split,
        "folds": at.splits,
        "epoch": at.epoch.number,
        "epochs": resolved(options.head, task).epochs,
        "train_loss": at.epoch.train_loss,
        "val_loss": at.epoch.val_loss,
        "lr": resolved(options.head, task).lr,
        "seconds": at.epoch.seconds,
    }


Check = Callable[[str, Any], Any]


def checked(data: Mapping[str, Any], fields: Mapping[str, Check]) -> dict[str, Any]:
    """The fields that are given, each of its kind; UsageError names the first that is not."""
    odd = sorted(str(name) for name in set(data) - set(fields))
    if odd:
        raise UsageError(f"no such field: {odd[0][:60]!r}; there are {', '.join(fields)}")
    given = {name: value for name, value in data.items() if value is not None and value not in ("", [])}
    return {name: fields[name](name, value) for name, value in given.items()}


def text(name: str, value: Any) -> str:
    """A string that is not too long."""
    fine = isinstance(value, str) and len(value) <= _LONGEST
    # Half of a surrogate pair, which JSON can say, cannot be written to a file.
    if not fine or any("\ud800" <= mark <= "\udfff" for mark in value):
        raise UsageError(f"{name} is not a string of up to {_LONGEST} characters")
    return str(value)


def texts(name: str, value: Any) -> tuple[str, ...]:
    """Several of them."""
    if not isinstance(value, list | tuple) or len(value) > _MOST_CLASSES:
        raise UsageError(f"{name} is not a list of up to {_MOST_CLASSES} strings")
    return tuple(text(name, one) for one in value)


def one_of(*names: str) -> Check:
    """One of these words."""

    def check(name: str, value: Any) -> Any:
        if value not in names:
            raise UsageError(f"{name} is not one of {', '.join(names)}")
        return value

    return check


def whole(least: int, most: int) -> Check:
    """A whole number; true is none."""

    def check(name: str, value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise UsageError(f"{name} is not a whole number from {least} to {most}")
        return value

    return check


def number(least: float, most: float) -> Check:
    """A number within bounds, whole ones too."""

    def check(name: str, value: Any) -> float:
        fine = type(value) in (int, float) and math.isfinite(value) and least <= value <= most
        if not fine:
            raise UsageError(f"{name} is not a number from {least:g} to {most:g}")
        return float(value)

    return check


def yes(name: str, value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise UsageError(f"{name} is not true or false")
    return value


#: How columns are read.
COLUMN_FIELDS: dict[str, Check] = {
    "target": text,
    "classes": texts,
    "case_column": text,
    "slide_column": text,
    "event_column": text,
    "time_column": text,
    "time_unit": one_of("days", "months", "years"),
    "event_means": one_of("event", "censored"),
    "event_value": text,
    "on_conflict": one_of("refuse", "drop"),
}
TRAIN_FIELDS: dict[str, Check] = {
    "cohort": text,
    "task": one_of("classify", "survive"),
    "title": text,
    **COLUMN_FIELDS,
    "head": one_of(*HEADS),
    "loss": one_of("auto", "cross_entropy", "cox", "nll"),
    "scheme": one_of("kfold", "monte-carlo", "preserved-site"),
    "folds": whole(2, 100),
    "repeats": whole(1, 100),
    "seed": whole(0, (1 << 31) - 1),
    "draws": whole(1, 10_000),
    "epochs": whole(1, 10_000),
    "lr": number(1e-9, 10),
    "patience": whole(1, 10_000),
    "tiles_per_epoch": whole(1, 1 << 24),
    "val_fraction": number(0, 0.9),
    "test_fraction": number(0.01, 0.9),
    "train_fraction": number(0.01, 1),
    "precision": one_of("auto", "fp32", "bf16"),
    "device": one_of("auto", "cpu", "cuda"),
    "shuffle_labels": yes,
}
_NEEDED = {"cohort": "upload a table of labels and give its id", "task": "say classify or survive"}
