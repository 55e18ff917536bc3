"""A job as plain data."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from beph_store.serve.jobs.files import Folder, read_json, write_json

State = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED: tuple[State, ...] = ("done", "failed", "cancelled")
FORMAT = 1
_ID = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class Kind:
    """Of each ``lane`` one job runs at a time. Only those of the lane ``heavy`` see a GPU, so it has one user."""

    name: str
    lane: Literal["heavy", "light"]
    what: str


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind("train", "heavy", "train a head by cross-validation"),
            Kind("ingest", "heavy", "embed slides into the store"),
            Kind("apply", "light", "ask a head about every slide"),
            Kind("index", "light", "make or renew the index for searches"),
        )
    }
)


@dataclass(frozen=True, slots=True)
class Job:
    """``options`` as they were asked for; ``work`` is what the server made of them, for the worker alone: it may hold
    paths. ``starts`` counts the processes that were started for it; ``worker`` tells people where the last one runs.
    """

    job: str
    kind: str
    title: str
    options: dict[str, Any]
    created_at: str
    recipe: str | None = None
    work: dict[str, Any] = field(default_factory=dict)
    state: State = "queued"
    started_at: str | None = None
    ended_at: str | None = None
    progress: dict[str, Any] | None = None
    error: str | None = None
    result: dict[str, Any] | None = None
    starts: int = 0
    worker: dict[str, Any] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in ENDED

    def told(self) -> dict[str, Any]:
        """For clients."""
        data = dataclasses.asdict(self)
        for name in ("work", "starts", "worker"):
            del data[name]
        return data


def is_id(text: str) -> bool:
    """Whether a job can be called that; what is no id is never made a path of."""
    return _ID.fullmatch(text) is not None


def read(folder: Folder) -> Job | None:
    """The job in a folder; None where there is none, or a record that cannot be understood."""
    data = read_json(folder.record)
    if data is None or data.pop("format", None) != FORMAT or data.get("kind") not in KINDS:
        return None
    names = {one.name for one in dataclasses.fields(Job)}
    try:
        return Job(**{name: value for name, value in data.items() if name in names})
    except TypeError:
        return None


def write(folder: Folder, job: Job) -> None:
    """Keep the job, for good. Only for who holds the folder's lock."""
    write_json(folder.record, {"format": FORMAT, **dataclasses.asdict(job)})


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def here() -> dict[str, Any]:
    """Where we run, for people, and for telling that the machine was restarted."""
    return {"host": platform.node(), "boot": boot_id(), "process": os.getpid()}


def boot_id() -> str | None:
    """Another one after every start of the machine; None where it cannot be had."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
