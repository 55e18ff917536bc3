"""``beph-store finetune``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beph_store_cli.commands.probe import Classes, MaxTiles, Seed, names
from beph_store_cli.progress import bar
from beph_store_cli.render import JsonOption, choice, console, print_json, table

if TYPE_CHECKING:
    from beph_store.engine.finetune.fits import Step
    from beph_store.engine.finetune.result import FinetuneResult


def finetune(
    images: Annotated[
        Path, typer.Argument(metavar="FOLDER|CSV", help="Data set of labelled tile images, or its table.")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the model, report.html and finetune.json; a stopped run goes on.")
    ],
    layout: Annotated[str, typer.Option(help="breakhis, lc25000, folders (one a class) or csv.")] = "csv",
    encoder: Annotated[str, typer.Option(help="beph-mini, beph or timm:MODEL.")] = "beph-mini",
    weights: Annotated[
        Path | None, typer.Option(help="Its checkpoint; beph-mini and timm models need none.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="breakhis: class or type \\[class]; csv: column of the class \\[label]."),
    ] = None,
    classes: Classes = None,
    case_pattern: Annotated[
        str | None, typer.Option(help="folders: regular expression whose one group is the case in a path.")
    ] = None,
    case_column: Annotated[str | None, typer.Option(help="csv: column of the case \\[case_id].")] = None,
    group_column: Annotated[
        str | None, typer.Option(help="csv: figures for each value of it, and their mean \\[group].")
    ] = None,
    only_group: Annotated[str | None, typer.Option(help="Only images of this group, such as 200.")] = None,
    fit: Annotated[
        str, typer.Option(help="Testing images of another size: crop (as BEPH), squeeze or centre.")
    ] = "crop",
    folds: Annotated[
        int, typer.Option(help="1: one split; 3 and more: cross-validation, then a model of all cases.")
    ] = 1,
    no_final: Annotated[
        bool, typer.Option("--no-final", help="With --folds: the figures only, no model of all cases.")
    ] = False,
    test_fraction: Annotated[float, typer.Option(help="Share of the cases to test on, for one split.")] = 0.2,
    val_fraction: Annotated[
        float, typer.Option(help="Share of the other cases that chooses the epoch to keep.")
    ] = 0.15,
    train_fraction: Annotated[float, typer.Option(help="Share of the training cases that is used.")] = 1.0,
    split_column: Annotated[
        str | None, typer.Option(help="csv: column that says train, val or test of each image.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Most epochs.")] = 30,
    warmup: Annotated[int | None, typer.Option(help="Epochs of rising rate \\[a tenth].")] = None,
    patience: Annotated[int, typer.Option(help="Epochs without a better validation loss that end it.")] = 10,
    batch: Annotated[int, typer.Option(help="Tiles that go through the network together.")] = 32,
    accumulate: Annotated[int, typer.Option(help="Batches that make one step.")] = 1,
    lr: Annotated[
        float, typer.Option(help="Highest rate, at 224 tiles a step; scaled with the root of their number.")
    ] = 1.5e-3,
    weight_decay: Annotated[float, typer.Option(help="Of matrices only.")] = 0.05,
    layer_decay: Annotated[
        float, typer.Option(help="What a layer's rate is of that of the one above.")
    ] = 0.75,
    frozen: Annotated[int, typer.Option(help="How many of the lowest layers stay as they are.")] = 0,
    drop_path: Annotated[
        float, typer.Option(help="Chance that the last block's branches are dropped.")
    ] = 0.1,
    smoothing: Annotated[float, typer.Option(help="Of the labels.")] = 0.1,
    operations: Annotated[int, typer.Option(help="Operations of RandAugment on a tile; 0 for none.")] = 2,
    magnitude: Annotated[int, typer.Option(help="Their strength, 0 to 10.")] = 9,
    erasing: Annotated[float, typer.Option(help="Chance that a rectangle of a tile is erased.")] = 0.25,
    min_crop: Annotated[float, typer.Option(help="Least share of an image's area in a crop.")] = 0.08,
    max_tiles: MaxTiles = None,
    mpp: Annotated[
        float | None, typer.Option(help="µm/px of the images, recorded with the model \\[the encoder's].")
    ] = None,
    seed: Seed = 0,
    draws: Annotated[int, typer.Option(min=1, help="Bootstrap draws over cases.")] = 1000,
    precision: Annotated[
        str, typer.Option(help="auto (bf16 where the hardware has it), fp32 or bf16.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[
        int | None, typer.Option(help="Processes that read tiles ahead \\[as suits the machine].")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Train an encoder further as a classifier of tiles, by case: `finetune manifest.csv --out DIR`."""
    from beph_store.cohort.image_sets import LAYOUTS, ImageChoice, read_image_set
    from beph_store.cohort.tile_splits import SplitChoice
    from beph_store.engine.embed import FITS
    from beph_store.engine.finetune.data import DataChoice
    from beph_store.engine.finetune.report import check_folder, write
    from beph_store.engine.finetune.run import FinetuneChoice
    from beph_store.engine.finetune.run import finetune as run
    from beph_store.engine.probe.tiles import MAX_TILES
    from beph_store.heads.finetuning import FinetuneOptions

    options = FinetuneOptions(
        epochs=epochs,
        warmup=warmup,
        patience=patience,
        batch=batch,
        accumulate=accumulate,
        lr=lr,
        weight_decay=weight_decay,
        layer_decay=layer_decay,
        frozen=frozen,
        drop_path=drop_path,
        smoothing=smoothing,
        operations=operations,
        magnitude=magnitude,
        erasing=erasing,
        min_crop=min_crop,
        seed=seed,
        precision=choice(precision, "--precision", "auto", "fp32", "bf16"),
        device=choice(device, "--device", "auto", "cpu", "cuda"),
        workers=workers,
    )
    wanted = names(classes)
    split = SplitChoice(folds, test_fraction, val_fraction, train_fraction, seed)
    data = DataChoice(
        choice(fit, "--fit", *FITS), wanted, max_tiles or MAX_TILES, only_group, split, split_column
    )
    chosen = ImageChoice(target, wanted, case_column, group_column, case_pattern)
    found = read_image_set(images, choice(layout, "--layout", *LAYOUTS), chosen)
    asked = FinetuneChoice(encoder, weights, data, options, not no_final, mpp, draws)
    check_folder(out)
    with bar("reading images") as reading, _epochs(epochs) as progress:
        result = run(found, images, out, asked, reading=reading, progress=progress)
    write(result, out)
    if json:
        print_json({"out": str(out), **result.to_json()})
        return
    show(result)
    console().print(f"report  {out / 'report.html'}")


