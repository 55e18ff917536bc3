"""``report.html`` of a protocol: figures beside the paper's, a plot, and what they stand on."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape

import numpy as np

from beph_store.engine.protocols.results import Comparison, Outcome, Result
from beph_store.engine.protocols.table import BASELINES, NOT_STATED
from beph_store.engine.study import figures
from beph_store.engine.study.page import Html, note, page, section, table, warning
from beph_store.engine.study.page import figures as pictures

TITLES = {
    "auroc": "AUROC",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "cindex_harrell": "Harrell's C",
    "cindex_uno": "Uno's C",
    "patient_accuracy": "accuracy of patients",
}


def title(outcome: Outcome, metric: str) -> str:
    """What a metric is called in a protocol: the accuracy of images, where there are patients too."""
    by_patient = "patient_accuracy" in outcome.job.protocol.headline
    return "accuracy of images" if metric == "accuracy" and by_patient else TITLES.get(metric, metric)


def mean_sd(result: Result, metric: str) -> str:
    """Mean ± standard deviation over draws, folds or magnifications."""
    mean, sd = result.mean_sd(metric)
    if math.isnan(mean):
        return "–"
    return f"{mean:.3f}" if math.isnan(sd) else f"{mean:.3f} ± {sd:.3f}"


def interval(result: Result, metric: str) -> str:
    """The value over all held-out cases and its interval."""
    one = result.metrics.get(metric) or {}
    shown = [_number(one.get(name)) for name in ("mean", "ci_low", "ci_high")]
    return f"{shown[0]} ({shown[1]} – {shown[2]})"


def gain(comparison: Comparison) -> tuple[str, str, str]:
    """The difference, its interval, and both as a share of the other's value."""
    d = comparison.difference
    span = f"{_signed(d.ci_low)} … {_signed(d.ci_high)}"
    return (
        _signed(d.difference),
        span,
        "–" if math.isnan(comparison.percent) else f"{comparison.percent:+.1f} %",
    )


def render(outcome: Outcome) -> str:
    """The page, self-contained but for links to the reports beside it."""
    job, protocol = outcome.job, outcome.job.protocol
    how = "splits as published" if job.options.as_published else protocol.splits
    subtitle = f"{protocol.name} · {protocol.cohort} · {protocol.head} · {how} · seed {job.options.seed}"
    parts = [
        *(warning(text) for text in _warned(outcome)),
        _figures(outcome),
        _plot(outcome),
        _paper(outcome),
        _data(outcome),
        _made(outcome),
    ]
    return page(protocol.title, subtitle, [part for part in parts if part is not None])


def _warned(outcome: Outcome) -> Iterable[str]:
    yield from (f"Leak in the splits, {text}." for text in outcome.data.leaks)
    yield from outcome.data.notes
    yield from (f"Not done: {text}" for text in outcome.failed[:20])


def _figures(outcome: Outcome) -> Html:
    protocol = outcome.job.protocol
    first, *others = protocol.headline
    columns = (
        *("encoder", "", "#training data", "#" + title(outcome, first), "over", "#all cases, 95 %"),
        *("#" + title(outcome, name) for name in others),
        "",
    )
    rows: list[tuple[object, ...]] = []
    for subject in outcome.subjects:
        mine = [found for found in outcome.results if found.encoder == subject.name]
        for found in mine:
            link = Html(f'<a href="{escape(found.folder)}/report.html">report</a>')
            shown = (mean_sd(found, first), found.over, interval(found, first))
            more = (mean_sd(found, name) for name in others)
            rows.append((subject.name, subject.role, f"{found.fraction} %", *shown, *more, link))
        if not mine:
            rows.append((subject.name, subject.role, "–", "not run", "–", "–", *("–" for _ in others), ""))
    return section(
        "Figures",
        table(columns, rows),
        note(
            "Mean ± sample standard deviation over the draws, folds or magnifications named. Beside it the value over "
            "all held-out cases with its interval, which resamples cases. docs/metrics.md defines each figure."
        ),
    )


def _plot(outcome: Outcome) -> Html | None:
    if not outcome.results:
        return None
    metric = outcome.job.protocol.headline[0]
    what = title(outcome, metric)
    if len(outcome.job.fractions) > 1:
        return section(
            "By share of the training data", pictures(figures.shares(_lines(outcome, metric), what))
        )
    shown = [r for r in outcome.results if r.metrics.get(metric, {}).get("mean") is not None]
    spans = [
        tuple(math.nan if one is None else float(one) for one in (m["mean"], m["ci_low"], m["ci_high"]))
        for m in (result.metrics[metric] for result in shown)
    ]
    values = [np.array(result.parts.get(metric, ()), np.float64) for result in shown]
    picture = figures.folds([result.encoder for result in shown], values, spans)  # type: ignore[arg-type]
    return section(f"{what[:1].upper()}{what[1:]} of each encoder", pictures(picture))


def _lines(outcome: Outcome, metric: str) -> list[figures.Share]:
    lines = []
    for subject in outcome.subjects:
        mine = [found for found in outcome.results if found.encoder == subject.name]
        if mine:
            stats = np.array([found.mean_sd(metric) for found in mine], np.float64)
            x = np.array([found.fraction for found in mine], np.float64)
            order = np.argsort(x)
            lines.append(
                figures.Share(subject.name, x[order], stats[order, 0], np.nan_to_num(stats[order, 1]))
            )
    return lines


def _paper(outcome: Outcome) -> Html:
    protocol = outcome.job.protocol
    rows: list[tuple[object, ...]] = [
        (f"{c.fraction} %", c.first, c.second, c.role, *gain(c), _p(c), c.stated) for c in outcome.comparisons
    ]
    compared = {c.role for c in outcome.comparisons}
    rows += [
        ("–", "–", one.encoder, one.title, "not run", "–", "–", "–", protocol.stated(one))
        for one in BASELINES
        if one.title not in compared
    ]
    columns = (
        "data",
        "first",
        "second",
        "",
        "#difference",
        "#95 %",
        "#in per cent",
        "#p",
        "BEPH in the abstract",
    )
    return section(
        "Beside the paper",
        table(columns, rows),
        note(
            f"Difference in {title(outcome, protocol.headline[0])}, first minus second, the same cases resampled on "
            "both sides. The last column is what the abstract of the preprint states of BEPH; it gives no more, no "
            "intervals, and does not say whether its per cents are points or shares. At slide level it names the "
            f"largest gain of all tasks, in survival the mean of six cohorts; {NOT_STATED!r} where it is silent."
        ),
    )


def _data(outcome: Outcome) -> Html:
    data = outcome.data
    unit = "images" if outcome.job.protocol.level == "tile" else "cases"
    if outcome.job.options.as_published:
        unit = "slides"
    parts = [table(("class or outcome", f"#{unit}"), data.counts.items())]
    if data.dropped:
        parts.append(table(("left out because", "#count"), data.dropped.items()))
    return section("What it stands on", *parts)


def _made(outcome: Outcome) -> Html:
    rows = [(name, None if value is None else str(value)) for name, value in outcome.job.to_json().items()]
    return section("How it was run", table(("", ""), rows))


def _p(comparison: Comparison) -> str:
    return _number(comparison.difference.p_value)


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.3f}"


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"
