"""The encoders that a protocol compares: those asked for, and the paper's baselines. One that cannot be had is a row
with its reason; the others run.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from beph_store.encoders import Bundle, load_bundle
from beph_store.encoders.table import TIMM
from beph_store.engine.protocols.keeping import keep
from beph_store.engine.protocols.options import Job, Tell
from beph_store.engine.protocols.table import BASELINES, DEFAULT, PAPERS, Baseline
from beph_store.errors import BephStoreError, EncoderError, MissingExtra, RuntimeUnavailable, UsageError
from beph_store.records import EncoderSpec
from beph_store.regular import require_regular
from beph_store.store import Store
from beph_store.store.reader import RecipeRecord

#: Errors that concern one encoder: it gets a row with the reason, and the others go on.
OF_ONE = (EncoderError, RuntimeUnavailable, MissingExtra)
_HUB = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class Subject:
    """One encoder under comparison.

    ``name`` as tables show it; ``slug`` as its folder is called; ``role`` the title of the baseline that it is, else
    empty; ``source`` what ingest takes, None for one that is only in a store; ``recipe`` its key there, once known;
    ``error`` why it could not run, in one line with the cure.
    """

    name: str
    slug: str
    role: str = ""
    source: str | None = None
    recipe: str | None = None
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether it can go on."""
        return not self.error

    def failed(self, error: BephStoreError | str) -> Subject:
        """The same with its reason."""
        return replace(self, error=" ".join(str(error).split()))

    def to_json(self) -> dict[str, Any]:
        """JSON data."""
        return {
            "name": self.name,
            "role": self.role or None,
            "recipe": self.recipe,
            "ok": self.ok,
            "error": self.error or None,
        }


def resolve(job: Job, tell: Tell) -> tuple[Subject, ...]:
    """The encoders of a job, in the order asked for, the baselines last; exported where they have to be."""
    options = job.options
    if options.slides is None and options.store is not None:
        return _named(_of_store(job, Store.open(options.store)))
    asked = options.encoders or (DEFAULT,)
    _check_weights(job, asked)
    found = [_bundle(job, name, None, tell) for name in asked]
    found += [_bundle(job, one.encoder, one, tell) for one in _lacking(job, found)]
    return _named(found)


def warnings_of(job: Job, subjects: Sequence[Subject]) -> list[str]:
    """What a reader has to know of the encoders first."""
    names = {subject.name.split(" ")[0] for subject in subjects if subject.ok}
    if job.options.encoders == () and DEFAULT in names and PAPERS not in names:
        return [
            f"The encoder is {DEFAULT}, a small stand-in; the paper's is BEPH: get BEPH_backbone.pth from its authors, "
            f"run `beph-store encoder export {PAPERS} --weights BEPH_backbone.pth --out FOLDER`, and pass "
            "--encoder FOLDER."
        ]
    if PAPERS not in names:
        return ["None of the encoders that ran is BEPH, which is what the paper's figures are about."]
    return []


