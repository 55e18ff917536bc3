"""A store in a bucket, filled over a cluster of two nodes; run in a namespace, answers in JSON.

python -m tests.engine.cluster.bucket SLIDES OUT LIMIT
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.engine.cluster.chaos import command
from tests.engine.cluster.machines import cluster
from tests.objects.server import environment, moto_server


def main() -> None:
    """See the module."""
    from beph_store.store import Store, verify

    slides, folder, limit = sys.argv[1:4]
    with moto_server() as server, environment(server), cluster(1, 1) as made:
        store = f"{server.bucket()}/S"
        line = command(
            slides, Path("unused"), made.address, "--limit-tiles", limit, "--runtime", "onnxruntime"
        )
        line[line.index("--store") + 1] = store
        run = subprocess.run(line, capture_output=True, text=True, check=False)
        opened = Store.open(store)
        rows = opened.tiles(opened.recipe().recipe.key).drop("ingest_id").collect()
        rows.sort("slide_id", "tile").write_parquet(Path(folder) / "rows.parquet")
        report = verify(opened)
        answer = {
            "code": run.returncode,
            "stderr": run.stderr,
            "report": json.loads(run.stdout),
            "problems": [str(problem) for problem in report.problems],
        }
    (Path(folder) / "answer.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
