"""``beph-store import``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from beph_store_cli.render import JsonOption, console, print_json, size
from beph_store_cli.synonyms import check_format

if TYPE_CHECKING:
    from beph_store.engine.importing import ImportReport

_FORMATS = (
    "clam, trident, stamp, slide2vec, atlaspatch, wsidata (LazySlide), anndata, anndata_zarr, parquet, "
    "bags (.pt files), or table (CSV or Parquet, a row a slide)"
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("import")(import_)


def import_(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help=f"What wrote them: {_FORMATS}.")],
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of the features, or the table.")],
    store: Annotated[str, typer.Option(help="Folder of the store; made if absent.")],
    mpp: Annotated[float | None, typer.Option(help="µm per px of the tiles: 0.5 for 20x.")] = None,
    mpp_l0: Annotated[float | None, typer.Option(help="µm per level-0 px of these slides.")] = None,
    encoder_name: Annotated[str | None, typer.Option(help="What made the vectors.")] = None,
    weights_sha256: Annotated[str | None, typer.Option(help="SHA-256 of its weights.")] = None,
    tile_px: Annotated[int | None, typer.Option(help="Side of a tile, px at --mpp.")] = None,
    stride_px: Annotated[int | None, typer.Option(help="Step of the grid, px at --mpp.")] = None,
    footprint_l0: Annotated[int | None, typer.Option(help="Side of a tile, level-0 px.")] = None,
    coords: Annotated[
        Path | None, typer.Option(help="Folder of the coordinates, where it is another.")
    ] = None,
    slides: Annotated[
        Path | None, typer.Option(help="Folder of the slides: size, mpp and thumbnails are taken from them.")
    ] = None,
    manifest: Annotated[Path | None, typer.Option(help="CSV: slide_id, and any of mpp, case_id.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Only features of this one, of several.")] = None,
    group: Annotated[
        str | None, typer.Option(help="Only this scale, of several: `20x_256px_0px_overlap`.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Import slides anew that are there.")] = False,
    no_sidecar: Annotated[
        bool, typer.Option("--no-sidecar", help="Import an export of beph-store like anybody's files.")
    ] = False,
    columns: Annotated[
        str | None, typer.Option(help="Of a table: regular expression for the feature columns.")
    ] = None,
    slide_column: Annotated[str, typer.Option(help="Of a table: column with the slide ids.")] = "slide_id",
    json: JsonOption = False,
) -> None:
    """Put features that other tools computed into a store. What their files do not say is asked for."""
    from beph_store.engine.importing import ImportOptions, import_features, import_table
    from beph_store.errors import UsageError
    from beph_store_cli.progress import bar

    check_format(form, into=True)
    options = ImportOptions(
        encoder_name=encoder_name,
        weights_sha256=weights_sha256,
        mpp=mpp,
        tile_px=tile_px,
        stride_px=stride_px,
        footprint_l0=footprint_l0,
        mpp_l0=mpp_l0,
        slides=slides,
        manifest=manifest,
        coords=coords,
        only_encoder=encoder,
        only_group=group,
        replace=replace,
        sidecar=not no_sidecar,
    )
    with bar("importing") as progress:
        if form == "table":
            if columns is None:
                raise UsageError(
                    "a table needs --columns, a regular expression for the names of its feature columns"
                )
            report = import_table(path, store, columns=columns, id_column=slide_column, progress=progress)
        else:
            report = import_features(form, path, store, options=options, progress=progress)
    if json:
        print_json(_as_json(report))
    else:
        _show(report)
    if report.failed:
        what = "rows" if form == "table" else "slides"
        typer.echo(f"error: {len(report.failed)} of {len(report.slides)} {what} were refused", err=True)
        raise typer.Exit(1)


def _as_json(report: ImportReport) -> dict[str, object]:
    slides = [
        {"slide_id": s.slide_id, "status": s.status, "tiles": s.tiles, "error": s.error}
        for s in report.slides
    ]
    return {
        "recipe": report.recipe,
        "recipes": list(report.recipes or (report.recipe,)),
        "dim": report.dim,
        "tiles": report.tiles,
        "bytes": report.nbytes,
        "seconds": round(report.seconds, 3),
        "largest_rounding": report.largest_rounding,
        "notes": list(report.notes),
        "slides": slides,
    }


def _show(report: ImportReport) -> None:
    out = console()
    done, known = (
        sum(s.status in words for s in report.slides) for words in (("done", "empty"), ("skipped",))
    )
    speed = f", {size(report.nbytes)} in {report.seconds:.1f} s" if report.nbytes else ""
    out.print(f"{done} slides of {report.dim} values imported{speed}, {known} known → recipe {report.recipe}")
    for key in report.recipes[1:]:
        out.print(f"  and recipe {key}")
    for note in report.notes:
        out.print(Text.assemble(("note", "yellow"), f" {note}"))
    for outcome in report.failed[:10]:
        out.print(f"  refused {outcome.slide_id}: {outcome.error}")
