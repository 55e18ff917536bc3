"""``beph-store probe`` and ``probe-images``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beph_store.errors import UsageError
from beph_store_cli.commands.train import FanOption
from beph_store_cli.progress import bar
from beph_store_cli.render import JsonOption, StoreArgument, choice, console, print_json, table

if TYPE_CHECKING:
    from beph_store.engine.probe.run import ProbeOptions, ProbeResult
    from beph_store.engine.probe.tiles import ProbeTiles
    from beph_store.metrics import Estimate

Method = Annotated[str, typer.Option(help="linear (logistic regression) or knn (cosine).")]
Folds = Annotated[int, typer.Option(help="Folds of the cross-validation, by case.")]
Repeats = Annotated[int, typer.Option(help="Repeats with other folds.")]
ShotsOption = Annotated[
    str | None,
    typer.Option(metavar="N,N…", help="Also learn from so few cases a class, such as 1,5,10,25."),
]
ShotDraws = Annotated[int, typer.Option(help="Draws of the few cases.")]
TrainFraction = Annotated[float, typer.Option(help="Share of the training cases that is used.")]
Neighbours = Annotated[str, typer.Option("--k", help="Neighbours of knn; auto chooses on inner folds.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same figures.")]
Draws = Annotated[int, typer.Option(help="Bootstrap draws over cases.")]
Shuffle = Annotated[
    bool,
    typer.Option("--shuffle-labels", help="A control: exchanged labels; the figures must sit at chance."),
]
MaxTiles = Annotated[
    int | None,
    typer.Option(min=1, help="Most tiles, as many of each class of each case \\[20000]."),
]
Classes = Annotated[
    str | None,
    typer.Option(help="Only these classes, comma-separated, in their order: of two the second is positive."),
]


def probe(
    store: StoreArgument,
    labels: Annotated[
        Path | None,
        typer.Option(help="Table of slides, cases or tiles (slide, x and y) \\[what `annotate` labelled]."),
    ] = None,
    target: Annotated[str | None, typer.Option(help="Column of the class, if the table has several.")] = None,
    classes: Classes = None,
    method: Method = "linear",
    folds: Folds = 5,
    repeats: Repeats = 1,
    shots: ShotsOption = None,
    shot_draws: ShotDraws = 20,
    train_fraction: TrainFraction = 1.0,
    k: Neighbours = "20",
    where: Annotated[
        str | None, typer.Option(metavar="SQL", help="Which tiles: slide_id, case_id, tile, x, y, tissue, …")
    ] = None,
    max_tiles: MaxTiles = None,
    seed: Seed = 0,
    draws: Draws = 1000,
    shuffle_labels: Shuffle = False,
    ray: FanOption = None,
    recipe: Annotated[str | None, typer.Option(help="Which recipe, if the store has several.")] = None,
    case_column: Annotated[str | None, typer.Option(help="Column of the case (patient).")] = None,
    slide_column: Annotated[str | None, typer.Option(help="Column of the slide.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for report.html, probe.json and predictions.parquet.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """How well do stored tile vectors tell a label? Grouped by case: `probe S --labels tiles.csv --target class`."""
    from beph_store.cohort import ColumnChoice
    from beph_store.engine.probe.store import Wanted, store_tiles
    from beph_store.engine.probe.tiles import MAX_TILES

    options = _options(
        method, folds, repeats, shots, shot_draws, train_fraction, k, seed, draws, shuffle_labels
    )
    columns = ColumnChoice(case=case_column, slide=slide_column, target=target, classes=names(classes))
    wanted = Wanted(columns, where, max_tiles or MAX_TILES, seed)
    _check(out)
    with bar("reading embeddings") as reading:
        tiles = store_tiles(store, labels, recipe=recipe, wanted=wanted, progress=reading)
    _run(tiles, options, out, json, ray)


def probe_images(
    images: Annotated[
        Path, typer.Argument(metavar="FOLDER|CSV", help="Data set of labelled tile images, or its table.")
    ],
    layout: Annotated[str, typer.Option(help="breakhis, lc25000, folders (one a class) or csv.")],
    out: Annotated[
        Path, typer.Option(help="Folder for report.html, probe.json, predictions.parquet and the vectors.")
    ],
    target: Annotated[
        str | None,
        typer.Option(help="breakhis: class or type \\[class]; csv: column of the class \\[label]."),
    ] = None,
    classes: Classes = None,
    encoder: Annotated[str, typer.Option(help="Name, or folder of an exported bundle.")] = "beph-mini",
    fit: Annotated[
        str | None,
        typer.Option(help="Images of another size: crop (as BEPH tests), squeeze or centre \\[refused]."),
    ] = None,
    case_pattern: Annotated[
        str | None, typer.Option(help="folders: regular expression whose one group is the case in a path.")
    ] = None,
    case_column: Annotated[str | None, typer.Option(help="csv: column of the case \\[case_id].")] = None,
    group_column: Annotated[
        str | None, typer.Option(help="csv: probe each value by itself, then their mean \\[group].")
    ] = None,
    method: Method = "linear",
    folds: Folds = 5,
    repeats: Repeats = 1,
    shots: ShotsOption = None,
    shot_draws: ShotDraws = 20,
    train_fraction: TrainFraction = 1.0,
    k: Neighbours = "20",
    max_tiles: MaxTiles = None,
    seed: Seed = 0,
    draws: Draws = 1000,
    shuffle_labels: Shuffle = False,
    runtime: Annotated[str, typer.Option(help="Inference runtime; `doctor` lists them.")] = "auto",
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16, bf16, int8, or auto: the fastest here \\[fp32].")
    ] = None,
    ray: FanOption = None,
    json: JsonOption = False,
) -> None:
    """The same for a data set of images: `probe-images BreaKHis_v1 --layout breakhis --fit crop --out DIR`."""
    from beph_store.cohort.image_sets import LAYOUTS, ImageChoice, read_image_set
    from beph_store.engine.embed import FITS
    from beph_store.engine.probe.images import Embedding, image_tiles
    from beph_store.engine.probe.tiles import MAX_TILES

    options = _options(
        method, folds, repeats, shots, shot_draws, train_fraction, k, seed, draws, shuffle_labels
    )
    wanted = names(classes)
    chosen = ImageChoice(target, wanted, case_column, group_column, case_pattern)
    found = read_image_set(images, choice(layout, "--layout", *LAYOUTS), chosen)
    how = Embedding(encoder, choice(fit, "--fit", *FITS), runtime, precision)
    _check(out)
    with bar("embedding images") as moved:
        tiles = image_tiles(
            found, out, how, classes=wanted, max_tiles=max_tiles or MAX_TILES, seed=seed, progress=moved
        )
    _run(tiles, options, out, json, ray)


def show(result: ProbeResult) -> None:
    """The figures with their intervals, by group and by shots, and what to be careful about."""
    from beph_store.engine.probe.report import title
    from beph_store.engine.probe.run import HEADLINES

    screen, tiles = console(), result.tiles
    rows = [(title(name, result), *_figure(result.metrics[name])) for name in HEADLINES]
    recalls = [name for name in result.metrics if name.startswith("recall[")]
    rows += [(name, *_figure(result.metrics[name])) for name in recalls[:12]]
    screen.print(table(("held-out cases", "#value", "#95 % interval"), rows))
    if result.groups:
        names = HEADLINES[1], HEADLINES[-1], HEADLINES[0]
        by_group = [
            (group, *(f"{found[name].value:.3f}" for name in names)) for group, found in result.groups.items()
        ]
        by_group.append(("mean", *(f"{result.metrics[name].value:.3f}" for name in names)))
        by_group.append(("standard deviation", *(f"{result.spread[name]:.3f}" for name in names)))
        screen.print(table(("group", *(f"#{title(name, result)}" for name in names)), by_group))
    if result.shots:
        few = [
            (f"{one.shots}", *(" ".join(_figure(one.metrics[name])) for name in HEADLINES[:3]))
            for one in result.shots
        ]
        screen.print(table(("cases a class", *(f"#{title(name, result)}" for name in HEADLINES[:3])), few))
    left = len(tiles.dropped)
    screen.print(
        f"\n{len(tiles):,} tiles of {len(tiles.case_ids):,} cases, {len(tiles.classes)} classes, "
        f"{len(result.folds)} fits; {left} rows, slides or images left out"
    )
    for text in (*result.warnings, *tiles.notes):
        screen.print(f"note: {text}", style="yellow")


def _figure(one: Estimate) -> tuple[str, str]:
    return f"{one.value:.3f}", f"{one.ci_low:.3f} – {one.ci_high:.3f}"


def _options(
    method: str,
    folds: int,
    repeats: int,
    shots: str | None,
    shot_draws: int,
    train_fraction: float,
    k: str,
    seed: int,
    draws: int,
    shuffle_labels: bool,
) -> ProbeOptions:
    from beph_store.engine.probe.run import ProbeOptions

    return ProbeOptions(
        method=choice(method, "--method", "linear", "knn"),
        folds=folds,
        repeats=repeats,
        train_fraction=train_fraction,
        shots=_numbers(shots),
        shot_draws=shot_draws,
        neighbours=None if k == "auto" else _number(k),
        seed=seed,
        draws=draws,
        shuffle_labels=shuffle_labels,
    )


def _run(tiles: ProbeTiles, options: ProbeOptions, out: Path | None, json: bool, ray: str | None) -> None:
    from beph_store.engine.probe.report import REPORT, write
    from beph_store.engine.probe.run import probe as run

    with bar("probing") as moved:
        result = run(tiles, options, progress=moved, ray_address=ray)
    if out is not None:
        write(result, out)
    if json:
        print_json({"out": out and str(out), **result.to_json()})
        return
    show(result)
    if out is not None:
        console().print(f"report  {out / REPORT}")


def _check(out: Path | None) -> None:
    """Before the work: a folder that cannot be written to is said at once."""
    if out is not None:
        from beph_store.engine.folders import check_folder
        from beph_store.engine.probe.report import KNOWN

        check_folder(out, KNOWN)


def names(classes: str | None) -> tuple[str, ...]:
    """The names of a comma-separated option."""
    return tuple(name.strip() for name in classes.split(",")) if classes else ()


def _number(k: str) -> int:
    try:
        return int(k)
    except ValueError:
        raise UsageError(f"--k {k!r}: give a whole number, or auto") from None


def _numbers(shots: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in shots.split(",")) if shots else ()
    except ValueError:
        raise UsageError(f"--shots {shots!r}: give whole numbers, such as 1,5,10,25") from None


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(probe)
    app.command("probe-images")(probe_images)
