"""Answers: JSON, bytes, and the one shape of an error, ``{"error": "…"}``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from beph_store.errors import (
    BephStoreError,
    CohortError,
    EncoderError,
    HeadError,
    QueryError,
    RecipeMismatch,
    RuntimeUnavailable,
    SlideError,
    UnknownSlide,
    UsageError,
)

#: The first that fits decides; an error of ours that fits none is the server's: 500.
_STATUS: tuple[tuple[type[BephStoreError], int], ...] = (
    (UnknownSlide, 404),
    (QueryError, 422),
    (UsageError, 422),
    (CohortError, 422),
    (RecipeMismatch, 409),
    (HeadError, 409),
    (EncoderError, 409),
    (RuntimeUnavailable, 503),
    (SlideError, 410),
)


class Refused(HTTPException):
    """A request that is answered with an error; ``message`` is for people, one line."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)


def malformed(message: str) -> Refused:
    """The request says something that cannot be meant: 422."""
    return Refused(422, message)


def missing(message: str) -> Refused:
    """There is no such thing: 404."""
    return Refused(404, message)


def answer(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """``data`` as JSON, in ASCII: a slide's name may hold bytes that are no text."""
    body = json.dumps(data, allow_nan=False, separators=(",", ":")).encode("ascii")
    return Response(body, status, headers, "application/json")


def error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """The one shape of an error."""
    return answer({"error": " ".join(message.split())}, status, headers)


async def on_refused(request: Request, raised: Exception) -> Response:
    """Refusals of ours, and Starlette's own: no such route, wrong method."""
    assert isinstance(raised, HTTPException)
    return error(raised.status_code, raised.detail, raised.headers)


async def on_store_error(request: Request, raised: Exception) -> Response:
    """Errors of the library, by the status that fits."""
    status = next((status for kind, status in _STATUS if isinstance(raised, kind)), 500)
    return error(status, str(raised))


async def on_left(request: Request, raised: Exception) -> Response:
    """The client went, or was cut off, before its body was whole: nobody reads this, and the log need not have it."""
    return error(400, "the body is not whole")


async def on_anything(request: Request, raised: Exception) -> Response:
    """What nobody foresaw: the log has it, the client learns no more than that."""
    return error(500, "the server failed on this request; its log says why")
