"""What a probe leaves behind: ``probe.json``, ``predictions.parquet`` and ``report.html``."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from beph_store.engine.folders import check_folder
from beph_store.engine.probe import sections
from beph_store.engine.probe.run import HEADLINES, ProbeResult
from beph_store.engine.provenance import WRITTEN_BY, machine, now, versions
from beph_store.engine.study.page import Html, note, page, section, table, warning
from beph_store.heads import tilewise
from beph_store.store import write_parquet
from beph_store.store.durable import write_json

RESULT, PREDICTIONS, REPORT = "probe.json", "predictions.parquet", "report.html"
#: Names that a folder of ours may hold; `images` keeps its vectors there too.
KNOWN = {RESULT, PREDICTIONS, REPORT, "vectors.npy", "vectors.json", "parts", ".vectors.npy"}


def title(name: str, result: ProbeResult) -> str:
    """What a metric is called here."""
    return sections.title(name, result.tiles)


def write(result: ProbeResult, out: Path) -> None:
    """Write the three files; ``probe.json`` last, so that a folder that has it is complete."""
    check_folder(out, KNOWN)
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
        sections.headline(result, HEADLINES, "docs/probe.md"),
        sections.by_group(
            result, HEADLINES, "Each group was learned and tested by itself, on the same folds of cases."
        ),
        _shots(result),
        sections.confusion(
            result, "Tiles, rows the truth, by the mean over repeats of what was said of each."
        ),
        _folds(result),
        sections.made_with(tiles),
    ]
    what = " / ".join(tiles.classes)
    return page(f"Probe: {what}", subtitle, [part for part in parts if part is not None])


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
            *(
                f"{sections.number(one.metrics[m].value)} ({sections.span(one.metrics[m])})"
                for m in HEADLINES[:4]
            ),
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
