"""The report's figures: plain arrays in, an SVG element out, nothing fetched, the same bytes twice."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

F64 = NDArray[np.float64]

#: Okabe and Ito's colours, which every common kind of colour vision tells apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
GREY = "#8a8f98"
#: What all plots look like.
STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "legend.frameon": False,
    "legend.fontsize": 9,
}
_SVG = {**STYLE, "svg.fonttype": "none", "svg.hashsalt": "beph-store"}


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One curve: ``x``, ``y`` (n,) and what the legend calls it."""

    name: str
    x: F64
    y: F64


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """One Kaplan–Meier curve: survival ``alive`` (n,) from each of ``days`` (n,) on, censored at ``marks`` days."""

    name: str
    days: F64
    alive: F64
    marks: F64
    at_risk: Sequence[int]


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """A metric by the share of the training data: ``x`` per cent, ``mean`` and ``sd`` over draws, (n,) each."""

    name: str
    x: F64
    mean: F64
    sd: F64


def roc(lines: Sequence[Line]) -> str:
    """True against false positive rate."""
    with mpl.rc_context(_SVG):
        figure, axes = _square()
        axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls=":")
        _curves(axes, lines)
        axes.set(xlabel="1 − specificity", ylabel="sensitivity", title="ROC, cases held out")
        axes.legend(loc="lower right")
        return _svg(figure)


def precision_recall(lines: Sequence[Line], prevalence: Sequence[float]) -> str:
    """Precision against recall; the dotted lines are what chance reaches."""
    with mpl.rc_context(_SVG):
        figure, axes = _square()
        for number, share in enumerate(prevalence):
            axes.axhline(share, color=COLOURS[number % len(COLOURS)], lw=0.8, ls=":")
        _curves(axes, lines)
        axes.set(xlabel="recall", ylabel="precision", title="Precision and recall, cases held out")
        axes.legend(loc="lower left")
        return _svg(figure)


def confusion(counts: NDArray[np.int64], classes: Sequence[str]) -> str:
    """(K, K) counts, rows the truth, columns the prediction, shaded by share of the row."""
    side = 2.2 + 0.62 * len(classes)
    with mpl.rc_context({**_SVG, "axes.spines.left": False, "axes.spines.bottom": False}):
        figure = Figure(figsize=(side, side))
        axes = figure.add_subplot()
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            ink = "white" if share[row, column] > 0.55 else "#222222"
            axes.text(column, row, f"{count}\n{share[row, column]:.0%}", ha="center", va="center", color=ink)
        places = range(len(classes))
        axes.set_xticks(places, classes, rotation=30, ha="right")
        axes.set_yticks(places, classes)
        axes.tick_params(length=0)
        axes.set(xlabel="predicted", ylabel="truth", title="Confusion, cases held out")
        return _svg(figure)


def survival(groups: Sequence[Steps], note: str, ticks: F64) -> str:
    """Kaplan–Meier curves with the number at risk at each of ``ticks`` days under them."""
    with mpl.rc_context(_SVG):
        figure = Figure(figsize=(6.4, 4.6))
        axes, table = figure.subplots(2, 1, height_ratios=(5, 0.35 * len(groups) + 0.2), sharex=True)
        for group, colour in zip(groups, COLOURS, strict=False):
            axes.step(group.days, group.alive, where="post", color=colour, lw=1.8, label=group.name)
            level = group.alive[np.searchsorted(group.days, group.marks, side="right") - 1]
            axes.plot(group.marks, level, "|", color=colour, ms=6)
        axes.set(
            ylim=(0, 1.03), ylabel="alive", title=f"Kaplan–Meier by predicted risk, cases held out; {note}"
        )
        axes.legend(loc="lower left")
        _at_risk(table, groups, ticks)
        return _svg(figure)


def round_ticks(last: float) -> F64:
    """About six round numbers from 0 to ``last`` > 0."""
    ticks = np.asarray(MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(0, last), np.float64)
    return ticks[(ticks >= 0) & (ticks <= last)]


