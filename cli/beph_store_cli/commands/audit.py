"""``beph-store audit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beph_store.errors import UsageError
from beph_store_cli.commands.search import tell_lack_of_cases
from beph_store_cli.progress import bar
from beph_store_cli.render import JsonOption, StoreArgument, console, print_json, table

if TYPE_CHECKING:
    from beph_store.engine.audit.run import Audit
    from beph_store.engine.audit.slides import SlideFinding

#: Lines of a table on the terminal; the page has the rest.
_LINES = 20


def audit(
    store: StoreArgument,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Report to write, one .html file.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="CSV or Parquet with slide_id and case_id \\[the registry's cases].")
    ] = None,
    sample: Annotated[int, typer.Option(help="Tiles looked at, of each slide at most.")] = 200,
    pixels: Annotated[
        bool, typer.Option("--pixels/--no-pixels", help="Read tiles back from the slides' files.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Which tiles are drawn.")] = 0,
    recipe: Annotated[str | None, typer.Option(help="Which recipe, if the store has several.")] = None,
    json: JsonOption = False,
) -> None:
    """Before a split: the same tissue in two cases, blank or blurred tiles, slides unlike all others."""
    from beph_store.engine.audit.report import render
    from beph_store.engine.audit.run import AuditOptions
    from beph_store.engine.audit.run import audit as run

    if output is not None and output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"-o {output}: end it in .html")
    options = AuditOptions(recipe=recipe, labels=labels, sample=sample, pixels=pixels, seed=seed)
    with bar("auditing") as moved:
        found = run(store, options, progress=lambda _, done, total: moved(done, total))
    tell_lack_of_cases(found.table)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(render(found), encoding="utf-8")
    if json:
        print_json({**found.to_json(), "output": output and str(output)})
        return
    _show(found)
    if output is not None:
        console().print(f"→ {output}", soft_wrap=True)


def _show(found: Audit) -> None:
    ids, cases = found.table.flat.slide_ids, found.table.case_of
    screen = console()
    shown = found.tissue.duplicates[:_LINES]
    rows = [
        (
            "leak" if one.across_cases else "one case",
            _named(ids[one.a], cases[one.a]),
            _named(ids[one.b], cases[one.b]),
            len(one.rows),
            f"{one.share:.0%}",
            "same file" if one.same_file else "places agree" if one.consistent else "alike",
        )
        for one in shown
    ]
    if rows:
        columns = ("verdict", "slide", "same tissue on", "#pairs", "#share", "evidence")
        screen.print(table(columns, rows, title="duplicated tissue"))
        _more(len(found.tissue.duplicates))
    odd = sorted((one for one in found.slides if one.outlier or one.blank or one.blurred), key=_oddness)
    listed = [
        (one.slide_id, one.read, one.blank, one.blurred, _z(one.stain_z), _z(one.embedding_z))
        for one in odd[:_LINES]
    ]
    if listed:
        columns = ("slide", "#tiles read", "#blank", "#blurred", "#stain z", "#embedding z")
        screen.print(table(columns, listed, title="slides to look at; z above 3.5 is an outlier"))
        _more(len(odd))
    if found.skipped:
        screen.print(found.skipped, markup=False)
    cured = f"{found.leaked}: give both one case_id, or leave one out"
    verdict = cured if found.leaks else "no tissue was found in two cases"
    screen.print(f"{len(ids):,} slides, {found.tissue.sampled:,} tiles looked up: {verdict}", markup=False)


def _more(count: int) -> None:
    if count > _LINES:
        console().print(f"… and {count - _LINES} more: -o audit.html lists them")


def _oddness(one: SlideFinding) -> tuple[bool, float]:
    return not one.outlier, -(one.blank + one.blurred) / max(1, one.read)


def _named(slide: str, case: str) -> str:
    return slide if slide == case else f"{slide} ({case})"


def _z(value: float | None) -> str | None:
    return None if value is None else f"{value:.1f}"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(audit)
