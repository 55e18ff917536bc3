"""One stream of what happens, for each tab: server-sent events."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from beph_store.serve.answers import Refused
from beph_store.serve.desk import Desk
from beph_store.serve.jobs.feed import Feed, Reader
from beph_store.serve.routes import STRING, Endpoint

#: A browser opens one a tab; more than this is a mistake of somebody's script.
MOST_STREAMS = 100


class EventStream(Response):
    """Sends what ``feed`` says until it is closed or the client has gone.

    Starlette's own streaming answer asks for the client's leaving only with some versions of the protocol.
    """

    media_type = "text/event-stream"

    def __init__(self, feed: Feed, last_id: str | None) -> None:
        super().__init__(headers={"x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._feed = feed
        self._last_id = last_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        reader = Reader()
        leaving = asyncio.create_task(_left(receive, reader))
        try:
            async with contextlib.aclosing(self._feed.follow(reader, self._last_id)) as chunks:
                async for chunk in chunks:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except OSError:
            return  # gone between two messages
        finally:
            leaving.cancel()


async def _left(receive: Receive, reader: Reader) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    reader.leave()


async def read_events(request: Request) -> Response:
    """What happens, as it happens."""
    feed = Desk.of(request).feed
    if feed.streams >= MOST_STREAMS:
        raise Refused(503, f"{MOST_STREAMS} streams are open: close some tabs")
    return EventStream(feed, request.headers.get("last-event-id"))


ENDPOINTS = (
    Endpoint(
        "GET",
        "/api/events",
        "What happens, as server-sent events: job, job-event, job-gone, run, labels; reset after a gap",
        read_events,
        {"text/event-stream": STRING},
        errors=(503,),
    ),
)
