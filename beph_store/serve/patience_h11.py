"""``Watched`` over uvicorn's protocol for h11, which knows what is coming; it limits the size of heads itself."""

from __future__ import annotations

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from beph_store.serve.patience import Watched


class WatchedH11(Watched, H11Protocol):
    """See ``Watched``."""

    def part(self) -> str:
        """See ``Watched``."""
        if self.conn.their_state is h11.SEND_BODY:
            return "body"
        return "head" if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0] else "idle"
