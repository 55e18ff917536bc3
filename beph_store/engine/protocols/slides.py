"""Subtyping and survival: ingest → heads → comparisons, at every share of the training data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from beph_store.cohort import check_splits, count_reasons
from beph_store.engine.protocols import splits as handed
from beph_store.engine.protocols.ingesting import ingest_all
from beph_store.engine.protocols.keeping import keep
from beph_store.engine.protocols.options import Job, Tell
from beph_store.engine.protocols.results import (
    Comparison,
    Data,
    Outcome,
    Result,
    compared,
    difference,
    few_tested,
)
from beph_store.engine.protocols.studies import (
    check_classes,
    counts_of,
    in_common,
    ingest_ids,
    load_all,
)
from beph_store.engine.protocols.subjects import Subject, resolve, warnings_of
from beph_store.engine.study.compare import compare
from beph_store.engine.study.data import Study
from beph_store.engine.study.evaluate import HEADLINES
from beph_store.engine.study.run import TrainReport, metrics_json, train_to
from beph_store.engine.study.train import SplitOptions, Training, TrainOptions
from beph_store.errors import HeadError, MissingExtra
from beph_store.heads import HeadOptions, Progress
from beph_store.records import ClassTarget
from beph_store.store import Store

#: Most epochs that a bar counts with where none are named.
_EPOCHS = {"classify": 20, "survive": 60}


def run(job: Job, tell: Tell) -> Outcome:
    """The whole protocol; CohortError for a cohort that is too small or splits that leak."""
    subjects: Sequence[Subject] = resolve(job, tell)
    broken: tuple[str, ...] = ()
    place = job.options.store or job.out / "store"
    if job.options.slides is not None:
        subjects, broken = ingest_all(job, place, subjects, tell)
    if not any(subject.ok for subject in subjects):
        return Outcome(job, tuple(subjects), Data({}, {}, broken=broken), (), ())
    subjects, studies = load_all(job, Store.open(place), subjects, tell)
    case_of = {s: c for study in studies.values() for s, c in study.cohort.case_of.items()}
    studies = in_common(studies, by_slide=job.options.as_published)
    one = next(iter(studies.values()))
    check_classes(job.protocol, one)
    shares = {share: _splits(job, share, case_of) for share in job.fractions}
    results: list[Result] = []
    comparisons: list[Comparison] = []
    errors: dict[str, str] = {}
    for share, (split, *_) in shares.items():
        found, wrong = _share(job, subjects, studies, (share, split), tell)
        results += found
        comparisons += _against_first(job, subjects, found)
        errors = wrong | errors
    subjects = [one.failed(errors[one.name]) if one.name in errors else one for one in subjects]
    leaks = tuple(f"p{share}: {text}" for share, (_, texts, _) in shares.items() for text in texts)
    notes = [*warnings_of(job, subjects), *_notes(job, studies)]
    notes += [f"Splits, p{share}: {text}." for share, (*_, texts) in shares.items() for text in texts]
    notes += few_tested(results)
    notes += list(dict.fromkeys(text for study in studies.values() for text in _seen(study)))
    data = Data(counts_of(one), count_reasons(one.cohort.dropped), leaks, broken, tuple(notes))
    return Outcome(job, tuple(subjects), data, tuple(results), tuple(comparisons))


def _splits(job: Job, share: int, case_of: Mapping[str, str]) -> tuple[SplitOptions, list[str], list[str]]:
    """How the cases are divided at a share, what leaks in that division, and what it names that is not there."""
    if job.options.splits is None:
        split = SplitOptions(job.protocol.scheme, job.folds, repeats=job.draws, train_fraction=share / 100)
        return split, [], []
    folder, slides = handed.take(job, share)
    found = check_splits(slides, case_of, case_of.keys())
    if not job.options.as_published:
        handed.refuse_leaks(found)
    split = SplitOptions(given=folder, allow_leaks=job.options.as_published)
    return split, handed.told(found), handed.absent(found)


def _notes(job: Job, studies: Mapping[str, Study]) -> list[str]:
    recipes = [study.record.recipe for study in studies.values()]
    specs = {recipe.tile for recipe in recipes if recipe.encoder.variant != "imported"}
    grids = {f"{spec.tile_px * spec.mpp:g} µm every {spec.stride_px * spec.mpp:g} µm" for spec in specs}
    found = []
    if len(grids) > 1:
        found.append(
            f"The encoders saw different tiles ({'; '.join(sorted(grids))}): so not they alone differ."
        )
    if not job.options.as_published:
        return found
    return [
        *found,
        "As published: the authors' splits divide slides, so each slide is a case of its own here, intervals resample "
        "slides, and patients may lie on both sides. These figures are for reproducing theirs; those of splits by "
        "case (without --as-published) are the ones to believe.",
    ]


def _seen(study: Study) -> list[str]:
    from beph_store.engine.study.wording import seen_by

    return seen_by(study.record.recipe.encoder.name, study.case_ids)


def _share(
    job: Job,
    subjects: Sequence[Subject],
    studies: Mapping[str, Study],
    at: tuple[int, SplitOptions],
    tell: Tell,
) -> tuple[list[Result], dict[str, str]]:
    """Every encoder at one share, and why a head could not be trained, by the encoder's name."""
    results, errors = [], {}
    for subject in subjects:
        if not subject.ok:
            continue
        try:
            results.append(_one(job, subject, studies[subject.name], at, tell))
        except HeadError as error:
            errors[subject.name] = f"{at[0]} % of the training data: {error}"
        except MissingExtra as error:
            errors[subject.name] = str(error)
    return results, errors


