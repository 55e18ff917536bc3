"""``beph-store query``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from beph_store_cli.render import JsonOption, StoreArgument, console, number, print_json, table


def query(
    store: StoreArgument,
    sql: Annotated[
        str, typer.Argument(metavar="SQL", help="Over the tables tiles, slides and those of --table.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the result to a Parquet file.")
    ] = None,
    tables: Annotated[
        list[str] | None,
        typer.Option("--table", metavar="NAME=FILE", help="A CSV or Parquet file as a table more."),
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Short for --table labels=FILE.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Which recipe's tiles, if the store has several.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """SQL over tiles, slides and labels: `query S "SELECT slide_id, count(*) n FROM tiles GROUP BY slide_id"`."""
    from beph_store.engine.imported import has_places
    from beph_store.store import Store, write_parquet
    from beph_store.store import query as run

    extra = {name: Path(file) for name, _, file in (item.partition("=") for item in tables or [])}
    if labels is not None:
        extra["labels"] = labels
    opened = Store.open(store)
    frame = run(opened, sql, recipe=recipe, tables=extra)
    records = list(opened.recipes()) if recipe is None else [opened.recipe(recipe)]
    if {"x", "y"} & set(frame.columns) and not any(has_places(one.recipe) for one in records):
        typer.echo("note: these tiles were imported without their places: x and y are 0 for each", err=True)
    if output is not None:
        write_parquet(frame, output)
    if json:
        rows = {} if output is not None else {"data": frame.to_dicts()}
        print_json({"rows": frame.height, "columns": frame.columns, "output": output and str(output), **rows})
    elif output is not None:
        console().print(f"{frame.height:,} rows × {frame.width} columns → {output}")
    else:
        names = [f"#{name}" if dtype.is_numeric() else name for name, dtype in frame.schema.items()]
        rows_shown = [[_cell(v) for v in row] for row in frame.head(50).iter_rows()]
        console().print(table(names, rows_shown))
        if frame.height > 50:
            console().print(f"… {frame.height:,} rows; -o FILE.parquet writes them all")


def _cell(value: object) -> str:
    if isinstance(value, list) or hasattr(value, "to_list"):
        return f"[{len(value)} values]"  # type: ignore[arg-type]
    return number(value)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(query)
