"""``beph-store train``, ``predict``, ``compare`` and ``splits``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beph_store_cli.progress import bar
from beph_store_cli.render import JsonOption, StoreArgument, choice, console, print_json, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from beph_store.engine.study.run import TrainReport
    from beph_store.engine.study.train import Training, TrainOptions
    from beph_store.heads.options import Task

FanOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="auto|local|HOST:PORT",
        help="Spread the fits over a Ray cluster, OMP_NUM_THREADS \\[1] cores each.",
    ),
]


def train(
    store: StoreArgument,
    task: Annotated[str, typer.Option(help="classify or survive.")],
    cohort: Annotated[
        Path, typer.Option(help="Table of labels: CSV, TSV, Parquet, or a GDC clinical export.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for heads, predictions.parquet and report.html.")],
    target: Annotated[str | None, typer.Option(help="Column of the class, if the table has several.")] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Only these classes, comma-separated, in their order: of two the second is positive."
        ),
    ] = None,
    head: Annotated[str, typer.Option(help="linear, abmil or clam.")] = "linear",
    loss: Annotated[str, typer.Option(help="survive: cox or nll.")] = "auto",
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation, by case.")] = 5,
    repeats: Annotated[
        int | None,
        typer.Option(min=1, help="Repeats with other folds \\[1], or draws of monte-carlo \\[10]."),
    ] = None,
    scheme: Annotated[str, typer.Option(help="kfold, monte-carlo or preserved-site.")] = "kfold",
    test_fraction: Annotated[
        float, typer.Option(help="Share of the cases in the fixed test set of monte-carlo.")
    ] = 0.1,
    splits: Annotated[Path | None, typer.Option(help="CLAM-style split CSVs instead.")] = None,
    save_splits: Annotated[
        Path | None, typer.Option(help="Also write the splits as CLAM-style CSVs into this folder.")
    ] = None,
    allow_leaks: Annotated[
        bool, typer.Option(help="Use splits that leak, to reproduce published figures.")
    ] = False,
    train_fraction: Annotated[float, typer.Option(help="Share of every training part that is used.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same figures.")] = 0,
    draws: Annotated[int, typer.Option(min=1, help="Bootstrap draws over cases.")] = 1000,
    shuffle_labels: Annotated[
        bool,
        typer.Option("--shuffle-labels", help="A control: permuted labels; the figures must sit at chance."),
    ] = False,
    epochs: Annotated[int | None, typer.Option(min=1, help="Most epochs \\[as suits the loss].")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate \\[as suits the loss].")] = None,
    tiles_per_epoch: Annotated[
        int | None, typer.Option(min=1, help="Tiles drawn of a bag in each epoch \\[all].")
    ] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    ray: FanOption = None,
    recipe: Annotated[str | None, typer.Option(help="Which recipe, if the store has several.")] = None,
    case_column: Annotated[str | None, typer.Option(help="Column of the case (patient).")] = None,
    slide_column: Annotated[str | None, typer.Option(help="Column of the slide.")] = None,
    event_column: Annotated[str | None, typer.Option(help="Column of the event.")] = None,
    time_column: Annotated[str | None, typer.Option(help="Column of the follow-up time.")] = None,
    time_unit: Annotated[str | None, typer.Option(help="days, months or years.")] = None,
    event_means: Annotated[str | None, typer.Option(help="What 1 stands for: event or censored.")] = None,
    event_value: Annotated[str | None, typer.Option(help="The value that stands for it.")] = None,
    on_conflict: Annotated[str, typer.Option(help="Cases whose rows contradict: refuse or drop.")] = "refuse",
    json: JsonOption = False,
) -> None:
    """Train a head by cross-validation on stored embeddings; every figure is from cases it had not seen."""
    from beph_store.cohort import ColumnChoice, write_splits
    from beph_store.engine.study.asked import steps
    from beph_store.engine.study.data import load_study
    from beph_store.engine.study.run import train_to
    from beph_store.engine.study.train import SplitOptions, TrainOptions
    from beph_store.engine.study.trained import RUN_FILE
    from beph_store.heads import HEADS, HeadOptions

    kind = choice(task, "--task", "classify", "survive")
    columns = ColumnChoice(
        case=case_column,
        slide=slide_column,
        target=target,
        classes=tuple(name.strip() for name in classes.split(",")) if classes else (),
        event=event_column,
        time=time_column,
        time_unit=choice(time_unit, "--time-unit", "days", "months", "years"),
        event_means=choice(event_means, "--event-means", "event", "censored"),
        event_value=event_value,
        conflicts=choice(on_conflict, "--on-conflict", "refuse", "drop"),
    )
    options = TrainOptions(
        HeadOptions(
            head=choice(head, "--head", *HEADS),
            loss=choice(loss, "--loss", "auto", "cross_entropy", "cox", "nll"),
            epochs=epochs,
            lr=lr,
            tiles_per_epoch=tiles_per_epoch,
            precision=choice(precision, "--precision", "auto", "fp32", "bf16"),
            device=choice(device, "--device", "auto", "cpu", "cuda"),
        ),
        SplitOptions(
            choice(scheme, "--scheme", "kfold", "monte-carlo", "preserved-site"),
            folds,
            repeats,
            test_fraction=test_fraction,
            train_fraction=train_fraction,
            given=splits,
            allow_leaks=allow_leaks,
        ),
        seed=seed,
        draws=draws,
        shuffle_labels=shuffle_labels,
    )
    with bar("reading embeddings") as reading:
        study = load_study(store, cohort, kind, recipe=recipe, columns=columns, progress=reading)
    if (out / RUN_FILE).is_file():
        typer.echo(f"note: {out} holds the result of an earlier training, which this one replaces", err=True)
    with bar(_doing(options, kind)) as moved:
        report = train_to(
            out, study, options, progress=lambda at: moved(*steps(at, options, kind)), ray_address=ray
        )
    if save_splits is not None:
        write_splits(report.training.splits, study.cohort, save_splits)
    if json:
        print_json(report.to_json())
    else:
        show(report)


def show(report: TrainReport) -> None:
    """The headline figures, the folds, and where to look."""
    from beph_store.engine.study.evaluate import HEADLINES
    from beph_store.engine.study.wording import TITLES

    out = console()
    names = [
        name for name in HEADLINES[report.training.study.cohort.task] if name in report.evaluation.metrics
    ]
    rows = []
    for name in names:
        estimate = report.evaluation.metrics[name]
        spread = _spread([fold.get(name) for fold in report.evaluation.folds])
        rows.append(
            (TITLES[name], f"{estimate.value:.3f}", f"{estimate.ci_low:.3f} – {estimate.ci_high:.3f}", spread)
        )
    out.print(table(("held-out cases", "#value", "#95 % interval", "#lowest … highest split"), rows))
    study = report.training.study
    out.print(
        f"\n{len(study.case_ids)} cases, {len(report.training.splits)} splits; "
        f"{len(study.cohort.dropped)} rows or slides left out (the report lists each)"
    )
    for line in _read_as(report.training):
        out.print(line)
    for text in report.warnings:
        out.print(f"note: {text}", style="yellow")
    out.print(f"report  {report.out / 'report.html'}")


def _spread(folds: Sequence[float | None]) -> str:
    """The lowest and the highest of the splits, and of how many, where some are too small to have a value."""
    known = [value for value in folds if value is not None]
    if not known:
        return "–"
    some = f", {len(known)} of {len(folds)} splits" if len(known) < len(folds) else ""
    return f"{min(known):.3f} … {max(known):.3f}{some}"


def _read_as(training: Training) -> list[str]:
    """Which columns were taken for the outcome, and of two classes which is the positive one."""
    from beph_store.records import ClassTarget

    lines = []
    for use in training.study.table.used:
        if isinstance(training.target, ClassTarget) and use.role == "class":
            *others, last = training.target.classes
            last = f"{last} (positive; --classes sets the order)" if len(others) == 1 else last
            lines.append(f"class column {use.column}: {' / '.join([*others, last])}")
        elif use.role in ("event", "time"):
            lines.append(f"{use.role} column {use.column}" + (f": {use.how}" if use.how else ""))
    return lines


def _doing(options: TrainOptions, task: Task) -> str:
    """What the bar of a training counts."""
    from beph_store.engine.study.asked import unit
    from beph_store.heads.options import resolved

    head = options.head.head
    if unit(options) == "folds":
        return f"training {head}, splits"
    return f"training {head}, at most {resolved(options.head, task).epochs} epochs a split"


def predict(
    store: StoreArgument,
    head: Annotated[Path, typer.Option(help="Folder that `train` wrote.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="CSV or Parquet file to write.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Ask a trained head about every case of a store; cases it was trained on are asked of heads that had not."""
    from beph_store.engine.csvs import as_csv
    from beph_store.engine.study.trained import TrainedRun
    from beph_store.engine.study.trained import predict as run
    from beph_store.store import Store, write_parquet

    with bar("predicting") as moved:
        frame = run(TrainedRun.open(head), Store.open(store), progress=moved)
    if output is not None:
        if output.suffix == ".csv":
            output.write_text(as_csv(frame), encoding="utf-8")
        else:
            write_parquet(frame, output)
    if json:
        print_json({"cases": frame.height, "output": output and str(output), "predictions": frame.to_dicts()})
    elif output is None:
        columns = [f"#{name}" if kind.is_numeric() else name for name, kind in frame.schema.items()]
        console().print(table(columns, frame.head(50).iter_rows()))
        if frame.height > 50:
            console().print(f"… {frame.height:,} cases; -o FILE.csv writes them all")
    else:
        console().print(f"{frame.height:,} cases → {output}")


