"""What a head gives to take away, and what it thinks of each tile of a slide."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from beph_store.engine.csvs import as_csv
from beph_store.engine.study.applied import Applied
from beph_store.engine.study.attention import Thought
from beph_store.engine.study.feasible import without_flags
from beph_store.engine.study.trained import PREDICTIONS_FILE, REPORT_FILE, RUN_FILE
from beph_store.errors import HeadError
from beph_store.heads.head import SPEC_FILE, WEIGHTS_FILE
from beph_store.serve.answers import Refused, answer, malformed, missing
from beph_store.serve.asked import one_of
from beph_store.serve.desk import Desk
from beph_store.serve.finding_heads import find_head
from beph_store.serve.head_api import HEAD
from beph_store.serve.heads import KnownHead
from beph_store.serve.overlay_api import slide_form, slide_rows
from beph_store.serve.routes import BOOLEAN, INTEGER, NUMBER, STRING, Endpoint, Parameter, array, record
from beph_store.serve.store_api import RECIPE, SLIDE

_CHUNK = 1 << 20
_LONGEST_HEADER = 500


async def read_head_report(request: Request) -> Response:
    """The report that `train` wrote, to save: the page's policy lets no inline style through."""
    desk = Desk.of(request)

    def look() -> tuple[str, bytes]:
        head = find_head(desk, request.path_params["head"])
        path = head.folder / REPORT_FILE
        if not _is_own(path):
            raise missing("the head's folder has no report")
        return head.id, path.read_bytes()

    name, data = await desk.work(look)
    return Response(data, media_type="text/html", headers=_saved(f"head-{name}.html"))


async def download_head(request: Request) -> Response:
    """Everything that `beph-store predict --head` needs, and the report."""
    desk = Desk.of(request)

    def pack() -> tuple[str, IO[bytes]]:
        head = find_head(desk, request.path_params["head"])
        return head.id, _packed(head)

    name, file = await desk.work(pack)
    size = file.seek(0, 2)
    file.seek(0)
    headers = _saved(f"head-{name}.zip") | {"content-length": str(size)}
    return StreamingResponse(_pieces(file), media_type="application/zip", headers=headers)


def _packed(head: KnownHead) -> IO[bytes]:
    """A file without a name, which is gone when it is closed, whoever ends the answer."""
    file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - the answer closes it
    root = f"head-{head.id}"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for path in _members(head):
            if _is_own(path):
                packed.write(path, f"{root}/{path.relative_to(head.folder).as_posix()}")
    return file


def _members(head: KnownHead) -> Iterator[Path]:
    for name in (RUN_FILE, PREDICTIONS_FILE, REPORT_FILE):
        yield head.folder / name
    for number in range(len(head.run.about["splits"])):
        for name in (SPEC_FILE, WEIGHTS_FILE):
            yield head.folder / "heads" / str(number) / name


def _is_own(path: Path) -> bool:
    """Whether it is a file of the folder; a link could lead anywhere."""
    return path.is_file() and not path.is_symlink()


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while piece := file.read(_CHUNK):
            yield piece


async def read_predictions(request: Request) -> Response:
    """What the head says of every slide, after it was applied."""
    desk = Desk.of(request)
    by = one_of(request.query_params.get("by"), "by", "slide", "case") or "slide"

    def look() -> tuple[str, bytes]:
        head = find_head(desk, request.path_params["head"])
        applied = Applied.find(desk.shelf.store, head.id)
        if applied is None:
            body = f'{{"kind":"apply","recipe":"{head.recipe}","options":{{"head":"{head.id}"}}}}'
            raise Refused(409, f"the head was not applied to all slides yet: POST {body} to /api/jobs")
        return head.id, as_csv(applied.frame(by)).encode()

    name, data = await desk.work(look)
    return Response(data, media_type="text/csv", headers=_saved(f"predictions-{name}-{by}s.csv"))


