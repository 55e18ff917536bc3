"""The folders that the blocks of the documentation run in, made with the commands that it names."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from beph_store.testing.tutorial import tutorial_slides


def environment(folder: Path) -> dict[str, str]:
    """As in a fresh shell where the environment is active; nothing of the user's is read."""
    own = ("BEPH_", "AWS_", "RAY_", "HF_")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(own)},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "MPLBACKEND": "agg",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
    }


def run(command: list[str], folder: Path, more: Mapping[str, str] | None = None) -> None:
    """One command in the folder; ``more`` variables beside the usual ones."""
    env = {**environment(folder), **(more or {})}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=280)
    said = f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert done.returncode == 0, f"exit code {done.returncode} of {command[-1]}\n{said}"


def shell(commands: str, folder: Path, more: Mapping[str, str] | None = None) -> None:
    """As typed line by line, stopped by the first that fails."""
    run(["bash", "-ec", commands], folder, more)


def make_demo(folder: Path) -> None:
    """``demo/``, as the first tutorial begins."""
    shell("beph-store demo --out demo", folder)


#: How a tutorial begins in an empty folder; `test_tutorials.py` holds the pages to it.
ARCHIVE = ("beph-store demo --tutorial .", "beph-store ingest slides/ --store S")


def make_archive(folder: Path) -> None:
    """A small archive: what the tutorials begin with, slides/case-1.svs and on among it, and the store S."""
    shell("\n".join(ARCHIVE), folder)


def make_kept(folder: Path) -> None:
    """Two slides whose tiles' pixels are kept."""
    tutorial_slides(folder / "slides", 2)
    shell("beph-store ingest slides/ --store S --keep-tiles", folder)


def make_served(folder: Path) -> None:
    """The archive that lies there, with a head, and slides that may be ingested by request; `served` starts it."""
    shell("beph-store train S --task classify --cohort labels.csv --target label --out heads/label", folder)
    (folder / "new" / "batch7").mkdir(parents=True)
    shutil.copy(folder / "slides" / "case-1.svs", folder / "new" / "a.svs")
    shutil.copy(folder / "slides" / "case-2.svs", folder / "new" / "batch7" / "b.svs")
    (folder / ".curlrc").write_text("silent\nshow-error\nfail-with-body\nmax-time = 60\n")


#: What a page may ask for, and what that one begins with; ``empty`` is nothing at all.
KINDS = {
    "demo": (None, make_demo),
    "archive": (None, make_archive),
    "kept": (None, make_kept),
    "server": ("archive", make_served),
}


@contextlib.contextmanager
def served(folder: Path) -> Iterator[dict[str, str]]:
    """A server over the folder's store: what the pages call B, A, R, S, C, H, J and TOKEN."""
    command = (
        "beph-store serve S --port 0 --json --allow-write --ingest-root new --heads heads --labels labels.csv"
    )
    process = subprocess.Popen(
        command.split(), cwd=folder, env=environment(folder), stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())
        yield _names(address["base"], address["token"], (folder / "labels.csv").read_bytes())
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def _names(base: str, token: str, labels: bytes) -> dict[str, str]:
    def ask(path: str, body: object = None, kind: str = "application/json") -> Any:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        headers = {"authorization": f"Bearer {token}", "content-type": kind}
        with urllib.request.urlopen(urllib.request.Request(f"{base}{path}", data, headers)) as answer:
            return json.load(answer)

    recipe = ask("/api/store")["recipes"][0]["key"]
    slide = ask(f"/api/recipes/{recipe}/slides")["slides"][0]["slide"]
    cohort = ask("/api/cohorts?name=labels", labels, "text/csv")["cohort"]
    head = ask("/api/heads")["heads"][0]["head"]
    job = ask("/api/jobs", {"kind": "apply", "options": {"head": head}})["job"]
    while ask(f"/api/jobs/{job}")["state"] in ("queued", "running"):
        time.sleep(0.2)
    return {
        "B": base,
        "A": f"authorization: Bearer {token}",
        "TOKEN": token,
        "L": f"{base}/api/recipes/{recipe}/labels",
        "R": recipe,
        "S": slide,
        "C": cohort,
        "H": head,
        "J": job,
    }
