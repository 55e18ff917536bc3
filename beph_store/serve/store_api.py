"""The store: recipes, slides with their states and labels, thumbnails, runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import polars as pl
from starlette.requests import Request
from starlette.responses import Response

from beph_store.engine.live import look
from beph_store.errors import QueryError
from beph_store.serve.answers import answer, malformed, missing
from beph_store.serve.asked import one_of, whole_query
from beph_store.serve.desk import Desk, json_number
from beph_store.serve.images import MEDIA, encode, fitted
from beph_store.serve.routes import BOOLEAN, INTEGER, NUMBER, STRING, Endpoint, Parameter, array, record
from beph_store.serve.shelf import handle
from beph_store.sqlguard import check_condition
from beph_store.store.layout import Layout
from beph_store.store.place import Place, children

STATUSES = ("done", "empty", "failed")
#: Values of a column that are listed one by one; more are told by their range or their number.
_LISTED_VALUES = 50
#: From so many slides on, a column with a value of its own for each is a name of slides: nothing to filter by.
_NAMES_FROM = 10
#: Columns that say where a file lies, however few slides there are.
_FILE_COLUMNS = ("path", "slide_path", "file", "filename", "file_name", "filepath", "file_path")
_THUMBNAIL_PX = 8192

RECIPE = Parameter("recipe", "key of a recipe", STRING)
SLIDE = Parameter("slide", "what `slide` is in the list of slides: 16 hex digits", STRING)


async def read_store(request: Request) -> Response:
    """Name of the store, whether requests may write into it, and its recipes."""
    desk = Desk.of(request)
    told = lambda: {  # noqa: E731
        "store": _store_name(desk),
        "writable": desk.writable,
        "can_ingest": desk.writable and bool(desk.folders.ingest),
        "recipes": _recipes(desk),
    }
    return answer(await desk.work(told))


def _store_name(desk: Desk) -> str:
    return desk.shelf.store.layout.root.resolve().name.encode("ascii", "backslashreplace").decode()


def _recipes(desk: Desk) -> list[dict[str, Any]]:
    kept = desk.shelf.recipes()
    found = []
    for summary in desk.shelf.store.summaries():
        if summary.key in kept:
            record_ = kept[summary.key]
            found.append(
                {
                    **dataclasses.asdict(summary),
                    "created_at": record_.created_at,
                    "recipe": record_.recipe.to_json(),
                }
            )
    return found


async def list_slides(request: Request) -> Response:
    """Slides of a recipe, filtered, a page at a time."""
    desk, asked = Desk.of(request), request.query_params
    key = request.path_params["recipe"]
    status = one_of(asked.get("status"), "status", *STATUSES)
    offset = whole_query(request, "offset", 0, 0, 1 << 31) or 0
    limit = whole_query(request, "limit", 200, 1, 1000) or 1
    labels = {
        name[6:-1]: value for name, value in asked.items() if name.startswith("label[") and name[-1] == "]"
    }

    def look() -> dict[str, Any]:
        every = desk.shelf.frame(key)
        kept = _labelled(every, desk.shelf.label_columns(), labels)
        if "where" in asked:
            kept = _where(kept, asked["where"])
        if asked.get("q"):
            wanted = asked["q"].lower()
            named = pl.col("slide_id").str.to_lowercase().str.contains(wanted, literal=True)
            kept = kept.filter(
                named | pl.col("case_id").str.to_lowercase().str.contains(wanted, literal=True)
            )
        counts = dict(kept.group_by("status").len().iter_rows())
        kept = kept if status is None else kept.filter(pl.col("status") == status)
        kept = _ordered(kept, asked.get("order"))
        shown = [_row(row, desk) for row in kept.slice(offset, limit).iter_rows(named=True)]
        return {
            "slides": shown,
            "total": kept.height,
            "offset": offset,
            "statuses": {name: counts.get(name, 0) for name in STATUSES},
        }

    return answer(await desk.work(look))


def _labelled(frame: pl.DataFrame, columns: list[str], labels: dict[str, str]) -> pl.DataFrame:
    for name, value in labels.items():
        if name not in columns:
            raise malformed(f"no label column {name[:60]!r}; there are {', '.join(columns) or 'none'}")
        frame = frame.filter(pl.col(name).cast(pl.String) == value)
    return frame


def _where(frame: pl.DataFrame, condition: str) -> pl.DataFrame:
    known = frame.drop("slide")
    check_condition(condition, known.columns)
    try:
        return pl.SQLContext(rows=frame).execute(f"SELECT * FROM rows WHERE {condition}", eager=True)
    except (pl.exceptions.PolarsError, ValueError, TypeError) as error:
        why = (str(error).splitlines() or ["?"])[0]
        raise QueryError(f"where: {why}; columns: {', '.join(known.columns)}") from error


def _ordered(frame: pl.DataFrame, order: str | None) -> pl.DataFrame:
    if order is None:
        return frame
    column = order.removeprefix("-")
    known = [name for name in frame.columns if name != "slide"]
    if column not in known:
        raise malformed(f"order: no column {column[:60]!r}; there are {', '.join(known)}")
    return frame.sort(column, descending=order.startswith("-"), nulls_last=True, maintain_order=True)


def _row(row: dict[str, Any], desk: Desk) -> dict[str, Any]:
    columns = desk.shelf.label_columns()
    known = {name: json_number(value) for name, value in row.items() if name not in columns}
    return {**known, "labels": {name: _plain(row[name]) for name in columns}}


def _plain(value: Any) -> Any:
    return json_number(value) if value is None or isinstance(value, str | int | float | bool) else str(value)


async def list_labels(request: Request) -> Response:
    """Label columns that slides can be filtered by, with their values and how many slides have each."""
    desk, key = Desk.of(request), request.path_params["recipe"]

    def look() -> dict[str, Any]:
        frame = desk.shelf.frame(key)
        told = (label_column(frame[name]) for name in desk.shelf.label_columns())
        return {"columns": [column for column in told if column is not None]}

    return answer(await desk.work(look))


def label_column(values: pl.Series) -> dict[str, Any] | None:
    """What can be said of a column of labels, one value a slide; None where it only names slides: there is nothing
    to filter by.
    """
    filled = values.drop_nulls()
    found: dict[str, Any] = {"name": values.name, "slides": filled.len(), "distinct": filled.n_unique()}
    if values.dtype.is_numeric() and filled.len():
        found |= {"low": json_number(filled.min()), "high": json_number(filled.max())}
    each_its_own = found["distinct"] == found["slides"] >= _NAMES_FROM
    if values.name.lower() in _FILE_COLUMNS or (each_its_own and "low" not in found):
        return None
    if found["distinct"] <= _LISTED_VALUES and not each_its_own:
        counts = filled.cast(pl.String).value_counts(sort=True)
        found["values"] = [{"value": value, "slides": slides} for value, slides in counts.iter_rows()]
    return found


async def read_thumbnail(request: Request) -> Response:
    """The stored overview of a slide, which needs no file of the slide."""
    desk, form = Desk.of(request), media(request)
    most = whole_query(request, "max_px", _THUMBNAIL_PX, 16, _THUMBNAIL_PX) or _THUMBNAIL_PX
    key, name = request.path_params["recipe"], request.path_params["slide"]
    row = await desk.work(lambda: desk.shelf.slide(key, name))
    make: Callable[[], bytes] = lambda: encode(  # noqa: E731
        fitted(desk.shelf.store.rasters(key, row.slide_id).thumbnail, most), form
    )
    data = await desk.image(("thumbnail", key, name, row.ingest_id, most, form), make)
    return Response(data, media_type=MEDIA[form], headers={"cache-control": "private, max-age=60"})


def media(request: Request) -> str:
    """The format that the path ends in; 404 for one that is not made here."""
    form: str = request.path_params["format"]
    if form not in MEDIA:
        raise missing(f"images end in {', '.join(MEDIA)}")
    return form


async def list_runs(request: Request) -> Response:
    """What was run on the store, newest first."""
    desk = Desk.of(request)
    return answer(await desk.work(lambda: {"runs": [_run(path, False) for path in reversed(_runs(desk))]}))


async def read_run(request: Request) -> Response:
    """One run, with the outcome of every slide."""
    desk, name = Desk.of(request), request.path_params["run"]

    def look() -> dict[str, Any]:
        found = [path for path in _runs(desk) if path.stem == name]
        if not found:
            raise missing("no such run: /api/runs lists them")
        return _run(found[0], True)

    return answer(await desk.work(look))


def _runs(desk: Desk) -> list[Place]:
    return children(desk.shelf.store.layout.runs, "*.json")


def _run(path: Place, whole: bool) -> dict[str, Any]:
    """A record without what names the machine; of one that cannot be read, that."""
    try:
        data = json.loads(path.read_bytes(), parse_constant=lambda _: None)
        slides = list(data.pop("slides", []))
    except (OSError, ValueError, AttributeError, TypeError):
        return {"run": path.stem, "state": "unreadable"}
    data.pop("machine", None)
    data |= _live(path, data)
    ends = [slide.get("status") for slide in slides if isinstance(slide, dict)]
    told: dict[str, Any] = {"statuses": {end: ends.count(end) for end in (*STATUSES, "skipped")}}
    told |= {"run": path.stem, **data}
    if whole:
        told["slides"] = [
            {**slide, "slide": handle(str(slide.get("slide_id")))}
            for slide in slides
            if isinstance(slide, dict)
        ]
    return told


def _live(path: Place, data: dict[str, Any]) -> dict[str, Any]:
    """Of a run that has not ended: how far it is, or that its process is gone."""
    if data.get("state") != "running":
        return {"progress": None}
    lives, progress = look(Layout(path.parent.parent), path.stem)
    ended = dict.fromkeys((*STATUSES, "skipped"), 0) | (progress or {}).get("ended", {})
    return {"state": "running" if lives else "stopped", "progress": progress, "statuses": ended}


_SLIDE_SCHEMA = record(
    slide=STRING,
    slide_id=STRING,
    case_id=STRING,
    status={"enum": list(STATUSES)},
    error={"type": ["string", "null"]},
    tiles=INTEGER,
    width_l0={"type": ["integer", "null"]},
    height_l0={"type": ["integer", "null"]},
    mpp_x={"type": ["number", "null"]},
    labels={"type": "object"},
)

ENDPOINTS = (
    Endpoint(
        "GET",
        "/api/store",
        "The store and its recipes",
        read_store,
        {
            "application/json": record(
                store=STRING,
                writable=BOOLEAN,
                can_ingest=BOOLEAN,
                recipes=array(record(key=STRING, encoder=STRING, mpp=NUMBER, slides=INTEGER, tiles=INTEGER)),
            )
        },
    ),
    Endpoint(
        "GET",
        "/api/recipes/{recipe}/slides",
        "Slides, filtered, in the order of their ids or of a column",
        list_slides,
        {
            "application/json": record(
                slides=array(_SLIDE_SCHEMA), total=INTEGER, offset=INTEGER, statuses={"type": "object"}
            )
        },
        (
            RECIPE,
            Parameter("status", "only slides of this state", {"enum": list(STATUSES)}),
            Parameter("q", "only slides with this in their id or case id", STRING),
            Parameter(
                "label",
                "only slides with this value of a label: label[grade]=high",
                {"type": "object", "additionalProperties": STRING},
                "deepObject",
            ),
            Parameter(
                "where", "SQL condition over the columns of slides and labels, without functions", STRING
            ),
            Parameter("order", "column to order by, with - before it the largest first", STRING),
            Parameter("offset", "how many to leave out", {"type": "integer", "default": 0}),
            Parameter("limit", "how many at most", {"type": "integer", "default": 200, "maximum": 1000}),
        ),
        errors=(422,),
    ),
    Endpoint(
        "GET",
        "/api/recipes/{recipe}/labels",
        "Label columns that slides can be filtered by, and their values",
        list_labels,
        {"application/json": record(columns=array(record(name=STRING, slides=INTEGER, distinct=INTEGER)))},
        (RECIPE,),
    ),
    Endpoint(
        "GET",
        "/api/recipes/{recipe}/slides/{slide}/thumbnail.{format}",
        "The stored overview of a slide",
        read_thumbnail,
        {"image/jpeg": {}, "image/png": {}},
        (
            RECIPE,
            SLIDE,
            Parameter("format", "of the image", {"enum": list(MEDIA)}),
            Parameter("max_px", "longest side", {"type": "integer", "default": _THUMBNAIL_PX, "minimum": 16}),
        ),
        errors=(422,),
    ),
    Endpoint(
        "GET",
        "/api/runs",
        "What was run on the store, newest first",
        list_runs,
        {
            "application/json": record(
                runs=array(
                    record(
                        run=STRING,
                        state={"enum": ["running", "ended", "stopped", "unreadable"]},
                        statuses={"type": "object"},
                        progress={"type": ["object", "null"]},
                    )
                )
            )
        },
    ),
    Endpoint(
        "GET",
        "/api/runs/{run}",
        "One run, with the outcome of every slide",
        read_run,
        {"application/json": record(run=STRING, state=STRING, slides=array({"type": "object"}))},
        (Parameter("run", "name of a run", STRING),),
    ),
)
