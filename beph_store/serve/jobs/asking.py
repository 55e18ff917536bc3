"""From what a request asks for to a job that can be done: everything that can be refused is refused here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from beph_store.encoders import ENCODERS
from beph_store.encoders.bundle import PRECISIONS
from beph_store.engine.ingest import IngestOptions
from beph_store.engine.options import MPP_MAX
from beph_store.engine.study.asked import Check, checked, number, one_of, text, train_request, whole, yes
from beph_store.engine.study.kept import kept_table
from beph_store.errors import UsageError
from beph_store.serve.answers import Refused
from beph_store.serve.finding_heads import find_head
from beph_store.serve.jobs.queue import NewJob, NoSuchJob
from beph_store.serve.jobs.roots import inside
from beph_store.store.reader import RecipeRecord

if TYPE_CHECKING:
    from beph_store.serve.desk import Desk

_MOST_SLIDES = 1000
#: Of many paths so many are told again.
_TOLD_SLIDES = 20
_LONGEST_PATH = 4096


def asked(desk: Desk, kind: str, recipe: str | None, options: Mapping[str, Any]) -> NewJob:
    """The job that a request asks for. UsageError and CohortError for what is not there and for options that cannot be
    meant; 403 for an ingest that the operator has not allowed, 409 for a head of another recipe.
    """
    if kind not in _KINDS:
        raise UsageError(f"kind is not one of {', '.join(_KINDS)}")
    if recipe is not None and recipe not in desk.shelf.recipes():
        raise UsageError("no such recipe: /api/store lists them")
    if recipe is None and kind in ("train", "index"):
        raise UsageError("recipe is missing: give the key of a recipe, see /api/store")
    return _KINDS[kind](desk, recipe, options)


def _store(desk: Desk) -> str:
    return str(desk.shelf.store.layout.root.resolve())


def _train(desk: Desk, recipe: str | None, options: Mapping[str, Any]) -> NewJob:
    wanted = train_request(options)
    table = kept_table(desk.shelf.store, wanted.cohort)
    target = wanted.columns.target or ("survival" if wanted.task == "survive" else "class")
    title = wanted.title or f"{wanted.options.head.head} · {target} · {table.name}"
    return NewJob("train", title, dict(options), recipe, {"store": _store(desk)})


_APPLY: dict[str, Check] = {"head": text, "title": text}


def _apply(desk: Desk, recipe: str | None, options: Mapping[str, Any]) -> NewJob:
    given = checked(options, _APPLY)
    if "head" not in given:
        raise UsageError("head is missing: give the id of a head, see /api/heads")
    try:
        head = find_head(desk, given["head"])
    except Refused as refused:
        raise UsageError(refused.detail) from None
    if recipe not in (None, head.recipe):
        raise Refused(
            409, f"the head was trained on recipe {head.recipe}: leave recipe out, or give that one"
        )
    work = {"store": _store(desk), "folder": str(head.folder.resolve())}
    title = given.get("title") or f"{_called(desk, head.id)} on every slide"
    return NewJob("apply", title, {"head": head.id}, head.recipe, work)


def _called(desk: Desk, head: str) -> str:
    """What people know a head by."""
    try:
        return desk.jobs.get(head).title
    except NoSuchJob:
        return f"head {head}"


def _index(desk: Desk, recipe: str | None, options: Mapping[str, Any]) -> NewJob:
    given = checked(options, {"title": text})
    return NewJob("index", given.get("title") or "index for searches", {}, recipe, {"store": _store(desk)})


def _slides(name: str, value: Any) -> list[str]:
    """Paths of slides and folders."""
    fine = isinstance(value, list) and 0 < len(value) <= _MOST_SLIDES
    if not fine or not all(isinstance(one, str) and 0 < len(one) <= _LONGEST_PATH for one in value):
        raise UsageError(f"{name} is not a list of up to {_MOST_SLIDES} paths")
    return list(value)


#: What makes a recipe: none of it beside a recipe's key.
_FEATURES: dict[str, Check] = {
    "encoder": text,
    "mpp": number(0.01, MPP_MAX),
    "tile_px": whole(8, 4096),
    "stride_px": whole(1, 65536),
    "tissue_min": number(0, 1),
    "limit_tiles": whole(1, 1 << 30),
    "precision": one_of(*PRECISIONS, "auto"),
}
_INGEST: dict[str, Check] = {
    "slides": _slides,
    **_FEATURES,
    "slide_mpp": number(0.01, 100),
    "workers": whole(1, 64),
    "replace": yes,
    "keep_tiles": yes,
    "title": text,
}


def _ingest(desk: Desk, recipe: str | None, options: Mapping[str, Any]) -> NewJob:
    roots = desk.folders.ingest
    if not roots:
        raise Refused(403, "this server ingests nothing: start it with --ingest-root FOLDER")
    given = checked(options, _INGEST)
    if "slides" not in given:
        raise UsageError("slides is missing: give paths under an --ingest-root of this server")
    known = desk.shelf.recipes()
    if recipe is not None:
        both = sorted(set(given) & set(_FEATURES))
        if both:
            raise UsageError(f"{both[0]} is the recipe's: leave it out, or leave out recipe")
        features: dict[str, Any] = _features(known[recipe])
    else:
        features = {name: given[name] for name in _FEATURES if name in given}
        _check_encoder(features.get("encoder"), known)
    same: dict[str, Any] = {
        name: given[name] for name in ("workers", "replace", "keep_tiles") if name in given
    }
    paths = inside(given["slides"], roots)
    ingest: dict[str, Any] = {**features, **same}
    IngestOptions(**ingest)
    work = {
        "store": _store(desk),
        "slides": [str(path) for path in paths],
        "roots": [str(root) for root in roots],
        "ingest": ingest,
        "slide_mpp": given.get("slide_mpp"),
    }
    first = paths[0].name if len(paths) == 1 else f"{len(paths)} slides and folders"
    told = {name: value for name, value in given.items() if name != "title"}
    if len(paths) > _TOLD_SLIDES:
        told |= {"slides": given["slides"][:_TOLD_SLIDES], "slides_in_all": len(paths)}
    return NewJob("ingest", given.get("title") or f"ingest {first}", told, recipe, work)


def _features(record: RecipeRecord) -> dict[str, Any]:
    """What to ask of `ingest` so that it makes this recipe again."""
    tile = record.recipe.tile
    return {
        "encoder": record.encoder_source,
        "mpp": tile.mpp,
        "tile_px": tile.tile_px,
        "stride_px": tile.stride_px,
        "tissue_min": tile.tissue_min,
        "tissue_method": tile.tissue_method,
        "limit_tiles": tile.limit,
        "precision": record.recipe.encoder.precision,
    }


def _check_encoder(encoder: str | None, known: Mapping[str, RecipeRecord]) -> None:
    """Only encoders that ship, and those this store was made with: any other would be a path from a request."""
    ours = [entry.name for entry in ENCODERS.values() if entry.bundle is not None]
    ours += [record.encoder_source for record in known.values()]
    if encoder is not None and encoder not in ours:
        raise UsageError(f"encoder is not one of {', '.join(dict.fromkeys(ours))}")


_KINDS: Mapping[str, Callable[[Desk, str | None, Mapping[str, Any]], NewJob]] = MappingProxyType(
    {"train": _train, "apply": _apply, "ingest": _ingest, "index": _index}
)
