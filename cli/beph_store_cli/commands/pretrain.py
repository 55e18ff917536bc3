"""``beph-store pretrain``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from beph_store.errors import MissingExtra
from beph_store_cli.progress import bar
from beph_store_cli.render import JsonOption, choice, console, print_json, table

if TYPE_CHECKING:
    from beph_store.engine.pretrain.run import Pretrained


def pretrain(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="STORE|FOLDER…", help="Stores with kept tiles (ingest --keep-tiles), or image folders."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the bundle, checkpoints, log.jsonl and page.html.")],
    size: Annotated[
        str | None, typer.Option(help="tiny, small, base (BEPH's) or mini (beph-mini's) \\[base].")
    ] = None,
    init: Annotated[
        str, typer.Option(help="Begin from none, beph, timm (BEiT v2 of ImageNet) or beph-mini.")
    ] = "none",
    weights: Annotated[
        Path | None, typer.Option(help="Checkpoint to begin from: BEPH_backbone.pth, …")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Whose features the tokenizer learns: any encoder \\[beph-mini].")
    ] = None,
    teacher_weights: Annotated[Path | None, typer.Option(help="The teacher's checkpoint.")] = None,
    steps: Annotated[int, typer.Option(help="Steps of masked modelling.")] = 20_000,
    tokenizer_steps: Annotated[int, typer.Option(help="Steps of the tokenizer before it.")] = 5_000,
    batch: Annotated[int, typer.Option(help="Tiles a step, on all processes together.")] = 64,
    accumulate: Annotated[
        int, typer.Option(help="Parts that a batch is computed in, for small memories.")
    ] = 1,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate \\[1.5e-3 x root of batch / 1024].")
    ] = None,
    warmup: Annotated[float, typer.Option(help="Share of the steps in which it rises.")] = 0.05,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16 products.")] = "fp32",
    codes: Annotated[int, typer.Option(help="Codes of the tokenizer.")] = 8192,
    masked: Annotated[int, typer.Option(help="Patches of 196 that are masked.")] = 75,
    scale: Annotated[float, typer.Option(help="Least share of a tile that a crop keeps.")] = 0.2,
    jitter: Annotated[float, typer.Option(help="Of brightness, contrast and saturation.")] = 0.4,
    distil: Annotated[
        float, typer.Option(help="Weight of the teacher's own tokens as a third target; 0 is BEiT v2.")
    ] = 0.0,
    probe: Annotated[
        Path | None,
        typer.Option(metavar="IMAGES", help="Labelled images to see it grow by; no label is learned."),
    ] = None,
    probe_layout: Annotated[str, typer.Option(help="csv, folders, breakhis or lc25000.")] = "csv",
    probe_every: Annotated[int, typer.Option(help="Steps between probes.")] = 500,
    log_every: Annotated[int, typer.Option(help="Steps between rows of the log.")] = 20,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 500,
    name: Annotated[str, typer.Option(help="Of the encoder.")] = "pretrained",
    mpp: Annotated[float | None, typer.Option(help="Of the tiles, µm/px \\[as the store says].")] = None,
    licence: Annotated[str, typer.Option(help="Of the weights.")] = "not stated",
    recipe: Annotated[
        str | None, typer.Option(help="Which recipe, if a store has several with tiles.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that make batches.")] = 2,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same run.")] = 0,
    json: JsonOption = False,
) -> None:
    """Pre-train an encoder with BEiT v2's objective on your own tiles, from nothing or from BEPH; stop, go on at will.

    Several GPUs: `torchrun --nproc-per-node 4 -m beph_store_cli pretrain S --out DIR …`, over machines with --out on a
    shared disk. Needs `beph-store[train]`.
    """
    from beph_store.engine.pretrain import options as o

    try:
        from beph_store.engine.pretrain.run import pretrain as run
        from beph_store.pretrain import session  # noqa: F401 - torch, timm and torchvision are there
    except ImportError as error:
        raise MissingExtra(
            f"pre-training needs torch ({error.name} is missing): install beph-store[train]"
        ) from error
    schedule = o.Schedule(
        steps, tokenizer_steps, batch, accumulate, lr, warmup, precision, log_every, save_every, probe_every
    )
    wanted = o.PretrainOptions(
        size=size,
        init=choice(init, "--init", *o.INITS),
        weights=weights,
        teacher=teacher,
        teacher_weights=teacher_weights,
        name=name,
        mpp=mpp,
        licence=licence,
        schedule=schedule,
        codes=o.Codes(codes),
        masked=masked,
        scale=scale,
        jitter=jitter,
        distil=distil,
        device=device,
        workers=workers,
        seed=seed,
        probe=None if probe is None else o.ProbeSet(probe, probe_layout),
    )
    first = os.environ.get("RANK", "0") == "0"
    total = tokenizer_steps + steps
    with bar("pre-training") as moved:

        def tell(row: dict[str, Any]) -> None:
            moved(row["step"] + (tokenizer_steps if row["stage"] == "masked" else 0), total)

        if first and not json:
            console(stderr=True).print(f"follow it in {out / 'page.html'}", soft_wrap=True)
        done = run(paths, out, wanted, recipe=recipe, progress=tell)
    if done is None:
        return
    if json:
        print_json(done.to_json())
        return
    _show(done)


def _show(done: Pretrained) -> None:
    last = {row["stage"]: row for row in done.rows}
    rows = []
    for stage, row in last.items():
        first = next(r for r in done.rows if r["stage"] == stage)
        probes = [r for r in done.rows if r["stage"] == stage and "probe_balanced_accuracy" in r]
        said = [f"{r['probe_balanced_accuracy']:.3f}" for r in (probes[0], probes[-1])] if probes else []
        use = row.get("codebook_use")
        rows.append(
            (
                stage,
                f"{row['step']:,}",
                f"{first['loss']:.3f} → {row['loss']:.3f}",
                None if use is None else f"{use:.0%}",
                " → ".join(said) or None,
                f"{row['tiles_per_second']:.1f}",
                f"{row['waiting']:.1%}",
            )
        )
    columns = ("stage", "#steps", "#loss", "#codes in use", "#probe", "#tiles/s", "#waiting")
    screen = console()
    screen.print(table(columns, rows))
    if done.left_out:
        screen.print(
            f"{len(done.left_out)} slides or images were left out: {done.left_out[0][0]}: {done.left_out[0][1]}"
        )
    screen.print(
        f"{done.tiles:,} tiles → {done.bundle}: `beph-store ingest … --encoder {done.bundle}`", soft_wrap=True
    )


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(pretrain)