def _at_risk(table: Any, groups: Sequence[Steps], ticks: F64) -> None:
    table.set_ylim(len(groups) - 0.5, -0.5)
    for row, (group, colour) in enumerate(zip(groups, COLOURS, strict=False)):
        for day, count in zip(ticks, group.at_risk, strict=True):
            table.text(day, row, str(count), ha="center", va="center", color=colour, fontsize=9)
    table.set_yticks(range(len(groups)), [group.name for group in groups])
    table.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    table.tick_params(axis="y", length=0)
    for spine in table.spines.values():
        spine.set_visible(False)
    table.set(xlabel="days; below the curves the number at risk")


def folds(names: Sequence[str], values: Sequence[F64], means: Sequence[tuple[float, float, float]]) -> str:
    """Each metric's value in every fold, with the pooled estimate and its interval."""
    with mpl.rc_context(_SVG):
        figure = Figure(figsize=(6.4, 0.9 + 0.42 * len(names)))
        axes = figure.add_subplot()
        for row, (value, (mean, low, high)) in enumerate(zip(values, means, strict=True)):
            spread = np.linspace(-0.12, 0.12, len(value)) if len(value) > 1 else np.zeros(len(value))
            axes.plot(value, row + spread, "o", ms=4, color=GREY, alpha=0.8)
            axes.plot([low, high], [row, row], color=COLOURS[0], lw=2.2)
            axes.plot(mean, row, "D", ms=6, color=COLOURS[0])
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(axis="x", color="#e4e6ea")
        axes.set(title="Folds (dots), estimate and 95 % interval over cases")
        return _svg(figure)


def history(
    lines: Sequence[Line], what: str, *, over: str = "epoch", title: str | None = None, each: str = "fold"
) -> str:
    """A loss by epoch, one line a fold; or another figure ``over`` something else, one line ``each``."""
    with mpl.rc_context(_SVG):
        figure = Figure(figsize=(6.4, 3.0))
        axes = figure.add_subplot()
        for number, line in enumerate(lines):
            axes.plot(
                line.x, line.y, lw=1.2, color=COLOURS[number % len(COLOURS)], alpha=0.9, label=line.name
            )
        axes.set(xlabel=over, ylabel=what, title=title or f"{what} by {over}, one line a {each}")
        if len(lines) <= 8:
            axes.legend(loc="upper right", ncols=2)
        return _svg(figure)


def shares(lines: Sequence[Share], what: str) -> str:
    """A metric by the share of the training data, one line each, bars of one standard deviation."""
    with mpl.rc_context(_SVG):
        figure = Figure(figsize=(6.4, 3.8))
        axes = figure.add_subplot()
        apart = np.linspace(-0.6, 0.6, len(lines)) if len(lines) > 1 else np.zeros(len(lines))
        for number, line in enumerate(lines):
            colour = COLOURS[number % len(COLOURS)]
            x = line.x + apart[number]  # so that bars do not hide each other
            axes.errorbar(
                x, line.mean, line.sd, fmt="o-", ms=5, lw=1.6, capsize=3, color=colour, label=line.name
            )
        axes.set_xticks(sorted({float(x) for line in lines for x in line.x}))
        axes.set(
            xlabel="training data, per cent",
            ylabel=what,
            title=f"{what}, mean and standard deviation of draws",
        )
        axes.grid(axis="y", color="#e4e6ea")
        axes.legend(loc="best")
        return _svg(figure)


def differences(names: Sequence[str], values: Sequence[tuple[float, float, float]]) -> str:
    """Paired differences with their intervals; zero is no difference."""
    with mpl.rc_context(_SVG):
        figure = Figure(figsize=(6.4, 0.9 + 0.4 * len(names)))
        axes = figure.add_subplot()
        axes.axvline(0, color=GREY, lw=1)
        for row, (value, low, high) in enumerate(values):
            sure = low > 0 or high < 0
            axes.plot([low, high], [row, row], color=COLOURS[0] if sure else GREY, lw=2.2)
            axes.plot(value, row, "D", ms=6, color=COLOURS[0] if sure else GREY)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(axis="x", color="#e4e6ea")
        axes.set(title="Difference and 95 % interval, the same cases resampled on both sides")
        return _svg(figure)


def _square() -> tuple[Figure, Any]:
    figure = Figure(figsize=(4.6, 4.4))
    axes = figure.add_subplot()
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.03))
    return figure, axes


def _curves(axes: Any, lines: Sequence[Line]) -> None:
    for number, line in enumerate(lines):
        axes.plot(line.x, line.y, color=COLOURS[number % len(COLOURS)], lw=1.8, label=line.name)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
