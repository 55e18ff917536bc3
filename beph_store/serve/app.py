"""The application: the table of all endpoints, what stands before it, and what becomes of errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from beph_store.engine.provenance import versions
from beph_store.errors import BephStoreError, UsageError
from beph_store.serve import (
    cluster_api,
    cohort_api,
    events_api,
    head_api,
    head_files_api,
    jobs_api,
    label_api,
    overlay_api,
    refit_api,
    search_api,
    store_api,
    zoom_api,
)
from beph_store.serve.answers import answer, on_anything, on_left, on_refused, on_store_error
from beph_store.serve.desk import Desk, Folders
from beph_store.serve.guard import MAX_BODY_BYTES, Guard
from beph_store.serve.page_files import page_routes
from beph_store.serve.routes import Endpoint, openapi
from beph_store.serve.shelf import Shelf
from beph_store.serve.slide_tiles import SlideGone
from beph_store.store import Store


async def read_openapi(request: Request) -> Response:
    """The OpenAPI document."""
    return answer(openapi(ENDPOINTS, versions(("beph-store",))["beph-store"] or "0"))


ENDPOINTS: tuple[Endpoint, ...] = (
    *store_api.ENDPOINTS,
    *zoom_api.ENDPOINTS,
    *overlay_api.ENDPOINTS,
    *search_api.ENDPOINTS,
    *label_api.ENDPOINTS,
    *refit_api.ENDPOINTS,
    *cluster_api.ENDPOINTS,
    *cohort_api.ENDPOINTS,
    *head_api.ENDPOINTS,
    *head_files_api.ENDPOINTS,
    *jobs_api.ENDPOINTS,
    *events_api.ENDPOINTS,
    Endpoint(
        "GET", "/api/openapi.json", "This document", read_openapi, {"application/json": {"type": "object"}}
    ),
)


def make_app(
    store: str | Path,
    *,
    token: str,
    hosts: Collection[str] = (),
    labels: str | Path | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
    allow_write: bool = False,
    folders: Folders | None = None,
) -> Guard:
    """The application over a store. ``hosts`` names it answers to beside localhost and IP addresses; ``labels`` a table
    with slide_id or case_id. Without ``allow_write`` nothing that a request asks for is written into the store.
    Raises NotAStore, FormatUnknown, and UsageError for labels that cannot be read.
    """
    shelf = Shelf(Store.open(store), None if labels is None else Path(labels))
    if allow_write and shelf.store.layout.is_remote:
        raise UsageError(
            "a store in object storage is served for reading: start the server without --allow-write"
        )
    desk = Desk(shelf, allow_write, folders or Folders())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        desk.open()
        yield
        desk.close()

    app = Starlette(
        routes=[*page_routes(), *(endpoint.route() for endpoint in ENDPOINTS)],
        exception_handlers={
            HTTPException: on_refused,
            BephStoreError: on_store_error,
            SlideGone: zoom_api.on_gone,
            ClientDisconnect: on_left,
            Exception: on_anything,
        },
        lifespan=lifespan,
    )
    app.state.desk = desk
    return Guard(app, token, frozenset(name.lower() for name in hosts), max_body_bytes)
