"""A connection to a Ray cluster: found, started for one run, or told apart from none at all.

Ray is a computer for whoever reaches its ports, so a token is always asked for; nothing is reported to anybody, no
dashboard is started, and a cluster of this machine's own listens on the loopback device only.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from beph_store.errors import ClusterUnavailable, MissingExtra, UsageError

#: How long the machine behind an address may take to answer.
_REACH_SECONDS = 10.0
#: Longest path of a socket on Linux, less what Ray appends to its folder.
_SOCKET_ROOM = 107 - 75
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a task without a GPU may still ask which there are
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # of calls that nobody waits for any more, after the first error
}
_TOKEN_CURE = (
    "Ray clusters are joined with a token: set RAY_AUTH_TOKEN, or put it into ~/.ray/auth_token (the head node made "
    "it: `ray get-auth-token` there shows it)"
)


@contextlib.contextmanager
def connect(address: str) -> Iterator[Any]:
    """The ``ray`` module, connected to ``address`` while inside.

    ``auto`` is RAY_ADDRESS or a cluster that runs on this machine, ``local`` a cluster of this machine that is started
    now and ends with the run, anything else ``host:port`` of a head node. Where this process is connected already, that
    connection is used and stays. Call it in the main thread: Ray sets signal handlers, which are put back.
    Raises MissingExtra without Ray, UsageError for what is no address, ClusterUnavailable where there is no cluster to
    be had, or the token is missing or wrong.
    """
    ray = _ray()
    if ray.is_initialized():
        yield ray
        return
    with contextlib.ExitStack() as stack:
        if address == "local":
            _start_local(ray, stack)
        else:
            _join(ray, address, stack)
        yield ray


def cluster_size(ray: Any) -> str:
    """The machines and cores of the cluster, in words."""
    nodes = alive(ray)
    cores = sum(node["Resources"].get("CPU", 0) for node in nodes)
    gpus = sum(node["Resources"].get("GPU", 0) for node in nodes)
    return f"{len(nodes)} node{'s' * (len(nodes) != 1)}, {cores:g} cores, {gpus:g} GPUs"


def alive(ray: Any) -> list[dict[str, Any]]:
    """The nodes that can be given work: ``NodeID`` and what ``Resources`` each has in all."""
    return [node for node in ray.nodes() if node["Alive"]]


def require_room(ray: Any, what: str, wanted: Mapping[str, float]) -> None:
    """Refuse what Ray would wait for in silence: ``wanted`` (CPU, GPU, …) that no single node has.

    Raises ClusterUnavailable naming what was asked and what the cluster has.
    """
    if not any(_fits(node["Resources"], wanted) for node in alive(ray)):
        asked = ", ".join(f"{count:g} {name}" for name, count in wanted.items() if count)
        raise ClusterUnavailable(
            f"no node of the cluster has room for {what}: it needs {asked} on one machine, the cluster has "
            f"{cluster_size(ray)}"
        )


def _fits(has: Mapping[str, float], wanted: Mapping[str, float]) -> bool:
    return all(has.get(name, 0.0) >= count for name, count in wanted.items())


def _ray() -> Any:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise MissingExtra("--ray needs Ray: pip install 'beph-store[ray]'") from None
    return ray


def _start_local(ray: Any, stack: contextlib.ExitStack) -> None:
    stack.enter_context(_environment({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}))
    # Ray takes this machine's address in the network for its own, unless it believes itself on a Mac.
    stack.enter_context(_constants(ENABLE_RAY_CLUSTER=False))
    folder = _session_folder()
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    settings: dict[str, Any] = {
        "address": "local",
        "num_cpus": _cores(),
        "include_dashboard": False,
        "_temp_dir": str(folder),
    }
    _init(ray, settings, "a cluster on this machine", stack)


def _join(ray: Any, address: str, stack: contextlib.ExitStack) -> None:
    named = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    if "://" in named:
        raise UsageError(
            f"--ray {named}: name the head node as host:port, and run this command on a machine of the cluster"
        )
    if named not in ("", "auto"):
        _reach(named)
    wanted = {} if os.environ.get("RAY_AUTH_MODE") else {"RAY_AUTH_MODE": "token"}
    stack.enter_context(_environment(wanted))
    if os.environ["RAY_AUTH_MODE"] == "token" and not _has_token():
        raise ClusterUnavailable(f"no token: {_TOKEN_CURE}")
    # Each try takes a second, and a token that is refused is refused each time.
    stack.enter_context(_constants(NUM_REDIS_GET_RETRIES=5))
    _init(
        ray, {"address": named or "auto"}, f"the cluster at {named}" if named else "the cluster here", stack
    )


def _reach(address: str) -> None:
    """Ask at the door: Ray itself waits for a minute before it says that nobody is there."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(
            f"--ray {address}: pass auto, local, or the head node as host:port (Ray's port is 6379)"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
    except OSError as error:
        why = error.strerror or str(error) or type(error).__name__
        raise ClusterUnavailable(f"no Ray cluster at {address}: {why}") from None


