"""Trained heads: figures, the cases they are worst at, what they think of each tile, and files to take away."""

from __future__ import annotations

from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from beph_store.engine.study.applied import Applied
from beph_store.engine.study.evaluate import HEADLINES
from beph_store.engine.study.shown import ERRORS, Shown, folds_of, metrics_of
from beph_store.engine.study.trained import TrainedRun
from beph_store.records import ClassTarget, SurvivalTarget
from beph_store.serve.answers import answer
from beph_store.serve.asked import one_of, whole_query
from beph_store.serve.desk import Desk, json_number
from beph_store.serve.finding_heads import all_heads, find_head
from beph_store.serve.heads import KnownHead
from beph_store.serve.routes import BOOLEAN, INTEGER, NUMBER, STRING, Endpoint, Parameter, array, record


async def list_heads(request: Request) -> Response:
    """Every head, the newest first."""
    desk = Desk.of(request)

    def look() -> dict[str, Any]:
        known, broken = all_heads(desk)
        return {
            "heads": [_listed(desk, head) for head in known],
            "unreadable": [{"head": one.id, "error": one.error} for one in broken],
        }

    return answer(await desk.work(look))


def _listed(desk: Desk, head: KnownHead) -> dict[str, Any]:
    run, about = head.run, head.run.about
    metrics = metrics_of(run)
    first = next((name for name in HEADLINES[run.task] if name in metrics), None)
    told = {name: metrics[first][name] for name in ("title", "value", "ci_low", "ci_high")} if first else None
    return {
        "head": head.id,
        "title": _title(head),
        "source": head.source,
        "task": run.task,
        "classes": list(run.classes),
        "kind": run.specs[0].name,
        "recipe": head.recipe,
        "encoder": about["recipe"]["encoder"]["name"],
        "in_store": head.recipe in desk.shelf.recipes(),
        "cases": len(about["cohort"]["cases"]),
        "folds": len(about["folds"]),
        "trained_at": about["written_at"],
        "headline": told and {"name": first, **told},
        "predictions": _applied(desk, head),
    }


def _title(head: KnownHead) -> str:
    """What its owner called it; else what was learned from which table, or the name of the folder."""
    asked = head.run.about.get("asked") or {}
    if asked.get("title") or not asked:
        return str(asked.get("title") or head.folder.name)
    target = asked.get("target") or ("survival" if head.run.task == "survive" else "class")
    return f"{head.run.specs[0].name} · {target} · {asked['cohort_name']}"


def _applied(desk: Desk, head: KnownHead) -> dict[str, Any] | None:
    found = Applied.find(desk.shelf.store, head.id)
    if found is None:
        return None
    rows = desk.shelf.rows(head.recipe).values() if head.recipe in desk.shelf.recipes() else ()
    stale = found.is_stale(rows)
    return {name: found.about.get(name) for name in ("made_at", "slides", "cases")} | {"stale": stale}


async def read_head(request: Request) -> Response:
    """One head: its figures, curves and what it was trained on."""
    desk = Desk.of(request)

    def look() -> dict[str, Any]:
        head = find_head(desk, request.path_params["head"])
        run, about = head.run, head.run.about
        _, figures = desk.heads.figures(head)
        metrics = metrics_of(run)
        return {
            **_listed(desk, head),
            "cohort": _cohort(run),
            "options": about["options"],
            "metrics": metrics,
            "headlines": [name for name in HEADLINES[run.task] if name in metrics],
            "folds": folds_of(run),
            **figures,
            "warnings": about["warnings"],
            "dropped": [{"reason": reason, "rows": rows} for reason, rows in about["dropped"].items()],
            "columns_used": about["cohort"]["used"],
        }

    return answer(_finite(await desk.work(look)))


def _cohort(run: TrainedRun) -> dict[str, Any]:
    """What it was trained on, by name; a path is the server's business."""
    asked, cohort = run.about.get("asked") or {}, run.about["cohort"]
    return {
        "cohort": asked.get("cohort"),
        "name": asked.get("cohort_name") or str(cohort["labels"]).replace("\\", "/").rsplit("/", 1)[-1],
        "cases": len(cohort["cases"]),
        "slides": sum(len(slides) for slides in cohort["cases"].values()),
    }


