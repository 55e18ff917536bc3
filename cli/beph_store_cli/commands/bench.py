"""``beph-store bench encoder | ingest``: rates on this machine, beside its limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from beph_store_cli.render import JsonOption, console, print_json, table

if TYPE_CHECKING:
    from beph_store.engine.bench.encoder import EncoderRate
    from beph_store.engine.bench.ingest import IngestRate

app = typer.Typer(help="Rates on this machine, beside its limits.", no_args_is_help=True)

_Encoder = Annotated[str, typer.Option(help="Name, or folder of an exported bundle.")]
_Precision = Annotated[str | None, typer.Option(help="Only this precision: fp32, fp16, bf16, int8.")]
_Batch = Annotated[int | None, typer.Option(help="Tiles a batch \\[the runtime's best].")]
_Seconds = Annotated[float, typer.Option(min=0.1, help="How long to time each, s.")]


@app.command("encoder")
def bench_encoder(
    encoder: _Encoder = "beph-mini",
    runtime: Annotated[str, typer.Option(help="Only this runtime; `doctor` lists them.")] = "all",
    precision: _Precision = None,
    batch: _Batch = None,
    threads: Annotated[int | None, typer.Option(help="CPU cores to use \\[all].")] = None,
    seconds: _Seconds = 5.0,
    json: JsonOption = False,
) -> None:
    """Tiles a second of an encoder in every runtime here, on tiles in memory, against the matrix rate."""
    from beph_store.engine.bench.encoder import BenchOptions
    from beph_store.engine.bench.encoder import bench_encoder as run

    options = BenchOptions(seconds=seconds, batch=batch, threads=threads)
    with console(stderr=True).status("timing") as status:
        rows = run(
            encoder,
            runtime=runtime,
            precision=precision,
            options=options,
            progress=lambda what: status.update(f"timing {encoder}: {what}"),
        )
    timed = [row for row in rows if row.reason is None]
    if json:
        print_json({"ok": bool(timed), "encoder": encoder, "rates": [row.to_json() for row in rows]})
    else:
        _show_encoder(encoder, rows)
    if not timed:
        typer.echo("error: nothing could be timed; `beph-store doctor` says what is missing", err=True)
        raise typer.Exit(1)


@app.command("ingest")
def bench_ingest(
    paths: Annotated[list[str], typer.Argument(metavar="PATH…", help="Slides, folders, globs.")],
    encoder: _Encoder = "beph-mini",
    runtime: Annotated[str, typer.Option(help="Inference runtime; `doctor` lists them.")] = "auto",
    precision: Annotated[str | None, typer.Option(help="fp32, fp16, bf16, int8, or auto \\[fp32].")] = None,
    batch: _Batch = None,
    workers: Annotated[int | None, typer.Option(help="Reader processes \\[as suits the cores].")] = None,
    slide_mpp: Annotated[float | None, typer.Option(help="Level-0 µm/px of these slides.")] = None,
    limit_tiles: Annotated[int | None, typer.Option(help="At most so many tiles a slide.")] = None,
    seconds: _Seconds = 5.0,
    json: JsonOption = False,
) -> None:
    """Ingest slides into a store that is thrown away: does it keep up with the encoder alone, and if not, why?"""
    from beph_store.engine.bench.ingest import bench_ingest as run
    from beph_store.engine.ingest import IngestOptions
    from beph_store_cli.progress import IngestProgress

    options = IngestOptions(
        encoder=encoder,
        runtime=runtime,
        precision=precision,
        batch=batch,
        workers=workers,
        limit_tiles=limit_tiles,
    )
    with IngestProgress() as progress:
        found = run(paths, options=options, slide_mpp=slide_mpp, seconds=seconds, progress=progress)
    if json:
        print_json({"ok": True, **found.to_json()})
    else:
        _show_ingest(found)


def _show_encoder(encoder: str, rows: list[EncoderRate]) -> None:
    out = console()
    shown = [
        (
            row.runtime,
            row.precision,
            row.device,
            row.batch,
            f"{row.tiles_per_second:,.1f}",
            _tera(row.tiles_per_second * row.flop_per_tile if row.flop_per_tile else None),
            "–" if row.share_of_peak is None else f"{row.share_of_peak:.0%}",
            "–" if row.centred_cosine is None else f"{row.centred_cosine:.4f}",
            None if row.joules_per_1000_tiles is None else f"{row.joules_per_1000_tiles:,.0f}",
        )
        for row in rows
        if row.reason is None
    ]
    columns = (
        "runtime",
        "precision",
        "device",
        "#batch",
        "#tiles/s",
        "#TFLOP/s",
        "#of peak",
        "#cosine",
        "#J/1,000",
    )
    out.print(table(columns, shown, title=f"{encoder}, tiles in memory"))
    for row in rows:
        if row.reason is not None:
            out.print(f"not {row.runtime} {row.precision}: {row.reason}", markup=False, style="dim")


def _show_ingest(found: IngestRate) -> None:
    report = found.report
    before, after = found.encoder_alone
    busy = ", ".join(f"{stage} {share:.0%}" for stage, share in report.busy.items())
    steady = "–" if found.ratio_steady is None else f"{found.ratio_steady:.2f}"
    console().print(
        f"{report.tiles:,} tiles of {len(report.slides)} slides in {report.seconds:.1f} s: "
        f"{report.tiles_per_second:,.1f} tiles/s\n"
        f"the encoder alone ({report.runtime}, {report.precision}, {report.device}): "
        f"{before:,.1f} before, {after:,.1f} after\n"
        f"ingest ÷ encoder alone: {found.ratio:.2f} in all, {steady} from first batch to last\n"
        f"busy: {busy}; the bottleneck is {report.bottleneck}"
    )


def _tera(rate: float | None) -> str:
    return "–" if rate is None else f"{rate / 1e12:.3g}"


def register(app_of_all: typer.Typer) -> None:
    """Add the commands."""
    app_of_all.add_typer(app, name="bench")
