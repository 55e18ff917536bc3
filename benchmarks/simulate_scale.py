"""How does an ingest go with a thousand encoders, and what holds it up?

By `simulation.py`, a discrete-event simulation of `ingest --ray`. Every step of the driver takes the seconds that were
measured (`results/scale.json`), so a driver that cannot keep up shows as encoders that wait. Slides are drawn: tiles
lognormal, some of them giants. Machines vanish as spot machines do, and what was not yet written is done again.

    python benchmarks/simulate_scale.py                    # the table of scenarios, into results/simulate_scale.json
    python benchmarks/simulate_scale.py --check            # a real run of 2 and 3 workers beside its prediction, added
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from typing import Any

from common import RESULTS, command_line, conditions, write
from simulate_check import check
from simulation import Archive, Costs, Fleet, Simulation


def measured(name: str = "scale") -> Costs:
    """What `bench_scale.py` found here; surveys as on drawn slides of 90,000 px, unless a check says otherwise."""
    found = json.loads((RESULTS / f"{name}.json").read_text())
    sizes, whole = found["bookkeeping"], found["whole_slides"][-1]
    return Costs(
        admit=sizes[-1]["claim_and_release_s"],
        publish=tuple(
            (one["slides"], one["publish_64_slides_s"] + one["catch_up_after_a_commit_s"]) for one in sizes
        ),
        seal=(0.02, whole["seal_s_a_slide"] / whole["tiles_a_slide"]),
    )


#: Encoders of about a ViT-B on sixteen cores with bf16, on a GPU, and on a large GPU; none measured here, see scale.md.
RATES = {"cpu": 50.0, "gpu": 500.0, "large gpu": 2_000.0}


def scenarios(costs: Costs) -> dict[str, dict[str, Any]]:
    """The runs of the table."""
    some, few = Archive(6_000), Archive(1_500)
    spot = {"life_s": 4 * 3600.0}
    cpus, gpus = Fleet(1000, RATES["cpu"], spans=6), Fleet(1000, RATES["gpu"])
    runs = {
        "1000 GPUs": Simulation(some, gpus, costs),
        "1000 GPUs, spot": Simulation(some, replace(gpus, **spot), costs),
        "1000 GPUs, 1,000,000 slides listed": Simulation(some, gpus, costs, listed=1_000_000),
        "100 GPUs, 1,000,000 slides listed": Simulation(
            few, replace(gpus, workers=100), costs, listed=1_000_000
        ),
        "1000 CPU workers, spot": Simulation(some, replace(cpus, **spot), costs),
    }
    found = {}
    for name, run in runs.items():
        start = time.perf_counter()
        found[name] = run.run()
        print(
            f"{name}: {json.dumps({k: v for k, v in found[name].items() if k not in ('archive', 'fleet')})}"
        )
        print(f"   simulated in {time.perf_counter() - start:.1f} s", flush=True)
    return found


def main() -> None:
    """See the top of the file."""
    asked = command_line(__doc__, "simulate_scale")
    asked.add_argument("--check", action="store_true", help="real runs too, see simulate_check.py")
    options = asked.parse_args()
    result = RESULTS / f"{options.name}.json"
    kept = json.loads(result.read_text()) if result.exists() else {}
    if options.check:
        kept["check"] = check()
    else:
        costs = measured()
        kept |= {"costs": asdict(costs), "scenarios": scenarios(costs)}
    about = {
        "question": "How does an ingest go with a thousand encoders, and what holds it up?",
        "conditions": conditions("pylance"),
        "how": "simulated: the product's board, the driver's loop replayed with measured costs; see the script",
    }
    write(options.name, {**about, **{k: v for k, v in kept.items() if k not in about}})


if __name__ == "__main__":
    main()
