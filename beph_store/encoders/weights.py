"""Published weights on this machine: what `encoder pull` keeps, and what lies in the Hugging Face hub's own cache.

    CACHE/weights/NAME/FILE          fetched from an address
    CACHE/weights/NAME/record.json   which file, its SHA-256, from where and when; also of one in the hub's cache

Needs no torch. CACHE is ``BEPH_STORE_CACHE``, else ``~/.cache/beph-store``.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beph_store.encoders.download import digest_of
from beph_store.encoders.entry import EncoderEntry, Source
from beph_store.errors import EncoderError, MissingExtra, UsageError

RECORD = "record.json"
_HUB = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class Kept:
    """A file of weights that was checked once: ``file``, its ``bytes`` and ``sha256``, the ``place`` it came from (an
    address, or ``hub:REPOSITORY@REVISION``), ``fetched`` when (ISO 8601, UTC), ``licence`` as shown then.
    """

    file: str
    bytes: int
    sha256: str
    place: str
    fetched: str
    licence: str

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.file)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        return dataclasses.asdict(self)


def weights_folder(name: str) -> Path:
    """Where the weights of that encoder are kept; made if absent."""
    base = os.environ.get("BEPH_STORE_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "beph-store"
    folder = (Path(base) if base else home) / "weights" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def record(name: str) -> Kept | None:
    """What was pulled for that encoder, whether its file is still there or not; None for nothing."""
    try:
        data = json.loads((weights_folder(name) / RECORD).read_text(encoding="utf-8"))
        return Kept(**data)
    except (OSError, ValueError, TypeError):
        return None


def remember(name: str, kept: Kept) -> None:
    """Write the record, aside first."""
    path = weights_folder(name) / RECORD
    aside = path.with_name(f".{RECORD}")
    aside.write_text(json.dumps(kept.to_json(), indent=1) + "\n", encoding="utf-8")
    aside.replace(path)


def present(entry: EncoderEntry) -> Path | None:
    """The weights on this machine, without a network and without reading them; None where there are none."""
    kept = record(entry.name)
    if kept is not None and kept.path.is_file() and kept.path.stat().st_size == kept.bytes:
        return kept.path
    return in_hub_cache(entry.source) if entry.source else None


def where(entry: EncoderEntry) -> str:
    """In a word, whether the encoder is on this machine: 'bundled', 'weights', or nothing."""
    if entry.bundle is not None:
        return "bundled"
    return "weights" if present(entry) else ""


def find(entry: EncoderEntry) -> Path:
    """The weights to load: pulled ones, verified against their SHA-256, else the hub's.

    A file of the hub is fetched where it is not in the hub's cache yet. Raises EncoderError, or UsageError where a
    file must be named or pulled first, that says what to do.
    """
    kept = record(entry.name)
    if kept is not None and kept.path.is_file():
        if digest_of(kept.path, "sha256") != kept.sha256:
            raise EncoderError(
                f"{kept.path} was altered since it was pulled: run `beph-store encoder pull {entry.name}` again",
                path=kept.path,
            )
        return kept.path
    if entry.source is None:
        raise EncoderError(f"{entry.name} has no published weights: pass --weights FILE")
    if entry.source.kind == "hub":
        return in_hub_cache(entry.source) or fetch_from_hub(entry)[0]
    raise UsageError(
        f"{entry.name} needs its weights: run `beph-store encoder pull {entry.name}`, or pass --weights "
        f"{entry.source.files[0]}"
    )


def in_hub_cache(source: Source) -> Path | None:
    """The newest copy of a repository's weights in the hub's cache on this machine."""
    if source.kind != "hub":
        return None
    folder = _hub_cache() / f"models--{source.place.replace('/', '--')}" / "snapshots"
    for file in source.files:
        found = sorted(folder.glob(f"*/{file}"), key=lambda path: path.stat().st_mtime)
        if found:
            return found[-1]
    return None


def fetch_from_hub(entry: EncoderEntry) -> tuple[Path, str]:
    """Fetch the weights through huggingface_hub, with its token and into its cache: (file, revision).

    Raises EncoderError in one line: no access, or no connection, and the cure.
    """
    source = entry.source
    if source is None or source.kind != "hub":
        raise EncoderError(f"{entry.name} is not published on the Hugging Face hub")
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError as error:
        raise MissingExtra(
            f"fetching {entry.name} needs huggingface_hub: install beph-store[train], or pass --weights FILE"
        ) from error
    endpoint = os.environ.get("HF_ENDPOINT") or None
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries say what the error will say
    for file in source.files:
        try:
            path = Path(hf_hub_download(source.place, file, endpoint=endpoint, cache_dir=_hub_cache()))
        except errors.RepositoryNotFoundError as error:  # GatedRepoError is one
            raise EncoderError(_no_access(entry, source)) from error
        except errors.LocalEntryNotFoundError as error:
            raise EncoderError(_unreachable(entry, source, error)) from error
        except errors.EntryNotFoundError:
            continue
        except errors.HfHubHTTPError as error:
            refused = getattr(error.response, "status_code", None) in (401, 403)
            told = _no_access(entry, source) if refused else _unreachable(entry, source, error)
            raise EncoderError(told) from error
        except OSError as error:
            raise EncoderError(_unreachable(entry, source, error)) from error
        return path, path.parent.name
    raise EncoderError(f"{source.page} has no {' and no '.join(source.files)}: pass --weights FILE")


def _no_access(entry: EncoderEntry, source: Source) -> str:
    what = "is gated" if source.gated else "gives no access"
    return (
        f"{entry.name} {what}: accept its licence ({entry.licence}) at {source.page}, then `hf auth login` or set "
        "HF_TOKEN; or pass --weights FILE"
    )


def _unreachable(entry: EncoderEntry, source: Source, error: Exception) -> str:
    return (
        f"{entry.name} could not be fetched from {_HUB} ({type(error).__name__}): where it can be reached, "
        f"`hf download {source.place} {source.files[0]}`; then pass --weights FILE here"
    )


def _hub_cache() -> Path:
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return Path(os.environ[variable]).expanduser()
    home = os.environ.get("HF_HOME")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(home).expanduser() if home else cache / "huggingface") / "hub"
