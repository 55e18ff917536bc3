"""The map as one HTML file: nothing is fetched, and no name that came with the slides can act."""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from importlib import resources
from typing import Any

import numpy as np

from beph_store.engine.search.colouring import STEPS, ramp
from beph_store.engine.search.map import TileMap
from beph_store.engine.search.mappicture import drawing_order
from beph_store.engine.search.thumbnails import SIDE, Thumbnails

#: Positions on the map travel as whole numbers up to this.
_GRID = 32767


def page(drawn: TileMap, pictures: Thumbnails) -> str:
    """The whole page. Its policy names the two scripts it may run by their hashes and forbids every request."""
    style, script = _asset("map.css"), _asset("map.js")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    body = _asset("map.html")
    parts = {
        "POLICY": escape(policy),
        "TITLE": escape(drawn.title),
        "SUBTITLE": escape(drawn.subtitle),
        "TRUST": escape(drawn.trust),
        "COLUMN": escape(drawn.colouring.column),
        "NOTE": escape(drawn.colouring.note),
        "STYLE": style,
        "SCRIPT": script,
        "DATA": inert(facts(drawn, pictures)),
        "SHEETS": "\n".join(
            f'<script type="text/plain" id="sheet-{i}">{base64.b64encode(jpeg).decode()}</script>'
            for i, jpeg in enumerate(pictures.sheets)
        ),
    }
    # One pass: what a name brings in is never looked through for a marker.
    pieces = body.split("@@")
    return "".join(parts[piece] if number % 2 else piece for number, piece in enumerate(pieces))


def inert(data: Any) -> str:
    """JSON that cannot end the element it stands in, nor begin another."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def facts(drawn: TileMap, pictures: Thumbnails) -> dict[str, Any]:
    """What the page's script draws from; positions of tiles in level-0 px."""
    table, colouring = drawn.table, drawn.colouring
    slides, slide = np.unique(table.slide_of[drawn.rows], return_inverse=True)
    words = sorted({text for text in colouring.texts if text is not None})
    place = {word: i for i, word in enumerate(words)}
    grid = (drawn.points.astype(np.float64) * _GRID).round().clip(0, _GRID).astype(int)
    origin = table.flat.origin_l0[drawn.rows]
    steps = None
    if colouring.scale is not None:
        steps = (np.nan_to_num(colouring.scale) * (STEPS - 1)).round().astype(int).tolist()
    return {
        "column": colouring.column,
        "slides": [[table.flat.slide_ids[i], table.case_of[i]] for i in slides],
        "slide": slide.tolist(),
        "u": grid[:, 0].tolist(),
        "v": grid[:, 1].tolist(),
        "x": origin[:, 0].tolist(),
        "y": origin[:, 1].tolist(),
        "words": words,
        "word": [-1 if text is None else place[text] for text in colouring.texts],
        "code": colouring.code.tolist(),
        "step": steps,
        "legend": [[row.name, row.colour, row.tiles] for row in colouring.legend],
        "ramp": list(ramp()) if colouring.scale is not None else [],
        "range": [f"{colouring.low:.4g}", f"{colouring.high:.4g}"],
        "order": drawing_order(colouring).tolist(),
        "source": "".join(map(str, pictures.source.tolist())),
        "cell": pictures.px,
        "side": SIDE,
        "grid": _GRID,
    }


def _asset(name: str) -> str:
    # Newlines as they are hashed: a checkout on Windows may have changed them.
    text = resources.files("beph_store.engine.search").joinpath("assets", name).read_text("utf-8")
    return text.replace("\r\n", "\n")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