def _saved(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"'}


async def read_tile_values(request: Request) -> Response:
    """Attention or score of every readable tile, by heads that had not seen the case."""
    desk, form, given = Desk.of(request), slide_form(request), request.path_params
    key, name = given["recipe"], given["slide"]
    kind = one_of(request.query_params.get("kind"), "kind", "attention", "score")
    of_class = request.query_params.get("class") or None
    if kind == "attention" and of_class is not None:
        raise malformed("attention is of no class: leave class out, or ask for kind=score")

    def look() -> Response:
        row, head = desk.shelf.slide(key, name), find_head(desk, given["head"])
        if head.recipe != key:
            raise Refused(409, f"the head was trained on recipe {head.recipe}, this slide is of {key}")
        table = desk.shelf.table(key)
        rows = slide_rows(table, row)
        if rows.start == rows.stop:
            raise missing("the slide has no tile to read: there is nothing to show")
        case = head.run.case_for(row.slide_id, row.case_id)
        content = f"{row.slide_id} {row.ingest_id}"
        try:
            found = desk.heads.ask(
                head, (case, content), table.flat.vectors[rows], (kind or "auto", of_class)
            )
        except HeadError as error:
            text = str(error).replace("--show ", "kind=").replace(str(head.folder), head.id)
            raise malformed(without_flags(text)) from error
        return _binary(found) if form == "bin" else _json(found)

    return await desk.work(look)


def _json(found: Thought) -> Response:
    values = [round(value, 6) if np.isfinite(value) else None for value in found.values.tolist()]
    low, high = _range(found)
    return answer(
        {
            "tiles": len(values),
            "kind": found.kind,
            "class": found.of_class,
            "meaning": found.meaning,
            "held_out": found.held_out,
            "folds": list(found.splits),
            "said": found.said,
            "low": low,
            "high": high,
            "values": values,
        }
    )


def _range(found: Thought) -> tuple[float, float]:
    """The ends of a colour map: 0 and 1 for ranks, else the least and the greatest value."""
    if found.kind == "attention":
        return 0.0, 1.0
    seen = found.values[np.isfinite(found.values)]
    return (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 0.0)


def _binary(found: Thought) -> Response:
    low, high = _range(found)
    headers = {
        "x-tiles": str(len(found.values)),
        "x-kind": found.kind,
        "x-class": found.of_class or "",
        "x-fold": ",".join(map(str, found.splits)),
        "x-held-out": "true" if found.held_out else "false",
        "x-meaning": found.meaning,
        "x-said": found.said,
        "x-low": repr(low),
        "x-high": repr(high),
    }
    # A header is one line of ASCII; a class may be called anything.
    plain = {name: " ".join(_ascii(value).split()) for name, value in headers.items()}
    data = found.values.astype("<f4").tobytes()
    return Response(data, media_type="application/octet-stream", headers=plain)


def _ascii(text: str) -> str:
    line = "".join(mark if mark.isprintable() else " " for mark in text[:_LONGEST_HEADER])
    return line.encode("ascii", "backslashreplace").decode()


_ZIP, _OCTETS = "application/zip", "application/octet-stream"

ENDPOINTS = (
    Endpoint(
        "GET",
        "/api/heads/{head}/report.html",
        "The report of the training, as a file to save",
        read_head_report,
        {"text/html": {}},
        (HEAD,),
        errors=(409,),
    ),
    Endpoint(
        "GET",
        "/api/heads/{head}/download.zip",
        "The heads of all folds, their record, predictions and report: the folder that `beph-store predict` takes",
        download_head,
        {_ZIP: {}},
        (HEAD,),
        errors=(409,),
    ),
    Endpoint(
        "GET",
        "/api/heads/{head}/predictions.csv",
        "What the head says of every slide, or case; 409 before an apply job",
        read_predictions,
        {"text/csv": {}},
        (HEAD, Parameter("by", "a row a slide, or a case", {"enum": ["slide", "case"], "default": "slide"})),
        errors=(409, 422),
    ),
    Endpoint(
        "GET",
        "/api/recipes/{recipe}/slides/{slide}/head/{head}.{format}",
        "What a head thinks of every tile, in the order of the grid, by heads that had not seen the case where there "
        "are any; bin: (N,) float32, what the values are in headers",
        read_tile_values,
        {
            "application/json": record(
                tiles=INTEGER,
                kind={"enum": ["attention", "score"]},
                **{"class": {"type": ["string", "null"]}},
                meaning=STRING,
                held_out=BOOLEAN,
                folds=array(INTEGER),
                said=STRING,
                low=NUMBER,
                high=NUMBER,
                values=array(NUMBER),
            ),
            _OCTETS: {},
        },
        (
            RECIPE,
            SLIDE,
            HEAD,
            Parameter("format", "json, or bin: little-endian", {"enum": ["json", "bin"]}),
            Parameter(
                "kind",
                "attention where the head has it, unless a class is given",
                {"enum": ["attention", "score"]},
            ),
            Parameter("class", "whose score; the predicted one by default", STRING),
        ),
        errors=(409, 422),
    ),
)
