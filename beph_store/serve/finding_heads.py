"""Which heads there are: those that jobs made, and those in the folders that were named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from beph_store.engine.study.trained import RUN_FILE
from beph_store.serve.answers import Refused, missing
from beph_store.serve.desk import Desk
from beph_store.serve.heads import KnownHead, Unreadable


def all_heads(desk: Desk) -> tuple[list[KnownHead], list[Unreadable]]:
    """Every head, the newest first, and what cannot be read; a folder that is also a job's is the job's."""
    known: dict[str, KnownHead] = {}
    broken: dict[str, Unreadable] = {}
    seen: set[Path] = set()
    for folder, name in _folders(desk):
        real = folder.resolve()
        if real in seen:
            continue
        seen.add(real)
        try:
            found = desk.heads.opened(folder, name)
        except OSError:  # deleted just now
            continue
        if isinstance(found, KnownHead):
            known.setdefault(found.id, found)
        else:
            broken.setdefault(found.id, found)
    return sorted(known.values(), key=_age, reverse=True), list(broken.values())


def _age(head: KnownHead) -> tuple[str, str]:
    return str(head.run.about["written_at"]), head.id


def _folders(desk: Desk) -> Iterator[tuple[Path, str | None]]:
    jobs = desk.shelf.store.layout.jobs
    for record in sorted(jobs.glob(f"*/out/{RUN_FILE}")):
        yield record.parent, record.parent.parent.name
    for folder in desk.folders.heads:
        for record in (folder / RUN_FILE, *sorted(folder.glob(f"*/{RUN_FILE}"))):
            if record.is_file():
                yield record.parent, None


def find_head(desk: Desk, head: str) -> KnownHead:
    """The head of that id, looked up among those there are; 404 for any other, 409 for one that cannot be read."""
    known, broken = all_heads(desk)
    for one in known:
        if one.id == head:
            return one
    for other in broken:
        if other.id == head:
            raise Refused(409, f"the head cannot be used: {other.error}")
    raise missing("no such head: /api/heads lists them")
