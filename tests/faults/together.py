"""Writers, a compaction, an index build and readers on one store at once, and what has to hold at every moment.

``python -m tests.faults.together ROLE FOLDER SECONDS SEED`` is one of them: it says that it is ready, waits for a line,
and its last line of output is JSON.
"""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from beph_store.errors import SearchError, StoreError
from beph_store.search.ann import IndexPlan, build, sample
from beph_store.store import Store, compact, verify
from tests.store.conftest import RECIPE, seal

ROOT = Path(__file__).resolve().parents[2]
#: Slides that writers take turns at: several of them want the same one at once.
SLIDES = 400


def write(store: Store, until: float, chance: random.Random) -> Counter[str]:
    """Ingest slides in an order of its own, some of them again in place of what is there."""
    did: Counter[str] = Counter()
    while time.time() < until:
        writer = store.writer(RECIPE, run=f"r{chance.random()}", encoder_source="toy", parity={})
        try:
            for _ in range(chance.randrange(1, 6)):
                did[_one(store, writer, chance)] += 1
            writer.publish(force=True)
        finally:
            writer.close()
    return did


def _one(store: Store, writer, chance: random.Random) -> str:
    name = f"{chance.randrange(SLIDES):03d}.svs"
    known = store.registry.get(RECIPE.key, name)
    again = known is not None and known.complete
    if again and chance.random() < 0.7:
        return "there"
    try:
        seal(writer, name, 20 + hash_of(name) % 60, replaces=known.ingest_id if again else None)
    except AssertionError:  # another writer has it
        return "busy"
    return "replaced" if again else "written"


def hash_of(name: str) -> int:
    return int(name.removesuffix(".svs"))


def tidy(store: Store, until: float, chance: random.Random) -> Counter[str]:
    """Compact, again and again; refused while somebody writes."""
    did: Counter[str] = Counter()
    while time.time() < until:
        try:
            compact(store)
            did["compacted"] += 1
        except StoreError:
            did["refused"] += 1
        time.sleep(chance.uniform(0.05, 0.5))
    return did


def index(store: Store, until: float, chance: random.Random) -> Counter[str]:
    """Build an index anew, whatever else goes on."""
    did: Counter[str] = Counter()
    while time.time() < until:
        time.sleep(chance.uniform(0.5, 2))
        try:
            flat = store.flat(RECIPE.key)
            if len(flat) > 500:
                plan = IndexPlan("IVF_FLAT", 4)
                build(str(store.layout.tiles(RECIPE.key)), plan, sample(flat.vectors, plan))
                did["built"] += 1
        except StoreError:
            did["refused"] += 1
        except (
            SearchError
        ) as error:  # a compaction came between each time, as it never does outside of this test
            if "conflict" not in str(error):
                raise
            did["overtaken"] += 1
    return did


def read(store: Store, until: float, chance: random.Random) -> Counter[str]:
    """Look: a slide is there whole or not at all, once, and one that was there stays."""
    did: Counter[str] = Counter()
    seen: set[str] = set()
    while time.time() < until:
        done = [row for row in store.rows(RECIPE.key) if row.status == "done"]
        names = [row.slide_id for row in done]
        assert len(names) == len(set(names)), "a slide is there twice"
        assert seen <= set(names), f"lost: {seen - set(names)}"
        seen |= set(names)
        for row in chance.sample(done, min(3, len(done))):
            rows = store.slide_rows(row)
            if not len(rows.ok):  # replaced since the list was read; the new one must be whole
                row = store.slide(RECIPE.key, row.slide_id)
                rows = store.slide_rows(row)
            assert len(rows.ok) == row.tiles, f"{row.slide_id} is not whole"
            assert rows.sha256() == row.sha256, f"{row.slide_id} holds other vectors"
            did["slides read"] += 1
        did["looks"] += 1
    return did


ROLES: dict[str, Callable[[Store, float, random.Random], Counter[str]]] = {
    "write": write,
    "tidy": tidy,
    "index": index,
    "read": read,
}


def together(folder: Path, seconds: float, roles: list[str]) -> Counter[str]:
    """All roles at once; what they did, added up. Raises AssertionError with what one of them said."""
    store = Store.create(folder / "S", written_by="a test")
    store.writer(RECIPE, run="first", encoder_source="toy", parity={}).close()
    command = [sys.executable, "-m", "tests.faults.together"]
    processes = [
        subprocess.Popen(
            [*command, role, str(folder / "S"), str(seconds), str(seed)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed, role in enumerate(roles)
    ]
    for process in processes:  # on a busy machine one may start long after another, and never meet it
        process.stdout.readline()
    for process in processes:
        with suppress(BrokenPipeError):
            process.stdin.write("go\n")
            process.stdin.flush()
    did: Counter[str] = Counter()
    for role, process in zip(roles, processes, strict=True):
        out, err = process.communicate()
        assert process.returncode == 0, f"{role}: {err[-3000:]}"
        did.update(json.loads(out.splitlines()[-1]))
    compact(store)
    report = verify(store)
    assert report.ok, report.problems
    assert not report.notes, report.notes
    did["slides"] = report.slides
    return did


def main() -> None:
    role, folder, seconds, seed = sys.argv[1:]
    store = Store.open(folder)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    did = ROLES[role](store, time.time() + float(seconds), random.Random(int(seed)))
    sys.stdout.write(f"\n{json.dumps(did)}\n")


if __name__ == "__main__":
    main()
