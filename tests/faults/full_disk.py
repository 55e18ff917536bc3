"""``python -m tests.faults.full_disk JOB FOLDER``: a job on a disk that is really full, and again with more room.

To be started in a mount namespace of its own, where it may mount. Its last line of output is JSON.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from beph_store.store import Store, verify

ROOM, MORE = "64m", "512m"


def why_not() -> str | None:
    """Why no disk can be mounted here, or None."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return "there is no unshare(1) here"
    tried = subprocess.run(
        [*unshare(), "mount", "-t", "tmpfs", "-o", "size=1m", "full", "/mnt"], capture_output=True, text=True
    )
    return f"nothing can be mounted here: {tried.stderr.strip()}" if tried.returncode else None


def unshare() -> list[str]:
    """Runs what follows where it may mount, and nobody else sees it."""
    return ["unshare", "--map-root-user", "--user", "--mount"]


def job(name: str, folder: Path, store: Path) -> list[str]:
    """The command line."""
    ours = [sys.executable, "-m", "beph_store_cli"]
    return {
        "ingest": [
            *ours, "ingest", str(folder / "slides"), "--store", str(store), "--limit-tiles", "64", "--keep-tiles",
        ],
        "import": [
            *ours, "import", "table", str(folder / "features.csv"), "--store", str(store), "--columns", r"f\d+",
        ],
        "compact": [*ours, "compact", str(store)],
    }[name]  # fmt: skip


def mount(disk: Path, *options: str) -> None:
    """A disk in memory of that size, or another size for it."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "full", str(disk)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Take all but ``leave`` bytes."""
    filler = disk / "filler"
    free = shutil.disk_usage(disk).free
    with filler.open("wb") as file:
        left = max(0, free - leave)
        while left > 0:
            left -= file.write(bytes(min(left, 1 << 20)))
    return filler


def rows(store: Path) -> Any:
    """All that a reader sees."""
    opened = Store.open(store)
    frame = opened.tiles(opened.recipe().recipe.key).drop("ingest_id").collect()
    return frame.sort("slide_id", "tile")


def main() -> None:
    """See the module."""
    name, folder, leave = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    disk = folder / "disk"
    disk.mkdir()
    mount(disk, f"size={ROOM}")
    store = disk / "S"
    if (folder / "before").exists():
        shutil.copytree(folder / "before", store)
    fill(disk, leave)
    line = job(name, folder, store)
    full = subprocess.run(line, capture_output=True, text=True, timeout=100)
    seen = verify(Store.open(store)).problems if (store / "store.json").exists() else []
    mount(disk, "remount", f"size={MORE}")
    again = subprocess.run(line, capture_output=True, text=True, timeout=100)
    report = verify(Store.open(store))
    rows(store).write_parquet(folder / "rows.parquet")
    left = [str(path) for path in (store / "staging").rglob("*") if path.is_file()]
    answer = {
        "full": [full.returncode, full.stdout[-2000:], full.stderr[-3000:]],
        "seen": seen,
        "again": [again.returncode, again.stdout[-2000:], again.stderr[-3000:]],
        "problems": report.problems,
        "left": left,
    }
    sys.stdout.write(f"\n{json.dumps(answer)}\n")


if __name__ == "__main__":
    main()
