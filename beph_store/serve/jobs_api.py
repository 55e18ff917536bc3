"""Jobs: what takes longer than a request is put into a queue and done by processes of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from beph_store.engine.study.applied import forget
from beph_store.serve.answers import Refused, answer, malformed, missing
from beph_store.serve.asked import field, json_body, only, whole_query
from beph_store.serve.desk import Desk, writing
from beph_store.serve.jobs.asking import asked
from beph_store.serve.jobs.events import read_events
from beph_store.serve.jobs.log import read_log
from beph_store.serve.jobs.queue import Busy, NoSuchJob
from beph_store.serve.jobs.record import KINDS
from beph_store.serve.routes import INTEGER, NUMBER, STRING, Endpoint, Parameter, array, record

T = TypeVar("T")
JOB = Parameter("job", "id of a job", STRING)


async def list_jobs(request: Request) -> Response:
    """Every job, the newest first."""
    desk = Desk.of(request)
    jobs = await desk.work(desk.jobs.all)
    return answer({"jobs": [job.told() for job in reversed(jobs)]})


async def start_job(request: Request) -> Response:
    """Put a job into the queue."""
    desk, body = writing(request), await json_body(request)
    only(body, "kind", "recipe", "options")
    kind, recipe = field(body, "kind", str), field(body, "recipe", str)
    if kind is None:
        raise malformed(f"kind is missing: one of {', '.join(KINDS)}")
    options: dict[str, Any] = field(body, "options", dict, {})
    job = await _done(desk, lambda: desk.jobs.submit(asked(desk, kind, recipe, options)))
    return answer(job.told(), 202, {"location": f"/api/jobs/{job.job}"})


async def read_job(request: Request) -> Response:
    """One job."""
    desk, name = Desk.of(request), request.path_params["job"]
    return answer((await _done(desk, lambda: desk.jobs.get(name))).told())


async def list_job_events(request: Request) -> Response:
    """What happened to a job, in order, after a number."""
    desk, name = Desk.of(request), request.path_params["job"]
    after = whole_query(request, "after", 0, 0, 1 << 31) or 0
    events = await _done(desk, lambda: read_events(desk.jobs.folder(name).events, after))
    return answer({"events": events, "next": events[-1]["n"] if events else after})


async def read_job_log(request: Request) -> Response:
    """What a job printed: its beginning and its end, if it was much."""
    desk, name = Desk.of(request), request.path_params["job"]
    data = await _done(desk, lambda: read_log(desk.jobs.folder(name).log))
    return Response(data.decode("utf-8", "replace"), media_type="text/plain")


async def cancel_job(request: Request) -> Response:
    """Take a job out of the queue, or ask it to stop."""
    desk, name = writing(request), request.path_params["job"]
    return answer((await _done(desk, lambda: desk.jobs.cancel(name))).told(), 202)


async def delete_job(request: Request) -> Response:
    """Delete a job that has ended, with all that it made."""
    desk, name = writing(request), request.path_params["job"]

    def delete() -> None:
        desk.jobs.delete(name)
        forget(desk.shelf.store, name)  # what its head said of the slides went with it

    await _done(desk, delete)
    return answer({"job": name, "deleted": True})


async def _done(desk: Desk, make: Callable[[], T]) -> T:
    """``make()`` in a thread, and what it may refuse as a status."""
    try:
        return await desk.work(make)
    except NoSuchJob as error:
        raise missing(str(error)) from None
    except Busy as error:
        raise Refused(409, str(error)) from None


_PROGRESS = record(
    done=INTEGER,
    total={"type": ["integer", "null"]},
    unit=STRING,
    per_second={"type": ["number", "null"]},
    eta_seconds={"type": ["number", "null"]},
    bottleneck={"type": ["string", "null"]},
)
_JOB = record(
    job=STRING,
    kind={"enum": list(KINDS)},
    state={"enum": ["queued", "running", "done", "failed", "cancelled"]},
    title=STRING,
    recipe={"type": ["string", "null"]},
    created_at=STRING,
    started_at={"type": ["string", "null"]},
    ended_at={"type": ["string", "null"]},
    progress={"anyOf": [_PROGRESS, {"type": "null"}]},
    error={"type": ["string", "null"]},
    result={"type": ["object", "null"]},
    options={"type": "object"},
)
_EVENT = record(
    n=INTEGER,
    kind={"enum": ["epoch", "progress", "note", "state"]},
    at=STRING,
    fold=INTEGER,
    folds=INTEGER,
    epoch=INTEGER,
    epochs=INTEGER,
    train_loss=NUMBER,
    val_loss={"type": ["number", "null"]},
    lr=NUMBER,
    text=STRING,
    state=STRING,
)

ENDPOINTS = (
    Endpoint(
        "GET",
        "/api/jobs",
        "Every job, the newest first",
        list_jobs,
        {"application/json": record(jobs=array(_JOB))},
    ),
    Endpoint(
        "POST",
        "/api/jobs",
        "Train a head, apply it to every slide, ingest slides, or index a recipe",
        start_job,
        {"application/json": _JOB},
        body={
            "application/json": {
                **record(kind={"enum": list(KINDS)}, recipe=STRING, options={"type": "object"}),
                "required": ["kind"],
            }
        },
        errors=(409,),
        status=202,
    ),
    Endpoint("GET", "/api/jobs/{job}", "One job", read_job, {"application/json": _JOB}, (JOB,)),
    Endpoint(
        "GET",
        "/api/jobs/{job}/events",
        "What happened to a job, in order",
        list_job_events,
        {"application/json": record(events=array(_EVENT), next=INTEGER)},
        (JOB, Parameter("after", "only events with a larger number", {"type": "integer", "default": 0})),
        errors=(422,),
    ),
    Endpoint(
        "GET", "/api/jobs/{job}/log", "What a job printed", read_job_log, {"text/plain": STRING}, (JOB,)
    ),
    Endpoint(
        "POST",
        "/api/jobs/{job}/cancel",
        "Take a job out of the queue, or ask it to stop",
        cancel_job,
        {"application/json": _JOB},
        (JOB,),
        errors=(409,),
        status=202,
    ),
    Endpoint(
        "DELETE",
        "/api/jobs/{job}",
        "Delete a job that has ended, with all that it made",
        delete_job,
        {"application/json": record(job=STRING)},
        (JOB,),
        errors=(409,),
    ),
)
