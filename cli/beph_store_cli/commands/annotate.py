"""``beph-store annotate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beph_store.errors import UsageError
from beph_store_cli.progress import bar
from beph_store_cli.render import JsonOption, StoreArgument, choice, console, print_json, table

if TYPE_CHECKING:
    from beph_store.engine.annotate import AnnotateReport


def annotate(
    store: StoreArgument,
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE…", help="GeoJSON (QuPath) or XML (ASAP), named after its slide."),
    ] = None,
    slide: Annotated[str | None, typer.Option(help="Whose a file of another name is.")] = None,
    target: Annotated[
        str | None, typer.Option(help="What the classes are, for labels beside those of the page.")
    ] = None,
    cover: Annotated[
        float | None, typer.Option(help="Least share of a tile that its class covers \\[its middle decides].")
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(metavar="OLD=NEW", help="Another name for a class; OLD= takes its tiles out."),
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Only these classes, comma-separated.")] = None,
    rest: Annotated[str | None, typer.Option(help="Class of all other tiles of an annotated slide.")] = None,
    prop: Annotated[
        str | None, typer.Option("--property", help="Property that is the class \\[classification].")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take away labels of these slides that the files do not give.")
    ] = False,
    in_bounds: Annotated[
        bool,
        typer.Option("--in-bounds", help="Positions count from openslide.bounds-x/-y, as QuPath's may."),
    ] = False,
    bounds_origin: Annotated[
        str | None, typer.Option(metavar="X,Y", help="They count from here, level-0 px.")
    ] = None,
    self_crossing: Annotated[
        str, typer.Option(help="refuse, or fill: all that an outline winds around.")
    ] = "refuse",
    outside: Annotated[
        str, typer.Option(help="refuse, or clip: areas may reach beyond the slide.")
    ] = "refuse",
    who: Annotated[str, typer.Option(help="Kept with every label.")] = "annotate",
    undo: Annotated[bool, typer.Option("--undo", help="Take back the last action of --who.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="All labels: FILE.csv for probe, or a folder of GeoJSON."),
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Which recipe, if the store has several.")] = None,
    json: JsonOption = False,
) -> None:
    """Annotated areas become labels of tiles: `annotate S slide1.geojson slide2.xml --rest normal`."""
    from beph_store.engine.annotate import AnnotateOptions, labels_csv, undo_annotation
    from beph_store.engine.annotate import annotate as run
    from beph_store.engine.exporting_geojson import GeoJsonOptions, export_geojson

    if not files and not undo and output is None:
        raise UsageError("annotate needs files, --undo or -o")
    origin = corner(bounds_origin)
    report = undo_annotation(store, who, recipe=recipe, target=target) if undo else None
    if files:
        options = AnnotateOptions(
            slide=slide,
            cover=cover,
            rename=dict(_renamed(rename or [])),
            classes=tuple(name.strip() for name in classes.split(",")) if classes else (),
            rest=rest,
            prop=prop,
            replace=replace,
            bounds_origin=origin,
            in_bounds=in_bounds,
            self_crossing=choice(self_crossing, "--self-crossing", "refuse", "fill"),
            outside=choice(outside, "--outside", "refuse", "clip"),
            who=who,
        )
        with bar("annotating") as progress:
            report = run(store, files, options, recipe=recipe, target=target, progress=progress)
    written: list[str] = []
    if output is not None and output.suffix.lower() == ".csv":
        labels_csv(store, output, recipe=recipe, target=target)
        written = [str(output)]
    elif output is not None:
        wanted = GeoJsonOptions("labels", recipe, target=target, in_bounds=in_bounds, bounds_origin=origin)
        written = [str(path) for path in export_geojson(store, output, wanted)]
    if json:
        print_json({**(report.to_json() if report else {}), "written": written})
    else:
        _show(report, written)


def corner(text: str | None) -> tuple[int, int] | None:
    """The two whole numbers of an option X,Y."""
    if text is None:
        return None
    try:
        x, y = (int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--bounds-origin {text!r}: give two whole numbers, such as 1200,3400") from None
    return x, y


def _renamed(texts: list[str]) -> list[tuple[str, str]]:
    pairs = [text.split("=", 1) for text in texts]
    if any(len(pair) != 2 for pair in pairs):
        raise UsageError("--rename takes OLD=NEW")
    return [(old, new) for old, new in pairs]


def _show(report: AnnotateReport | None, written: list[str]) -> None:
    screen = console()
    if report is not None and report.slides:
        rows = [
            (
                one.slide_id,
                one.areas,
                ", ".join(f"{name} {n:,}" for name, n in sorted(one.tiles.items())) or "–",
                one.changed,
                one.relabelled,
                len(one.left_out),
            )
            for one in report.slides
        ]
        screen.print(table(("slide", "#areas", "tiles", "#changed", "#relabelled", "#left out"), rows))
        for one in report.slides:
            if one.several:
                screen.print(
                    f"note: {one.slide_id}: {one.several:,} tiles lie in several classes: the smallest area counted",
                    style="yellow",
                )
            for text in one.left_out[:3]:
                screen.print(f"note: {one.slide_id}: left out {text}", style="yellow")
    if report is not None:
        name = f" for {report.target}" if report.target else ""
        screen.print(f"{report.labelled:,} tiles of recipe {report.recipe} are labelled{name}")
    for path in written[:10]:
        screen.print(f"→ {path}")
    if len(written) > 10:
        screen.print(f"… {len(written):,} files")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(annotate)
