"""``beph-store encoder list | export | quantise | check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from beph_store.errors import MissingExtra
from beph_store_cli.render import JsonOption, console, print_json, status, table

app = typer.Typer(
    help="Encoders: list, export to a bundle, quantise and check a bundle.", no_args_is_help=True
)


@app.command("list")
def list_encoders(json: JsonOption = False) -> None:
    """The encoders known by name; any timm model goes by `timm:MODEL`."""
    from beph_store.encoders import ENCODERS

    rows: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "what": entry.what,
            "mpp": entry.mpp,
            "licence": entry.licence,
            "variants": [variant.name for variant in entry.variants],
            "ready": entry.bundle is not None,
        }
        for entry in ENCODERS.values()
    ]
    if json:
        print_json({"encoders": rows})
        return
    shown = [
        (
            row["name"],
            "yes" if row["ready"] else "export it first",
            row["mpp"],
            "\n".join(row["variants"]),
            row["what"],
        )
        for row in rows
    ]
    shown.append(("timm:MODEL", "export it first", None, "default", "any model of timm, pooled output"))
    console().print(table(("name", "ready", "#µm/px", "variants", "what"), shown))


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
    mpp: Annotated[float | None, typer.Option(help="µm/px the model is meant for, for timm models.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Keep a bundle that fails the parity gate.")] = False,
    json: JsonOption = False,
) -> None:
    """Export an encoder to ONNX (fp32 and fp16) with its checks. Needs torch: `beph-store[train]`."""
    try:
        from beph_store.encoders.torch_side.export import ExportOptions, export_bundle
    except ImportError as error:
        raise MissingExtra(
            f"exporting needs torch, timm and onnx ({error.name} is missing): install beph-store[train]"
        ) from error
    options = ExportOptions(variant=variant, normalised_by=normalisation, mpp=mpp, force=force)
    with console(stderr=True).status(f"exporting {name}: two graphs, each checked against torch"):
        bundle, dropped = export_bundle(name, out, weights=weights, options=options)
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