def _finite(data: Any) -> Any:
    """``data`` as JSON has it, all the way down."""
    if isinstance(data, dict):
        return {name: _finite(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return json_number(data)


async def list_head_cases(request: Request) -> Response:
    """The cases that it was tested on, the worst first."""
    desk = Desk.of(request)
    sort = one_of(request.query_params.get("sort"), "sort", "error", "case", "risk") or "error"
    offset = whole_query(request, "offset", 0, 0, 1 << 31) or 0
    limit = whole_query(request, "limit", 200, 1, 10_000) or 1

    def look() -> dict[str, Any]:
        head = find_head(desk, request.path_params["head"])
        data, _ = desk.heads.figures(head)
        errors = data.errors()
        order = _order(data, errors, sort)[offset : offset + limit]
        here = {}
        if head.recipe in desk.shelf.recipes():
            here = {row.slide_id: name for name, row in desk.shelf.rows(head.recipe).items()}
        slides = head.run.about["cohort"]["cases"]
        rows = [_case(data, errors, int(i), slides[data.case_ids[i]], here) for i in order]
        return {
            "cases": rows,
            "total": len(data.case_ids),
            "offset": offset,
            "error": ERRORS[head.run.task],
        }

    return answer(_finite(await desk.work(look)))


def _order(data: Shown, errors: np.ndarray, sort: str) -> np.ndarray:
    """Positions of the cases; of equal errors in the order of their ids, those without one last."""
    if sort == "case":
        return np.arange(len(errors))
    worst = data.values[:, -1] if sort == "risk" else np.where(np.isnan(errors), -np.inf, errors)
    return np.argsort(-worst, kind="stable")


def _case(
    data: Shown, errors: np.ndarray, i: int, slide_ids: list[str], here: dict[str, str]
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "case_id": data.case_ids[i],
        "slides": [here[name] for name in slide_ids if name in here],
        "slide_ids": [name for name in slide_ids if name in here] if here else list(slide_ids),
        "tiles": int(data.tiles[i]),
        "loss": float(errors[i]),
        "fold": int(data.fold[i]),
        "repeats": int(data.repeats[i]),
    }
    target = data.target
    if isinstance(target, ClassTarget):
        values = data.values[i].tolist()
        return told | {
            "label": target.classes[target.index[i]],
            "predicted": target.classes[int(np.argmax(data.values[i]))],
            "probabilities": dict(zip(target.classes, values, strict=True)),
        }
    assert isinstance(target, SurvivalTarget)
    outcome = {"event": bool(target.event[i]), "time_days": float(target.time_days[i])}
    none = {"label": None, "predicted": None, "probabilities": None}
    return told | none | {"risk": float(data.values[i, 0])} | outcome


HEAD = Parameter("head", "what `head` is in the list of heads", STRING)
_ESTIMATE = record(value=NUMBER, ci_low=NUMBER, ci_high=NUMBER)
_PREDICTIONS = {
    "type": ["object", "null"],
    "properties": {"made_at": STRING, "slides": INTEGER, "cases": INTEGER, "stale": BOOLEAN},
}
_LISTED = {
    "head": STRING,
    "title": STRING,
    "source": {"enum": ["job", "folder"]},
    "task": {"enum": ["classify", "survive"]},
    "classes": array(STRING),
    "kind": STRING,
    "recipe": STRING,
    "encoder": STRING,
    "in_store": BOOLEAN,
    "cases": INTEGER,
    "folds": INTEGER,
    "trained_at": STRING,
    "headline": _ESTIMATE,
    "predictions": _PREDICTIONS,
}
_MAYBE_LIST = {"type": ["array", "null"], "items": {"type": "object"}}

ENDPOINTS = (
    Endpoint(
        "GET",
        "/api/heads",
        "Trained heads, the newest first",
        list_heads,
        {
            "application/json": record(
                heads=array(record(**_LISTED)), unreadable=array(record(head=STRING, error=STRING))
            )
        },
    ),
    Endpoint(
        "GET",
        "/api/heads/{head}",
        "A head: metrics with intervals, its folds with training curves, ROC or survival curves, confusion matrix",
        read_head,
        {
            "application/json": record(
                **{**_LISTED, "folds": array({"type": "object"})},
                cohort={"type": "object"},
                options={"type": "object"},
                metrics={"type": "object", "additionalProperties": _ESTIMATE},
                headlines=array(STRING),
                roc=_MAYBE_LIST,
                km=_MAYBE_LIST,
                logrank_p={"type": ["number", "null"]},
                confusion={"type": ["object", "null"]},
                warnings=array(STRING),
            )
        },
        (HEAD,),
        errors=(409,),
    ),
    Endpoint(
        "GET",
        "/api/heads/{head}/cases",
        "The cases it was tested on, by heads that had not seen them, the worst first",
        list_head_cases,
        {
            "application/json": record(
                cases=array(
                    record(
                        case_id=STRING,
                        slides=array(STRING),
                        label={"type": ["string", "null"]},
                        predicted={"type": ["string", "null"]},
                        probabilities={"type": ["object", "null"]},
                        loss={"type": ["number", "null"]},
                        fold=INTEGER,
                    )
                ),
                total=INTEGER,
                offset=INTEGER,
                error=STRING,
            )
        },
        (
            HEAD,
            Parameter(
                "sort",
                "error: worst first; risk: highest hazard, or probability of the last class, first; case: by id",
                {"enum": ["error", "case", "risk"]},
            ),
            Parameter("offset", "how many to leave out", {"type": "integer", "default": 0}),
            Parameter("limit", "how many at most", {"type": "integer", "default": 200, "maximum": 10_000}),
        ),
        errors=(409, 422),
    ),
)