def _one(job: Job, subject: Subject, study: Study, at: tuple[int, SplitOptions], tell: Tell) -> Result:
    share, split = at
    folder = job.out / "results" / subject.slug / f"p{share}"
    options = TrainOptions(_head(job), split, job.options.seed, job.options.bootstrap)
    what = f"training on {subject.name}, {share} %"

    def moved(progress: Progress) -> None:
        most = options.head.epochs or _EPOCHS[job.protocol.task]
        inside = most if progress.epoch is None else min(progress.epoch.number, most - 1)
        tell(what, progress.split * most + inside, progress.splits * most)

    def make() -> dict[str, Any]:
        return _figures(job, train_to(folder, study, options, progress=moved))

    path = folder.with_suffix(".json")
    if not (folder / "train.json").is_file():
        path.unlink(missing_ok=True)  # figures without the heads that they are of
    value, again = keep(path, _key(study, options), make)
    return Result(
        subject.name,
        share,
        value["metrics"],
        value["parts"],
        value["over"],
        value["cases"],
        value["tested"],
        str(folder.relative_to(job.out)),
        again,
    )


def _head(job: Job) -> HeadOptions:
    """CLAM-SB as BEPH configured it: 20 epochs of single slides with classes drawn alike, or Cox's loss."""
    if job.protocol.task == "survive":
        return HeadOptions(head="clam", loss="cox", epochs=job.options.epochs)
    return HeadOptions(head="clam", epochs=job.options.epochs, patience=20, balanced=True)


def _figures(job: Job, report: TrainReport) -> dict[str, Any]:
    folds = report.evaluation.folds
    parts = {
        name: [value for fold in folds if (value := fold.get(name)) is not None]
        for name in HEADLINES[job.protocol.task]
    }
    kind = "draws" if job.protocol.scheme == "monte-carlo" else "folds"
    return {
        "metrics": metrics_json(report.evaluation),
        "parts": {name: values for name, values in parts.items() if values},
        "over": f"{len(folds)} {kind}",
        "cases": len(report.training.study.case_ids),
        "tested": _tested(report.training),
    }


def _tested(training: Training) -> dict[str, int]:
    """The fewest cases of each class, or with an event, that any split tests."""
    target, place = training.target, {case: i for i, case in enumerate(training.study.case_ids)}
    tests = [[place[case] for case in split.test if case in place] for split in training.splits]
    if isinstance(target, ClassTarget):
        counts = [np.bincount(target.index[test], minlength=len(target.classes)) for test in tests]
        return dict(zip(target.classes, np.min(counts, axis=0).tolist(), strict=True))
    return {"event": min(int(target.event[test].sum()) for test in tests)}


def _key(study: Study, options: TrainOptions) -> dict[str, Any]:
    """All that the figures depend on."""
    given = options.split.given
    files = sorted(given.glob("splits_*.csv")) if given is not None else []
    plain = dataclasses.asdict(
        dataclasses.replace(options, split=dataclasses.replace(options.split, given=None))
    )
    return {
        "recipe": study.record.recipe.key,
        "cohort": study.cohort.cohort_sha256,
        "vectors": ingest_ids(study),
        "options": plain,
        "splits": [file.read_text(encoding="utf-8") for file in files],
    }


def _against_first(job: Job, subjects: Sequence[Subject], found: Sequence[Result]) -> list[Comparison]:
    """The first encoder that is no baseline against each other one, on the same cases of the same splits."""
    by_name = {result.encoder: result for result in found}
    ran = [subject for subject in subjects if subject.name in by_name]
    first = next((subject for subject in ran if not subject.role), None)
    if first is None:
        return []
    others = (subject for subject in ran if subject is not first)
    return [_compared(job, first, subject, by_name) for subject in others]


def _compared(job: Job, first: Subject, other: Subject, by_name: Mapping[str, Result]) -> Comparison:
    one, two = by_name[first.name], by_name[other.name]
    folders = [job.out / one.folder, job.out / two.folder]
    path = folders[0].with_name(f"p{one.fraction}-{other.slug}.json")
    key = [_written(folder) for folder in folders] + [job.options.seed, job.options.bootstrap]
    value, _ = keep(path, key, partial(_difference, job, folders))
    return compared(job, other, first.name, one.fraction, difference(value))


def _written(folder: Path) -> str:
    """When a training was written: a new one has another time."""
    return (folder / "train.json").read_text(encoding="utf-8")


def _difference(job: Job, folders: Sequence[Path]) -> dict[str, Any]:
    found = compare(folders, draws=job.options.bootstrap, seed=job.options.seed)
    return found.differences[0][job.protocol.headline[0]].to_json()
