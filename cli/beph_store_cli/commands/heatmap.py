"""``beph-store heatmap``."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from beph_store.errors import UsageError
from beph_store_cli.render import JsonOption, StoreArgument, choice, console, print_json


def heatmap(
    store: StoreArgument,
    head: Annotated[Path, typer.Option(help="Folder that `train` wrote.")],
    slide: Annotated[str, typer.Option(help="Slide id, with or without suffix.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="PNG picture, or GeoJSON for QuPath.")],
    show: Annotated[
        str, typer.Option(help="attention or score \\[attention where the head has it].")
    ] = "auto",
    of_class: Annotated[
        str | None, typer.Option("--class", help="Whose score \\[the predicted class].")
    ] = None,
    palette: Annotated[str, typer.Option(help="Name of a Matplotlib colour map.")] = "viridis",
    opacity: Annotated[float, typer.Option(help="Of the tiles over the slide, 0–1.")] = 0.6,
    width: Annotated[
        int | None,
        typer.Option(
            metavar="PX", help="Read the slide itself, this wide, in place of the stored thumbnail (PNG)."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """What a head thinks of each tile, over the stored thumbnail; the slide's file is not needed."""
    from beph_store.engine.heatmap import HeatmapStyle, slide_overlay, to_geojson
    from beph_store.engine.study.attention import tile_values
    from beph_store.engine.study.trained import TrainedRun
    from beph_store.store import Store

    if output.suffix.lower() not in (".png", ".geojson"):
        raise UsageError(f"-o {output}: end it in .png or .geojson")
    if width is not None and output.suffix.lower() != ".png":
        raise UsageError("--width is of a picture: end -o in .png, or leave it out")
    opened = Store.open(store)
    found = tile_values(
        TrainedRun.open(head),
        opened,
        slide,
        show=choice(show, "--show", "auto", "attention", "score"),
        of_class=of_class,
    )
    seen = "the head had not seen this case" if found.held_out else "the head was trained on this case"
    style = HeatmapStyle(
        palette=palette,
        opacity=opacity,
        title=found.bag.slide_id,
        legend=found.what,
        caption=f"{found.said}; {seen}",
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix.lower() == ".png":
        slide_overlay(opened, found.bag, found.values, style=style, width=width).save(output)
    else:
        side = opened.slide(found.bag.recipe_key, found.bag.slide_id).footprint_l0 or 1
        data = to_geojson(found.bag.origin_l0, side, found.values, name=found.what, style=style)
        output.write_text(jsonlib.dumps(data), encoding="utf-8")
    if json:
        print_json(
            {
                "slide_id": found.bag.slide_id,
                "tiles": len(found.bag),
                "shows": found.what,
                "prediction": found.said,
                "held_out": found.held_out,
                "output": str(output),
            }
        )
    else:
        console().print(f"{found.bag.slide_id}: {found.said} ({seen}) → {output}")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(heatmap)
