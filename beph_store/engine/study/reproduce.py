"""Does a training come out again? Its heads are fitted anew from what ``train.json`` recorded, and compared.

The record is enough: cases, their labels and slides, splits, options and seed are in it, the embeddings are in the
store. The table of labels is not needed, nor where it lay.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

from beph_store.cohort import Cohort, LabelTable
from beph_store.cohort.join import Flow
from beph_store.cohort.labels import Label
from beph_store.engine.provenance import machine, versions
from beph_store.engine.study.data import Study
from beph_store.engine.study.evaluate import evaluate
from beph_store.engine.study.outcomes import ask, hold_out
from beph_store.engine.study.recorded import VERSIONS, content_sha256, label_of, numerics
from beph_store.engine.study.run import metrics_json, predictions
from beph_store.engine.study.train import SplitOptions, Training, TrainOptions, cohort_splits, with_val
from beph_store.engine.study.trained import TrainedRun
from beph_store.errors import HeadError
from beph_store.heads import HeadOptions, Progress, fit_many, save_head
from beph_store.heads.head import SPEC_FILE, WEIGHTS_FILE
from beph_store.records import Case, Split
from beph_store.regular import require_regular
from beph_store.store import Store, bags


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the comparison. ``same`` None: told, not judged, as a version of a library is."""

    what: str
    then: str
    now: str
    same: bool | None


@dataclass(frozen=True, slots=True)
class Reproduction:
    """``checks`` in the order of their cause: what went in, where it ran, what came out."""

    folder: Path
    checks: tuple[Check, ...]
    heads: int
    worst_prediction: float
    worst_metric: float

    @property
    def ok(self) -> bool:
        """Whether nothing that is judged differs."""
        return all(check.same is not False for check in self.checks)

    @property
    def differing(self) -> tuple[Check, ...]:
        """What differs, judged or not."""
        return tuple(check for check in self.checks if check.same is False or check.then != check.now)

    def to_json(self) -> dict[str, Any]:
        """JSON data."""
        return {"ok": self.ok, **dataclasses.asdict(self), "folder": str(self.folder)}


