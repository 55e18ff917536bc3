"""Tables of labels: uploaded, kept in the store by their content, and explained before anything is trained."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from beph_store.engine.study.feasible import check_table, flags_in, without_flags
from beph_store.engine.study.kept import KeptTable, drop_table, keep_table, kept_tables
from beph_store.errors import CohortError
from beph_store.serve.answers import answer, malformed, missing
from beph_store.serve.asked import field, json_body
from beph_store.serve.desk import Desk, writing
from beph_store.serve.routes import BOOLEAN, INTEGER, STRING, Endpoint, Parameter, array, record

_KINDS = {"text/csv": ".csv", "text/tab-separated-values": ".tsv"}
_LONGEST_NAME = 200


async def upload_cohort(request: Request) -> Response:
    """Keep a table of labels."""
    desk = writing(request)
    media = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media not in _KINDS:
        raise malformed(f"send the table itself, with content-type: {' or '.join(_KINDS)}")
    name = _name(request.query_params.get("name", ""))
    body = await request.body()

    def keep() -> dict[str, Any]:
        try:
            return keep_table(desk.shelf.store, body, _KINDS[media], name).to_json()
        except CohortError as error:
            raise malformed(without_flags(str(error))) from error

    return answer(await desk.work(keep), 201)


def _name(given: str) -> str:
    """One printable line."""
    name = " ".join("".join(mark if mark.isprintable() else " " for mark in given).split())
    if len(name) > _LONGEST_NAME:
        raise malformed(f"name is longer than {_LONGEST_NAME} characters")
    return name or "labels"


async def list_cohorts(request: Request) -> Response:
    """Every kept table, the newest first."""
    desk = Desk.of(request)
    found = await desk.work(lambda: list(kept_tables(desk.shelf.store).values()))
    return answer({"cohorts": [table.to_json() for table in reversed(found)]})


async def read_cohort(request: Request) -> Response:
    """One kept table: its columns and their values."""
    desk = Desk.of(request)
    return answer((await desk.work(lambda: _found(desk, request))).to_json())


async def delete_cohort(request: Request) -> Response:
    """Forget a table; heads that were trained on it stay."""
    desk = writing(request)

    def drop() -> str:
        table = _found(desk, request)
        drop_table(table)
        return table.id

    return answer({"cohort": await desk.work(drop)})


async def check_cohort(request: Request) -> Response:
    """Whether a head can be trained on a table as asked, and what stands in the way."""
    desk = Desk.of(request)
    options = await json_body(request)
    recipe = field(options, "recipe", str)
    if recipe is None:
        raise malformed("recipe is missing: /api/store lists their keys")
    if "cohort" in options:
        raise malformed("cohort is in the address: leave it out of the body")
    options = {name: value for name, value in options.items() if name != "recipe"}

    def check() -> dict[str, Any]:
        desk.shelf.recipe(recipe)
        found = check_table(desk.shelf.store, recipe, _found(desk, request), options).to_json()
        fields = dict.fromkeys(name for text in found["problems"] for name in flags_in(text))
        told = {part: [without_flags(text) for text in found[part]] for part in ("problems", "notes")}
        return {**found, **told, "fields": list(fields)}

    return answer(await desk.work(check))


def _found(desk: Desk, request: Request) -> KeptTable:
    """The table of the address, looked up among those there are."""
    table = kept_tables(desk.shelf.store).get(request.path_params["cohort"])
    if table is None:
        raise missing("no such table of labels: /api/cohorts lists them")
    return table


_COHORT = Parameter("cohort", "what `cohort` is in the list of tables: 16 hex digits", STRING)
_COLUMN = record(
    name=STRING,
    distinct=INTEGER,
    given=INTEGER,
    values=array(record(value=STRING, rows=INTEGER)),
)
_TABLE = record(
    cohort=STRING,
    name=STRING,
    rows=INTEGER,
    uploaded_at=STRING,
    columns=array(_COLUMN),
    suggested={"type": "object", "additionalProperties": array(STRING)},
)
_CHECKED = record(
    ok=BOOLEAN,
    problems=array(STRING),
    fields=array(STRING),
    notes=array(STRING),
    task=STRING,
    cases=INTEGER,
    slides=INTEGER,
    classes={
        "type": ["array", "null"],
        "items": record(label=STRING, cases=INTEGER, slides=INTEGER),
    },
    events={"type": ["integer", "null"]},
    dropped=array(record(reason=STRING, rows=INTEGER, examples=array(STRING))),
    columns_used={"type": "object", "additionalProperties": record(column=STRING, how=STRING)},
    splits=array(record(name=STRING, train=INTEGER, val=INTEGER, test=INTEGER)),
)

ENDPOINTS = (
    Endpoint(
        "POST",
        "/api/cohorts",
        "Keep a table of labels in the store; the same content is the same table",
        upload_cohort,
        {"application/json": _TABLE},
        (Parameter("name", "what to call it", STRING),),
        body=dict.fromkeys(_KINDS, STRING),
        status=201,
    ),
    Endpoint(
        "GET",
        "/api/cohorts",
        "Tables of labels, the newest first",
        list_cohorts,
        {"application/json": record(cohorts=array(_TABLE))},
    ),
    Endpoint(
        "GET",
        "/api/cohorts/{cohort}",
        "A table of labels: columns and their values",
        read_cohort,
        {"application/json": _TABLE},
        (_COHORT,),
    ),
    Endpoint(
        "DELETE",
        "/api/cohorts/{cohort}",
        "Forget a table; what was trained on it stays",
        delete_cohort,
        {"application/json": record(cohort=STRING)},
        (_COHORT,),
    ),
    Endpoint(
        "POST",
        "/api/cohorts/{cohort}/check",
        "Whether a head can be trained on it as asked, and what stands in the way; writes nothing",
        check_cohort,
        {"application/json": _CHECKED},
        (_COHORT,),
        body={
            "application/json": {
                **record(
                    recipe=STRING,
                    task={"enum": ["classify", "survive"]},
                    target=STRING,
                    folds=INTEGER,
                    head=STRING,
                ),
                "description": "the recipe, and any option of a train job but its cohort",
            }
        },
    ),
)
