"""Answers of a cluster as they come: one loop, one thread, a function for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Then = Callable[[Any, BaseException | None], None]


class Inbox:
    """What was asked and is not answered. ``then(value, error)`` is called from ``take``, in its thread.

    ``error`` is what was raised there, or Ray's own where a process or a node was lost: see ``lost``.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._asked: dict[Any, Then] = {}

    def ask(self, reference: Any, then: Then) -> None:
        """Call ``then`` when this is answered."""
        self._asked[reference] = then

    def take(self, seconds: float) -> int:
        """Handle what is answered, waiting so long for the first. Returns how many there were."""
        if not self._asked:
            return 0
        waiting = list(self._asked)
        first, _ = self._ray.wait(waiting, num_returns=1, timeout=seconds, fetch_local=False)
        if not first:
            return 0
        ready, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0, fetch_local=False)
        for reference in ready or first:
            self._handle(reference)
        return len(ready or first)

    def _handle(self, reference: Any) -> None:
        then = self._asked.pop(reference, None)
        if then is None:  # forgotten by an earlier one
            return
        try:
            value = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            then(None, error.cause if isinstance(error.cause, BaseException) else error)
        except self._ray.exceptions.RayError as error:
            then(None, error)
        else:
            then(value, None)

    def forget(self, reference: Any) -> None:
        """The answer is of no interest any more."""
        self._asked.pop(reference, None)

    def lost(self, error: BaseException) -> bool:
        """Whether whoever was asked is gone, and not: has answered with an error."""
        ours: bool = isinstance(error, self._ray.exceptions.RayError)
        return ours and not isinstance(error, self._ray.exceptions.RayTaskError)
