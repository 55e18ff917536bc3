"""``beph-store index`` and ``search``."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beph_store.errors import UsageError
from beph_store_cli.progress import bar
from beph_store_cli.render import JsonOption, StoreArgument, choice, console, print_json, size, table

if TYPE_CHECKING:
    from beph_store.engine.search.ask import Question
    from beph_store.engine.search.table import SearchTable


def search(
    store: StoreArgument,
    image: Annotated[list[Path] | None, typer.Option(help="Tile image to look for; may be repeated.")] = None,
    at: Annotated[str | None, typer.Option(metavar="SLIDE,X,Y", help="A stored tile, level-0 px.")] = None,
    region: Annotated[
        str | None, typer.Option(metavar="SLIDE,X0,Y0,X1,Y1", help="Stored tiles of a region, level-0 px.")
    ] = None,
    slide: Annotated[str | None, typer.Option(help="All tiles of a stored slide.")] = None,
    top: Annotated[int, typer.Option(help="How many hits.")] = 10,
    where: Annotated[
        str | None, typer.Option(metavar="SQL", help="Over slide, tile and label columns; before ranking.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Table with slide_id or case_id, for --where.")] = None,
    exclude: Annotated[
        str | None, typer.Option(help="none, slide or case \\[case for a query from the store, else none].")
    ] = None,
    diverse: Annotated[int | None, typer.Option(metavar="N", help="At most N hits of one slide.")] = None,
    pool: Annotated[
        str, typer.Option(help="Several query tiles: mean vector, or each row's best (max).")
    ] = "mean",
    exact: Annotated[bool, typer.Option("--exact", help="Leave the index out.")] = False,
    encoder: Annotated[
        str | None, typer.Option(help="Bundle for --image \\[the one that ingest used].")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Contact sheet .png, or .geojson of the hits.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Which recipe, if the store has several.")] = None,
    json: JsonOption = False,
) -> None:
    """Find the most similar stored tiles: `search S --at case-7,20480,11264 --top 20 -o hits.png`."""
    from beph_store.engine.imported import has_places
    from beph_store.engine.search.ask import SearchOptions, find
    from beph_store.engine.search.table import open_table

    if output is not None and output.suffix.lower() not in (".png", ".geojson"):
        raise UsageError(f"-o {output}: end it in .png or .geojson")
    options = SearchOptions(
        top=top,
        where=where,
        exclude=choice(exclude, "--exclude", "none", "slide", "case"),
        per_slide=diverse,
        pool=choice(pool, "--pool", "mean", "max"),
        exact=exact,
    )
    with bar("reading embeddings") as moved:
        opened = open_table(store, recipe=recipe, labels=labels, progress=moved)
    if options.exclude == "case" or (options.exclude is None and not image):
        tell_lack_of_cases(opened)
    question = _question(opened, image or [], at, region, slide, encoder)
    hits = find(opened, question, options)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        from beph_store.engine.search.sheet import contact_sheet, hits_geojson, query_picture

        if output.suffix.lower() == ".png":
            shown = query_picture(opened, question.row, image[0] if image else None)
            contact_sheet(opened, hits, title=f"Like {question.name}", query=shown).save(output)
        else:
            output.write_text(jsonlib.dumps(hits_geojson(hits)), encoding="utf-8")
    if json:
        rows = [
            {
                "slide_id": hit.slide_id,
                "x": hit.origin_l0[0],
                "y": hit.origin_l0[1],
                "score": hit.score,
                "case_id": hit.case_id,
                "tile": hit.tile_index,
                "footprint_l0": hit.footprint_l0,
            }
            for hit in hits
        ]
        print_json({"query": question.name, "hits": rows, "output": output and str(output)})
        return
    placed = has_places(opened.record.recipe)
    listed = [
        (
            f"{h.score:.4f}",
            h.slide_id,
            h.case_id,
            *((*h.origin_l0, h.footprint_l0) if placed else (None,) * 3),
        )
        for h in hits
    ]
    console().print(
        table(("#score", "slide", "case", "#x", "#y", "#side"), listed, title=f"like {question.name}")
    )
    if output is not None:
        console().print(f"→ {output}")


def index(
    store: StoreArgument,
    anew: Annotated[
        bool, typer.Option("--anew", help="Build it again, as after a store has grown much.")
    ] = False,
    recipe: Annotated[str | None, typer.Option(help="Which recipe, if the store has several.")] = None,
    json: JsonOption = False,
) -> None:
    """Make searches of a large store quick. Small ones need none; run it again after an ingest."""
    from beph_store.engine.search.indexing import make_index

    with bar("indexing") as moved:
        report = make_index(
            store, recipe=recipe, anew=anew, progress=lambda _, done, total: moved(done, total)
        )
    info = report.info
    if json:
        print_json({"did": report.did, "rows": report.rows, "index": info and asdict(info)})
    elif info is None:
        console().print(f"{report.rows:,} tiles: exact search is faster than any index here, none was made")
    else:
        console().print(
            f"{report.did}: {info.kind}, {info.rows_indexed:,} rows, {size(info.bytes)}"
            + (
                f"; {info.rows_unindexed:,} rows not in it are compared one by one"
                if info.rows_unindexed
                else ""
            )
        )


def slides_like(
    store: StoreArgument,
    slide: Annotated[str, typer.Option(help="Slide id, with or without suffix.")],
    measure: Annotated[
        str, typer.Option(help="maxsim or median-of-minima over typical tiles, or mean vectors.")
    ] = "maxsim",
    top: Annotated[int, typer.Option(help="How many slides.")] = 10,
    exclude: Annotated[str | None, typer.Option(help="none, slide or case \\[case].")] = None,
    labels: Annotated[Path | None, typer.Option(help="Table with slide_id and case_id.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Which recipe, if the store has several.")] = None,
    json: JsonOption = False,
) -> None:
    """Find the slides most like a slide."""
    from beph_store.engine.search.slides import similar_slides
    from beph_store.engine.search.table import open_table

    with bar("reading embeddings") as moved:
        opened = open_table(store, recipe=recipe, labels=labels, progress=moved)
    kind = choice(exclude, "--exclude", "none", "slide", "case")
    if kind in (None, "case"):
        tell_lack_of_cases(opened)
    hits = similar_slides(opened, slide, measure=measure, top=top, exclude=kind)
    if json:
        print_json({"query": slide, "measure": measure, "hits": [asdict(hit) for hit in hits]})
    else:
        rows = [(f"{hit.score:.4f}", hit.slide_id, hit.case_id, hit.tiles) for hit in hits]
        console().print(
            table(("#score", "slide", "case", "#tiles"), rows, title=f"like {slide}, by {measure}")
        )


def retrieval(
    store: StoreArgument,
    target: Annotated[str, typer.Option(help="Column of the label.")],
    labels: Annotated[
        Path | None, typer.Option(help="Table with slide_id or case_id, and the label.")
    ] = None,
    by: Annotated[str, typer.Option(help="Judge tiles or slides.")] = "tile",
    k: Annotated[list[int] | None, typer.Option(help="Neighbours; may be repeated \\[1, 3, 5].")] = None,
    colour: Annotated[
        bool, typer.Option("--colour", help="Beside them what colour alone finds; reads the slides' files.")
    ] = False,
    recipe: Annotated[str | None, typer.Option(help="Which recipe, if the store has several.")] = None,
    json: JsonOption = False,
) -> None:
    """How often are neighbours of another case of the same label? mMV@k, P@k, mAP@k; docs/metrics.md has the rules."""
    from beph_store.engine.search.slides import judge_slides, judge_tiles
    from beph_store.engine.search.table import open_table

    kind = choice(by, "--by", "tile", "slide")
    opened = open_table(store, recipe=recipe, labels=labels)
    tell_lack_of_cases(opened)
    ks = tuple(k or (1, 3, 5))
    tiles = kind == "tile"
    found = (
        judge_tiles(opened, target, ks=ks, colour=colour) if tiles else judge_slides(opened, target, ks=ks)
    )
    if json:
        judged = [{"vectors": one.vectors, "scores": [asdict(s) for s in one.scores]} for one in found]
        print_json({"by": kind, "target": target, "retrieval": judged})
        return
    rows = [
        (
            one.vectors,
            s.k,
            s.items,
            f"{s.majority_vote:.3f}",
            f"{s.precision:.3f}",
            f"{s.average_precision:.3f}",
        )
        for one in found
        for s in one.scores
    ]
    columns = ("by", "#k", f"#{kind}s", "#majority vote", "#P@k", "#mAP@k")
    console().print(table(columns, rows, title=f"{target}, no neighbour of the own case"))


def tell_lack_of_cases(opened: SearchTable) -> None:
    """A line on stderr where a patient's slides cannot be told from those of others."""
    from beph_store.engine.search.table import NO_CASES

    if opened.lacks_cases:
        typer.echo(f"note: {NO_CASES}", err=True)


