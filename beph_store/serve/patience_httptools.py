"""``Watched`` over uvicorn's protocol for httptools, whose parser says what is coming by callbacks."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from beph_store.serve.patience import Watched


class WatchedHttpTools(Watched, HttpToolsProtocol):
    """See ``Watched``."""

    _part = "idle"

    def part(self) -> str:
        """See ``Watched``."""
        return self._part

    def on_message_begin(self) -> None:
        """The first byte of a head."""
        self._part = "head"
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._part = "body"
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """And the body, if there was one."""
        self._part = "idle"
        super().on_message_complete()