def show(result: FinetuneResult) -> None:
    """The figures with their intervals, by group and by split, and where the model is."""
    from beph_store.engine.probe.run import HEADLINES
    from beph_store.engine.probe.sections import number, span, title

    screen, tiles = console(), result.tiles
    recalls = [name for name in result.metrics if name.startswith("recall[")][:12]
    rows = [
        (title(name, tiles), number(one.value), span(one))
        for name in (*HEADLINES, *recalls)
        if (one := result.metrics[name])
    ]
    screen.print(table(("held-out cases", "#value", "#95 % interval"), rows))
    if result.groups:
        few = HEADLINES[1], HEADLINES[-1], HEADLINES[0]
        by_group = [(group, *(number(found[m].value) for m in few)) for group, found in result.groups.items()]
        by_group.append(("mean", *(number(result.metrics[m].value) for m in few)))
        by_group.append(("standard deviation", *(number(result.spread[m]) for m in few)))
        screen.print(table(("group", *(f"#{title(m, tiles)}" for m in few)), by_group))
    fits = [*result.folds, *([result.final] if result.final else [])]
    lines = [
        (fit.name, fit.train.tiles, fit.val.tiles, fit.test.tiles, len(fit.history), fit.best, fit.seconds)
        for fit in fits
    ]
    columns = ("", "#train tiles", "#validation", "#test", "#epochs", "#best", "#seconds")
    screen.print(table(columns, lines))
    screen.print(
        f"\n{len(tiles):,} held-out tiles of {len(tiles.case_ids):,} cases, {len(tiles.classes)} classes; "
        f"{len(tiles.dropped)} rows or images left out"
    )
    for text in (*result.warnings, *tiles.notes):
        screen.print(f"note: {text}", style="yellow")
    if result.kept:
        for what, path in result.kept.files.items():
            screen.print(f"{what:<10}  {path}")


@contextmanager
def _epochs(most: int) -> Iterator[Callable[[Step], None]]:
    """A bar on a terminal, and a line on stderr for every epoch."""
    began: list[tuple[float, int]] = []
    with bar("fine-tuning") as moved:

        def step(at: Step) -> None:
            moved(at.done, at.total)
            if not began:
                began.append((time.monotonic(), at.done))
            if at.what:
                sys.stderr.write(f"{at.what}\n")
            if at.epoch is not None:
                (start, before), one = began[0], at.epoch
                speed = (at.done - before) / max(1e-9, time.monotonic() - start)
                left = _minutes((at.total - at.done) / speed) if speed > 0 else "unknown"
                sys.stderr.write(
                    f"{at.fit}, epoch {one.number} of {most}: loss {one.train_loss:.3f}, validation "
                    f"{one.val_loss:.3f}, balanced accuracy {one.val_balanced_accuracy:.3f}, "
                    f"{one.tiles_per_second:,.0f} tiles/s, at most {left} left\n"
                )

        yield step


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(finetune)
