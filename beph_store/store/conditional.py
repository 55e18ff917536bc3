"""Does a bucket keep its word? A store is written to only where a conditional put is one.

Some servers take ``If-None-Match`` and overwrite all the same. On those two writers lose each other's commits, and
both are told that all went well. So a key is put twice before the first write, and changed from a state it never had;
what a server answered is remembered while the process runs.
"""

from __future__ import annotations

import uuid
from contextlib import suppress

from beph_store.errors import StoreError
from beph_store.objects import endpoint, parse
from beph_store.store.place import ObjectPath, ObjectStat, Place

_KEEPS_ITS_WORD: set[tuple[str | None, str, str]] = set()


def require_conditional_puts(root: Place) -> None:
    """StoreError where the server of a remote store lets a second writer overwrite a first; a disk never does."""
    if not isinstance(root, ObjectPath):
        return
    address = parse(root.url)
    server = (endpoint(address.scheme), address.scheme, address.bucket)
    if server in _KEEPS_ITS_WORD:
        return
    probe = root / "locks" / f"probe-{uuid.uuid4().hex}"
    try:
        first, second = uuid.uuid4().bytes, uuid.uuid4().bytes
        created = probe.put_new(first)
        twice = probe.put_new(second)
        unseen = probe.swap(second, ObjectStat(0, 0, '"0123456789abcdef0123456789abcdef"', "1"))
        _, now = probe.read_tagged()
        changed = probe.swap(second, now)
    finally:
        with suppress(OSError):  # what is left of it does no harm
            probe.unlink()
    if not created or twice or unseen or not changed:
        raise StoreError(
            f"{server[0] or root.url} ignores conditional puts, so two writers would lose each other's slides "
            "without a word: keep the store on a server that has them (S3, SeaweedFS, MinIO, …), or on a disk",
            path=root.url,
        )
    _KEEPS_ITS_WORD.add(server)
