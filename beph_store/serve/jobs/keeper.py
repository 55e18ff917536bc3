"""The process that stays beside a worker: its log, its end, and what is written of both.

    python -m beph_store.serve.jobs.keeper FOLDER LOCK

``LOCK`` is the number of an open file that has the job's lock. The keeper leads a session of its own, so that neither
Ctrl-C nor the end of the server reaches it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from beph_store.serve.jobs.events import append
from beph_store.serve.jobs.files import Folder, read_json
from beph_store.serve.jobs.log import Log
from beph_store.serve.jobs.record import KINDS, Job, State, here, now, read, write

#: Time to stop in an orderly way after being asked; an ingest writes down what it has encoded.
GRACE_SECONDS = 20.0
_LOOK_SECONDS = 0.2
#: What a worker leaves behind may still print; then it is killed.
_STRAGGLER_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class End:
    """How a worker ended: exit code, negative for a signal; whether it was asked to, and by whom."""

    code: int
    cancelled: bool = False
    stopped: bool = False


def keep(folder: Folder, lock: int, command: Sequence[str], grace: float = GRACE_SECONDS) -> None:
    """Run the job of a folder to its end, whatever that is, and write it down. Nothing is raised for a bad end."""
    job = read(folder)
    if job is None or job.state != "queued":
        return
    if folder.cancel.exists():
        end_job(folder, job, "cancelled")
        return
    outside = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        outside.set()

    signal.signal(signal.SIGTERM, stop)
    job = dataclasses.replace(job, state="running", started_at=now(), worker=here())
    append(folder.events, {"kind": "state", "state": "running"})
    write(folder, job)
    log = Log(folder.log)
    try:
        end = _watched(folder, _started(command, job, lock), log, outside, grace)
    except OSError as error:
        end_job(folder, job, "failed", error=f"its process could not be started: {error}")
    else:
        state, told, result = verdict(end, read_json(folder.result))
        end_job(folder, job, state, error=told, result=result)
    finally:
        log.close()


def end_job(
    folder: Folder, job: Job, state: State, *, error: str | None = None, result: dict[str, Any] | None = None
) -> None:
    """Write down how a job ended. Only for who holds its lock."""
    progress = read_json(folder.progress)
    # Before the record: whoever sees that it has ended finds the last event.
    append(folder.events, {"kind": "state", "state": state, **({"error": error} if error else {})})
    write(
        folder,
        dataclasses.replace(
            job, state=state, ended_at=now(), error=error, result=result, progress=progress or job.progress
        ),
    )


def verdict(end: End, said: dict[str, Any] | None) -> tuple[State, str | None, dict[str, Any] | None]:
    """State, error and result of a job by how its worker ended and what it said last.

    What was finished is done, even if somebody wanted it cancelled in the last moment.
    """
    if said is not None and isinstance(said.get("result"), dict):
        return "done", None, said["result"]
    if end.cancelled:
        return "cancelled", None, None
    if end.stopped:
        return "failed", "it was stopped from outside, as when a machine shuts down: start it again", None
    if said is not None and said.get("error"):
        return "failed", str(said["error"]), None
    if end.code < 0:
        name = _signal_name(-end.code)
        why = ": by somebody, or for want of memory" if -end.code == signal.SIGKILL else ""
        return "failed", f"its process was killed by signal {-end.code} ({name}){why}; see the log", None
    return "failed", f"its process ended with exit code {end.code} and no result; see the log", None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _started(command: Sequence[str], job: Job, lock: int) -> subprocess.Popen[bytes]:
    """The worker, leader of a group of its own. Its stdin is the lifeline: it ends when ours does."""
    hidden = {} if KINDS[job.kind].lane == "heavy" else {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(lock,),
        process_group=0,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **hidden},
    )


def _watched(
    folder: Folder, worker: subprocess.Popen[bytes], log: Log, outside: threading.Event, grace: float
) -> End:
    """Wait for the worker's end, or bring it about."""
    reading = threading.Thread(target=_read, args=(worker, log), daemon=True)
    reading.start()
    asked: float | None = None
    killed = False
    while not _is_over(worker):
        if asked is None and (outside.is_set() or folder.cancel.exists()):
            asked = time.monotonic()
            worker.send_signal(signal.SIGTERM)
        elif asked is not None and not killed and time.monotonic() - asked > grace:
            killed = True
            log.write(b"\n[it did not stop when asked: killed]\n")
            _kill_group(worker)
        time.sleep(_LOOK_SECONDS)
    reading.join(_STRAGGLER_SECONDS)
    _kill_group(worker)  # the worker is not waited for yet, so its number is still its own
    reading.join(_STRAGGLER_SECONDS)
    code = worker.wait()
    return End(code, asked is not None and folder.cancel.exists(), outside.is_set())


def _is_over(worker: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended; it is left for ``wait``, so that nobody else gets its number."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return worker.poll() is not None
    return os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill_group(worker: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.pid, signal.SIGKILL)


def _read(worker: subprocess.Popen[bytes], log: Log) -> None:
    """Take what the worker prints, so that it never waits for us."""
    assert worker.stdout is not None
    full = False
    while data := os.read(worker.stdout.fileno(), 1 << 16):
        if full:
            continue
        try:
            log.write(data)
        except (OSError, ValueError):  # a full disk must not stop the work; closed: what came after the end
            full = True


def main() -> None:
    """What `queue.start` starts."""
    folder, lock = Path(sys.argv[1]), int(sys.argv[2])
    worker = [sys.executable, "-P", "-m", "beph_store.serve.jobs.worker", str(folder), str(lock)]
    keep(Folder(folder), lock, worker)


if __name__ == "__main__":
    main()
