"""A finished training as figures to draw and cases to look at: all from what it wrote, no weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.engine.study.evaluate import HEADLINES
from beph_store.engine.study.trained import TrainedRun
from beph_store.engine.study.wording import TITLES
from beph_store.metrics import (
    LOWER_IS_BETTER,
    confusion_matrix,
    kaplan_meier,
    log_rank,
    roc_points,
)
from beph_store.metrics.survival import TIED_TOL
from beph_store.records import ClassTarget, SurvivalTarget, Target

F64 = NDArray[np.float64]
_BLOCK = 512
#: What the error of a case is, for people.
ERRORS = {
    "classify": "loss is minus the log of the probability of the true class; 0 is best",
    "survive": "loss is the share of the comparable cases that the case is ordered wrongly against; 0 is best",
}


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """Held-out predictions by case, means over repeats.

    ``values`` (n, K) class probabilities or (n, 1) log hazards; ``fold`` (n,) the first split that tested the case;
    ``repeats`` (n,) how often it was tested; ``tiles`` (n,).
    """

    case_ids: tuple[str, ...]
    values: F64
    fold: NDArray[np.int64]
    repeats: NDArray[np.int64]
    tiles: NDArray[np.int64]
    target: Target

    def errors(self) -> F64:
        """(n,) how wrong each prediction is, see ``ERRORS``; NaN for a case that can be compared with none."""
        if isinstance(self.target, ClassTarget):
            right = self.values[np.arange(len(self.values)), self.target.index]
            return np.asarray(-np.log(np.maximum(right, 1e-12)) + 0.0)
        return discordance(self.values[:, 0], self.target.event, self.target.time_days)


def shown(run: TrainedRun) -> Shown:
    """The predictions of a run, one row a case, in the order of their ids."""
    frame = run.predictions().sort("case_id", "repeat", maintain_order=True)
    names = frame["case_id"].to_numpy()
    first = np.flatnonzero(np.concatenate([[True], names[1:] != names[:-1]]))
    repeats = np.diff(np.append(first, len(names)))
    if run.task == "classify":
        columns = [f"p_{name}" for name in run.classes]
        place = {name: i for i, name in enumerate(run.classes)}
        labels = frame["label"].to_list()
        target: Target = ClassTarget(run.classes, np.array([place[labels[i]] for i in first], np.int64))
    else:
        columns = ["log_hazard"]
        event, time = frame["event"].to_numpy(), frame["time_days"].to_numpy()
        target = SurvivalTarget(event[first].astype(bool), time[first].astype(np.float64))
    said = frame.select(columns).to_numpy().astype(np.float64)
    values = np.add.reduceat(said, first, axis=0) / repeats[:, None]
    fold, tiles = (frame[name].to_numpy()[first].astype(np.int64) for name in ("fold", "tiles"))
    return Shown(tuple(names[first].tolist()), values, fold, repeats.astype(np.int64), tiles, target)


def discordance(risk: F64, event: NDArray[np.bool_], time: F64) -> F64:
    """(n,) share of the comparable cases that each is ordered wrongly against, ties in risk count half; NaN without.

    Pairs are those of Harrell's C, of which the mean over all pairs is 1 - C.
    """
    n = len(risk)
    wrong, compared = np.zeros(n), np.zeros(n)
    for at in range(0, n, _BLOCK):
        rows = slice(at, min(at + _BLOCK, n))
        sooner = time[rows, None] < time[None]
        sooner |= (time[rows, None] == time[None]) & ~event[None]
        pairs = sooner & event[rows, None]
        gap = risk[rows, None] - risk[None]
        missed = pairs * np.where(np.abs(gap) <= TIED_TOL, 0.5, gap < 0)
        wrong[rows] += missed.sum(axis=1)
        wrong += missed.sum(axis=0)
        compared[rows] += pairs.sum(axis=1)
        compared += pairs.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.asarray(wrong / np.where(compared > 0, compared, np.nan))


def figures_of(run: TrainedRun, data: Shown) -> dict[str, Any]:
    """``roc``, ``confusion``, ``km`` and ``logrank_p`` as plain data, None where the task has none."""
    none: dict[str, Any] = {"roc": None, "confusion": None, "km": None, "logrank_p": None}
    if isinstance(data.target, ClassTarget):
        counts = confusion_matrix(data.values, data.target.index).tolist()
        labels = list(data.target.classes)
        return none | {"roc": _roc(run, data), "confusion": {"labels": labels, "counts": counts}}
    return none | _survival(data.values[:, 0], data.target)


def _roc(run: TrainedRun, data: Shown) -> list[dict[str, Any]]:
    """The curves that the report draws: of two classes the second's; the areas are the metrics."""
    assert isinstance(data.target, ClassTarget)
    classes, truth = data.target.classes, data.target.index
    drawn = [1] if len(classes) == 2 else [k for k in range(len(classes)) if (truth == k).any()]
    found = []
    for k in drawn:
        positive = truth == k
        if positive.all() or not positive.any():
            continue
        points = roc_points(data.values[:, k], positive)
        metric = run.about["metrics"].get("auroc" if len(classes) == 2 else f"auroc[{classes[k]}]", {})
        found.append(
            {
                "class": classes[k],
                "fpr": points.false_positive.tolist(),
                "tpr": points.true_positive.tolist(),
                "auroc": metric.get("mean"),
            }
        )
    return found


def _survival(risk: F64, target: SurvivalTarget) -> dict[str, Any]:
    """Two halves by the median of the predicted risk; nothing where all risks are equal."""
    high = risk > np.median(risk)
    if high.all() or not high.any():
        return {}
    test = log_rank(target.event, target.time_days, high)
    groups = [
        _group(name, target.event[member], target.time_days[member])
        for name, member in (("lower risk", ~high), ("higher risk", high))
    ]
    return {"km": groups, "logrank_p": float(test.p_value)}


def _group(name: str, event: NDArray[np.bool_], time: F64) -> dict[str, Any]:
    curve = kaplan_meier(event, time)
    return {
        "group": name,
        "cases": len(time),
        "events": int(event.sum()),
        "time_days": [0.0, *curve.times.tolist()],
        "survival": [1.0, *curve.survival.tolist()],
        "at_risk": [len(time), *curve.at_risk.tolist()],
        "censored": np.sort(time[~event]).tolist(),
    }


def metrics_of(run: TrainedRun) -> dict[str, dict[str, Any]]:
    """Every metric with its interval and title, those that a reader looks at first in front."""
    known: Mapping[str, Any] = run.about["metrics"]
    order = [name for name in HEADLINES[run.task] if name in known]
    return {
        name: {
            "title": TITLES.get(name, name),
            "value": known[name]["mean"],
            "ci_low": known[name]["ci_low"],
            "ci_high": known[name]["ci_high"],
            "lower_is_better": name in LOWER_IS_BETTER,
        }
        for name in (*order, *(name for name in known if name not in order))
    }


def folds_of(run: TrainedRun) -> list[dict[str, Any]]:
    """One a split: sizes, metrics, and how the head was trained: losses by epoch, or the penalties it chose from."""
    return [
        {
            **fold,
            "curve": [
                {"epoch": e.number, "train_loss": e.train_loss, "val_loss": e.val_loss} for e in spec.history
            ],
            "best_epoch": spec.best_epoch,
            "penalties": [{"penalty": penalty, "loss": loss} for penalty, loss in spec.grid],
            "penalty": spec.penalty,
        }
        for fold, spec in zip(run.about["folds"], run.specs, strict=True)
    ]
