"""Cross-validated training of a head on a study: every figure from cases that the head has not seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from beph_store.cohort import (
    Cohort,
    Leak,
    check_splits,
    k_fold,
    monte_carlo,
    preserved_site,
    read_slide_splits,
    read_splits,
)
from beph_store.engine.study.data import Study
from beph_store.engine.study.fanned import fit_over
from beph_store.engine.study.outcomes import HeldOut, ask, hold_out
from beph_store.errors import UsageError
from beph_store.heads import Head, HeadOptions, Progress, fit_many, head_row
from beph_store.records import Split, Target

Scheme = Literal["kfold", "monte-carlo", "preserved-site"]


@dataclass(frozen=True, slots=True)
class SplitOptions:
    """How cases are divided. ``folds`` × ``repeats`` for kfold, ``folds`` for preserved-site; monte-carlo makes
    ``repeats`` draws of train and val against one fixed test set of ``test_fraction``. ``repeats`` None is 1, and for
    monte-carlo BEPH's 10. ``given`` reads CLAM-style CSVs instead; a case on two sides of one is refused unless
    ``allow_leaks``, for reproducing published figures.
    ``val_fraction`` None takes none for the linear head, which chooses its penalty by folds of the training part,
    15 % for heads that stop early, and 10 % in monte-carlo, whose draws differ by their val alone. ``train_fraction``
    keeps that share of every training part.
    """

    scheme: Scheme = "kfold"
    folds: int = 5
    repeats: int | None = None
    val_fraction: float | None = None
    test_fraction: float = 0.1
    train_fraction: float = 1.0
    given: Path | None = None
    allow_leaks: bool = False


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """``draws`` bootstrap draws over cases; ``shuffle_labels`` trains on permuted labels: the figures must then
    sit at chance.
    """

    head: HeadOptions = field(default_factory=HeadOptions)
    split: SplitOptions = field(default_factory=SplitOptions)
    seed: int = 0
    draws: int = 1000
    shuffle_labels: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """Heads with what they said of the cases that they had not seen; ``heads[i]`` belongs to ``splits[i]``."""

    study: Study
    options: TrainOptions
    splits: tuple[Split, ...]
    leaks: tuple[Leak, ...]
    heads: tuple[Head, ...]
    held_out: HeldOut

    @property
    def target(self) -> Target:
        """The labels learned."""
        return self.study.target


def train(
    study: Study,
    options: TrainOptions,
    *,
    progress: Callable[[Progress], None] | None = None,
    ray_address: str | None = None,
) -> Training:
    """Fit one head a split and let each predict its test cases; the same seed gives the same figures.

    ``ray_address`` spreads the fits over a Ray cluster, see ``fanned.fit_over``; None computes here.
    Raises CohortError for a split that cannot be made or that puts a case on both sides, HeadError for a head
    that cannot be trained on it.
    """
    if options.shuffle_labels:  # before the splits, or folds would differ in prevalence and bias the control
        study = shuffled(study, options.seed)
    splits = make_splits(study, with_val(options), options.seed)
    place = {case_id: i for i, case_id in enumerate(study.case_ids)}
    parts = [(_index(split.train, place), _index(split.val, place)) for split in splits]
    tests = [_index(split.test, place) for split in splits]
    if ray_address is None:
        heads = fit_many(options.head, study.bags, study.target, parts, options.seed, progress)
        answers = [ask(head, study.bags, test) for head, test in zip(heads, tests, strict=True)]
    else:
        heads, answers = fit_over(ray_address, study, options.head, options.seed, parts, tests, progress)
    said = hold_out(heads, answers, study.target)
    return Training(study, options, tuple(splits), leaks_of(study, options.split), tuple(heads), said)


def with_val(options: TrainOptions) -> SplitOptions:
    """The splits with a share for validation that suits the head and the scheme."""
    if options.split.val_fraction is not None:
        return options.split
    stops_early = head_row(options.head.head).needs_torch
    usual = 0.1 if options.split.scheme == "monte-carlo" else 0.15 if stops_early else 0.0
    return dataclasses.replace(options.split, val_fraction=usual)


def make_splits(study: Study, options: SplitOptions, seed: int) -> list[Split]:
    """The divisions of the study's cases that the options ask for; UsageError where they contradict each other."""
    return cohort_splits(study.cohort, options, seed)


def cohort_splits(cohort: Cohort, options: SplitOptions, seed: int) -> list[Split]:
    """``make_splits`` of a cohort whose embeddings are not at hand."""
    if options.given is not None:
        _check_given(options)
        return read_splits(options.given, cohort.case_of, options.allow_leaks)
    common: dict[str, Any] = {"val_fraction": options.val_fraction or 0.0, "seed": seed}
    if options.scheme == "kfold":
        repeats = 1 if options.repeats is None else options.repeats
        return k_fold(cohort, options.folds, repeats, train_fraction=options.train_fraction, **common)
    if options.scheme == "monte-carlo":
        return monte_carlo(
            cohort,
            10 if options.repeats is None else options.repeats,
            test_fraction=options.test_fraction,
            train_fraction=options.train_fraction,
            **common,
        )
    return preserved_site(cohort, options.folds, train_fraction=options.train_fraction, **common)


def _check_given(options: SplitOptions) -> None:
    """Splits that are handed over are used as they are: what would change them is not passed over in silence."""
    usual = SplitOptions()
    for name in ("scheme", "repeats", "train_fraction"):
        if getattr(options, name) != getattr(usual, name):
            flag = "--" + name.replace("_", "-")
            raise UsageError(
                f"{flag} cannot change splits that are handed over: leave out {flag} or --splits"
            )


def leaks_of(study: Study, options: SplitOptions) -> tuple[Leak, ...]:
    """What is wrong with splits that were handed over; ours are by case."""
    if options.given is None:
        return ()
    case_of = study.cohort.case_of
    return check_splits(read_slide_splits(options.given), case_of, case_of.keys())


def shuffled(study: Study, seed: int) -> Study:
    """The same labels on other cases."""
    order = np.random.default_rng([seed, 0x5F]).permutation(len(study.case_ids))
    pairs = zip(study.cohort.cases, order, strict=True)
    labels = tuple(dataclasses.replace(study.cohort.labels[i], case_id=case.case_id) for case, i in pairs)
    cohort = dataclasses.replace(study.cohort, labels=labels)
    return dataclasses.replace(study, cohort=cohort, target=cohort.target(cohort.task))


def _index(case_ids: Sequence[str], place: dict[str, int]) -> NDArray[np.int64]:
    return np.array([place[case_id] for case_id in case_ids if case_id in place], np.int64)
