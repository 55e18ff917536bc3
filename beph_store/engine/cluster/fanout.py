"""One function over many items: here, one after the other, or on the cores and machines of a Ray cluster.

Both ways call the same function with the same items, so they give the same results, bit for bit where processors are of
one kind and a call has as many threads.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from beph_store.engine.cluster.session import connect, require_room
from beph_store.engine.provenance import WRITTEN_BY
from beph_store.errors import ClusterUnavailable

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")
Progress = Callable[[int, int], None]

#: How often a call is started again because its worker or machine was lost.
RETRIES = 8
#: Seconds without a result after which it is asked whether any machine could still do the rest.
_LOOK_AGAIN = 5.0
#: What the number of threads of a process follows, in NumPy, OpenBLAS, MKL and torch.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def threads_of_a_call() -> int:
    """Cores that a call takes: OMP_NUM_THREADS where it is set, else one."""
    said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return max(1, int(said)) if said.isdigit() else 1


@dataclass(frozen=True, slots=True)
class Needs:
    """What each call takes for itself: ``cpus`` cores, which is also its number of threads, and ``gpus``; None is one
    where the cluster has any.
    """

    cpus: int = field(default_factory=threads_of_a_call)
    gpus: int | None = 0


def each(
    function: Callable[[S, T], R],
    items: Sequence[T],
    *,
    shared: S,
    address: str | None = None,
    needs: Needs | None = None,
    progress: Progress | None = None,
) -> list[R]:
    """``function(shared, item)`` of every item, in their order.

    ``address`` None computes here; else see ``session.connect``. ``function`` is one of a module, ``shared``, items and
    results can be pickled; ``shared`` travels once to each machine and its arrays are read-only there. ``progress``
    hears (done, in all).

    A call whose worker or machine is lost is made again, up to ``RETRIES`` times; it must not mind. What ``function``
    raises is raised as it is, and ends the rest. Raises MissingExtra without Ray, ClusterUnavailable where no machine
    could ever do it, a call lost its worker too often, or a machine has another version of this package.
    """
    if address is None:
        return list(_here(function, items, shared, progress))
    if not items:
        return []
    with connect(address) as ray:
        return _there(ray, function, items, shared, needs or Needs(), progress)


def _here(
    function: Callable[[S, T], R], items: Sequence[T], shared: S, progress: Progress | None
) -> Iterator[R]:
    for done, item in enumerate(items, 1):
        yield function(shared, item)
        if progress:
            progress(done, len(items))


def _there(
    ray: Any,
    function: Callable[[S, T], R],
    items: Sequence[T],
    shared: S,
    needs: Needs,
    progress: Progress | None,
) -> list[R]:
    gpus = min(1, int(ray.cluster_resources().get("GPU", 0))) if needs.gpus is None else needs.gpus
    room = {"CPU": float(needs.cpus), "GPU": float(gpus)}
    require_room(ray, "one call", room)
    environment = dict.fromkeys(_THREADS, str(needs.cpus))
    if not gpus:  # or torch would find a GPU that is somebody else's
        environment["CUDA_VISIBLE_DEVICES"] = ""
    call = ray.remote(_call).options(
        num_cpus=needs.cpus,
        num_gpus=gpus,
        max_retries=RETRIES,
        retry_exceptions=False,
        runtime_env={"env_vars": environment},
    )
    once = ray.put(shared)
    waiting = {call.remote(WRITTEN_BY, function, once, item): i for i, item in enumerate(items)}
    found: dict[int, R] = {}
    try:
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=_LOOK_AGAIN)
            if not ready:
                require_room(ray, "one call", room)
            for reference in ready:
                number = waiting.pop(reference)
                with _translated(ray, number, len(items)):
                    found[number] = ray.get(reference)
                if progress:
                    progress(len(found), len(items))
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)
    return [found[number] for number in range(len(items))]


def _call(version: str, function: Callable[[S, T], R], shared: S, item: T) -> R:
    """What a worker does."""
    if version != WRITTEN_BY:
        raise ClusterUnavailable(
            f"{socket.gethostname()} has {WRITTEN_BY}, the machine that asked has {version}: install one version on "
            "all machines of the cluster"
        )
    return function(shared, item)


@contextmanager
def _translated(ray: Any, number: int, count: int) -> Iterator[None]:
    """What the function raised as itself, and what Ray raises in our words."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, BaseException) and not isinstance(cause, ray.exceptions.RayError):
            if "failed to be imported" in str(cause) or "No module named 'beph_store" in str(cause):
                raise ClusterUnavailable(
                    "a machine of the cluster has no beph-store: install the same version on all of them"
                ) from error
            raise cause from None
        raise ClusterUnavailable(_first_line(error)) from error
    except ray.exceptions.OutOfMemoryError as error:
        raise ClusterUnavailable(
            f"call {number + 1} of {count} ran out of memory each time: give each more cores (OMP_NUM_THREADS), so "
            "that fewer share a machine, or use larger machines"
        ) from error
    except ray.exceptions.RayError as error:
        raise ClusterUnavailable(
            f"call {number + 1} of {count} lost its worker {RETRIES + 1} times: {_first_line(error)}"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