def _question(
    opened: SearchTable,
    images: list[Path],
    at: str | None,
    region: str | None,
    slide: str | None,
    encoder: str | None,
) -> Question:
    from beph_store.engine.search import ask

    if sum((bool(images), at is not None, region is not None, slide is not None)) != 1:
        raise UsageError("say what to look for: one of --image, --at, --region, --slide")
    if images:
        return ask.ask_images(opened, images, encoder=encoder)
    if at is not None:
        name, (x, y) = _place(at, 2, "--at SLIDE,X,Y")
        return ask.ask_at(opened, name, x, y)
    if region is not None:
        name, (x0, y0, x1, y1) = _place(region, 4, "--region SLIDE,X0,Y0,X1,Y1")
        return ask.ask_region(opened, name, (x0, y0, x1, y1))
    return ask.ask_slide(opened, slide or "")


def _place(text: str, numbers: int, form: str) -> tuple[str, list[int]]:
    """A slide id, which may hold commas, and whole numbers after it."""
    name, *last = text.rsplit(",", numbers)
    try:
        found = [int(part) for part in last]
    except ValueError:
        found = []
    if len(found) != numbers or not name:
        raise UsageError(f"{text!r} is not {form} with whole level-0 px")
    return name, found


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(index)
    app.command()(search)
    app.command("slides-like")(slides_like)
    app.command()(retrieval)