def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR…", help="Folders that `train` wrote.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="HTML page to write.")] = None,
    draws: Annotated[int, typer.Option(help="Bootstrap draws over cases.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    json: JsonOption = False,
) -> None:
    """Encoders or heads on the same patients: the first against each other one, with paired intervals."""
    from beph_store.engine.study.compare import DELONG, render
    from beph_store.engine.study.compare import compare as run
    from beph_store.engine.study.evaluate import HEADLINES

    found = run(folders, draws=draws, seed=seed)
    if output is not None:
        output.write_text(render(found), encoding="utf-8")
    if json:
        print_json({**found.to_json(), "output": output and str(output)})
        return
    names = [name for name in (*HEADLINES[found.task], DELONG) if name in found.values[0]]
    for who, differences in zip(found.names[1:], found.differences, strict=True):
        rows = [
            (
                n,
                f"{d.a:.3f}",
                f"{d.b:.3f}",
                f"{d.difference:+.3f}",
                f"{d.ci_low:+.3f} … {d.ci_high:+.3f}",
                d.p_value,
            )
            for n in names
            if (d := differences[n])
        ]
        columns = ("metric", f"#{found.names[0]}", f"#{who}", "#difference", "#95 % interval", "#p")
        console().print(table(columns, rows, title=f"{found.cases} cases"))
    if output is not None:
        console().print(f"page  {output}")


def splits(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A split CSV, or a folder of splits_<i>.csv.")],
    cohort: Annotated[
        Path | None, typer.Option(help="Table that names the case of each slide; TCGA barcodes need none.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check splits for leaks: slides or patients on two sides. Exit code 1 where test figures cannot be believed."""
    from beph_store.engine.study.splits import check

    leaks = check(path, cohort)
    fatal = [leak for leak in leaks if leak.severity == "error"]
    if json:
        print_json({"ok": not fatal, "leaks": [asdict(leak) | {"severity": leak.severity} for leak in leaks]})
    else:
        console().print(table(("severity", "finding"), [(leak.severity, leak.text) for leak in leaks]))
        console().print(
            "no leak found" if not leaks else f"{len(fatal)} errors, {len(leaks) - len(fatal)} notes"
        )
    if fatal:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(train)
    app.command()(predict)
    app.command()(compare)
    app.command()(splits)
