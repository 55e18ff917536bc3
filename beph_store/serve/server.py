"""Listen, and say where."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from beph_store.errors import UsageError
from beph_store.serve.app import make_app
from beph_store.serve.desk import Folders
from beph_store.serve.guard import Guard, new_token
from beph_store.serve.jobs.feed import Feed
from beph_store.serve.patience import Patience
from beph_store.serve.watched import watched


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server listens; ``url`` holds the token, and whoever has it may read the store."""

    host: str
    port: int
    token: str

    @property
    def base(self) -> str:
        """The URL without the token, by a name that a browser here can open."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def url(self) -> str:
        """What to open in a browser."""
        return f"{self.base}/?token={self.token}"

    @property
    def is_private(self) -> bool:
        """Whether only this machine reaches it."""
        return _is_loopback(self.host)


def serve(
    store: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    labels: str | Path | None = None,
    allow_write: bool = False,
    folders: Folders | None = None,
    ready: Callable[[Address], None] | None = None,
) -> None:
    """Serve a store until interrupted. ``ready`` is told the address when connections are accepted; port 0 is any free
    one; ``allow_write`` and ``folders`` are those of ``make_app``. Raises UsageError for an address that cannot be had,
    NotAStore and FormatUnknown.
    """
    token = new_token()
    hosts = [host] if _is_loopback(host) else [host, socket.gethostname(), socket.getfqdn()]
    app = make_app(store, token=token, hosts=hosts, labels=labels, allow_write=allow_write, folders=folders)
    with _listening(host, port) as listening:
        address = Address(host, int(listening.getsockname()[1]), token)
        server = make_server(app)
        if ready is not None:
            ready(address)
        server.run(sockets=[listening])


def make_server(app: Guard, patience: Patience | None = None) -> uvicorn.Server:
    """What answers by HTTP for the application of ``make_app``; ``patience`` with slow clients is short in tests."""
    config = uvicorn.Config(
        app,
        http=watched(patience or Patience()),
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=3,
        timeout_keep_alive=30,
    )
    assert isinstance(app.inner, Starlette)
    return _Server(config, app.inner.state.desk.feed)


class _Server(uvicorn.Server):
    """Ends the streams first: uvicorn waits for every answer to be complete before it tells the application."""

    def __init__(self, config: uvicorn.Config, feed: Feed) -> None:
        super().__init__(config)
        self._feed = feed

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See above."""
        self._feed.close()
        await super().shutdown(sockets)


def _listening(host: str, port: int) -> socket.socket:
    if not 0 <= port < 1 << 16:
        raise UsageError(f"--port {port}: there are 0 to 65535")
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(f"--host {host}: {error.strerror or error}") from error
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(where)
        made.listen(128)
    except OSError as error:
        made.close()
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; --port 0 takes any free port"
        ) from error
    return made


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
