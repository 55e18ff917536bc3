"""``beph-store reproduce``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from beph_store_cli.progress import bar
from beph_store_cli.render import JsonOption, console, print_json, table


def reproduce(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `train` wrote.")],
    store: Annotated[str | None, typer.Option(help="The store, where it has moved.")] = None,
    tolerance: Annotated[
        float,
        typer.Option(min=0.0, help="Largest difference that passes; 0 wants every bit, of the weights too."),
    ] = 0.0,
    json: JsonOption = False,
) -> None:
    """Fit the heads of a training again from its record, and compare. Exit code 1 where they differ."""
    from beph_store.engine.study.reproduce import reproduce as run

    with bar("fitting again") as moved:
        found = run(
            folder, store=store, tolerance=tolerance, progress=lambda at: moved(at.split + 1, at.splits)
        )
    if json:
        print_json(found.to_json())
    else:
        shown = found.differing or found.checks[-3:]
        rows = [(c.what, c.then, c.now, {None: "–", True: "yes", False: "NO"}[c.same]) for c in shown]
        console().print(table(("what", "then", "now", "passes"), rows))
        console().print(f"{found.heads} heads fitted again: {'the same' if found.ok else 'NOT the same'}")
    if not found.ok:
        failed = [check.what for check in found.checks if check.same is False]
        cure = "" if tolerance else "; --tolerance 1e-5 allows for another machine's last digits"
        if not {"weights", "predictions", "figures"}.issuperset(failed):
            cure = "; what went in is not what was recorded: train again"
        typer.echo(f"error: {folder} is not reproduced: {', '.join(failed)} differ{cure}", err=True)
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(reproduce)
