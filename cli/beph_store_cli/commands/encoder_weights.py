"""``beph-store encoder info | pull``, and what `encoder export --timm` makes of its options."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from beph_store.errors import MissingExtra, UsageError
from beph_store_cli.render import JsonOption, choice, console, print_json, size, table


def info(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of `encoder list`, or a bundle.")],
    json: JsonOption = False,
) -> None:
    """What is known of an encoder: size, scale, licence, source, and whether it is on this machine."""
    from beph_store.encoders import ENCODERS, load_bundle

    facts = _facts(name) if name in ENCODERS else load_bundle(name).spec.to_json()
    if json:
        print_json(facts)
        return
    console().print(table(("", ""), [(key, _said(value)) for key, value in facts.items()]))


def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of `encoder list`, such as beph.")],
    place: Annotated[
        str | None, typer.Option("--from", metavar="URL", help="Another place of the file, such as a mirror.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="You accept the licence shown; for scripts.")] = False,
    json: JsonOption = False,
) -> None:
    """Fetch the weights that the authors publish, check every tensor, and keep them with their SHA-256.

    A download that was cut goes on where it stopped. Needs torch: `beph-store[train]`.
    """
    from beph_store.encoders import encoder_entry, where

    entry = encoder_entry(name)
    if entry.source is not None and (place is not None or not where(entry)):
        _consent(entry.facts(), place or entry.source.place, yes)
    try:
        from beph_store.encoders.torch_side.pulling import pull as run
    except ImportError as error:
        raise MissingExtra(
            f"checking weights needs torch and timm ({error.name} is missing): install beph-store[train]"
        ) from error
    with _transfer(name) as tell:
        pulled = run(name, place=place, tell=tell)
    kept = pulled.kept
    if json:
        print_json(
            {"name": name, "new": pulled.new, "resumed": pulled.resumed, "kept": kept.to_json()}
            | {"spec": pulled.spec.to_json()}
        )
        return
    shown = console()
    shown.print(
        f"{kept.file}: {size(kept.bytes)}, {'new' if pulled.new else 'here already'}, every tensor fits"
    )
    shown.print(f"SHA-256 {kept.sha256}")
    shown.print(f"next: beph-store encoder export {name} --out FOLDER")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(info)
    app.command()(pull)


def load_own(name: str, timm: str, weights: Path | None, mpp: float | None, given: dict[str, Any]) -> Any:
    """The user's own encoder, as the library loads it; UsageError names the flag that is missing or wrong."""
    if weights is None or mpp is None:
        raise UsageError(f"your own encoder needs {'--weights FILE' if weights is None else '--mpp µm/px'}")
    from beph_store.encoders.entry import POOLINGS, scaled
    from beph_store.encoders.torch_side.published import OwnEncoder
    from beph_store.encoders.torch_side.published import load_own as load

    mean, std = _triple("--mean", given["mean"]), _triple("--std", given["std"])
    if (mean is None) != (std is None):
        raise UsageError("--mean and --std go together")
    own = OwnEncoder(
        name,
        timm,
        mpp,
        choice(given["pooling"], "--pooling", *POOLINGS) or _usual(timm),
        given["tile_px"],
        None if mean is None or std is None else scaled(mean, std),
        tuple(_setting(text) for text in given["settings"] or ()),
        given["licence"] or "not stated",
    )
    return load(own, weights)


def _usual(timm: str) -> Any:
    return "cls" if timm.startswith("vit_") else "model"


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise UsageError(f"--set {text}: write KEY=VALUE, such as reg_tokens=4")
    try:
        return key, jsonlib.loads(value)
    except ValueError:
        return key, value


def _triple(flag: str, text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{flag} {text}: write three numbers, R,G,B") from None
    if not all(0 <= value <= 1 for value in (red, green, blue)):
        raise UsageError(f"{flag} {text}: on the 0–1 scale, please (0–255 divided by 255)")
    return red, green, blue


def _facts(name: str) -> dict[str, Any]:
    from beph_store.encoders import NORMALISATIONS, encoder_entry, where
    from beph_store.encoders.weights import present, record

    entry = encoder_entry(name)
    file, kept, source, network = present(entry), record(name), entry.source, entry.network
    here = where(entry)
    return {
        **entry.facts(),
        "variants": {
            variant.name: {
                "dim": variant.dim,
                "pooling": variant.pooling,
                "mean": NORMALISATIONS[variant.normalisation].mean,
                "std": NORMALISATIONS[variant.normalisation].std,
                "what": variant.what,
            }
            for variant in entry.variants
        },
        "parameters": network.parameters if network else None,
        "timm": {"architecture": network.architecture, **dict(network.arguments)} if network else None,
        "source": {"kind": source.kind, "place": source.place, "files": list(source.files)}
        if source
        else None,
        "here": here,
        "file": str(file) if file else None,
        "sha256": kept.sha256 if kept else None,
        "fetched": kept.fetched if kept else None,
    }


def _said(value: Any) -> Any:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_said(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in value) or "–"
    return value


def _consent(facts: dict[str, Any], place: str, yes: bool) -> None:
    """Show the licence, and ask; UsageError where nobody can answer, typer.Exit where the answer is no."""
    shown = console(stderr=True)
    doubt = " (not confirmed by its authors' own words)" if "licence" in facts["unconfirmed"] else ""
    shown.print(f"{facts['name']}: {facts['what']}")
    shown.print(f"licence of the weights: {facts['licence']}{doubt}; its terms: {facts['page']}")
    shown.print(f"fetched from: {urlsplit(place).netloc or 'huggingface.co/' + place}")
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"read the terms at {facts['page']}, then pass --yes: nobody is here to be asked")
    if not typer.confirm("Do you accept these terms?", err=True):
        raise typer.Exit(1)


@contextmanager
def _transfer(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of bytes on stderr; nothing where there is no terminal."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    shown = console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as bars:
        task = bars.add_task(name, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total or None)
