"""What a probe leaves behind: ``probe.json``, ``predictions.parquet`` and ``report.html``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl

from beph_store.cohort import count_reasons
from beph_store.engine.probe.run import HEADLINES, ProbeResult
from beph_store.engine.provenance import WRITTEN_BY, machine, now, versions
from beph_store.engine.study import figures
from beph_store.engine.study.page import Html, cards, folded, note, page, section, table, warning
from beph_store.engine.study.page import figures as pictures
from beph_store.errors import UsageError
from beph_store.heads import tilewise
from beph_store.metrics import Estimate
from beph_store.store import write_parquet
from beph_store.store.durable import write_json

RESULT, PREDICTIONS, REPORT = "probe.json", "predictions.parquet", "report.html"
#: Names that a folder of ours may hold; `images` keeps its vectors there too.
KNOWN = {RESULT, PREDICTIONS, REPORT, "vectors.npy", "vectors.json", "parts", ".vectors.npy"}

TITLES = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy of tiles",
    "auroc": "AUROC",
    "f1_macro": "F1, macro",
    "f1_weighted": "F1, weighted",
    "patient_accuracy": "accuracy of patients",
    "log_loss": "log loss",
}


def title(name: str, result: ProbeResult) -> str:
    """What a metric is called here: without patients its mean is over cases."""
    if name == "patient_accuracy" and not result.tiles.by_patient:
        return "accuracy of cases"
    return TITLES.get(name, name)


def check_folder(out: Path) -> None:
    """A folder of ours may be written anew, an empty one too; anything else is the user's. UsageError for that."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: choose a folder", path=out)
    others = sorted(path.name for path in out.iterdir() if path.name not in KNOWN) if out.is_dir() else []
    if others:
        raise UsageError(
            f"{out} holds other things ({others[0]}, …): choose an empty or a new folder", path=out
        )


def write(result: ProbeResult, out: Path) -> None:
    """Write the three files; ``probe.json`` last, so that a folder that has it is complete."""
    check_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / RESULT).unlink(missing_ok=True)
    write_parquet(predictions(result), out / PREDICTIONS)
    (out / REPORT).write_text(render(result), encoding="utf-8")
    made = {"written_by": WRITTEN_BY, "written_at": now(), "machine": machine()}
    packages = versions(("beph-store", "numpy", "onnxruntime"))
    write_json(out / RESULT, {**made, "versions": packages, **result.to_json()})


def predictions(result: ProbeResult) -> pl.DataFrame:
    """One row a tile: which it is, its case and class, and the mean over repeats of what was said of it unseen."""
    tiles, mean = result.tiles, result.mean
    named = {name: list(values) for name, values in tiles.names.items()}
    if len(tiles.groups) > 1:
        named["group"] = [tiles.groups[i] for i in tiles.group]
    return pl.DataFrame(
        {
            **named,
            "case_id": [tiles.case_ids[i] for i in tiles.case],
            "label": [tiles.classes[i] for i in tiles.truth],
            "predicted": [tiles.classes[i] for i in mean.argmax(axis=1)],
            **{f"p[{name}]": mean[:, k] for k, name in enumerate(tiles.classes)},
        }
    )


def render(result: ProbeResult) -> str:
    """The page, self-contained."""
    tiles, options = result.tiles, result.options
    method = "linear probe" if options.method == "linear" else "k nearest neighbours"
    subtitle = (
        f"{method} on {tiles.encoder} · {len(tiles):,} tiles of {len(tiles.case_ids):,} cases · "
        f"{options.folds} folds by case, {options.repeats} repeats · seed {options.seed}"
    )
    parts = [
        *(warning(text) for text in (*result.warnings, *tiles.notes)),
        _headline(result),
        _groups(result),
        _shots(result),
        _confusion(result),
        _folds(result),
        _flow(result),
    ]
    what = " / ".join(tiles.classes)
    return page(f"Probe: {what}", subtitle, [part for part in parts if part is not None])


