"""The command line as a user calls it: in this process, or in one of its own where the process is what is tested."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from beph_store_cli.main import main


def call(*arguments: object, code: int = 0, cwd: Path | None = None) -> tuple[str, str]:
    """(stdout, stderr) of ``beph-store ARGUMENTS``, run here: it must end with ``code``. Saves a start of seconds."""
    out, err = _stream(), _stream()
    stop = signal.getsignal(signal.SIGTERM)
    with (
        mock.patch.object(sys, "argv", ["beph-store", *map(str, arguments)]),
        mock.patch.dict(os.environ),
        contextlib.chdir(cwd or Path.cwd()),
        _warnings_to_stderr(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
            ended: object = 0
        except SystemExit as end:
            ended = end.code or 0
        except BaseException:  # noqa: BLE001  # what an interpreter does with it
            traceback.print_exc()
            ended = 1
        finally:
            signal.signal(signal.SIGTERM, stop)
    return _checked(ended, code, _text(out), _text(err))


def spawn(*arguments: object, code: int = 0, cwd: Path | None = None, **variables: str) -> tuple[str, str]:
    """The same in a fresh process, with ``variables`` added to its environment."""
    command = [sys.executable, "-m", "beph_store_cli", *map(str, arguments)]
    env = {**os.environ, **variables}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, env=env)
    return _checked(done.returncode, code, done.stdout, done.stderr)


def call_json(*arguments: object, code: int = 0) -> dict[str, Any]:
    """The one object that ``beph-store ARGUMENTS --json`` prints."""
    return one_object(call(*arguments, "--json", code=code)[0])


def one_object(out: str) -> dict[str, Any]:
    """What was printed, which must be one JSON object on one line."""
    assert out.count("\n") == 1, out
    return json.loads(out)  # type: ignore[no-any-return]


@contextlib.contextmanager
def _warnings_to_stderr() -> Iterator[None]:
    """As in a process of its own; pytest would keep them to itself."""
    hidden = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
    with warnings.catch_warnings():
        for category in hidden:
            warnings.simplefilter("ignore", category)
        warnings.showwarning = lambda message, category, file, line, *_: sys.stderr.write(
            warnings.formatwarning(message, category, file, line)
        )
        yield


def _stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)


def _text(stream: io.TextIOWrapper) -> str:
    return stream.buffer.getvalue().decode()  # type: ignore[attr-defined]


def _checked(ended: object, code: int, out: str, err: str) -> tuple[str, str]:
    assert ended == code, f"exit {ended}\n{out}\n{err}"
    return out, err
