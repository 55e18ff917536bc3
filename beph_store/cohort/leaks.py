"""What is wrong with a split that someone hands over: the same slides, or slides of one patient, on two sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from beph_store.cohort.clam_splits import SlideSplit
from beph_store.cohort.ids import SlideIndex, slide_key, tcga_patient
from beph_store.cohort.labels import some

Kind = Literal[
    "val_is_test",
    "slides",
    "cases",
    "train_val_slides",
    "train_val_cases",
    "listed_twice",
    "missing",
    "test_repeated",
]
#: Whether figures on the test set can be believed: no; to some degree; yes.
_SEVERITY: dict[Kind, Literal["error", "warning", "info"]] = {
    "val_is_test": "error",
    "slides": "error",
    "cases": "error",
    "train_val_slides": "warning",
    "train_val_cases": "warning",
    "listed_twice": "warning",
    "missing": "warning",
    "test_repeated": "info",
}


@dataclass(frozen=True, slots=True)
class Leak:
    """One finding about ``split`` (a name, or "all"): ``count`` slides or cases of the last of ``subsets``.

    ``kind``: ``val_is_test`` (the two are one list), ``slides`` (test slides that are also in train or val), ``cases``
    (cases in test and in another subset), ``train_val_slides`` and ``train_val_cases`` (the same of val against train),
    ``listed_twice`` (within one subset), ``missing`` (not in the store), ``test_repeated`` (in the test sets of several
    splits). ``examples`` up to three of them; ``text`` one sentence.
    """

    kind: Kind
    split: str
    subsets: tuple[str, ...]
    count: int
    examples: tuple[str, ...]
    text: str

    @property
    def severity(self) -> Literal["error", "warning", "info"]:
        """``error``: test figures mean nothing; ``warning``: choice of the model or sizes are off; ``info``."""
        return _SEVERITY[self.kind]


def check_splits(
    splits: Sequence[SlideSplit],
    case_of: Mapping[str, str] | None = None,
    slides: Collection[str] | None = None,
) -> tuple[Leak, ...]:
    """Everything wrong with each split, and test slides that several splits share. ``check_split`` has the rest."""
    found = [leak for split in splits for leak in check_split(split, case_of, slides)]
    counts = Counter(key for split in splits for key in {slide_key(slide) for slide in split.test})
    repeated = {key for key, count in counts.items() if count > 1}
    if repeated:
        names = _spelled([slide for split in splits for slide in split.test])
        same = len({frozenset(map(slide_key, split.test)) for split in splits}) == 1
        text = (
            f"all {len(splits)} splits test the same {len(repeated)} slides"
            if same
            else f"{len(repeated)} of {len(counts)} test slides are in the test sets of several splits"
        )
        found.append(_leak("test_repeated", "all", ("test",), [names[key] for key in repeated], text))
    return tuple(found)


def check_split(
    split: SlideSplit, case_of: Mapping[str, str] | None = None, slides: Collection[str] | None = None
) -> tuple[Leak, ...]:
    """What is wrong with one split.

    ``case_of`` slide id → case; where it is silent TCGA barcodes name the patient, and other slides are not
    compared by case.
    ``slides`` of the store; without it nothing is said to be missing. Slides are the same if their folders and names
    without suffix are.
    """
    by_slide = {name: {slide_key(slide) for slide in part} for name, part in split.subsets()}
    names = _spelled([*split.train, *split.val, *split.test])
    twin = bool(by_slide["test"]) and by_slide["val"] == by_slide["test"]
    leaks = _identical(split, by_slide, names) if twin else []
    leaks += _shared_slides(split.name, by_slide, names, twin)
    leaks += _shared_cases(split, case_of, twin)
    for name, part in split.subsets():
        twice = [key for key, count in Counter(map(slide_key, part)).items() if count > 1]
        if twice:
            text = f"{len(twice)} slides are listed more than once in {name}"
            leaks.append(_leak("listed_twice", split.name, (name,), [names[key] for key in twice], text))
    return (*leaks, *(_missing(split, slides) if slides is not None else ()))


def _identical(split: SlideSplit, by_slide: Mapping[str, set[str]], names: Mapping[str, str]) -> list[Leak]:
    count = len(by_slide["test"])
    text = f"val and test are the same {count} slides: what is chosen on val is chosen on test"
    return [_leak("val_is_test", split.name, ("val", "test"), [names[key] for key in by_slide["test"]], text)]


def _shared_slides(
    split: str, by_slide: Mapping[str, set[str]], names: Mapping[str, str], twin: bool
) -> list[Leak]:
    train, val, test = by_slide["train"], by_slide["val"], by_slide["test"]
    leaks = []
    # Where val is test, its slides have been counted: only train can add to that.
    seen = test & (train if twin else train | val)
    if seen:
        where = ("train", "test") if twin else ("train", "val", "test")
        text = f"{len(seen)} of {len(test)} test slides are also in {' or '.join(where[:-1])}"
        text += "" if twin else f" (train {len(test & train)}, val {len(test & val)})"
        leaks.append(_leak("slides", split, where, [names[key] for key in seen], text))
    if train & val and not twin:
        text = f"{len(train & val)} of {len(val)} val slides are also in train"
        leaks.append(
            _leak("train_val_slides", split, ("train", "val"), [names[k] for k in train & val], text)
        )
    return leaks


def _shared_cases(split: SlideSplit, case_of: Mapping[str, str] | None, twin: bool) -> list[Leak]:
    index = SlideIndex(case_of) if case_of is not None else None
    cases: dict[str, set[str]] = {}
    for name, part in split.subsets():
        found = (_cases_of(slide, case_of, index) for slide in part)
        cases[name] = {case for some_cases in found for case in some_cases}
    leaks = []
    for one, other in (("train", "test"), ("val", "test"), ("train", "val")):
        shared = cases[one] & cases[other]
        if not shared or (twin and "val" in (one, other)):
            continue
        kind: Kind = "cases" if other == "test" else "train_val_cases"
        text = f"{len(shared)} of {len(cases[other])} cases of {other} also have slides in {one}"
        leaks.append(_leak(kind, split.name, (one, other), list(shared), text))
    return leaks


def _cases_of(slide: str, case_of: Mapping[str, str] | None, index: SlideIndex | None) -> set[str]:
    known = (
        {case_of[found] for found in index.find(slide)}
        if case_of is not None and index is not None
        else set()
    )
    patient = tcga_patient(slide)
    return known or ({patient} if patient else set())


def _missing(split: SlideSplit, slides: Collection[str]) -> list[Leak]:
    index = SlideIndex(slides)
    leaks = []
    for name, part in split.subsets():
        absent = sorted({slide for slide in part if not index.find(slide)})
        if absent:
            text = f"{len(absent)} of {len(part)} {name} slides are not in the store"
            leaks.append(_leak("missing", split.name, (name,), absent, text))
    return leaks


def _spelled(slides: Sequence[str]) -> dict[str, str]:
    """Key → the slide as it is first written."""
    names: dict[str, str] = {}
    for slide in slides:
        names.setdefault(slide_key(slide), slide)
    return names


def _leak(kind: Kind, split: str, subsets: tuple[str, ...], concerned: Sequence[str], text: str) -> Leak:
    examples = tuple(sorted(concerned)[:3])
    # One example and no "and 2 more": the count has been said.
    return Leak(
        kind, split, subsets, len(concerned), examples, f"{split}: {text}, for example {some(examples[:1])}"
    )
