"""``beph-store ingest``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from beph_store_cli.render import JsonOption, console, print_json, status, table

if TYPE_CHECKING:
    from beph_store.engine.report import IngestReport
    from beph_store.engine.several import SeveralReport

Paths = Annotated[
    list[str] | None,
    typer.Argument(metavar="PATH…", help="Slides, folders, globs; s3:// too.", show_default=False),
]


def ingest(
    paths: Paths = None,
    store: Annotated[str, typer.Option(help="Folder of the store; made if absent.")] = ...,  # type: ignore[assignment]
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            help="Name, or folder of an exported bundle; several share one reading of the slides.",
            show_default="beph-mini",
        ),
    ] = None,
    mpp: Annotated[float | None, typer.Option(help="Scale of the tiles, µm/px \\[the encoder's].")] = None,
    tile_px: Annotated[int | None, typer.Option(help="Side of a tile, px \\[the encoder's].")] = None,
    stride_px: Annotated[
        int | None,
        typer.Option(help="Step of the grid, px: smaller overlaps, larger leaves gaps \\[the tile's side]."),
    ] = None,
    tissue_min: Annotated[float, typer.Option(help="Least share of tissue in a tile, 0–1.")] = 0.25,
    manifest: Annotated[
        Path | None, typer.Option(help="CSV: path, and any of slide_id, mpp, case_id.")
    ] = None,
    slide_mpp: Annotated[
        float | None, typer.Option(help="Level-0 µm/px of these slides, whatever the files say.")
    ] = None,
    runtime: Annotated[str, typer.Option(help="Inference runtime; `doctor` lists them.")] = "auto",
    precision: Annotated[
        str | None,
        typer.Option(
            help="fp32, fp16, bf16, int8, or auto: the fastest here. A feature space each \\[fp32]."
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Reader processes \\[as suits the cores].")] = None,
    limit_tiles: Annotated[
        int | None,
        typer.Option(help="A trial: at most so many tiles a slide, evenly spread; a recipe of its own."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Ingest slides anew that are in the store already.")
    ] = False,
    keep_tiles: Annotated[
        bool,
        typer.Option("--keep-tiles", help="Keep the tiles' pixels too, for `pretrain`: some 120 kB a tile."),
    ] = False,
    slide_cache_gb: Annotated[
        float | None,
        typer.Option(help="Local disk for slides from object storage \\[a quarter of what is free]."),
    ] = None,
    reader_memory_gb: Annotated[
        float | None, typer.Option(help="Memory that a reader process may take for a slide \\[4].")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Spread over a Ray cluster: auto, its host:port, or local \\[this machine alone].",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Embed slides into a store. Kill it at any time and run it again: nothing is lost or done twice."""
    from beph_store.engine.ingest import IngestOptions
    from beph_store.engine.ingest import ingest as run
    from beph_store.engine.several import ingest_several
    from beph_store_cli.progress import IngestProgress

    encoders = encoder or ["beph-mini"]
    options = IngestOptions(
        encoder=encoders[0],
        mpp=mpp,
        tile_px=tile_px,
        stride_px=stride_px,
        tissue_min=tissue_min,
        runtime=runtime,
        precision=precision,
        workers=workers,
        limit_tiles=limit_tiles,
        replace=replace,
        keep_tiles=keep_tiles,
        slide_cache_gb=slide_cache_gb,
        reader_memory_gb=reader_memory_gb,
        ray_address=ray,
    )
    with IngestProgress() as progress:
        rest: dict[str, Any] = {
            "options": options,
            "manifest": manifest,
            "slide_mpp": slide_mpp,
            "progress": progress,
        }
        if len(encoders) == 1:
            _tell([run(paths or [], store, **rest)], None, json)
        else:
            several = ingest_several(paths or [], store, encoders, **rest)
            _tell(several.reports, several, json)


def _tell(reports: Sequence[IngestReport], several: SeveralReport | None, json: bool) -> None:
    """What came of it; exit code 1 where slides failed."""
    if json:
        print_json((several or reports[0]).to_json())
    else:
        for report in reports:
            show(report)
            if report.tiles and (said := _passed_over(report.passed_over)):
                console().print(Text(said, style="dim"))
        if several is not None:
            console().print(f"{several.tiles:,} vectors of {len(reports)} recipes in {several.seconds:.1f} s")
    for note in dict.fromkeys(note for report in reports for note in report.notes):
        console(stderr=True).print(Text.assemble(("note", "yellow"), f" {note}"))
    failed = sum(len(report.failed) for report in reports)
    if failed:
        of = sum(len(report.slides) for report in reports)
        typer.echo(f"error: {failed} of {of} slides failed", err=True)
        raise typer.Exit(1)


def show(report: IngestReport) -> None:
    """The table of slides and the line on speed."""
    out = console()
    shown = report.slides if len(report.slides) <= 40 else [*report.failed, *report.slides][:40]
    rows = [(o.slide_id, status(o.status), o.tiles, o.seconds or None, o.error or "") for o in shown]
    out.print(table(("slide", "status", "#tiles", "#seconds", "reason"), rows))
    if len(shown) < len(report.slides):
        out.print(f"… {len(report.slides)} slides in all; `beph-store slides` lists them")
    if report.tiles:
        busy = ", ".join(f"{stage} {share:.0%}" for stage, share in report.busy.items())
        overlap = " (slides overlap)" if len(report.slides) > 1 else ""
        out.print(
            f"\n{report.tiles:,} tiles in {report.seconds:.1f} s{overlap}: {report.tiles_per_second:,.1f} tiles/s "
            f"({report.runtime}, {report.precision}, {report.device})\n"
            f"busy: {busy}; the bottleneck is {report.bottleneck}"
        )
        if report.decode_amplification is not None:
            out.print(
                f"each compressed tile of the files was decoded {report.decode_amplification:.2f} times"
            )
    if report.kept_tiles is not None:
        out.print(f"the tiles of {report.kept_tiles.slides} of these slides are kept")
    out.print(f"recipe {report.recipe}")


def _passed_over(runtimes: Sequence[tuple[str, str]]) -> str:
    """In full what failed the gate; where there is a GPU, by name what could use it and is not there."""
    from beph_store.runtimes import visible_gpus

    failed = [f"not {name}: {why}\n" for name, why in runtimes if "does not reproduce" in why]
    absent = [name for name, why in runtimes if "does not reproduce" not in why] if visible_gpus() else []
    also = f"faster runtimes that cannot be used here, see `beph-store doctor`: {', '.join(absent)}"
    return "".join(failed) + (also if absent else "")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(ingest)
