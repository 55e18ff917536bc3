"""``beph-store protocol list`` and ``protocol run``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beph_store.errors import UsageError
from beph_store_cli.progress import bar
from beph_store_cli.render import JsonOption, console, print_json, spelled, table

if TYPE_CHECKING:
    from beph_store.engine.protocols.options import Tell
    from beph_store.engine.protocols.results import Outcome

app = typer.Typer(help="The experiments of the BEPH paper as recipes.", no_args_is_help=True)


@app.command("list")
def list_protocols(json: JsonOption = False) -> None:
    """The eleven protocols: what each needs, its head and its splits."""
    from beph_store.engine.protocols.table import BASELINES, PROTOCOLS

    rows = [
        {
            "name": one.name,
            "level": one.level,
            "task": one.title,
            "cohort": one.cohort,
            "classes": list(one.classes),
            "needs": one.needs,
            "head": one.head,
            "splits": one.splits,
            "fractions": list(one.fractions),
            "magnifications": list(one.groups),
            "mpp": one.mpp,
            "metrics": list(one.headline),
            "released_splits": one.released or None,
            "baselines": {baseline.title: baseline.encoder for baseline in BASELINES},
            "published": {baseline.title: one.stated(baseline) for baseline in BASELINES},
        }
        for one in PROTOCOLS.values()
    ]
    if json:
        print_json({"protocols": rows})
        return
    shown = [(one.name, one.cohort, one.brings, one.head, one.splits_shortly) for one in PROTOCOLS.values()]
    console().print(table(("name", "cohort", "bring", "head", "splits by case"), shown))
    console().print(
        "\nEach also runs ResNet-50 and DINO ViT-S. LC25000 names no patients: its folds are by image. "
        "docs/protocols.md says more."
    )


@app.command()
def run(
    task: Annotated[str, typer.Argument(metavar="TASK", help="A name of `protocol list`.")],
    out: Annotated[Path, typer.Option(help="Folder for report.html, protocol.json and all that is made.")],
    slides: Annotated[
        Path | None, typer.Option(help="Folder of slides; those of the table are taken.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Store to work on, or to ingest the slides into \\[OUT/store].")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="breakhis, lc25000: folder of the data set.")] = None,
    cohort: Annotated[Path | None, typer.Option(help="Table of slides, cases and labels.")] = None,
    splits: Annotated[
        Path | None, typer.Option(help="CLAM-style split CSVs instead; refused where they leak.")
    ] = None,
    as_published: Annotated[
        bool,
        typer.Option(
            "--as-published", help="Use --splits that leak, as the authors did; the leaks are named."
        ),
    ] = False,
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            help="Name, or folder of a bundle; may be repeated, the first is compared \\[beph-mini; with --store "
            "alone, all it holds]."
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE", help="Checkpoint of an encoder that is exported first; repeatable."
        ),
    ] = None,
    baselines: Annotated[
        bool, typer.Option(help="Also run ResNet-50 and DINO ViT-S, fetched from the Hugging Face hub.")
    ] = True,
    fractions: Annotated[
        str | None,
        typer.Option(
            metavar="N,N…", help="Per cent of the training cases \\[subtyping 25,50,75,100; else 100]."
        ),
    ] = None,
    draws: Annotated[
        int | None, typer.Option(help="Monte-Carlo draws, or repeats of the folds \\[the protocol's].")
    ] = None,
    folds: Annotated[int | None, typer.Option(help="Folds, where the protocol has them \\[5].")] = None,
    epochs: Annotated[int | None, typer.Option(help="Most epochs of a head \\[20; survival 60].")] = None,
    limit_tiles: Annotated[int | None, typer.Option(help="A trial: at most so many tiles a slide.")] = None,
    mpp: Annotated[float | None, typer.Option(help="µm/px of the tiles \\[0.25].")] = None,
    stride_px: Annotated[
        int | None, typer.Option(help="Step of the grid, px; 256 as the authors' \\[the tile's side].")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same figures.")] = 0,
    bootstrap: Annotated[int, typer.Option(help="Draws over cases for the intervals.")] = 1000,
    json: JsonOption = False,
) -> None:
    """From slides and a table to figures beside the paper's. Stop it at any time; the same line goes on."""
    from beph_store.engine.protocols.options import RunOptions
    from beph_store.engine.protocols.run import run as start

    options = RunOptions(
        slides=slides,
        store=store,
        images=images,
        cohort=cohort,
        splits=splits,
        as_published=as_published,
        encoders=tuple(encoder or ()),
        weights=_weights(weights or []),
        baselines=baselines,
        fractions=_fractions(fractions),
        draws=draws,
        folds=folds,
        epochs=epochs,
        limit_tiles=limit_tiles,
        mpp=mpp,
        stride_px=stride_px,
        seed=seed,
        bootstrap=bootstrap,
    )
    with _bars() as tell:
        outcome = start(task, out, options, tell)
    if json:
        print_json(outcome.to_json())
    else:
        show(outcome)
    if outcome.failed:
        more = f" (and {len(outcome.failed) - 1} more)" if len(outcome.failed) > 1 else ""
        typer.echo(f"error: {spelled(outcome.failed[0])}{more}", err=True)
        raise typer.Exit(1)