def slug(name: str) -> str:
    """A name as a folder can be called."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "encoder"


def _check_weights(job: Job, asked: Sequence[str]) -> None:
    """UsageError for weights of an encoder that does not run, and for none of those that there are."""
    known = [*asked, *(one.encoder for one in BASELINES if job.options.baselines)]
    if unknown := sorted(set(job.options.weights) - set(known)):
        raise UsageError(f"--weights {unknown[0]}=…: no encoder of that name runs here ({', '.join(known)})")


def _lacking(job: Job, found: Iterable[Subject]) -> list[Baseline]:
    """The baselines that are not among the encoders named."""
    roles = {subject.role for subject in found}
    return [one for one in BASELINES if job.options.baselines and one.title not in roles]


def _role(name: str) -> str:
    return next((one.title for one in BASELINES if one.is_it(name)), "")


def _bundle(job: Job, name: str, baseline: Baseline | None, tell: Tell) -> Subject:
    asked = Subject(name, slug(Path(name).name), baseline.title if baseline else _role(name), name)
    try:
        bundle = _opened(job, name, tell)
    except OF_ONE as error:
        return asked.failed(f"{error}; {_cure(name)}" if name.startswith(TIMM) else error)
    spec = bundle.spec
    return replace(asked, name=spec.name, role=_role(spec.name), source=str(bundle.path))


def _cure(name: str) -> str:
    return f"here as --weights {name}=FILE, or, exported elsewhere, as --encoder FOLDER"


def _opened(job: Job, name: str, tell: Tell) -> Bundle:
    """The bundle of that name, exported under ``out`` first where it is a timm model or its weights are given."""
    weights = job.options.weights.get(name)
    if weights is None and not name.startswith(TIMM):
        return load_bundle(name)
    folder = job.out / "encoders" / slug(name)
    key = {"name": name, "mpp": job.mpp, "weights": None if weights is None else _digest(weights)}

    def make() -> dict[str, Any]:
        tell(f"exporting {name}", 0, 1)
        return {"spec": _exported(name, folder, weights, job.mpp).spec.to_json()}

    about, again = keep(folder.with_name(f"{folder.name}.json"), key, make)
    bundle = load_bundle(folder)
    if again and bundle.spec != EncoderSpec.from_json(about["spec"]):
        raise EncoderError(f"{folder} is not the bundle that was exported there: remove it")
    return bundle


def _exported(name: str, folder: Path, weights: Path | None, mpp: float | None) -> Bundle:
    try:
        from beph_store.encoders.torch_side.export import ExportOptions, export_bundle
    except ImportError as error:
        raise MissingExtra(
            f"{name} must be exported, which needs torch, timm and onnx ({error.name} is missing): install "
            "beph-store[train]"
        ) from error
    _remove(folder)
    timm = name.startswith(TIMM)
    if weights is None:
        _offline_if_unreachable()
    options = ExportOptions(mpp=mpp if timm else None, fp16_twin=False)
    return export_bundle(name, folder, weights=weights, options=options)[0]


def _remove(folder: Path) -> None:
    """A bundle that was left by other weights, or by a run that was stopped."""
    if folder.is_dir():
        for file in folder.iterdir():
            file.unlink()


def _offline_if_unreachable() -> None:
    """Without a route to the hub its client would try for most of a minute a model; so it looks in its cache only."""
    proxied = any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"))
    if proxied or "HF_HUB_OFFLINE" in os.environ:
        return
    host = urlparse(os.environ.get("HF_ENDPOINT") or _HUB).hostname or ""
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"


def _digest(file: Path) -> str:
    try:
        require_regular(file)
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise EncoderError(f"the weights {file} cannot be read: {error.strerror or error}") from error


def _of_store(job: Job, store: Store) -> list[Subject]:
    """The store's recipes: those that are named, or all; a baseline that is not there has its reason."""
    records = store.filled()
    if not job.options.encoders:
        found = [_of_record(record) for record in records]
        found.sort(key=lambda subject: bool(subject.role))
    else:
        found = [_in_store(job, records, name) for name in job.options.encoders]
    missing = [
        Subject(one.encoder, slug(one.encoder), one.title).failed(
            f"the store has no vectors of {one.encoder}: pass --slides too, or --no-baselines"
        )
        for one in _lacking(job, found)
    ]
    return [*found, *missing]


def _of_record(record: RecipeRecord) -> Subject:
    name = record.recipe.encoder.name
    return Subject(name, f"{slug(name)}-{record.recipe.key[:6]}", _role(name), None, record.recipe.key)


def _in_store(job: Job, records: Sequence[RecipeRecord], name: str) -> Subject:
    """The recipe that a name means: its encoder's name, the key's beginning, or a bundle whose weights it has."""
    tests: list[Callable[[RecipeRecord], bool]] = [
        lambda record: record.recipe.encoder.name == name,
        lambda record: len(name) >= 4 and record.recipe.key.startswith(name),
        _same_weights(name),
    ]
    fits = next((found for test in tests if (found := [one for one in records if test(one)])), [])
    if len(fits) > 1 and job.mpp is not None:
        fits = [one for one in fits if one.recipe.tile.mpp == job.mpp] or fits
    if len(fits) == 1:
        return _of_record(fits[0])
    have = ", ".join(f"{one.recipe.key} ({one.recipe.encoder.name})" for one in records) or "none"
    what = "several recipes" if fits else "no vectors"
    cure = "name one by its key" if fits else "ingest the slides with it, or pass --slides"
    return Subject(name, slug(Path(name).name), _role(name)).failed(
        f"the store has {what} of {name} (it has {have}): {cure}"
    )


def _same_weights(name: str) -> Callable[[RecipeRecord], bool]:
    try:
        digest = load_bundle(name).spec.weights_sha256
    except EncoderError:
        return lambda record: False
    return lambda record: record.recipe.encoder.weights_sha256 == digest


def _named(subjects: Sequence[Subject]) -> tuple[Subject, ...]:
    """Names and folders told apart where two are called alike."""
    names = Counter(subject.name for subject in subjects)
    out: list[Subject] = []
    for subject in subjects:
        more = (subject.recipe or subject.slug) if names[subject.name] > 1 else ""
        taken = sum(other.slug == subject.slug for other in out)
        out.append(
            replace(
                subject,
                name=f"{subject.name} ({more})" if more else subject.name,
                slug=f"{subject.slug}-{taken + 1}" if taken else subject.slug,
            )
        )
    return tuple(out)
