"""Train, evaluate, write: what a folder made by ``train`` holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from beph_store.cohort import count_reasons
from beph_store.engine.folders import check_folder
from beph_store.engine.provenance import WRITTEN_BY, machine, now, versions
from beph_store.engine.study.data import Study
from beph_store.engine.study.evaluate import Evaluation, evaluate
from beph_store.engine.study.recorded import VERSIONS, content_sha256, numerics, outcomes
from beph_store.engine.study.report import render, warnings_of
from beph_store.engine.study.train import Training, TrainOptions, train
from beph_store.engine.study.trained import FORMAT, PREDICTIONS_FILE, REPORT_FILE, RUN_FILE, columns_of
from beph_store.heads import Progress, save_head
from beph_store.records import ClassTarget, Prediction
from beph_store.store import write_parquet
from beph_store.store.durable import write_json


@dataclass(frozen=True, slots=True, eq=False)
class TrainReport:
    """Where everything lies, and the figures."""

    out: Path
    training: Training
    evaluation: Evaluation
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON data: ``metrics`` {name: {mean, ci_low, ci_high, …}}, ``folds`` one a split."""
        study = self.training.study
        return {
            "out": str(self.out),
            "report": str(self.out / REPORT_FILE),
            "task": study.cohort.task,
            "classes": list(target.classes)
            if isinstance(target := self.training.target, ClassTarget)
            else [],
            "head": self.training.options.head.head,
            "recipe": study.record.recipe.key,
            "encoder": study.record.recipe.encoder.name,
            "cases": len(study.case_ids),
            "dropped": count_reasons(study.cohort.dropped),
            "metrics": metrics_json(self.evaluation),
            "folds": [
                {
                    "name": split.name,
                    "train": len(split.train),
                    "val": len(split.val),
                    "test": len(split.test),
                    "metrics": dict(values),
                }
                for split, values in zip(self.training.splits, self.evaluation.folds, strict=True)
            ],
            "warnings": list(self.warnings),
        }


def train_to(
    out: str | Path,
    study: Study,
    options: TrainOptions,
    *,
    progress: Callable[[Progress], None] | None = None,
    asked: Mapping[str, Any] | None = None,
    ray_address: str | None = None,
) -> TrainReport:
    """Train on the study and write ``train.json``, ``heads/``, ``predictions.parquet`` and ``report.html`` to ``out``.

    ``asked``, JSON data, is kept in ``train.json``: the request that this answers. ``ray_address`` as in ``train``.
    ``train.json`` is written last: a folder that has it is complete. Raises UsageError for a folder that holds
    other things, and what ``train`` raises.
    """
    out = Path(out)
    check_folder(out, {"heads", PREDICTIONS_FILE, REPORT_FILE, RUN_FILE})
    training = train(study, options, progress=progress, ray_address=ray_address)
    evaluation = evaluate(training.held_out, training.target, draws=options.draws, seed=options.seed)
    out.mkdir(parents=True, exist_ok=True)
    (out / RUN_FILE).unlink(missing_ok=True)
    for number, head in enumerate(training.heads):
        save_head(head, out / "heads" / str(number))
    write_parquet(predictions(training), out / PREDICTIONS_FILE)
    (out / REPORT_FILE).write_text(render(training, evaluation), encoding="utf-8")
    report = TrainReport(out, training, evaluation, tuple(warnings_of(training, evaluation)))
    write_json(out / RUN_FILE, _about(report) | ({"asked": dict(asked)} if asked else {}))
    return report


def predictions(training: Training) -> pl.DataFrame:
    """One row a held-out prediction: the case, the split that tested it, what it is and what the head said.

    ``log_hazard`` is on one scale across splits, see ``outcomes.hold_out``.
    """
    study, held_out, target = training.study, training.held_out, training.target
    rounds = np.empty(len(held_out.case), np.int64)
    for number, entries in enumerate(held_out.rounds()):
        rounds[entries] = number
    rows = []
    for entry, case in enumerate(held_out.case):
        row: dict[str, Any] = {
            "case_id": study.case_ids[case],
            "split": training.splits[held_out.split[entry]].name,
            "fold": int(held_out.split[entry]),
            "repeat": int(rounds[entry]),
            "slides": len(study.bags.spans[case]),
            "tiles": study.bags.tiles(int(case)),
        }
        if isinstance(target, ClassTarget):
            row["label"] = target.classes[target.index[case]]
            row |= columns_of(target.classes, Prediction(held_out.values[entry]))
        else:
            row |= {"event": bool(target.event[case]), "time_days": float(target.time_days[case])}
            row |= columns_of((), Prediction(held_out.values[entry]))
        rows.append(row)
    return pl.DataFrame(rows)


def metrics_json(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """Every metric as plain data; the value on all held-out cases is called ``mean``, as it is one over repeats."""
    out = {}
    for name, estimate in evaluation.metrics.items():
        fields = estimate.to_json()
        out[name] = {"mean": fields.pop("value"), **fields}
    return out


def _about(report: TrainReport) -> dict[str, Any]:
    training = report.training
    study = training.study
    return {
        "format": FORMAT,
        "written_by": WRITTEN_BY,
        "written_at": now(),
        **report.to_json(),
        "recipe": {"key": study.record.recipe.key, **study.record.recipe.to_json()},
        "cohort": {
            "labels": study.table.path,
            "sha256": study.cohort.cohort_sha256,
            "used": [str(use) for use in study.table.used],
            "flow": dataclasses.asdict(study.cohort.flow),
            "cases": {case.case_id: list(case.slide_ids) for case in study.cohort.cases},
            "outcomes": outcomes(study),
        },
        "options": _plain(training.options),
        "splits": [dataclasses.asdict(split) for split in training.splits],
        "leaks": [leak.text for leak in training.leaks],
        "store": str(study.store.layout.root),
        "machine": machine(),
        "versions": versions(VERSIONS),
        "numerics": numerics(),
        "embeddings_sha256": content_sha256(study),
    }


def _plain(options: TrainOptions) -> Mapping[str, Any]:
    data = dataclasses.asdict(options)
    data["split"]["given"] = data["split"]["given"] and str(data["split"]["given"])
    return data
