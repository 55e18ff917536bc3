"""The folders that the blocks of the documentation run in, made with the commands that it names."""

import contextlib
import csv
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

from PIL import Image

from beph_store.testing.synthetic import SlidePlan, draw, write_slide

CASES = 12


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


def make_slides(folder: Path, count: int) -> None:
    """``slides/case-1.svs`` and on: odd ones are mostly tumour, even ones hardly."""
    (folder / "slides").mkdir()
    for case in range(1, count + 1):
        plan = SlidePlan(size=(2048, 2048), seed=case, tumour=0.75 if case % 2 else 0.05, nuisances=())
        write_slide(folder / "slides" / f"case-{case}.svs", plan)


def make_archive(folder: Path) -> None:
    """A small archive: slides/case-1.svs and on, labels.csv, clinical.tsv, manifest.csv, tile.png, and the store S."""
    make_slides(folder, CASES)
    Image.fromarray(draw(SlidePlan(size=(2048, 2048), seed=50, nuisances=()), 896, 896, 224, 224)).save(
        folder / "tile.png"
    )
    _tables(folder)
    shell("beph-store ingest slides/ --store S", folder)


def _tables(folder: Path) -> None:
    cases = range(1, CASES + 1)
    _table(
        folder / "labels.csv",
        ["slide_id", "case_id", "grade", "label"],
        [
            [f"case-{case}.svs", f"case-{case}", *(("high", "tumour") if case % 2 else ("low", "normal"))]
            for case in cases
        ],
    )
    _table(
        folder / "clinical.tsv",
        ["case_submitter_id", "vital_status", "days_to_death", "days_to_last_follow_up"],
        [
            [f"case-{case}", "Dead", 100 + 37 * case, "'--"]
            if case % 2
            else [f"case-{case}", "Alive", "'--", 900 + 41 * case]
            for case in cases
        ],
        "\t",
    )
    _table(
        folder / "manifest.csv",
        ["path", "slide_id", "case_id"],
        [[f"slides/case-{case}.svs", f"case-{case}.svs", f"case-{case}"] for case in cases],
    )


def _table(path: Path, header: list[str], rows: list[list[object]], delimiter: str = ",") -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([header, *rows])


def make_kept(folder: Path) -> None:
    """Two slides whose tiles' pixels are kept."""
    make_slides(folder, 2)
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
