"""The process that does the work of a job.

    python -m beph_store.serve.jobs.worker FOLDER LOCK

It ends on SIGTERM as a command does on Ctrl-C, and at once, with all that it started, when its keeper is gone.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from types import FrameType
from typing import NoReturn

from beph_store.serve.jobs.files import Folder, write_json
from beph_store.serve.jobs.record import read

#: Below whoever looks at slides meanwhile.
_NICE = 5


def main() -> None:
    """What the keeper starts."""
    folder = Folder(Path(sys.argv[1]))
    prepare(int(sys.argv[2]))
    try:
        sys.exit(work(folder))
    except KeyboardInterrupt:
        print("stopped", flush=True)  # noqa: T201 - its log
        sys.exit(130)


def prepare(lock: int) -> None:
    """Be a worker: end when asked to, and with the keeper; ``lock`` is the open file that came from it."""
    os.set_inheritable(lock, False)  # ours until we end; what we start must not hold on to it
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_end_with_keeper, name="lifeline", daemon=True).start()
    faulthandler.enable()
    with contextlib.suppress(OSError):
        os.nice(_NICE)


def work(folder: Folder) -> int:
    """Do the job of a folder and write down its result, or why there is none. Returns the exit code."""
    from beph_store.engine.study.job import failure
    from beph_store.serve.jobs.work import WORK, Teller

    job = read(folder)
    assert job is not None, "the keeper has read it"
    try:
        result = WORK[job.kind](job, folder, Teller(folder))
    except Exception as error:  # noqa: BLE001 - whatever it is, somebody wants to know it
        traceback.print_exc()
        store = str(job.work.get("store") or folder.root)
        write_json(folder.result, {"error": failure(error).replace(store, Path(store).name)})
        return 1
    write_json(folder.result, {"result": result})
    return 0


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # asked once is enough: what is cleaned up now is wanted
    raise KeyboardInterrupt


def _end_with_keeper() -> None:
    """The keeper never writes: that the pipe ends means that the keeper has."""
    while os.read(0, 1024):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
