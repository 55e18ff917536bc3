"""``beph-store map``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from beph_store.errors import UsageError
from beph_store_cli.progress import bar
from beph_store_cli.render import JsonOption, StoreArgument, console, print_json


def map_(
    store: StoreArgument,
    colour: Annotated[
        str,
        typer.Option(
            metavar="COLUMN", help="slide, case, tissue, x, y, or a column of the registry or labels."
        ),
    ] = "slide",
    labels: Annotated[
        Path | None, typer.Option(help="Table with slide_id or case_id, for --colour and --where.")
    ] = None,
    sample: Annotated[int, typer.Option(help="Tiles to show, taken evenly over slides.")] = 5000,
    seed: Annotated[int, typer.Option(help="The same seed draws the same map.")] = 0,
    where: Annotated[
        str | None, typer.Option(metavar="SQL", help="Over slide, tile and label columns; before sampling.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="umap (extra map), tsne (slower), pca (rough) \\[umap where installed, else tsne]."
        ),
    ] = None,
    output: Annotated[
        list[Path] | None,
        typer.Option("-o", "--output", help=".html or .png; may be repeated \\[map.html and map.png]."),
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Which recipe, if the store has several.")] = None,
    json: JsonOption = False,
) -> None:
    """Draw a map of the store's tiles by likeness: `map S --labels L.csv --colour label`."""
    from beph_store.engine.search.map import MapOptions, draw_map
    from beph_store.engine.search.mapfile import save_map
    from beph_store.engine.search.table import open_table

    outputs = output or [Path("map.html"), Path("map.png")]
    for path in outputs:
        if path.suffix.lower() not in (".png", ".html"):
            raise UsageError(f"-o {path}: end it in .html or .png")
    options = MapOptions(colour=colour, sample=sample, seed=seed, where=where)
    options = options if method is None else replace(options, method=method)
    with bar("reading embeddings") as moved:
        opened = open_table(store, recipe=recipe, labels=labels, progress=moved)
    with bar("laying out the map"):
        drawn = draw_map(opened, options)
    pictures: dict[str, int] = {}
    with bar("reading thumbnails") as moved:
        for path in outputs:
            pictures |= save_map(drawn, path, moved)
    if json:
        print_json(
            drawn.to_json() | {"thumbnails": pictures or None, "outputs": [str(path) for path in outputs]}
        )
        return
    console().print(drawn.subtitle, markup=False)
    console().print(drawn.trust, markup=False)
    if pictures.get("from_overviews") or pictures.get("none"):
        console().print(
            f"{pictures['from_overviews']:,} thumbnails are cut from stored overviews and {pictures['none']:,} are "
            "missing, because the slides' files are not where they were or have changed"
        )
    for path in outputs:
        console().print(f"→ {path}", markup=False)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("map")(map_)
