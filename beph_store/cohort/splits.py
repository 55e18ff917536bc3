"""Dividing a cohort by case, so that no patient is on two sides.

``val_fraction`` is a share of what is not test; ``train_fraction`` keeps that share of train and of val and leaves
test as it is, and for one seed the smaller shares lie inside the larger ones. The same seed gives the same splits
on every machine, whatever the order of the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beph_store.cohort.ids import tcga_site
from beph_store.cohort.join import Cohort
from beph_store.cohort.labels import some
from beph_store.cohort.strata import Cases, Strata, carve, deal, generator, place, shrink, strata_of
from beph_store.errors import CohortError
from beph_store.records import Split


def k_fold(
    cohort: Cohort,
    folds: int,
    repeats: int = 1,
    val_fraction: float = 0.15,
    seed: int = 0,
    train_fraction: float = 1.0,
) -> list[Split]:
    """Cross-validation: in each repeat every case is in exactly one test fold.

    Stratified by class, or by event and tertile of the time where there are enough cases. ``folds * repeats`` splits.

    Raises:
        CohortError: a class, or the events, have fewer cases than folds, or an argument cannot be meant.
    """
    _check_arguments(seed, val_fraction, train_fraction)
    if repeats < 1:
        raise CohortError(f"{repeats} repeats: pass at least 1")
    strata = strata_of(cohort, folds)
    _check_folds(strata, folds)
    splits = []
    for repeat in range(repeats):
        fold_of = deal(strata, folds, generator(seed, repeat))
        for fold in range(folds):
            draw = _Draw(cohort, strata, val_fraction, train_fraction, (seed, repeat, fold))
            name = f"fold-{fold}" if repeats == 1 else f"repeat-{repeat}-fold-{fold}"
            splits.append(draw.split(name, np.flatnonzero(fold_of == fold)))
    return splits


def monte_carlo(
    cohort: Cohort,
    draws: int = 10,
    test_fraction: float = 0.1,
    val_fraction: float = 0.1,
    seed: int = 0,
    train_fraction: float = 1.0,
    test: Sequence[str] | None = None,
) -> list[Split]:
    """Several draws of train and val against one fixed test set, as in BEPH's subtyping.

    ``test``: the case ids of the fixed test set; without it, a stratified draw of ``test_fraction`` that depends on
    the seed only. The defaults give the sizes of BEPH's splits: 81, 9 and 10 % of the cases.

    Raises:
        CohortError: unknown test cases, too few cases of a class, or an argument cannot be meant.
    """
    _check_arguments(seed, val_fraction, train_fraction)
    if draws < 1:
        raise CohortError(f"{draws} draws: pass at least 1")
    strata = strata_of(cohort, 3)
    everyone = np.arange(len(cohort), dtype=np.int64)
    if test is None:
        if not 0 < test_fraction < 1:
            raise CohortError(f"a test fraction of {test_fraction}: pass a share above 0 and below 1")
        _check_groups(strata, everyone, 3, "for train, val and test: leave small classes out with --classes")
        fixed = carve(everyone, strata, test_fraction, generator(seed))[1]
    else:
        fixed = _positions(cohort, test)
        _check_groups(strata, np.setdiff1d(everyone, fixed), 1, "outside the test set: pass a smaller one")
    drawn = (_Draw(cohort, strata, val_fraction, train_fraction, (seed, draw)) for draw in range(draws))
    return [draw.split(f"draw-{number}", fixed) for number, draw in enumerate(drawn)]


def preserved_site(
    cohort: Cohort,
    folds: int,
    site_of: Mapping[str, str] | None = None,
    val_fraction: float = 0.15,
    seed: int = 0,
    train_fraction: float = 1.0,
) -> list[Split]:
    """Cross-validation where no site is in two test folds (Howard et al., Nature Communications 2021).

    ``site_of`` case id → site; without it the tissue source site of the TCGA barcode. Sites are placed greedily, the
    largest first, where they disturb the balance of classes or events least. Val is drawn by case from the sites
    of train, so it is not a test on new sites.

    Raises:
        CohortError: a case without a site, fewer sites than folds, or a fold that would miss a class or any event.
    """
    _check_arguments(seed, val_fraction, train_fraction)
    strata = strata_of(cohort, folds)
    _check_folds(strata, folds)
    sites = _sites(cohort, site_of)
    names = sorted(set(sites))
    if len(names) < folds:
        raise CohortError(f"{len(names)} sites, fewer than {folds} folds: pass --folds {max(2, len(names))}")
    number = {name: i for i, name in enumerate(names)}
    fold_of = _place(np.array([number[site] for site in sites]), strata, folds, generator(seed))
    for group in strata.needed:
        lacking = [fold for fold in range(folds) if not (strata.core[fold_of == fold] == group).any()]
        if lacking:
            raise CohortError(
                f"fold {lacking[0]} would hold no {strata.names[group]!r}: whole sites cannot be spread over {folds} "
                "folds; pass fewer --folds"
            )
    draws = (_Draw(cohort, strata, val_fraction, train_fraction, (seed, 0, fold)) for fold in range(folds))
    return [draw.split(f"site-fold-{i}", np.flatnonzero(fold_of == i)) for i, draw in enumerate(draws)]


@dataclass(frozen=True, slots=True, eq=False)
class _Draw:
    """Train and val of one split: everything but its test set."""

    cohort: Cohort
    strata: Strata
    val_fraction: float
    train_fraction: float
    seed: tuple[int, ...]

    def split(self, name: str, test: Cases) -> Split:
        rest = np.setdiff1d(np.arange(len(self.cohort), dtype=np.int64), test)
        train, val = carve(rest, self.strata, self.val_fraction, generator(*self.seed, 1))
        if self.train_fraction < 1:
            train = shrink(train, self.strata, self.train_fraction, generator(*self.seed, 2))
            val = shrink(val, self.strata, self.train_fraction, generator(*self.seed, 3))
        train_ids, val_ids, test_ids = (
            tuple(self.cohort.cases[i].case_id for i in part) for part in (train, val, test)
        )
        return Split(name, train_ids, val_ids, test_ids)


def _check_arguments(seed: int, val_fraction: float, train_fraction: float) -> None:
    if seed < 0:
        raise CohortError(f"a seed of {seed}: pass a whole number from 0 up")
    if not 0 <= val_fraction < 1:
        raise CohortError(f"a val fraction of {val_fraction}: pass a share from 0 to below 1")
    if not 0 < train_fraction <= 1:
        raise CohortError(f"a train fraction of {train_fraction}: pass a share above 0, at most 1")


def _check_folds(strata: Strata, folds: int) -> None:
    if folds < 2:
        raise CohortError(f"{folds} folds: pass at least 2")
    fewest = min(int((strata.core == group).sum()) for group in strata.needed)
    cure = (
        f"for {folds} folds: pass --folds {fewest}"
        if fewest >= 2
        else "for folds: add cases, or leave the class out with --classes"
    )
    _check_groups(strata, np.arange(len(strata.core), dtype=np.int64), folds, cure)


def _check_groups(strata: Strata, members: Cases, least: int, cure: str) -> None:
    """Each group that is needed has at least ``least`` cases among the members."""
    counts = {group: int((strata.core[members] == group).sum()) for group in strata.needed}
    for group, count in sorted(counts.items(), key=lambda pair: pair[1]):
        if count < least:
            what = strata.names[group]
            name = (
                "cases with an event"
                if what == "event" and len(strata.needed) == 1
                else f"cases of class {what!r}"
            )
            raise CohortError(f"{count} {name}, too few {cure}")


def _positions(cohort: Cohort, test: Sequence[str]) -> Cases:
    where = {case: i for i, case in enumerate(cohort.case_ids)}
    unknown = sorted(set(test) - set(where))
    if unknown or not test:
        raise CohortError(
            f"{len(unknown)} test cases are not in the cohort ({some(unknown)}): leave them out of the test set"
            if unknown
            else "the fixed test set is empty: name its cases, or pass a test fraction"
        )
    return np.array(sorted({where[case] for case in test}), dtype=np.int64)


def _sites(cohort: Cohort, site_of: Mapping[str, str] | None) -> list[str]:
    found = [(site_of.get(case) if site_of is not None else tcga_site(case)) for case in cohort.case_ids]
    without = [case for case, site in zip(cohort.case_ids, found, strict=True) if not site]
    if without:
        how = "in the sites given" if site_of is not None else "(no TCGA barcode)"
        raise CohortError(
            f"{len(without)} cases have no site {how}, for example {some(without)}: use --scheme kfold, or give their "
            "sites in Python (site_of)"
        )
    return [site for site in found if site]


def _place(site: NDArray[np.int64], strata: Strata, folds: int, rng: np.random.Generator) -> Cases:
    """(n,) int64: the fold of each case, whole sites together."""
    counts = np.zeros((int(site.max()) + 1, len(strata.names)), dtype=np.int64)
    np.add.at(counts, (site, strata.core), 1)
    return place(counts, folds, rng)[site]
