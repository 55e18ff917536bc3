"""Two or more trainings on the same patients: other encoder or other head, everything else equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from beph_store.engine.study import figures
from beph_store.engine.study.evaluate import HEADLINES
from beph_store.engine.study.page import figures as pictures
from beph_store.engine.study.page import note, page, section, table
from beph_store.engine.study.trained import TrainedRun
from beph_store.engine.study.wording import TITLES
from beph_store.errors import CohortError, UsageError
from beph_store.metrics import Difference, compare_classes, compare_survival, default_times, delong

F64 = NDArray[np.float64]
#: Beside the metrics of both: the same AUROC, by DeLong's test instead of draws.
DELONG = "auroc (DeLong)"


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """``values`` (R, n, K) of R rounds over ``case_ids`` (n,), NaN where a round did not test a case."""

    name: str
    case_ids: tuple[str, ...]
    truth: pl.DataFrame
    values: F64


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Each further training against the first: ``differences[i]`` metric → first minus that one.

    ``made_of`` head and encoder of each training, in words.
    """

    task: str
    cases: int
    names: tuple[str, ...]
    made_of: tuple[str, ...]
    values: tuple[Mapping[str, float], ...]
    differences: tuple[Mapping[str, Difference], ...]

    def to_json(self) -> dict[str, Any]:
        """JSON data."""
        return {
            "task": self.task,
            "cases": self.cases,
            "trainings": [
                {"name": name, "made_of": made_of, "metrics": dict(values)}
                for name, made_of, values in zip(self.names, self.made_of, self.values, strict=True)
            ],
            "differences": [
                {
                    "first": self.names[0],
                    "second": name,
                    "metrics": {m: d.to_json() for m, d in found.items()},
                }
                for name, found in zip(self.names[1:], self.differences, strict=True)
            ],
        }


def compare(folders: Sequence[str | Path], *, draws: int = 1000, seed: int = 0) -> Comparison:
    """Paired bootstrap over the same cases of every metric; for AUROC of two classes DeLong's test as well.

    Raises UsageError for fewer than two folders or other tasks, CohortError where cases or labels differ.
    """
    runs = [TrainedRun.open(folder) for folder in folders]
    if len(runs) < 2:
        raise UsageError("one training has nothing to be compared with: name two folders or more")
    if len({run.task for run in runs}) > 1:
        raise UsageError("a classification and a survival cannot be compared: name trainings of one task")
    classes = runs[0].classes
    names = _names(runs)
    loaded = [_load(run, name, classes) for run, name in zip(runs, names, strict=True)]
    for other in loaded[1:]:
        _check_same(loaded[0], other)
    differences = tuple(_against(runs[0], loaded[0], other, draws, seed) for other in loaded[1:])
    first = {metric: one.a for metric, one in differences[0].items()}
    values = (first, *({metric: one.b for metric, one in found.items()} for found in differences))
    made_of = tuple(f"{run.about['head']} on {run.about['encoder']}" for run in runs)
    return Comparison(runs[0].task, len(loaded[0].case_ids), tuple(names), made_of, values, differences)


def _names(runs: Sequence[TrainedRun]) -> list[str]:
    """The folder's name, or its path where two folders are called alike."""
    short = [run.folder.resolve().name for run in runs]
    return [
        name if short.count(name) == 1 else str(run.folder) for name, run in zip(short, runs, strict=True)
    ]


def _load(run: TrainedRun, name: str, classes: Sequence[str]) -> Predictions:
    """``classes`` in the order that the first training has them; a training may have another."""
    frame = run.predictions()
    wanted = [f"p_{one}" for one in classes] or ["log_hazard"]
    have = {column for column in frame.columns if column.startswith("p_")} or {"log_hazard"}
    if have != set(wanted):
        raise CohortError(
            f"{name} knows other classes ({', '.join(sorted(have))}): train both on the same table and classes"
        )
    case_ids = tuple(sorted(frame["case_id"].unique().to_list()))
    place = {case_id: i for i, case_id in enumerate(case_ids)}
    values = np.full((int(frame["repeat"].max()) + 1, len(case_ids), len(wanted)), np.nan)  # type: ignore[arg-type]
    at = [place[case_id] for case_id in frame["case_id"].to_list()]
    values[frame["repeat"].to_numpy(), at] = frame.select(wanted).to_numpy()
    known = ["label"] if "label" in frame.columns else ["event", "time_days"]
    truth = frame.unique("case_id").sort("case_id").select(["case_id", *known])
    return Predictions(name, case_ids, truth, values)


def _check_same(first: Predictions, other: Predictions) -> None:
    apart = set(first.case_ids) ^ set(other.case_ids)
    if apart:
        raise CohortError(
            f"{first.name} and {other.name} tested different cases ({len(apart)} in one only, such as "
            f"{sorted(apart)[0]}): train both on the same table and splits"
        )
    if not first.truth.equals(other.truth):
        raise CohortError(
            f"{first.name} and {other.name} have different labels: train both on the same table"
        )
    if first.values.shape != other.values.shape:
        raise CohortError(
            f"{first.name} and {other.name} have different numbers of repeats: train both alike"
        )


def _against(
    run: TrainedRun, first: Predictions, other: Predictions, draws: int, seed: int
) -> dict[str, Difference]:
    truth = first.truth
    if run.task == "survive":
        event, time = truth["event"].to_numpy(), truth["time_days"].to_numpy()
        grid = default_times(event, time)
        return compare_survival(
            first.values[..., 0], other.values[..., 0], event, time, grid, b=draws, seed=seed
        )
    classes = run.classes
    index = np.array([classes.index(label) for label in truth["label"].to_list()], np.int64)
    found = compare_classes(first.values, other.values, index, classes, b=draws, seed=seed)
    if len(classes) == 2 and len(first.values) == 1:
        test = delong(first.values[0, :, 1], other.values[0, :, 1], index == 1)
        found[DELONG] = test
    return found


def render(comparison: Comparison) -> str:
    """One table and one picture a pair, self-contained."""
    names = [name for name in (*HEADLINES[comparison.task], DELONG) if name in comparison.values[0]]
    titles = [TITLES.get(name, name) for name in names]
    own = [name for name in names if name in HEADLINES[comparison.task]]
    values = (
        (who, made_of, *(found.get(name) for name in own))
        for who, made_of, found in zip(comparison.names, comparison.made_of, comparison.values, strict=True)
    )
    columns = ("training", "what", *(f"#{TITLES.get(name, name)}" for name in own))
    parts = [section("Held-out cases", table(columns, values))]
    for who, found in zip(comparison.names[1:], comparison.differences, strict=True):
        spans = [(found[n].difference, found[n].ci_low, found[n].ci_high) for n in names]
        rows = [
            (
                title,
                f"{found[n].difference:+.3f}",
                f"{found[n].ci_low:+.3f} … {found[n].ci_high:+.3f}",
                found[n].p_value,
                found[n].method,
            )
            for n, title in zip(names, titles, strict=True)
        ]
        parts.append(
            section(
                f"{comparison.names[0]} minus {who}",
                pictures(figures.differences(titles, spans)),
                table(("metric", "#difference", "#95 % interval", "#p", "method"), rows),
            )
        )
    parts.append(
        note(
            "The same cases are resampled on both sides; an interval without zero is a difference. Of the integrated "
            "Brier score less is better."
            if comparison.task == "survive"
            else "The same cases are resampled on both sides; an interval without zero is a difference."
        )
    )
    return page("Comparison", f"{' against '.join(comparison.names)} · {comparison.cases} cases", parts)
