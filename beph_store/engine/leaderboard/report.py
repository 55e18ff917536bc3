"""What a leaderboard leaves behind: ``leaderboard.json``, ``leaderboard.png`` and ``report.html``."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from beph_store.cohort import count_reasons
from beph_store.engine.folders import check_folder
from beph_store.engine.leaderboard.colour import NAME as COLOUR
from beph_store.engine.leaderboard.colour import WHAT
from beph_store.engine.leaderboard.columns import SPEED, Column
from beph_store.engine.leaderboard.comparison import VECTORS
from beph_store.engine.leaderboard.figure import picture
from beph_store.engine.leaderboard.perturb import perturbations
from beph_store.engine.leaderboard.run import Leaderboard, Row
from beph_store.engine.provenance import WRITTEN_BY, machine, now, versions
from beph_store.engine.study.page import Html, folded, note, page, section, table, warning
from beph_store.metrics import Difference, Estimate
from beph_store.store.durable import write_atomic, write_json

RESULT, PICTURE, REPORT = "leaderboard.json", "leaderboard.png", "report.html"
KNOWN = {RESULT, PICTURE, REPORT, VECTORS}


def write(board: Leaderboard, out: Path) -> None:
    """Write the three files; ``leaderboard.json`` last, so that a folder that has it is complete."""
    check_folder(out, KNOWN)
    out.mkdir(parents=True, exist_ok=True)
    (out / RESULT).unlink(missing_ok=True)
    drawn = picture(board)
    write_atomic(out / PICTURE, drawn)
    write_atomic(out / REPORT, render(board, drawn).encode())
    made = {"written_by": WRITTEN_BY, "written_at": now(), "machine": machine()}
    packages = versions(("beph-store", "numpy", "pillow", "onnxruntime", "openvino"))
    write_json(out / RESULT, {**made, "versions": packages, **board.to_json()})


def render(board: Leaderboard, drawn: bytes) -> str:
    """The page, self-contained."""
    tiles, options = board.comparison.tiles, board.options.probe
    subtitle = (
        f"{len(board.rows)} rows on the same {len(tiles):,} tiles of {len(tiles.case_ids):,} cases · "
        f"{options.folds} folds by case · seed {options.seed}"
    )
    encoded = base64.b64encode(drawn).decode()
    plot = Html(
        f'<figure><img src="data:image/png;base64,{encoded}" alt="The leaderboard as a plot" '
        'style="max-width:100%;height:auto;display:block"></figure>'
    )
    parts = [
        *(warning(text) for text in (*board.warnings, *tiles.notes)),
        plot,
        *_tables(board),
        _differences(board),
        _entrants(board),
        _made_with(board),
    ]
    return page(f"Leaderboard: {' / '.join(tiles.classes)}", subtitle, parts)


def _tables(board: Leaderboard) -> Iterable[Html]:
    """One table, in parts that fit a page: an encoder a row, best first by the linear probe."""
    for title, own in _parts(board.columns):
        robust = title.startswith("Robustness")
        names = ("encoder", *(f"#{column.part if robust else column.title}" for column in own))
        rows = [(row.entrant.name, *(_cell(row, column.key) for column in own)) for row in board.rows]
        if title == "Recognition":
            names = (*names, "#tiles a second")
            rows = [
                (*cells, _speed(row)) for cells, row in zip(rows, board.rows, strict=True)
            ]  # the screen's headline has it too
        yield section(title, table(names, rows))
    yield note(
        "Below each value its 95 % interval: cases are resampled, all tiles of a case together, the same draws for "
        f"every encoder. {COLOUR}: {WHAT}. docs/leaderboard.md defines each column."
    )


def _parts(columns: Sequence[Column]) -> list[tuple[str, list[Column]]]:
    first = [column for column in columns if column.part in ("probe", "retrieval")]
    few = [column for column in columns if column.part == "few cases"]
    rest = [column for column in columns if column not in first and column not in few]
    named = (("Recognition", first), ("Few cases to learn from", few))
    robust = [
        ("Robustness: balanced accuracy lost, less is better", [c for c in rest if c.less_is_better]),
        (
            "Robustness: share of tiles whose nearest neighbour keeps its class",
            [c for c in rest if c.key.endswith(".same_class")],
        ),
        ("Robustness: centred cosine to the clean tile", [c for c in rest if c.key.endswith(".cosine")]),
    ]
    return [(title, own) for title, own in (*named, *robust) if own]


def _cell(row: Row, key: str) -> Html | str:
    found = row.metrics.get(key)
    return row.missing.get(key, "–") if found is None else _two_lines(_number(found.value), _span(found))


def _speed(row: Row) -> Html | str:
    if row.rate is None:
        return row.missing.get(SPEED, "–")
    one = row.rate
    return _two_lines(f"{one.tiles_per_second:,.3g}", f"{one.slowest:,.3g} – {one.fastest:,.3g}")


def _two_lines(above: str, below: str) -> Html:
    return Html(f'{above}<br><span style="color:var(--soft);white-space:nowrap">{below}</span>')


def _differences(board: Leaderboard) -> Html:
    others = [row for row in board.rows if row.entrant.name != board.baseline and row.differences]
    if not others:
        return Html("")
    names = ("column", *(f"#{row.entrant.name}" for row in others))
    rows = [
        (
            f"{column.title}{' (less is better)' if column.less_is_better else ''}",
            *(_gap(row.differences.get(column.key)) for row in others),
        )
        for column in board.columns
    ]
    return section(
        f"Minus {board.baseline}",
        table(names, rows),
        note(
            "Both on the same draws of the cases. An interval without zero is a difference and is bold; many columns "
            "and encoders are compared, and nothing is corrected for that."
        ),
    )


def _gap(one: Difference | None) -> Html | str:
    if one is None or np.isnan(one.difference):
        return "–"
    value, low, high = (f"{round(x, 3) + 0.0:+.3f}" for x in (one.difference, one.ci_low, one.ci_high))
    sure = one.ci_low > 0 or one.ci_high < 0
    return _two_lines(f"<b>{value}</b>" if sure else value, f"{low} – {high}")


def _entrants(board: Leaderboard) -> Html:
    names = ("name", "encoder", "#numbers a tile", "#tile px", "precision", "runtime", "device", "licence")
    rows = []
    for row in board.rows:
        about, rate = row.entrant.about, row.rate
        rows.append(
            (
                row.entrant.name,
                f"{about['encoder']} {about.get('variant', '')}".strip(),
                about.get("dim"),
                about.get("tile_px"),
                about.get("precision", "–"),
                rate.runtime if rate else "–",
                rate.device if rate else "–",
                about.get("licence", "–"),
            )
        )
    return section("Who was compared", table(names, rows))


def _made_with(board: Leaderboard) -> Html:
    tiles = board.comparison.tiles
    dropped = count_reasons(tiles.dropped)
    classes = [
        (name, int((tiles.truth == k).sum()), len(np.unique(tiles.case[tiles.truth == k])))
        for k, name in enumerate(tiles.classes)
    ]
    changed = [(one.name, one.what, board.sampled) for one in perturbations(board.options.strength)]
    about = [(name, str(value)) for name, value in tiles.about.items() if name != "encoder"]
    timing = [(name, str(value)) for name, value in board.timing.items()]
    return section(
        "What it was made with",
        table(("class", "#tiles", "#cases that hold it"), classes),
        table(("perturbation", "what is done", "#tiles"), changed) if board.sampled else Html(""),
        table(("left out because", "#count"), dropped.items()) if dropped else note("Nothing was left out."),
        folded("the data and the timing", table(("", ""), [*about, *timing])),
    )


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{round(value, 3) + 0.0:.3f}"


def _span(one: Estimate) -> str:
    return f"{_number(one.ci_low)} – {_number(one.ci_high)}"