def reproduce(
    folder: str | Path,
    *,
    store: str | Path | None = None,
    tolerance: float = 0.0,
    progress: Callable[[Progress], None] | None = None,
) -> Reproduction:
    """Fit the heads of a folder that ``train`` wrote once more, and compare weights, predictions and figures.

    ``store`` is where the store lies now, if elsewhere. ``tolerance`` is the largest difference of a prediction or a
    figure that passes; 0 wants every bit of the weights too. Nothing is written. Raises HeadError for a folder whose
    record is not enough, RecipeMismatch and UnknownSlide where the store lacks what was trained on.
    """
    run = TrainedRun.open(folder)
    _require_whole(run)
    opened = Store.open(store or str(run.about["store"]))
    try:
        study = _study(run, opened)
        options = _options(run.about["options"])
        splits = [
            Split(one["name"], *(tuple(one[p]) for p in ("train", "val", "test")))
            for one in run.about["splits"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HeadError(
            f"the record in {run.folder} cannot be understood ({type(error).__name__}: {error}): it was altered, or "
            "written by a later version"
        ) from error
    inputs = _inputs(run, study, options, splits)
    training = _trained(study, options, splits, progress)
    evaluation = evaluate(training.held_out, training.target, draws=options.draws, seed=options.seed)
    own, alike = _own_files(run, len(training.heads)), _weights(run, training)
    off = _furthest(run.predictions(), predictions(training))
    apart = _figures(run.about["metrics"], metrics_json(evaluation))
    exact = tolerance == 0
    results = (
        Check("files of heads", "as head.json says", f"{sum(own)} of {len(own)} are", all(own)),
        Check(
            "weights",
            f"{len(alike)} heads",
            f"{sum(alike)} equal to the last bit",
            all(alike) if exact else None,
        ),
        Check("predictions", f"within {tolerance:g}", f"largest difference {off:.3g}", off <= tolerance),
        Check("figures", f"within {tolerance:g}", f"largest difference {apart:.3g}", apart <= tolerance),
    )
    return Reproduction(run.folder, (*inputs, *_where(run), *results), len(alike), off, apart)


def _require_whole(run: TrainedRun) -> None:
    """Raise HeadError for a record that lacks what is compared, or has it of another kind."""
    about = run.about
    parts = ("options", "cohort", "recipe", "metrics", "machine", "versions")
    wrong = [name for name in parts if not isinstance(about.get(name), dict)]
    if not wrong:
        wrong += [name for name in ("seed", "draws") if type(about["options"].get(name)) is not int]
        wrong += [name for name, said in about["metrics"].items() if not isinstance(said, dict)]
    if not isinstance(about.get("splits"), list) or not about["splits"]:
        wrong.append("splits")
    if wrong:
        raise HeadError(f"the record in {run.folder} has no usable {wrong[0]}: it was altered; train again")


def _study(run: TrainedRun, store: Store) -> Study:
    about = run.about["cohort"]
    if "outcomes" not in about:
        raise HeadError(f"the run in {run.folder} was written before labels were kept with it: train again")
    key = run.fits(store)
    cases = tuple(Case(case_id, tuple(slides)) for case_id, slides in about["cases"].items())
    labels: tuple[Label, ...] = tuple(
        label_of(case.case_id, about["outcomes"][case.case_id]) for case in cases
    )
    flow = Flow(
        **{**about["flow"], "labels": tuple((name, count) for name, count in about["flow"]["labels"])}
    )
    cohort = Cohort(cases, labels, (), flow, tuple(run.about["classes"]))
    table = LabelTable(str(about["labels"]), cohort.task, (), (), (), cohort.classes)
    packed = bags(store.flat(key), cases)
    return Study(store, store.recipe(key), table, cohort, packed, cohort.target(cohort.task))


def _options(data: Mapping[str, Any]) -> TrainOptions:
    """As recorded; labels are kept as they were learned, so they are not permuted a second time."""
    head = HeadOptions(**{**data["head"], "penalties": tuple(data["head"]["penalties"])})
    given = data["split"]["given"]
    split = SplitOptions(**{**data["split"], "given": Path(given) if given else None})
    return TrainOptions(head, split, data["seed"], data["draws"])


def _inputs(run: TrainedRun, study: Study, options: TrainOptions, splits: list[Split]) -> tuple[Check, ...]:
    about = run.about
    cohort, content = study.cohort.cohort_sha256, content_sha256(study)
    checks = [
        Check(
            "recipe",
            about["recipe"]["key"],
            study.record.recipe.key,
            about["recipe"]["key"] == study.record.recipe.key,
        ),
        _same("cohort", about["cohort"]["sha256"], cohort),
        _same("embeddings", about["embeddings_sha256"], content),
        _same("classes", ", ".join(map(str, about["classes"])), ", ".join(run.classes)),
    ]
    if options.split.given is None:
        made = cohort_splits(study.cohort, with_val(options), options.seed)
        then, now = (str(len(each)) for each in (splits, made))
        checks.append(Check("splits", then, now if made != splits else then, made == splits))
    return tuple(checks)


def _same(what: str, then: str, now: str) -> Check:
    return Check(what, then[:16], now[:16], then == now)


def _own_files(run: TrainedRun, heads: int) -> list[bool]:
    """Of each head whether its weights on the disk are those that its own record names."""
    found = []
    for number in range(heads):
        folder = run.folder / "heads" / str(number)
        try:
            require_regular(folder / SPEC_FILE)
            require_regular(folder / WEIGHTS_FILE)
            said = json.loads((folder / SPEC_FILE).read_bytes())["weights_sha256"]
            found.append(hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest() == said)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HeadError(f"head {number} in {run.folder} cannot be read: {error}") from error
    return found


def _where(run: TrainedRun) -> tuple[Check, ...]:
    """Told, not judged: other versions and machines may give other last digits."""
    pairs = [
        *(
            (f"version of {name}", run.about["versions"].get(name), now)
            for name, now in versions(VERSIONS).items()
        ),
        *((name, run.about["machine"].get(name), now) for name, now in machine().items()),
        *((name, run.about.get("numerics", {}).get(name), now) for name, now in numerics().items()),
    ]
    return tuple(Check(name, str(then), str(now), None) for name, then, now in pairs)


def _trained(
    study: Study, options: TrainOptions, splits: list[Split], progress: Callable[[Progress], None] | None
) -> Training:
    """As ``train`` does, on the recorded splits."""
    place = {case_id: i for i, case_id in enumerate(study.case_ids)}
    train, val, test = (
        [
            np.array([place[case] for case in getattr(split, part) if case in place], np.int64)
            for split in splits
        ]
        for part in ("train", "val", "test")
    )
    heads = fit_many(
        options.head, study.bags, study.target, list(zip(train, val, strict=True)), options.seed, progress
    )
    answers = [ask(head, study.bags, cases) for head, cases in zip(heads, test, strict=True)]
    return Training(study, options, tuple(splits), (), tuple(heads), hold_out(heads, answers, study.target))


def _weights(run: TrainedRun, training: Training) -> list[bool]:
    """Of each head whether its weights are the same bytes."""
    found = []
    with TemporaryDirectory(prefix="beph-store-reproduce-") as folder:
        for number, head in enumerate(training.heads):
            save_head(head, Path(folder, str(number)))
            digests = [
                json.loads((place / str(number) / SPEC_FILE).read_bytes())["weights_sha256"]
                for place in (Path(folder), run.folder / "heads")
            ]
            found.append(digests[0] == digests[1])
    return found


def _furthest(then: pl.DataFrame, now: pl.DataFrame) -> float:
    """Largest difference of a number; infinite where rows, columns or what identifies a row differ."""
    if then.columns != now.columns or then.height != now.height:
        return float("inf")
    worst = 0.0
    for name in then.columns:
        if then[name].dtype.is_float() and now[name].dtype.is_float():
            apart = np.abs(then[name].to_numpy() - now[name].to_numpy())
            worst = max(worst, float(apart.max(initial=0.0)) if np.isfinite(apart).all() else float("inf"))
        elif name != "predicted" and then[name].to_list() != now[name].to_list():
            return float("inf")
    return worst


def _figures(then: Mapping[str, Any], now: Mapping[str, Any]) -> float:
    """Largest difference of an estimate or a bound of its interval."""
    if set(then) != set(now):
        return float("inf")
    worst = 0.0
    for name, said in then.items():
        for part in ("mean", "ci_low", "ci_high"):
            a, b = said.get(part), now[name].get(part)
            if (a is None) != (b is None):
                return float("inf")
            if a is not None and not (np.isnan(a) and np.isnan(b)):
                worst = max(worst, abs(float(a) - float(b)))
    return worst
