"""What the user may choose about a head, and what the choice means for a task."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from beph_store.errors import HeadError
from beph_store.records import ClassTarget, Target

Task = Literal["classify", "survive"]
Loss = Literal["auto", "cross_entropy", "cox", "nll"]
Precision = Literal["auto", "fp32", "bf16"]
DeviceName = Literal["auto", "cpu", "cuda"]

#: The losses that each task can be learnt with, the default first.
LOSSES: dict[Task, tuple[Loss, ...]] = {"classify": ("cross_entropy",), "survive": ("cox", "nll")}


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """How to train a head. ``None`` and ``auto`` leave the choice to ``resolved``.

    ``head`` a name of ``HEADS``; ``loss`` ``cross_entropy``, or for survival ``cox`` (exact partial likelihood,
    Efron's ties) or ``nll`` (discrete time: ``bins`` intervals between quantiles of the event times, ``alpha``
    0–1 the extra weight of cases whose event was seen).

    Torch heads only: ``epochs``; AdamW's ``lr`` and ``weight_decay``; ``batch_cases`` cases an optimiser step
    (default 1, with ``cox`` the whole cohort); ``patience`` epochs without a better validation loss before
    stopping; ``tiles_per_epoch`` draws that many tiles of each training bag anew in every epoch (None: all);
    ``token_budget`` tiles that go through the network together, which changes speed and memory only;
    ``dropout`` 0–1; ``balanced`` draws classes equally often; ``precision`` and ``device`` (``auto``: bf16 where the
    processor has it, a GPU where there is one).

    ``penalties``: the ridge values that the linear head chooses from, in units of the mean loss per case
    (scikit-learn's C is 1 / (penalty · cases); lifelines' penalizer is the penalty).
    """

    head: str = "linear"
    loss: Loss = "auto"
    bins: int = 4
    alpha: float = 0.0
    epochs: int | None = None
    lr: float | None = None
    weight_decay: float = 1e-5
    batch_cases: int | None = None
    patience: int = 10
    tiles_per_epoch: int | None = None
    token_budget: int = 8192
    dropout: float = 0.25
    balanced: bool = False
    precision: Precision = "auto"
    device: DeviceName = "auto"
    penalties: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1e3)

    def __post_init__(self) -> None:
        for name, wrong in _wrong_fields(self).items():
            if wrong:
                raise HeadError(f"head option {name} = {getattr(self, name)!r} cannot be used: {wrong}")


def task_of(target: Target) -> Task:
    """The task that a target poses."""
    return "classify" if isinstance(target, ClassTarget) else "survive"


def resolved(options: HeadOptions, task: Task) -> HeadOptions:
    """The options with every ``None`` and the loss replaced by what the task takes; HeadError where they clash."""
    loss: Loss = LOSSES[task][0] if options.loss == "auto" else options.loss
    if loss not in LOSSES[task]:
        raise HeadError(f"loss {loss} does not serve {task}; choose from {', '.join(LOSSES[task])}")
    if options.balanced and task != "classify":
        raise HeadError("balanced sampling needs classes; leave it out for survival")
    if loss == "nll" and options.head == "linear":
        raise HeadError("the linear head learns survival with the loss cox; nll needs the head abmil or clam")
    # The whole-cohort Cox loss takes one step an epoch, so it needs longer steps and more of them.
    joint = loss == "cox" and options.batch_cases is None
    return replace(
        options,
        loss=loss,
        epochs=options.epochs or (60 if joint else 20),
        lr=options.lr or (2e-3 if joint else 2e-4),
        batch_cases=options.batch_cases or (None if loss == "cox" else 1),
    )


def _wrong_fields(options: HeadOptions) -> dict[str, str]:
    """Per field what is wrong with it, or an empty string."""

    def at_least(least: int, value: int | None) -> str:
        return "" if value is None or value >= least else f"give {least} or more"

    def within(value: float | None, low: float, high: float) -> str:
        ok = value is None or (math.isfinite(value) and low <= value <= high)
        return "" if ok else f"give a number from {low:g} to {high:g}"

    grid = options.penalties
    return {
        "loss": _among(options.loss, "auto", "cross_entropy", "cox", "nll"),
        "precision": _among(options.precision, "auto", "fp32", "bf16"),
        "device": _among(options.device, "auto", "cpu", "cuda"),
        "bins": at_least(2, options.bins),
        "alpha": within(options.alpha, 0, 1),
        "epochs": at_least(1, options.epochs),
        "lr": within(options.lr, 1e-9, 10),
        "weight_decay": within(options.weight_decay, 0, 10),
        "batch_cases": at_least(1, options.batch_cases),
        "patience": at_least(1, options.patience),
        "tiles_per_epoch": at_least(1, options.tiles_per_epoch),
        "token_budget": at_least(1, options.token_budget),
        "dropout": within(options.dropout, 0, 0.95),
        "penalties": ""
        if grid and all(math.isfinite(p) and p > 0 for p in grid)
        else "give at least one positive number",
    }


def _among(value: str, *names: str) -> str:
    return "" if value in names else f"choose from {', '.join(names)}"
