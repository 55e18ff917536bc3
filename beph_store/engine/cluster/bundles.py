"""The encoder's files on every node: its own copy where that is the same one, else through Ray's object store."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beph_store.encoders import Bundle, load_bundle
from beph_store.encoders.bundle import MANIFEST
from beph_store.runtimes import cache_folder


@dataclass(frozen=True, slots=True)
class Shipped:
    """A bundle that lies at ``path`` on the driver's machine; ``digest`` of its manifest, which names all its files by
    their SHA-256; ``content`` a reference to ``packed``, None where the path is enough.
    """

    path: Path
    digest: str
    content: Any = None


def shipped(bundle: Bundle, content: Any = None) -> Shipped:
    """The bundle as an encoder is told of it."""
    return Shipped(bundle.path, _digest(bundle.path) or "", content)


def packed(bundle: Bundle) -> dict[str, bytes]:
    """Every file of a bundle by its name."""
    manifest = (bundle.path / MANIFEST).read_bytes()
    names = [MANIFEST, *json.loads(manifest)["files"]]
    return {name: (bundle.path / name).read_bytes() for name in names}


def unpack(sent: Shipped) -> Bundle:
    """The bundle on this machine, every file held to its SHA-256. Raises BundleInvalid."""
    if _digest(sent.path) == sent.digest or sent.content is None:
        return load_bundle(sent.path)
    folder = cache_folder("bundles") / sent.digest[:32]
    if _digest(folder) != sent.digest:
        import ray

        _put(ray.get(sent.content), folder)
    return load_bundle(folder)


def _put(files: dict[str, bytes], folder: Path) -> None:
    """Whole or not at all: another encoder of this machine may do the same."""
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    aside.mkdir(parents=True)
    for name, content in files.items():
        (aside / Path(name).name).write_bytes(content)
    with contextlib.suppress(OSError):  # the other one was quicker
        aside.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)


def _digest(folder: Path) -> str | None:
    """SHA-256 of a bundle's manifest, None where there is none."""
    try:
        return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    except OSError:
        return None
