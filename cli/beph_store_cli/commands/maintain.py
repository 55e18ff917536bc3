"""``info``, ``slides``, ``verify``, ``compact``, ``doctor``: looking after a store and a machine."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer
from rich.text import Text

from beph_store_cli.render import JsonOption, StoreArgument, console, print_json, size, status, table


def info(store: StoreArgument, json: JsonOption = False) -> None:
    """What the store holds, a line a recipe."""
    from beph_store.store import Store

    recipes = list(Store.open(store).summaries())
    if json:
        print_json({"store": store, "recipes": [dataclasses.asdict(recipe) for recipe in recipes]})
        return
    rows = [
        (
            r.key,
            f"{r.encoder} ({r.variant})",
            "no places"
            if r.tile_px == 1  # imported vectors that lie nowhere
            else f"{r.tile_px} px @ {r.mpp:g}" + f", step {r.stride_px}" * (r.stride_px != r.tile_px),
            r.dim,
            r.slides,
            r.tiles,
            size(r.bytes),
        )
        for r in recipes
    ]
    console().print(table(("recipe", "encoder", "tile @ µm/px", "#dim", "#slides", "#tiles", "#size"), rows))
    for r in recipes:
        extras = [f"{r.empty} empty" * bool(r.empty), f"{r.failed} failed" * bool(r.failed)]
        extras.append(f"{r.unreadable} unreadable tiles" * bool(r.unreadable))
        if any(extras):
            console().print(f"{r.key}: {', '.join(filter(None, extras))}")
        if r.kept_slides:
            console().print(f"{r.key}: the tiles of {r.kept_slides:,} slides are kept, {size(r.kept_bytes)}")


def slides(
    store: StoreArgument,
    recipe: Annotated[str | None, typer.Option(help="Only this recipe.")] = None,
    json: JsonOption = False,
) -> None:
    """Every slide of the store and its state."""
    from beph_store.store import Store

    opened = Store.open(store)
    rows = [row for row in opened.registry.rows() if recipe is None or row.recipe.startswith(recipe)]
    if json:
        print_json({"slides": [row.to_json() for row in rows]})
        return
    shown = [
        (row.slide_id, status(row.status), row.tiles, row.mpp_x, row.mpp_source, row.reader, row.error or "")
        for row in rows
    ]
    console().print(table(("slide", "status", "#tiles", "#µm/px", "from", "reader", "reason"), shown))


def verify(
    store: StoreArgument,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also read tiles of the slides again and embed them.")
    ] = False,
    sample: Annotated[int, typer.Option(min=1, help="--deep: how many tiles, drawn over all slides.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="--deep: of the draw.")] = 0,
    encoder: Annotated[
        str | None, typer.Option(help="--deep: name or bundle, where the one of the ingest has moved.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="--deep: only tiles of this recipe.")] = None,
    json: JsonOption = False,
) -> None:
    """Read everything again and compare it with what was recorded: counts, order, values, hashes."""
    from beph_store.store import Store
    from beph_store.store import verify as check
    from beph_store_cli.progress import bar

    opened = Store.open(store)
    with bar("verifying slides") as progress:
        report = check(opened, progress)
    found = {**dataclasses.asdict(report)}
    if deep:
        from beph_store.engine.deep_verify import DeepOptions, deep_verify

        options = DeepOptions(sample, seed, encoder, recipe=recipe)
        with bar("embedding tiles again") as progress:
            again = deep_verify(opened, options, progress)
        report.problems += again.problems
        report.notes += again.notes
        found |= {"problems": report.problems, "notes": report.notes, "deep": again.to_json()}
    if json:
        print_json({"ok": report.ok, **found})
    else:
        for line in report.problems:
            console().print(Text.assemble(("problem", "red"), f" {line}"))
        for line in report.notes:
            console().print(f"note    {line}")
        console().print(
            f"{report.slides:,} slides, {report.tiles:,} tiles: {'ok' if report.ok else 'NOT ok'}"
        )
        if deep:
            worst = "" if again.worst is None else f"; least agreement {again.worst:.4f}"
            console().print(f"{again.tiles:,} of {again.asked:,} tiles embedded again{worst}")
    if not report.ok:
        typer.echo(f"error: {len(report.problems)} problems in {store}", err=True)
        raise typer.Exit(1)


def compact(store: StoreArgument, json: JsonOption = False) -> None:
    """Merge small files and remove what nothing refers to. Not while an ingest runs."""
    from beph_store.store import Store
    from beph_store.store import compact as run

    with console(stderr=True).status("compacting"):
        report = run(Store.open(store))
    if json:
        print_json(dataclasses.asdict(report))
        return
    console().print(
        f"{report.files_before:,} files, {size(report.bytes_before)} → {report.files_after:,} files, "
        f"{size(report.bytes_after)}; {report.rows_removed:,} unused rows removed"
    )


def doctor(json: JsonOption = False) -> None:
    """Which runtimes, readers and devices can be used here, and why the others cannot."""
    from beph_store.engine.doctor import examine

    findings = examine()
    if json:
        print_json(
            {
                "ok": all(f.ok or not f.needed for f in findings),
                "findings": [dataclasses.asdict(f) for f in findings],
            }
        )
    else:
        rows = [(f.kind, f.name, status("ok") if f.ok else "no", f.detail) for f in findings]
        console().print(table(("what", "name", "usable", "detail"), rows))
    if not all(f.ok or not f.needed for f in findings):
        bad = next(f for f in findings if f.needed and not f.ok)
        typer.echo(f"error: {bad.name}: {bad.detail}", err=True)
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (info, slides, verify, compact, doctor):
        app.command()(command)
