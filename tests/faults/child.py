"""``python -m tests.faults.child OPERATION FOLDER [SITE NTH ACTION]``: run it with a fault.

Prints how often each site was called.
"""

import json
import sys
from pathlib import Path
from typing import cast

from tests.faults.inject import Action, Fault, inject
from tests.faults.operations import OPERATIONS


def main() -> None:
    name, folder, *rest = sys.argv[1:]
    fault = Fault(rest[0], int(rest[1]), cast(Action, rest[2])) if rest else None
    counts = inject(fault)
    OPERATIONS[name].run(Path(folder))
    sys.stdout.write(f"\n{json.dumps(counts)}\n")


if __name__ == "__main__":
    main()
