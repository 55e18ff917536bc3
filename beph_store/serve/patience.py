"""What a slow client may cost: how long a request may take to come, an answer to be read, and how many are connected.

uvicorn waits for ever for the rest of a head, of a body, and for a client to read; with httptools a head may even grow
without end. Much of that comes before the token is looked at: anybody who reaches the port could hold the server. Each
connection looks at itself once a second here. One more than the most takes the place of that which has waited longest
without asking anything; only where all of them are being answered is it told to come back.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

LOOK_SECONDS = 1.0
_BUSY = b'{"error":"too many connections: close some tabs, or wait"}'
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"retry-after: 5\r\ncontent-length: %d\r\n\r\n%s" % (len(_BUSY), _BUSY)
)
_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds for a request's head, for its body (16 MiB at 60 kB/s), and without a byte of an answer being taken;
    bytes of a head; connections at a time, of which 100 may be streams of events.
    """

    head_seconds: float = 20.0
    body_seconds: float = 300.0
    stall_seconds: float = 60.0
    head_bytes: int = 64 << 10
    connections: int = 256


class Watched(asyncio.Protocol):
    """Goes before one of uvicorn's protocols, whose attributes it reads; ``part`` is the subclass's to say."""

    patience = Patience()
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    connections: set[Any]
    cycle: Any
    flow: Any
    _began = 0.0  # of the part of a request that is coming now
    _bytes = 0  # of a head that is not whole
    _unsent = 0  # bytes at the last look
    _moved = 0.0  # when the client last took something, or had nothing to take
    _timer: asyncio.TimerHandle | None = None

    def part(self) -> str:
        """What is being received: a request's ``head`` (at least a byte of it), its ``body``, or nothing: ``idle``."""
        raise NotImplementedError

    @property
    def waits(self) -> bool:
        """Whether nothing has been asked on this connection that is not answered."""
        return self.part() in ("idle", "head") and (self.cycle is None or self.cycle.response_complete)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """One more; see the module for what happens if there are too many."""
        super().connection_made(transport)
        self._began = self._moved = self.loop.time()
        self._timer = self.loop.call_later(LOOK_SECONDS, self._look)
        if len(self.connections) > self.patience.connections:
            idle = [one for one in self.connections if one is not self and one.waits]
            if idle:
                self.connections.discard(oldest := min(idle, key=lambda one: one._began))
                oldest.transport.abort()
            else:
                self._refuse(_FULL)

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Hand it on; note when a part of a request begins, and how long a head has become."""
        if self.transport.is_closing():
            return
        before = self.part(), self.cycle
        super().data_received(data)
        if self.transport.is_closing():
            return
        if (self.part(), self.cycle) != before:
            self._began, self._bytes = self.loop.time(), 0
        elif self.part() == "head":
            self._bytes += len(data)
            if self._bytes > self.patience.head_bytes:
                self._refuse(_LARGE)

    def _look(self) -> None:
        now = self.loop.time()
        self._timer = self.loop.call_later(LOOK_SECONDS, self._look)
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0 or unsent < self._unsent:
            self._moved = now
        self._unsent = unsent
        if self.flow.read_paused:
            self._began = now  # it is we who take no more at the moment
        if now - self._moved > self.patience.stall_seconds:
            self.transport.abort()
        elif now - self._began > self._seconds() and not self.transport.is_closing():
            self._refuse(_LATE if self.part() == "head" else b"")

    def _seconds(self) -> float:
        """How long the part that is being received may take."""
        part = self.part()
        if part == "body":
            # One that was answered already, with a refusal, is not wanted any more.
            unwanted = self.cycle is not None and self.cycle.response_complete
            return self.patience.head_seconds if unwanted else self.patience.body_seconds
        # Between two requests uvicorn's own keep-alive decides.
        return self.patience.head_seconds if part == "head" or self.cycle is None else float("inf")

    def _refuse(self, answer: bytes) -> None:
        """Close, with a word where the client has said something: a browser's spare connections are not to hear any."""
        if answer:
            self.transport.write(answer)
        self.transport.close()
