"""``beph-store export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from beph_store_cli.commands import export_geojson
from beph_store_cli.render import JsonOption, StoreArgument, console, print_json, size
from beph_store_cli.synonyms import check_format


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export")(export)


def export(
    form: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT",
            help="clam, trident, stamp, slide2vec, atlaspatch, wsidata (LazySlide), anndata, anndata_zarr, "
            "parquet, parquet_list, bags (.pt), or geojson (QuPath).",
        ),
    ],
    store: StoreArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")],
    recipe: Annotated[str | None, typer.Option(help="Recipe, where the store has several.")] = None,
    slide: Annotated[list[str] | None, typer.Option(help="Only this slide; may be repeated.")] = None,
    encoder_name: Annotated[
        str | None, typer.Option(help="What the encoder is called there \\[its name here].")
    ] = None,
    no_sidecar: Annotated[
        bool,
        typer.Option(
            "--no-sidecar", help="Write only the other tool's files; coming back then loses things."
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that hold something else.")
    ] = False,
    what: Annotated[
        str | None, typer.Option(help="geojson: tiles, tissue, labels or heatmap \\[tiles].")
    ] = None,
    head: Annotated[Path | None, typer.Option(help="geojson, heatmap: folder that `train` wrote.")] = None,
    in_bounds: Annotated[
        bool, typer.Option("--in-bounds", help="geojson: count from openslide.bounds-x/-y, as QuPath may.")
    ] = False,
    bounds_origin: Annotated[
        str | None, typer.Option(metavar="X,Y", help="geojson: count from here, level-0 px.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write the embeddings of a store as the files of another tool. Run it again to go on or to add slides."""
    from beph_store.engine.exporting import ExportOptions, export_features
    from beph_store_cli.progress import bar

    check_format(form, into=False)
    alone = {"what": what, "head": head, "in_bounds": in_bounds, "bounds_origin": bounds_origin}
    if form == "geojson":
        export_geojson.run(store, out, recipe, slide, json, **alone)
        return
    export_geojson.refuse(**alone)
    options = ExportOptions(
        recipe=recipe,
        slides=tuple(slide or ()),
        encoder_name=encoder_name,
        sidecar=not no_sidecar,
        overwrite=overwrite,
    )
    with bar("exporting") as progress:
        report = export_features(form, store, out, options=options, progress=progress)
    if json:
        slides = [
            {"slide_id": s.slide_id, "status": s.status, "tiles": s.tiles, "error": s.error}
            for s in report.slides
        ]
        print_json(
            {
                "recipe": report.recipe,
                "format": report.kind,
                "out": report.out,
                "tiles": report.tiles,
                "bytes": report.nbytes,
                "seconds": round(report.seconds, 3),
                "notes": list(report.notes),
                "slides": slides,
            }
        )
    else:
        done, there = (sum(s.status == word for s in report.slides) for word in ("done", "skipped"))
        console().print(
            f"{done} slides, {report.tiles:,} tiles, {size(report.nbytes)} → {report.out}; {there} were there already"
        )
        for note in report.notes:
            console().print(Text.assemble(("note", "yellow"), f" {note}"))
        for outcome in report.failed[:10]:
            console().print(f"  failed {outcome.slide_id}: {outcome.error}")
    if report.failed:
        typer.echo(f"error: {len(report.failed)} of {len(report.slides)} slides failed", err=True)
        raise typer.Exit(1)
