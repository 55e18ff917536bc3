"""Which files a request may have ingested: those that really lie under a folder that the operator named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from beph_store.errors import BephStoreError, UsageError
from beph_store.slides import find_slides


def inside(slides: Sequence[str], roots: Sequence[Path]) -> list[Path]:
    """Files and folders by the paths that a client sent, absolute or relative to one of ``roots``, ready for `ingest`.

    Links are followed before anything is believed, those to files inside a folder as well. Raises UsageError for what
    lies elsewhere, and in the same words for what is not there: nobody learns here which files a machine has.
    """
    real = [root.resolve() for root in roots]
    return [_one(text, real) for text in slides]


def _one(text: str, roots: Sequence[Path]) -> Path:
    for root in roots:
        try:
            # An absolute path replaces the root. The name stays as it was given: it becomes the slide's id.
            asked = root / text
            target = asked.resolve(strict=True)
            path = target if asked.name in ("", "..") else asked.parent.resolve() / asked.name
        except (OSError, ValueError, RuntimeError):  # not there; a null byte; links in a circle
            continue
        if _within(target, roots):
            return _whole(path, roots, text)
    raise UsageError(f"{text[:200]}: there is no such slide or folder under an --ingest-root of this server")


def _whole(path: Path, roots: Sequence[Path], text: str) -> Path:
    """``path``, once it is known that no slide in it is a link to somewhere else."""
    try:
        found = find_slides(path)
    except BephStoreError as error:
        raise UsageError(str(error)) from None
    if not found:
        raise UsageError(f"{text[:200]}: no slides in there")
    for name, file in found:
        if not _within(file.resolve(), roots):
            raise UsageError(
                f"{name[:200]} is a link that leads out of the --ingest-root: copy the slide there"
            )
    return path


def _within(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)