def _headline(result: ProbeResult) -> Html:
    shown = [(name, result.metrics[name]) for name in HEADLINES]
    others = [(name, one) for name, one in result.metrics.items() if name not in HEADLINES]
    drawn = [(name, one) for name, one in shown if not np.isnan(one.value)]
    values = [
        np.array([f.metrics[name] for f in result.folds if f.metrics[name] is not None], float)
        for name, _ in drawn
    ]
    picture = figures.folds(
        [title(name, result) for name, _ in drawn],
        values,
        [(one.value, one.ci_low, one.ci_high) for _, one in drawn],
    )
    mean = "the mean over the groups" if result.groups else "computed from all held-out tiles together"
    return section(
        "On cases that were not learned from",
        cards((_number(one.value), title(name, result), f"95 % {_span(one)}") for name, one in shown[:4]),
        pictures(picture),
        folded("all metrics", _estimates(result, [*shown, *others])),
        note(
            f"The diamond is {mean}; its interval resamples cases, all tiles of a case together. "
            "docs/metrics.md defines each figure, docs/probe.md the protocol."
        ),
    )


def _groups(result: ProbeResult) -> Html | None:
    if not result.groups:
        return None
    columns = ("group", "#tiles", *(f"#{title(name, result)}" for name in HEADLINES))
    rows = [
        (
            name,
            int((result.tiles.group == i).sum()),
            *(f"{_number(found[m].value)} ({_span(found[m])})" for m in HEADLINES),
        )
        for i, name in enumerate(result.tiles.groups)
        if (found := result.groups.get(name)) is not None
    ]
    rows.append(("mean", len(result.tiles), *(_number(result.metrics[m].value) for m in HEADLINES)))
    rows.append(("standard deviation", "", *(_number(result.spread[m]) for m in HEADLINES)))
    caption = "Each group was learned and tested by itself, on the same folds of cases."
    return section("By group", table(columns, rows, caption=caption))


def _shots(result: ProbeResult) -> Html | None:
    if not result.shots:
        return None
    columns = (
        "cases a class",
        "#draws",
        *(f"#{title(name, result)}" for name in HEADLINES[:4]),
        "classes that gave fewer",
    )
    rows = [
        (
            one.shots,
            one.draws,
            *(f"{_number(one.metrics[m].value)} ({_span(one.metrics[m])})" for m in HEADLINES[:4]),
            ", ".join(f"{name}: {count}" for name, count in one.taken.items() if count < one.shots) or "none",
        )
        for one in result.shots
    ]
    how = (
        f"a ridge penalty fixed at {tilewise.FEW_SHOT_PENALTY:g}"
        if result.options.method == "linear"
        else f"{result.options.neighbours or tilewise.FEW_SHOT_NEIGHBOURS} neighbours"
    )
    return section(
        "Few cases to learn from",
        table(columns, rows),
        note(
            f"Each draw learns from that many cases of each class, with {how}, as nothing is left to choose it on, and "
            "is asked about all others. Mean over draws; the interval holds the draws of the shots and of the cases."
        ),
    )


def _confusion(result: ProbeResult) -> Html:
    return section(
        "Confusion",
        pictures(figures.confusion(result.confusion, result.tiles.classes)),
        note("Tiles, rows the truth, by the mean over repeats of what was said of each."),
    )


def _folds(result: ProbeResult) -> Html:
    setting = "ridge penalty" if result.options.method == "linear" else "neighbours"
    columns = (
        "repeat",
        "#fold",
        "group",
        "#train cases",
        "#train tiles",
        "#test cases",
        "#test tiles",
        f"#{setting}",
    )
    rows = [
        (
            f.repeat,
            f.fold,
            f.group or "–",
            f.train_cases,
            f.train_tiles,
            f.test_cases,
            f.test_tiles,
            f"{f.setting:g}",
        )
        for f in result.folds
    ]
    return section("Folds", table(columns, rows, caption="No case is on two sides of a fold."))


def _flow(result: ProbeResult) -> Html:
    tiles = result.tiles
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


def _estimates(result: ProbeResult, items: Iterable[tuple[str, Estimate]]) -> Html:
    rows = [(title(name, result), _number(e.value), _span(e), e.undefined) for name, e in items]
    return table(("metric", "#value", "#95 % interval", "#draws left out"), rows)


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"


def _span(one: Estimate) -> str:
    return f"{_number(one.ci_low)} – {_number(one.ci_high)}"