def show(outcome: Outcome) -> None:
    """The figures, the comparisons beside the paper's, and what to be careful about."""
    from beph_store.engine.protocols.report import interval, mean_sd, title
    from beph_store.engine.protocols.results import REPORT

    screen, protocol = console(), outcome.job.protocol
    metric = protocol.headline[0]
    roles = Counter(subject.role for subject in outcome.subjects)
    rows = []
    for subject in outcome.subjects:
        mine = [found for found in outcome.results if found.encoder == subject.name]
        who = subject.role if roles[subject.role] == 1 and subject.role else subject.name
        rows += [(who, f"{r.fraction} %", mean_sd(r, metric), r.over, interval(r, metric)) for r in mine]
        if not mine:
            rows.append((who, "–", "not run", "–", "–"))
    columns = ("encoder", "#data", f"#{title(outcome, metric)}", "over", "#all cases, 95 %")
    screen.print(table(columns, rows, title=f"{protocol.title} ({protocol.cohort})"))
    _beside(outcome)
    counts = ", ".join(f"{name} {count}" for name, count in outcome.data.counts.items())
    screen.print(f"\n{counts}; splits {outcome.to_json()['splits']}")
    for reason, count in outcome.data.dropped.items():
        screen.print(f"left out: {count:,} × {reason}")
    for text in outcome.data.leaks:
        screen.print(f"leak: {text}", style="bold red")
    for text in (*outcome.data.notes, *(f"not done: {spelled(one)}" for one in outcome.failed[:10])):
        screen.print(f"note: {text}", style="yellow")
    screen.print(f"report  {outcome.job.out / REPORT}")


def _beside(outcome: Outcome) -> None:
    """The paired differences, and what the abstract says of BEPH."""
    from beph_store.engine.protocols.report import gain
    from beph_store.engine.protocols.table import BASELINES

    protocol = outcome.job.protocol
    rows = [
        (f"{c.fraction} %", f"{c.first} − {c.role or c.second}", *gain(c), c.stated)
        for c in outcome.comparisons
    ]
    ran = {c.role for c in outcome.comparisons}
    rows += [
        ("–", f"– {one.title}", "not run", "–", "–", protocol.stated(one))
        for one in BASELINES
        if one.title not in ran
    ]
    columns = ("data", "first − second", "#difference", "#95 %", "#per cent", "BEPH in the abstract")
    console().print()
    console().print(table(columns, rows, title="Beside the paper"))


@contextmanager
def _bars() -> Iterator[Tell]:
    """One bar after the other: a step that is told of by another name begins a new one."""
    current = ""
    with ExitStack() as stack:
        moved = stack.enter_context(bar("starting"))

        def tell(what: str, done: int, total: int) -> None:
            nonlocal current, moved
            if what != current:
                current = what
                stack.close()
                moved = stack.enter_context(bar(what))
            moved(done, total)

        yield tell


def _fractions(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise UsageError(f"--fractions {text!r}: give whole numbers, such as 25,50,75,100") from None


def _weights(given: list[str]) -> dict[str, Path]:
    found = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            raise UsageError(f"--weights {text!r}: give the encoder and its file, as NAME=FILE")
        found[name] = Path(file)
    return found
