"""``beph-store encoder list | export | quantise | check``; `info` and `pull` are in ``encoder_weights``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from beph_store.errors import MissingExtra, UsageError
from beph_store_cli.commands import encoder_weights
from beph_store_cli.render import JsonOption, console, print_json, status, table

app = typer.Typer(
    help="Encoders: list, fetch weights, export to a bundle, quantise and check a bundle.",
    no_args_is_help=True,
)
encoder_weights.register(app)


@app.command("list")
def list_encoders(json: JsonOption = False) -> None:
    """The encoders known by name; any timm model goes by `timm:MODEL`, your own by `export NAME --timm MODEL`."""
    from beph_store.encoders import ENCODERS, where

    rows: list[dict[str, Any]] = [
        {**entry.facts(), "ready": entry.bundle is not None, "here": where(entry)}
        for entry in ENCODERS.values()
    ]
    if json:
        print_json({"encoders": rows})
        return
    shown = [
        (
            row["name"],
            row["here"] or "–",
            _doubted(row, "gated", "yes" if row["gated"] else "no"),
            _doubted(row, "mpp", f"{row['mpp']:g}"),
            row["dim"],
            _doubted(row, "licence", row["licence"]),
            row["what"],
        )
        for row in rows
    ]
    shown.append(("timm:MODEL", "–", "", "", None, "", "any model of timm, pooled output"))
    columns = ("name", "here", "gated", "#µm/px", "#dim", "licence", "what")
    console().print(table(columns, shown))
    console().print(
        "? not confirmed by its authors' own words. More: `encoder info NAME`; weights: `encoder pull NAME`."
    )


def _doubted(row: dict[str, Any], fact: str, value: str) -> str:
    return f"{value} ?" if fact in row["unconfirmed"] else value


@app.command()
def export(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of `encoder list`, or timm:MODEL.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle; must be new or empty.")],
    weights: Annotated[
        Path | None, typer.Option(help="Checkpoint file. timm models may come from the hub.")
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="expanded (as trained) or as-published, for BEPH.")
    ] = None,
    normalisation: Annotated[
        str | None, typer.Option(help="histology or imagenet \\[the variant's own].")
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(help="µm/px it is meant for: for timm models and your own.")
    ] = None,
    timm: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Your own encoder, called NAME: its timm architecture."),
    ] = None,
    pooling: Annotated[
        str | None, typer.Option(help="Your own: cls, mean, cls+mean or model \\[cls for a ViT].")
    ] = None,
    tile_px: Annotated[
        int | None, typer.Option(help="Your own: side of its tiles \\[the architecture's].")
    ] = None,
    mean: Annotated[str | None, typer.Option(help="Your own: R,G,B mean on the 0–1 scale.")] = None,
    std: Annotated[str | None, typer.Option(help="Your own: R,G,B standard deviation, 0–1.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Your own: an argument for timm.")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Your own: licence of the weights.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Keep a bundle that fails the parity gate.")] = False,
    json: JsonOption = False,
) -> None:
    """Export an encoder to ONNX (fp32 and fp16) with its checks. Needs torch: `beph-store[train]`.

    Without --weights, those on this machine are taken (`encoder pull`), or the hub's, with your HF_TOKEN.
    """
    own = {"pooling": pooling, "tile_px": tile_px, "mean": mean, "std": std, "licence": licence}
    _own_needs_timm(timm, {**own, "set": settings})
    try:
        from beph_store.encoders.torch_side.export import ExportOptions, export_bundle, export_loaded
    except ImportError as error:
        raise MissingExtra(
            f"exporting needs torch, timm and onnx ({error.name} is missing): install beph-store[train]"
        ) from error
    options = ExportOptions(variant=variant, normalised_by=normalisation, mpp=mpp, force=force)
    with console(stderr=True).status(f"exporting {name}: two graphs, each checked against torch"):
        if timm is None:
            bundle, dropped = export_bundle(name, out, weights=weights, options=options)
        else:
            loaded = encoder_weights.load_own(name, timm, weights, mpp, {**own, "settings": settings})
            bundle, dropped = export_loaded(loaded, out, options), loaded.dropped
    if json:
        print_json(
            {
                "bundle": str(bundle.path),
                "spec": bundle.spec.to_json(),
                "parity": bundle.parity,
                "dropped": list(dropped),
            }
        )
        return
    spec = bundle.spec
    console().print(
        f"{bundle.path}: {spec.name} ({spec.variant}), {spec.dim} numbers a {spec.tile_px} px tile"
    )
    _show([(precision, report) for precision, report in bundle.parity.items()])
    if dropped:
        console().print(f"tensors of the file that an encoder does not need: {', '.join(dropped)}")


def _own_needs_timm(timm: str | None, given: dict[str, object]) -> None:
    flags = ", ".join(f"--{name.replace('_', '-')}" for name, value in given.items() if value)
    if timm is None and flags:
        raise UsageError(f"{flags}: only for your own encoder, with --timm MODEL")


@app.command()
def quantise(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="Folder of a bundle, or a name.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the copy; must be new or empty \\[ENCODER-int8].")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Copy a bundle and add an int8 graph that passes the gate: for CPUs, by --precision int8 only.

    Needs onnx: `beph-store[train]`. A ViT-B takes a minute or two, more where products must be told apart.
    """
    try:
        from beph_store.encoders.torch_side.quantise import quantise as run
    except ImportError as error:
        raise MissingExtra(
            f"quantising needs onnx ({error.name} is missing): install beph-store[train]"
        ) from error
    from beph_store.encoders import load_bundle

    target = out or Path(f"{load_bundle(bundle).spec.name.replace(':', '-').replace('/', '-')}-int8")
    with console(stderr=True).status(f"quantising {bundle}") as shown:
        done = run(bundle, target, progress=shown.update)
    if json:
        data = {"bundle": str(done.bundle.path), "products": done.products, "left": list(done.left)}
        print_json({**data, "parity": done.report.to_json()})
        return
    of = done.products + len(done.left)
    console().print(f"{done.bundle.path}: {done.products} of {of} matrix products in int8")
    _show([("int8", done.report.to_json())])


@app.command()
def check(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="Folder of a bundle, or a name.")],
    runtime: Annotated[str, typer.Option(help="Inference runtime; `doctor` lists them.")] = "auto",
    precision: Annotated[str | None, typer.Option(help="fp32 or fp16 graph \\[fp32].")] = None,
    json: JsonOption = False,
) -> None:
    """The parity gate here and now: centred cosine and neighbour agreement with the fp32 torch reference."""
    from beph_store.engine.check import check as run

    report, name = run(bundle, runtime=runtime, precision=precision)
    data = report.to_json()
    if json:
        print_json({"ok": report.passed, "runtime": name, **data})
    else:
        _show([(name, data)])
    if not report.passed:
        typer.echo(
            f"error: centred cosine {report.mean:.5f} is below {report.threshold}: do not use {bundle} with {name}",
            err=True,
        )
        raise typer.Exit(1)


def _show(reports: list[tuple[str, dict[str, float]]]) -> None:
    rows = [
        (
            name,
            status("ok" if r["passed"] else "failed"),
            f"{r['mean']:.6f}",
            f"{r['minimum']:.6f}",
            f"{r['neighbours']:.1%}",
            f"{r['threshold']:g}",
        )
        for name, r in reports
    ]
    columns = ("graph", "gate", "#centred cosine", "#least", "#same neighbours", "#needed")
    console().print(table(columns, rows))
