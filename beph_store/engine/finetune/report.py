"""What a fine-tuning leaves behind beside its model: ``finetune.json``, ``predictions.parquet``, ``report.html``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from beph_store.engine.finetune.fits import LOG, WORK
from beph_store.engine.finetune.keep import FILES
from beph_store.engine.finetune.result import FinetuneResult, FoldResult
from beph_store.engine.folders import check_folder as check
from beph_store.engine.probe import sections
from beph_store.engine.probe.run import HEADLINES
from beph_store.engine.provenance import WRITTEN_BY, machine, now, versions
from beph_store.engine.study import figures
from beph_store.engine.study.page import Html, note, page, section, table, warning
from beph_store.engine.study.page import figures as pictures
from beph_store.store import write_parquet
from beph_store.store.durable import write_json

RESULT, PREDICTIONS, REPORT = "finetune.json", "predictions.parquet", "report.html"
_ASIDE = {f".{name}" for name in FILES}
KNOWN = {RESULT, PREDICTIONS, REPORT, LOG, WORK, *FILES, *_ASIDE}


def check_folder(out: Path) -> None:
    """A folder of ours may be gone on in, an empty one begun in; anything else is the user's. UsageError for that."""
    check(out, {*KNOWN, *(path.name for path in out.glob(".export-*"))} if out.is_dir() else KNOWN)


def write(result: FinetuneResult, out: Path) -> None:
    """Write the three files; ``finetune.json`` last, so that a folder that has it is complete."""
    (out / RESULT).unlink(missing_ok=True)
    write_parquet(predictions(result), out / PREDICTIONS)
    (out / REPORT).write_text(render(result), encoding="utf-8")
    made = {"written_by": WRITTEN_BY, "written_at": now(), "machine": machine()}
    packages = versions(("beph-store", "torch", "torchvision", "timm", "numpy", "onnxruntime"))
    write_json(out / RESULT, {**made, "versions": packages, **result.to_json()})


def predictions(result: FinetuneResult) -> pl.DataFrame:
    """One row a held-out tile: which it is, its case and class, and what the model of its fold said of it."""
    tiles = result.tiles
    named = {name: list(values) for name, values in tiles.names.items()}
    if len(tiles.groups) > 1:
        named["group"] = [tiles.groups[i] for i in tiles.group]
    return pl.DataFrame(
        {
            **named,
            "case_id": [tiles.case_ids[i] for i in tiles.case],
            "fold": [result.folds[i].name for i in result.fold],
            "label": [tiles.classes[i] for i in tiles.truth],
            "predicted": [tiles.classes[i] for i in result.said.argmax(axis=1)],
            **{f"p[{name}]": result.said[:, k] for k, name in enumerate(tiles.classes)},
        }
    )


def render(result: FinetuneResult) -> str:
    """The page, self-contained."""
    tiles = result.tiles
    splits = f"{len(result.folds)} folds by case" if len(result.folds) > 1 else "one split by case"
    frozen = result.options["frozen"]
    trained = f"all but the {frozen} lowest layers trained" if frozen else "all of it trained"
    subtitle = (
        f"{result.base.name} ({result.base.variant}) with a linear head, {trained} · {len(tiles):,} held-out "
        f"tiles of {len(tiles.case_ids):,} cases · {splits} · seed {result.options['seed']}"
    )
    parts = [
        *(warning(text) for text in (*result.warnings, *tiles.notes)),
        sections.headline(result, HEADLINES, "docs/finetune.md"),
        sections.by_group(
            result, HEADLINES, "One model learned from all groups; each has figures of its own."
        ),
        sections.confusion(
            result, "Held-out tiles, rows the truth, by the model that had not seen their case."
        ),
        _history(result),
        _fits(result),
        _kept(result),
        sections.made_with(tiles),
        section("Settings", table(("", ""), [(name, str(value)) for name, value in result.options.items()])),
    ]
    return page(f"Fine-tuning: {' / '.join(tiles.classes)}", subtitle, [part for part in parts if part])


def _all(result: FinetuneResult) -> list[FoldResult]:
    return [*result.folds, *([result.final] if result.final else [])]


def _history(result: FinetuneResult) -> Html:
    def lines(what: str) -> list[figures.Line]:
        return [
            figures.Line(
                fit.name,
                np.array([epoch.number for epoch in fit.history], float),
                np.array([getattr(epoch, what) for epoch in fit.history], float),
            )
            for fit in _all(result)
        ]

    return section(
        "Training",
        pictures(
            figures.history(lines("train_loss"), "training loss"),
            figures.history(lines("val_loss"), "validation loss"),
            figures.history(lines("val_balanced_accuracy"), "balanced accuracy, validation"),
        ),
        note(
            "The training loss is of smoothed labels and drawn-over tiles. The epoch with the least validation loss is "
            "kept; the tiles that the figures above are of had no say in it."
        ),
    )


def _fits(result: FinetuneResult) -> Html:
    columns = (
        "",
        "#train cases",
        "#tiles",
        "#validation cases",
        "#tiles",
        "#test cases",
        "#tiles",
        "#epochs",
        "#best",
        "#tiles/s",
    )
    rows = [
        (
            fit.name,
            fit.train.cases,
            fit.train.tiles,
            fit.val.cases,
            fit.val.tiles,
            fit.test.cases,
            fit.test.tiles,
            len(fit.history),
            fit.best,
            f"{np.median([epoch.tiles_per_second for epoch in fit.history]):.1f}",
        )
        for fit in _all(result)
    ]
    return section("Splits", table(columns, rows, caption="No case is on two sides of a split."))


def _kept(result: FinetuneResult) -> Html | None:
    if result.kept is None:
        return None
    spec = result.kept.encoder
    rows = [
        ("encoder", f"{spec.name} ({spec.variant}), {spec.dim} numbers a {spec.tile_px} px tile, {spec.mpp} µm/px"),
        *result.kept.files.items(),
        ("weights_sha256", spec.weights_sha256),
    ]  # fmt: skip
    seen = (
        "It was trained on all cases, after the folds: no figure here is of this model itself, and on these cases it "
        "would flatter."
        if result.final
        else "It is the model that the figures above are of. It has seen the training and validation cases, on which "
        "its embeddings flatter."
    )
    return section("The model that was kept", table(("", ""), rows), note(seen))
