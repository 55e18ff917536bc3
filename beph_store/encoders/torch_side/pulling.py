"""Fetch the published weights of an encoder, check them as the loader does, and keep them with their SHA-256."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from beph_store.encoders.download import Tell, digest_of, fetch
from beph_store.encoders.entry import EncoderEntry, Source
from beph_store.encoders.table import encoder_entry
from beph_store.encoders.torch_side.beph import load_beph
from beph_store.encoders.torch_side.loaded import Loaded
from beph_store.encoders.torch_side.published import load_published
from beph_store.encoders.weights import RECORD, Kept, fetch_from_hub, find, record, remember, weights_folder
from beph_store.errors import EncoderError, UsageError, WeightsMismatch
from beph_store.records import EncoderSpec


@dataclass(frozen=True, slots=True)
class Pulled:
    """``kept`` the file and where it came from; ``spec`` of the encoder that it loads as; ``new`` False where it was
    here already; ``resumed`` bytes that an earlier, cut download had brought.
    """

    kept: Kept
    spec: EncoderSpec
    new: bool
    resumed: int = 0


def pull(name: str, *, place: str | None = None, tell: Tell = lambda _, __: None) -> Pulled:
    """Fetch the weights of an encoder of the table; the caller has shown its licence and has consent.

    ``place`` another address of the file, such as a mirror; small models of the family load from there too. Nothing is
    kept of a file that does not load tensor by tensor, or that is not the one that was pulled before. Raises
    EncoderError (also WeightsMismatch) in one line.
    """
    entry = encoder_entry(name)
    source = source_of(entry)
    kept = record(name)
    if kept is not None and kept.path.is_file() and place in (None, kept.place):
        return Pulled(kept, _load(entry, find(entry), name).spec, new=False)
    if place is None and source.kind == "hub":
        return _from_hub(entry, kept)
    return _from_address(entry, source, place, kept, tell)


def source_of(entry: EncoderEntry) -> Source:
    """Where its weights are published; UsageError for one that ships with them."""
    if entry.source is None:
        raise UsageError(f"{entry.name} ships with beph-store: there is nothing to pull")
    return entry.source


def _from_hub(entry: EncoderEntry, before: Kept | None) -> Pulled:
    path, revision = fetch_from_hub(entry)
    loaded = _load(entry, path, entry.name)
    sha256 = digest_of(path, "sha256")
    source = source_of(entry)
    _same_as_before(entry, before, sha256, f"hub:{source.place}")
    kept = _kept(entry, path, sha256, f"hub:{source.place}@{revision}")
    return Pulled(kept, loaded.spec, new=True)


def _from_address(
    entry: EncoderEntry, source: Source, place: str | None, before: Kept | None, tell: Tell
) -> Pulled:
    url = place or source.place
    cure = f": fetch it from {source.page} with a browser, and pass it as --weights FILE to `encoder export`"
    fetched = fetch(url, weights_folder(entry.name) / f".{source.files[0]}", tell=tell, cure=cure)
    try:
        if place is None:
            _as_published(source, fetched.path)
        loaded = _load(entry, fetched.path, source.files[0])
        if place is None:
            _whole(entry, loaded, source)
        _same_as_before(entry, before, fetched.sha256, url)
    except EncoderError:
        fetched.path.unlink(missing_ok=True)
        raise
    path = fetched.path.replace(weights_folder(entry.name) / source.files[0])
    kept = _kept(entry, path, fetched.sha256, url)
    return Pulled(kept, loaded.spec, new=True, resumed=fetched.resumed)


def _load(entry: EncoderEntry, path: Path, called: str) -> Loaded:
    """The encoder as the loader makes it: every tensor accounted for."""
    try:
        return load_published(entry, path) if entry.network is not None else load_beph(path, entry.name)
    except WeightsMismatch as error:
        raise WeightsMismatch(f"what came for {called} is not {entry.name}: {error}") from error


def _whole(entry: EncoderEntry, loaded: Loaded, source: Source) -> None:
    """The place of the authors gives the full model, not a small one of its family."""
    spec = loaded.spec
    if (spec.dim, spec.tile_px) != (entry.dim, entry.tile_px):
        raise WeightsMismatch(
            f"{source.files[0]} gives {spec.dim} numbers of {spec.tile_px} px tiles; {entry.name} has {entry.dim} of "
            f"{entry.tile_px} px"
        )


def _as_published(source: Source, path: Path) -> None:
    algorithm, _, digest = source.digest.partition(":")
    if digest and digest_of(path, algorithm) != digest:
        raise WeightsMismatch(f"{source.files[0]} is not the published file: its {algorithm.upper()} differs")


def _same_as_before(entry: EncoderEntry, before: Kept | None, sha256: str, place: str) -> None:
    if before is None or before.sha256 == sha256 or before.place.partition("@")[0] != place:
        return
    raise WeightsMismatch(
        f"{place} now gives another file than on {before.fetched[:10]} (SHA-256 {sha256[:12]}… in place of "
        f"{before.sha256[:12]}…): ask its authors; to take the new one, delete {weights_folder(entry.name) / RECORD}"
    )


def _kept(entry: EncoderEntry, path: Path, sha256: str, place: str) -> Kept:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    kept = Kept(str(path), path.stat().st_size, sha256, place, now, entry.licence)
    remember(entry.name, kept)
    return kept
