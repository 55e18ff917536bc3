"""``beph-store demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from beph_store.errors import UsageError
from beph_store_cli.render import JsonOption, console, print_json


def demo(
    out: Annotated[Path, typer.Option(help="Folder for slides, store and picture.")] = Path("demo"),
    real: Annotated[
        bool, typer.Option("--real", help="Fetch one small real slide too (1.9 MB, pinned hash).")
    ] = False,
    tutorial: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Only draw what the tutorials use into this folder: slides/, labels.csv, clinical.tsv, "
            "manifest.csv, tile.png.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """The whole job on a small sample, offline: draw slides, embed them, verify, train a head, look."""
    if tutorial is not None:
        _write_tutorial(tutorial, real, json)
        return
    from beph_store.engine.demo import demo as run
    from beph_store_cli.commands.ingest import show
    from beph_store_cli.progress import IngestProgress

    with IngestProgress() as progress:
        report = run(out, real=real, progress=progress, say=lambda line: typer.echo(line, err=True))
    ok = report.verified and not report.ingest.failed
    if json:
        data = report.ingest.to_json()
        paths = {name: str(getattr(report, name)) for name in ("out", "store", "picture", "heatmap", "hits")}
        trained = report.training.to_json()
        head = {name: trained[name] for name in ("out", "report", "cases", "metrics")}
        print_json({"ok": ok, **paths, "separation": report.separation, "head": head, **data})
    else:
        show(report.ingest)
        out_console = console()
        out_console.print(f"\nstore     {report.store}  (verified: {'ok' if report.verified else 'NOT ok'})")
        out_console.print(
            f"picture   {report.picture}  ← look here: tiles of like colour have like embeddings"
        )
        out_console.print(f"heatmap   {report.heatmap}  ← and here: where the head sees tumour")
        out_console.print(f"hits      {report.hits}  ← tiles of other cases like the one it is surest of")
        out_console.print(f"report    {report.training.out / 'report.html'}")
        auroc = report.training.evaluation.metrics["auroc"].value
        cases = len(report.training.training.study.case_ids)
        out_console.print(
            f"\nA linear head tells tumour from normal in cases that it had not seen with an AUROC of {auroc:.2f}\n"
            f"({cases} drawn cases: a demonstration, not a result)."
        )
        out_console.print(
            f"\nNext:  beph-store info {report.store}   ·   beph-store ingest YOUR_SLIDES --store my-store"
        )
    if not ok:
        typer.echo("error: the demo did not end well: see above", err=True)
        raise typer.Exit(1)


def _write_tutorial(folder: Path, real: bool, json: bool) -> None:
    from beph_store.testing.tutorial import tutorial

    if real:
        raise UsageError("--tutorial draws all its slides: leave --real out")
    paths = tutorial(folder, say=lambda line: typer.echo(line, err=True))
    slides = [str(path) for path in paths if path.suffix == ".svs"]
    files = [str(path) for path in paths if path.suffix != ".svs"]
    if json:
        print_json({"ok": True, "out": str(folder), "slides": slides, "files": files})
        return
    out_console = console()
    out_console.print(f"slides    {folder / 'slides'}  ({len(slides)})")
    out_console.print(f"beside    {', '.join(Path(file).name for file in files)}")
    out_console.print(f"\nNext:  beph-store ingest {folder / 'slides'} --store {folder / 'S'}")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)
