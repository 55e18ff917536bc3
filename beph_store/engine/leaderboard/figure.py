"""The one plot, as a PNG: what each encoder reaches, from how few cases, what perturbation costs it, its speed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from beph_store.engine.leaderboard.columns import K, title_of
from beph_store.engine.leaderboard.perturb import perturbations
from beph_store.engine.leaderboard.run import Leaderboard, Row
from beph_store.engine.study.figures import COLOURS, GREY, STYLE

_MARKS = "osD^vPX*"
_LINE = "#e4e6ea"


def picture(board: Leaderboard) -> bytes:
    """The plot as PNG; an encoder has one colour and one mark in all panels."""
    looks = {row.entrant.name: look for row, look in zip(board.rows, _looks(len(board.rows)), strict=True)}
    tall = 1.5 + 0.34 * len(board.rows)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(13.5, max(2.9, tall) + 4.2), layout="constrained")
        spec = figure.add_gridspec(2, 1, height_ratios=(max(2.9, tall), 4.2))
        above, below = (figure.add_subfigure(spec[i]) for i in range(2))
        panels = above.subplots(1, 4, sharey=True)
        for axes, (key, title) in zip(panels, _DOTS, strict=True):
            _dots(axes, board.rows, looks, key, title)
        panels[0].set_yticks(range(len(board.rows)), [_named(row, board) for row in board.rows])
        panels[0].set_ylim(len(board.rows) - 0.5, -0.5)
        shots, loss, speed = below.subplots(1, 3, width_ratios=(1, 1.25, 1))
        _few(shots, board, looks)
        _losses(loss, board, looks)
        _speeds(speed, board, looks)
        below.legend(handles=_legend(board, looks), loc="outside lower center", ncols=min(6, len(board.rows)))
        figure.suptitle(_subtitle(board), x=0.01, ha="left", fontsize=11)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130, facecolor="white", metadata={"Software": None})
        return buffer.getvalue()


_DOTS = (
    ("linear.balanced_accuracy", "linear probe,\nbalanced accuracy"),
    ("linear.auroc", "linear probe,\nAUROC"),
    ("knn.balanced_accuracy", "k nearest neighbours,\nbalanced accuracy"),
    (f"retrieval.map{K}", f"retrieval,\nmAP@{K}"),
)

Looks = dict[str, tuple[str, str]]


def _looks(count: int) -> list[tuple[str, str]]:
    return [(COLOURS[i % len(COLOURS)], _MARKS[i // len(COLOURS) % len(_MARKS)]) for i in range(count)]


def _legend(board: Leaderboard, looks: Looks) -> list[Line2D]:
    names = [(row, *looks[row.entrant.name]) for row in board.rows]
    return [Line2D([], [], color=c, marker=m, label=_named(row, board)) for row, c, m in names]


def _named(row: Row, board: Leaderboard) -> str:
    name = row.entrant.name if len(row.entrant.name) <= 30 else f"{row.entrant.name[:29]}…"
    return f"{name} (baseline)" if row.entrant.name == board.baseline else name


def _subtitle(board: Leaderboard) -> str:
    tiles = board.comparison.tiles
    return (
        f"{len(tiles):,} tiles of {len(tiles.case_ids):,} cases, {len(tiles.classes)} classes, held out by case; "
        "bars: 95 % intervals over cases"
    )


def _dots(axes: Any, rows: Sequence[Row], looks: Looks, key: str, title: str) -> None:
    for place, row in enumerate(rows):
        found = row.metrics.get(key)
        if found is None:
            axes.text(0.5, place, row.missing[key], transform=axes.get_yaxis_transform(), ha="center",
                      va="center", color=GREY, fontsize=8)  # fmt: skip
            continue
        colour, mark = looks[row.entrant.name]
        axes.plot([found.ci_low, found.ci_high], [place, place], color=colour, lw=2.2)
        axes.plot(found.value, place, mark, ms=7, color=colour)
        axes.annotate(f"{found.value:.3f}", (found.value, place), (0, 7), textcoords="offset points",
                      ha="center", fontsize=8, color="#333333")  # fmt: skip
    axes.grid(axis="x", color=_LINE)
    axes.set_axisbelow(True)
    axes.set(title=title)
    axes.margins(x=0.12)


def _few(axes: Any, board: Leaderboard, looks: Looks) -> None:
    """Balanced accuracy by cases a class, the whole training set at the end."""
    shots = board.options.probe.shots
    axes.set(title="few cases to learn from,\nbalanced accuracy", xlabel="cases a class")
    if not shots:
        _say(axes, "not measured: --shots")
        return
    rows = [row for row in board.rows if f"shots.{shots[0]}" in row.metrics]
    keys = [*(f"shots.{n}" for n in shots), "linear.balanced_accuracy"]
    for number, row in enumerate(rows):
        colour, mark = looks[row.entrant.name]
        found = [row.metrics[key] for key in keys]
        x = np.arange(len(keys)) + (number - (len(rows) - 1) / 2) * min(0.14, 0.6 / len(rows))
        axes.vlines(x, [e.ci_low for e in found], [e.ci_high for e in found], color=colour, lw=1.6, alpha=0.7)
        axes.plot(x, [e.value for e in found], marker=mark, ms=5, lw=1.4, color=colour)
    axes.set_xticks(range(len(keys)), [*map(str, shots), "all"])
    axes.grid(axis="y", color=_LINE)
    axes.set_axisbelow(True)


def _losses(axes: Any, board: Leaderboard, looks: Looks) -> None:
    kinds = [one.name for one in perturbations(board.options.strength)]
    axes.set(title="balanced accuracy lost\nwhen tiles are perturbed (less is better)")
    rows = [row for row in board.rows if f"{kinds[0]}.loss" in row.metrics]
    if not rows:
        _say(axes, board.rows[0].missing.get(f"{kinds[0]}.loss", "not measured"))
        return
    axes.axhline(0, color=GREY, lw=1)
    for number, row in enumerate(rows):
        colour, mark = looks[row.entrant.name]
        found = [row.metrics[f"{kind}.loss"] for kind in kinds]
        x = np.arange(len(kinds)) + (number - (len(rows) - 1) / 2) * min(0.18, 0.7 / len(rows))
        axes.vlines(x, [e.ci_low for e in found], [e.ci_high for e in found], color=colour, lw=2.2)
        axes.plot(x, [e.value for e in found], mark, ms=6, color=colour)
    axes.set_xticks(range(len(kinds)), [title_of(kind) for kind in kinds])
    axes.grid(axis="y", color=_LINE)
    axes.set_axisbelow(True)


def _speeds(axes: Any, board: Leaderboard, looks: Looks) -> None:
    axes.set(title="tiles a second\n(logarithmic; one process, in turn)")
    rows = [(row, row.rate) for row in board.rows if row.rate is not None]
    if not rows:
        _say(axes, board.rows[0].missing.get("tiles_per_second", "not measured"))
        return
    for place, (row, rate) in enumerate(rows):
        axes.barh(place, rate.tiles_per_second, color=looks[row.entrant.name][0], height=0.55)
        axes.plot([rate.slowest, rate.fastest], [place, place], color="#333333", lw=1.2)
        axes.annotate(f" {rate.tiles_per_second:,.3g} · {rate.runtime} {rate.precision}", (rate.fastest, place),
                      va="center", fontsize=8, color="#333333")  # fmt: skip
    axes.set_xscale("log")
    low, high = min(r.slowest for _, r in rows), max(r.fastest for _, r in rows)
    axes.set_xlim(low / 3, high * 30)
    axes.set_yticks(range(len(rows)), [row.entrant.name for row, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)


def _say(axes: Any, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)
    axes.set_xticks([])
    axes.set_yticks([])
