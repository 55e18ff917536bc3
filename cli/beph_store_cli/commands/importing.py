"""``beph-store import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from beph_store_cli.render import JsonOption, console, print_json


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="Put what others have computed into a store.")
    group.command("table")(table)
    app.add_typer(group, name="import")


def table(
    path: Annotated[
        Path, typer.Argument(metavar="TABLE", help="CSV, TSV (.gz too) or Parquet: one row a slide.")
    ],
    store: Annotated[str, typer.Option(help="Folder of the store; made if absent.")],
    columns: Annotated[str, typer.Option(help="Regular expression for the names of the feature columns.")],
    slide_column: Annotated[str, typer.Option(help="Column with the slide ids.")] = "slide_id",
    json: JsonOption = False,
) -> None:
    """One feature vector a slide, as bags of one: `import table rna.csv --store S --columns '.*_rnaseq'`."""
    from beph_store.engine.importing import import_table
    from beph_store_cli.progress import bar

    with bar("importing") as progress:
        report = import_table(path, store, columns=columns, id_column=slide_column, progress=progress)
    done, known = (sum(s.status == word for s in report.slides) for word in ("done", "skipped"))
    if json:
        slides = [{"slide_id": s.slide_id, "status": s.status, "error": s.error} for s in report.slides]
        print_json({"recipe": report.recipe, "dim": report.dim, "slides": slides})
    else:
        console().print(
            f"{done} slides of {report.dim} values imported, {known} known → recipe {report.recipe}"
        )
        for outcome in report.failed[:10]:
            console().print(f"  refused {outcome.slide_id}: {outcome.error}")
    if report.failed:
        typer.echo(f"error: {len(report.failed)} of {len(report.slides)} rows were refused", err=True)
        raise typer.Exit(1)
