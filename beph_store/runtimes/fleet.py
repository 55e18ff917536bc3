"""The same encoder on several devices, as one runtime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from beph_store.records import EncoderSpec
from beph_store.runtimes.protocol import Runtime
from beph_store.runtimes.stream import Several, Stream


class Fleet:
    """``runtimes`` of one kind, one a device; see ``Runtime``. One reader pool feeds them all."""

    def __init__(self, runtimes: Sequence[Runtime]) -> None:
        self._runtimes = list(runtimes)

    @property
    def name(self) -> str:
        """See ``Runtime.name``."""
        return self._runtimes[0].name

    @property
    def device(self) -> str:
        """See ``Runtime.device``."""
        return ", ".join(runtime.device for runtime in self._runtimes)

    @property
    def spec(self) -> EncoderSpec:
        """See ``Runtime.spec``."""
        return self._runtimes[0].spec

    @property
    def batch(self) -> int:
        """See ``Runtime.batch``."""
        return self._runtimes[0].batch

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See ``Runtime.encode``; on the first device."""
        return self._runtimes[0].encode(pixels)

    def stream(self) -> Stream:
        """See ``Runtime.stream``."""
        return Several([runtime.stream() for runtime in self._runtimes])

    def close(self) -> None:
        """See ``Runtime.close``."""
        for runtime in self._runtimes:
            runtime.close()
