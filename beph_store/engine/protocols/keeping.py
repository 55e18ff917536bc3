"""How a step that was done is not done again: its value is kept in a file with a key over all that it depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from beph_store.engine.provenance import VERSION
from beph_store.store.durable import write_json


def keep(path: Path, key: Any, make: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], bool]:
    """What ``make`` gave when it was called with the same ``key``, from ``path``; else made, and kept there.

    The second of the pair says whether it was there. ``key`` and the value are JSON data. This version of the
    package is part of the key.
    """
    digest = hashlib.sha256(json.dumps([VERSION, key], sort_keys=True, default=str).encode()).hexdigest()
    try:
        about: dict[str, Any] = json.loads(path.read_bytes())
        if about["key"] == digest:
            return about["value"], True
    except (OSError, ValueError, KeyError, TypeError):
        pass  # never made, or left half written: made anew
    path.unlink(missing_ok=True)
    value = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"key": digest, "value": value})
    return json.loads(json.dumps(value)), False
