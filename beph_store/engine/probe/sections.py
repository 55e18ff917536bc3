"""The parts of a page on recognising tiles that the probe and fine-tuning share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from beph_store.cohort import count_reasons
from beph_store.engine.probe.tiles import LabelledTiles
from beph_store.engine.study import figures
from beph_store.engine.study.page import Html, cards, folded, note, section, table
from beph_store.engine.study.page import figures as pictures
from beph_store.metrics import Estimate

TITLES = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy of tiles",
    "auroc": "AUROC",
    "f1_macro": "F1, macro",
    "f1_weighted": "F1, weighted",
    "patient_accuracy": "accuracy of patients",
    "log_loss": "log loss",
}


class FoldFigures(Protocol):
    """One test fold."""

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """Of its tiles alone."""
        ...


class Judged(Protocol):
    """Tiles, and how what was said of them compares with what they are."""

    @property
    def tiles(self) -> LabelledTiles:
        """Those that were held out."""
        ...

    @property
    def metrics(self) -> dict[str, Estimate]:
        """With intervals."""
        ...

    @property
    def groups(self) -> dict[str, dict[str, Estimate]]:
        """Of each group, where there are several."""
        ...

    @property
    def spread(self) -> dict[str, float]:
        """Standard deviation over the groups."""
        ...

    @property
    def folds(self) -> Sequence[FoldFigures]:
        """One by one."""
        ...

    @property
    def confusion(self) -> NDArray[np.int64]:
        """(K, K), rows the truth."""
        ...


def title(name: str, tiles: LabelledTiles) -> str:
    """What a metric is called here: without patients its mean is over cases."""
    if name == "patient_accuracy" and not tiles.by_patient:
        return "accuracy of cases"
    return TITLES.get(name, name)


def headline(result: Judged, names: Sequence[str], docs: str) -> Html:
    """The figures to look at first, ``names`` of the metrics, and folded away all others."""
    shown = [(name, result.metrics[name]) for name in names]
    others = [(name, one) for name, one in result.metrics.items() if name not in names]
    drawn = [(name, one) for name, one in shown if not np.isnan(one.value)]
    values = [
        np.array([f.metrics[name] for f in result.folds if f.metrics[name] is not None], float)
        for name, _ in drawn
    ]
    picture = figures.folds(
        [title(name, result.tiles) for name, _ in drawn],
        values,
        [(one.value, one.ci_low, one.ci_high) for _, one in drawn],
    )
    mean = "the mean over the groups" if result.groups else "computed from all held-out tiles together"
    return section(
        "On cases that were not learned from",
        cards((number(one.value), title(name, result.tiles), f"95 % {span(one)}") for name, one in shown[:4]),
        pictures(picture),
        folded("all metrics", _estimates(result, [*shown, *others])),
        note(
            f"The diamond is {mean}; its interval resamples cases, all tiles of a case together. "
            f"docs/metrics.md defines each figure, {docs} the protocol."
        ),
    )


def by_group(result: Judged, names: Sequence[str], caption: str) -> Html | None:
    """One row a group, their mean and spread; None where there are no groups."""
    if not result.groups:
        return None
    columns = ("group", "#tiles", *(f"#{title(name, result.tiles)}" for name in names))
    rows = [
        (
            name,
            int((result.tiles.group == i).sum()),
            *(f"{number(found[m].value)} ({span(found[m])})" for m in names),
        )
        for i, name in enumerate(result.tiles.groups)
        if (found := result.groups.get(name)) is not None
    ]
    rows.append(("mean", len(result.tiles), *(number(result.metrics[m].value) for m in names)))
    rows.append(("standard deviation", "", *(number(result.spread[m]) for m in names)))
    return section("By group", table(columns, rows, caption=caption))


def confusion(result: Judged, what: str) -> Html:
    """Which class was taken for which."""
    return section(
        "Confusion", pictures(figures.confusion(result.confusion, result.tiles.classes)), note(what)
    )


def made_with(tiles: LabelledTiles) -> Html:
    """Classes and their cases, what was left out and why, and what the tiles are."""
    dropped = count_reasons(tiles.dropped)
    cases = [
        (name, int((tiles.truth == k).sum()), len(np.unique(tiles.case[tiles.truth == k])))
        for k, name in enumerate(tiles.classes)
    ]
    listed = [(one.row, one.id, one.reason, one.detail) for one in tiles.dropped[:500]]
    about = [(name, str(value)) for name, value in tiles.about.items()]
    return section(
        "What it was made with",
        table(("class", "#tiles", "#cases that hold it"), cases),
        table(("left out because", "#count"), dropped.items()) if dropped else note("Nothing was left out."),
        folded("each one left out", table(("#row", "id", "reason", "detail"), listed))
        if listed
        else Html(""),
        table(("", ""), about),
    )


def number(value: float) -> str:
    """Three digits, a dash for what is undefined."""
    return "–" if np.isnan(value) else f"{value:.3f}"


def span(one: Estimate) -> str:
    """The interval."""
    return f"{number(one.ci_low)} – {number(one.ci_high)}"


def _estimates(result: Judged, items: Iterable[tuple[str, Estimate]]) -> Html:
    rows = [(title(name, result.tiles), number(e.value), span(e), e.undefined) for name, e in items]
    return table(("metric", "#value", "#95 % interval", "#draws left out"), rows)
