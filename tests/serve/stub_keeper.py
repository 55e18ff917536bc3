"""A keeper as it is, beside a worker that does what a job's options say in Python: it starts in no time."""

from __future__ import annotations

import sys
from pathlib import Path

from beph_store.serve.jobs.files import Folder
from beph_store.serve.jobs.keeper import keep
from beph_store.serve.jobs.record import read

WORKER = """
import os, signal, subprocess, sys, time
from pathlib import Path
from beph_store.serve.jobs.files import Folder, write_json
from beph_store.serve.jobs.worker import prepare
folder = Folder(Path(sys.argv[1]))
prepare(int(sys.argv[2]))
(folder.root / "pid").write_text(str(os.getpid()))
def done(**result): write_json(folder.result, {"result": result})
def ready(): (folder.root / "ready").touch()
def wait(name):
    while not (folder.root / name).exists(): time.sleep(0.02)
"""

if __name__ == "__main__":
    folder, lock = Folder(Path(sys.argv[1])), int(sys.argv[2])
    job = read(folder)
    assert job is not None
    line = [sys.executable, "-P", "-c", WORKER + job.options["code"], str(folder.root), str(lock)]
    keep(folder, lock, line, grace=job.options.get("grace", 20.0))
