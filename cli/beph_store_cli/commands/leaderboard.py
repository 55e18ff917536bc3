"""``beph-store encoder leaderboard``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beph_store.errors import UsageError
from beph_store_cli.commands.probe import Classes, MaxTiles, Seed, ShotDraws
from beph_store_cli.progress import bar
from beph_store_cli.render import JsonOption, choice, console, print_json, table

if TYPE_CHECKING:
    from beph_store.engine.leaderboard.columns import Column
    from beph_store.engine.leaderboard.run import Leaderboard, Row


def leaderboard(
    source: Annotated[
        Path,
        typer.Argument(metavar="STORE|FOLDER|CSV", help="A store, a folder of images, or a table of images."),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for report.html, leaderboard.png, leaderboard.json and vectors.")
    ],
    labels: Annotated[
        Path | None, typer.Option(help="Table of classes: of the store's slides or tiles, or of images.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Column of the class, if the table has several.")] = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            help="Name or bundle, FOLDER@int8 for a precision; of a store an encoder or a recipe's key \\[all]. "
            "May be given several times."
        ),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Encoder that the others are compared with \\[the first].")
    ] = None,
    classes: Classes = None,
    layout: Annotated[
        str | None, typer.Option(help="Of a folder: breakhis, lc25000 or folders (one a class).")
    ] = None,
    fit: Annotated[
        str | None, typer.Option(help="Images of another size: crop, squeeze or centre \\[refused].")
    ] = None,
    case_pattern: Annotated[
        str | None, typer.Option(help="folders: regular expression whose one group is the case in a path.")
    ] = None,
    case_column: Annotated[str | None, typer.Option(help="Column of the case (patient).")] = None,
    slide_column: Annotated[str | None, typer.Option(help="Store: column of the slide.")] = None,
    group_column: Annotated[
        str | None, typer.Option(help="Images: each value by itself, then their mean \\[group].")
    ] = None,
    where: Annotated[str | None, typer.Option(metavar="SQL", help="Store: which tiles.")] = None,
    folds: Annotated[int, typer.Option(help="Folds of the cross-validation, by case.")] = 5,
    shots: Annotated[
        str, typer.Option(metavar="N,N…", help="Learn from so few cases a class; '' for none.")
    ] = ("1,5,10,25"),
    shot_draws: ShotDraws = 20,
    max_tiles: MaxTiles = None,
    perturbed_tiles: Annotated[int, typer.Option(min=0, help="Tiles that are perturbed; 0 for none.")] = 500,
    speed_seconds: Annotated[
        float, typer.Option(min=0, help="Each of three rounds of an encoder's speed; 0 for none.")
    ] = 2.0,
    seed: Seed = 0,
    draws: Annotated[int, typer.Option(min=1, help="Bootstrap draws over cases.")] = 1000,
    runtime: Annotated[str, typer.Option(help="Inference runtime; `doctor` lists them.")] = "auto",
    json: JsonOption = False,
) -> None:
    """Several encoders on the same labelled tiles: `leaderboard imgs.csv --encoder A --encoder B --out DIR`."""
    from beph_store.engine.embed import FITS
    from beph_store.engine.folders import check_folder
    from beph_store.engine.leaderboard.report import KNOWN, PICTURE, REPORT, write
    from beph_store.engine.leaderboard.run import LeaderboardOptions
    from beph_store.engine.leaderboard.run import leaderboard as run
    from beph_store.engine.leaderboard.source import Question, comparison_of
    from beph_store.engine.leaderboard.speed import Timing
    from beph_store.engine.probe.run import ProbeOptions
    from beph_store.engine.probe.tiles import MAX_TILES

    asked = Question(
        encoders=tuple(encoder or ()),
        labels=labels,
        target=target,
        classes=tuple(name.strip() for name in classes.split(",")) if classes else (),
        case_column=case_column,
        slide_column=slide_column,
        group_column=group_column,
        case_pattern=case_pattern,
        layout=choice(layout, "--layout", "breakhis", "lc25000", "folders"),
        fit=choice(fit, "--fit", *FITS),
        where=where,
        max_tiles=max_tiles or MAX_TILES,
        seed=seed,
        runtime=runtime,
        baseline=baseline,
    )
    probe = ProbeOptions(folds=folds, shots=_numbers(shots), shot_draws=shot_draws, seed=seed, draws=draws)
    options = LeaderboardOptions(probe, baseline, perturbed_tiles, timing=Timing(speed_seconds))
    check_folder(out, KNOWN)
    with bar("embedding") as moved:
        comparison = comparison_of(source, out, asked, progress=moved)
    with bar("measuring") as moved:
        board = run(comparison, options, out, progress=moved)
    write(board, out)
    if json:
        print_json({"out": str(out), **board.to_json()})
        return
    show(board)
    console().print(f"report  {out / REPORT}\nplot    {out / PICTURE}")


def show(board: Leaderboard) -> None:
    """The headline columns, an encoder a row, then what each has over the baseline."""
    from beph_store.engine.leaderboard.columns import SPEED

    screen, tiles = console(), board.comparison.tiles
    own = [column for column in board.columns if column.headline]
    heads = ("encoder", *(f"#{column.short}" for column in own), "#tiles/s")
    screen.print(table(heads, [(*_cells(row, own), _speed(row)) for row in board.rows]))
    others = [row for row in board.rows if row.entrant.name != board.baseline and row.differences]
    if others:
        screen.print(
            f"\nminus {board.baseline}, on the same draws of the cases; * zero is outside its interval"
        )
        screen.print(table(heads[:-1], [_gaps(row, own) for row in others]))
    lacking = dict.fromkeys(
        row.missing[name]
        for row in board.rows
        for name in (*(c.key for c in own), SPEED)
        if name in row.missing
    )
    screen.print(
        f"\n{len(tiles):,} tiles of {len(tiles.case_ids):,} cases, {len(tiles.classes)} classes, held out by case; "
        f"below each value its 95 % interval over cases; {len(tiles.dropped)} rows or images left out"
    )
    for text in (*(f"– {why}" for why in lacking), *(f"note: {n}" for n in (*board.warnings, *tiles.notes))):
        screen.print(text, style="yellow")


def _cells(row: Row, columns: Sequence[Column]) -> tuple[str, ...]:
    found = [row.metrics.get(column.key) for column in columns]
    return row.entrant.name, *(
        "–" if one is None else f"{one.value:.3f}\n{_plain(one.ci_low)} {_plain(one.ci_high)}"
        for one in found
    )


def _gaps(row: Row, columns: Sequence[Column]) -> tuple[str, ...]:
    found = [row.differences.get(column.key) for column in columns]
    return row.entrant.name, *(
        "–"
        if one is None
        else f"{one.difference:+.3f}{'*' if one.ci_low > 0 or one.ci_high < 0 else ''}\n"
        f"{_plain(one.ci_low)} {_plain(one.ci_high)}"
        for one in found
    )


def _speed(row: Row) -> str:
    return "–" if row.rate is None else f"{row.rate.tiles_per_second:,.3g}"


def _plain(value: float) -> str:
    """Two digits, no zero before the point: .57, −.03, 1.00, .00."""
    text = f"{round(value, 2) + 0.0:.2f}".replace("-", "−")
    return text.replace("0.", ".", 1) if abs(value) < 0.995 else text


def _numbers(shots: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in shots.split(",")) if shots else ()
    except ValueError:
        raise UsageError(f"--shots {shots!r}: give whole numbers, such as 1,5,10,25") from None


def register(app: typer.Typer) -> None:
    """Add the command to those of ``encoder``."""
    app.command()(leaderboard)