def _init(ray: Any, settings: dict[str, Any], where: str, stack: contextlib.ExitStack) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    stack.enter_context(_quiet())
    stack.callback(ray.shutdown)
    try:
        with _signals_kept(), warnings.catch_warnings():
            # It starts its processes anew; the fork in between runs no Lance.
            warnings.filterwarnings("ignore", message="lance is not fork-safe")
            ray.init(namespace="beph-store", **quiet, **settings)
    except Exception as error:
        raise ClusterUnavailable(_why_not(error, where)) from error


def _why_not(error: BaseException, where: str) -> str:
    chain: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(chain) < 8:
        chain.append(f"{type(cause).__name__}: {cause}")
        cause = cause.__cause__ or cause.__context__
    text = " ".join(" ".join(chain).split())
    if "nauthenticated" in text or "AuthenticationError" in text or "InvalidAuthToken" in text:
        return f"{where} refused the token: {_TOKEN_CURE}"
    if isinstance(error, ConnectionError) and "find any running" in text:
        return (
            "no Ray cluster runs here: start one (`ray start --head`), set RAY_ADDRESS, or pass --ray local"
        )
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"Ray cannot connect to {where}: {first}"


@contextlib.contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """``wanted`` in the environment while inside, and known to the part of Ray that reads it once only."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    _read_again()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _read_again()


def _read_again() -> None:
    with contextlib.suppress(
        ImportError, AttributeError
    ):  # internals of Ray: absent, the first reading stands
        internals: Any = importlib.import_module("ray._raylet")
        internals.Config.initialize("")
        internals.AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What Ray's machines say goes to the log of that name: Ray prints it on stdout, which is the command's answer."""
    worker: Any = importlib.import_module("ray._private.worker")
    before = getattr(worker, "print_to_stdstream", None)
    log = logging.getLogger(__name__)
    worker.print_to_stdstream = lambda data, **_: log.info("%s", "\n".join(data["lines"]))
    try:
        yield
    finally:
        worker.print_to_stdstream = before


@contextlib.contextmanager
def _constants(**wanted: Any) -> Iterator[None]:
    """Constants of Ray that cannot be set otherwise, while inside."""
    from ray._private import ray_constants

    before = {name: getattr(ray_constants, name, None) for name in wanted}
    for name, value in wanted.items():
        setattr(ray_constants, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(ray_constants, name, value)


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself and exits; stopping in good order is our caller's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            if handler is not None:
                signal.signal(number, handler)


def _has_token() -> bool:
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return (Path(named) if named else Path.home() / ".ray" / "auth_token").is_file()


def _session_folder() -> Path:
    """A folder for logs and sockets that goes with the run; sockets need a short path."""
    base = Path(tempfile.gettempdir())
    if sys.platform != "win32" and len(str(base)) > _SOCKET_ROOM - 12:
        base = Path("/tmp")
    return Path(tempfile.mkdtemp(prefix="ray-", dir=base))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
