"""One self-contained HTML page: no script, nothing fetched, readable in light, dark and print."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2128; --soft: #636c76; --line: #d5d9de; --ground: #fff; --card: #f6f8fa;
        --warn: #9a6700; --warnground: #fff8e5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9aa4af; --line: #333b45; --ground: #0f141a;
        --card: #171d25; --warn: #e3b341; --warnground: #2a2310; } }
body { font: 15px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--ground); margin: 2rem auto;
       max-width: 62rem; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
.sub, caption, .note { color: var(--soft); } .note { max-width: 46rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } caption { text-align: left; padding: .3rem 0; }
th, td { padding: .28rem .9rem .28rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 600; } td.n, th.n { text-align: right; } td:first-child { white-space: nowrap; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .7rem 1rem; }
.card b { display: block; font-size: 1.45rem; font-weight: 600; } .card span { color: var(--soft); font-size: .87rem; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
figure { margin: 0; background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: .8rem; }
figure svg { max-width: 100%; height: auto; display: block; } .scroll { overflow-x: auto; }
.warn { border-left: 4px solid var(--warn); background: var(--warnground); padding: .6rem 1rem; margin: .6rem 0; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--soft); }
@media print { body { margin: 0; max-width: none; } figure, .card { break-inside: avoid; } }
"""


@dataclass(frozen=True, slots=True)
class Html:
    """Markup that is safe as it is; every other text is escaped."""

    markup: str


def page(title: str, subtitle: str, parts: Iterable[Html], *, again: int | None = None) -> str:
    """The whole page; the browser loads it ``again`` after so many seconds, for one that is still being written."""
    refresh = f'<meta http-equiv="refresh" content="{again}">' if again else ""
    body = "\n".join(part.markup for part in parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:">'
        f"{refresh}<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        f'<h1>{escape(title)}</h1><p class="sub">{escape(subtitle)}</p>\n{body}\n</body></html>\n'
    )


def section(title: str, *parts: Html) -> Html:
    """A heading and what belongs under it."""
    return Html(f"<h2>{escape(title)}</h2>\n" + "\n".join(part.markup for part in parts))


def cards(items: Iterable[tuple[str, str, str]]) -> Html:
    """Large figures: (value, what it is, interval or note)."""
    boxes = (
        f'<div class="card"><b>{escape(value)}</b>{escape(what)}<br><span>{escape(note)}</span></div>'
        for value, what, note in items
    )
    return Html(f'<div class="cards">{"".join(boxes)}</div>')


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, caption: str = "") -> Html:
    """A table; columns whose name begins with '#' are numbers, to the right."""
    kinds = [' class="n"' if name.startswith("#") else "" for name in columns]
    head = "".join(
        f"<th{kind}>{escape(name.removeprefix('#'))}</th>" for name, kind in zip(columns, kinds, strict=True)
    )
    lines = (
        "<tr>"
        + "".join(f"<td{kind}>{_cell(cell)}</td>" for cell, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for row in rows
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return Html(f'<div class="scroll"><table>{title}<tr>{head}</tr>{"".join(lines)}</table></div>')


def figures(*pictures: str) -> Html:
    """SVG elements side by side where there is room."""
    return Html('<div class="figures">' + "".join(f"<figure>{svg}</figure>" for svg in pictures) + "</div>")


def note(text: str) -> Html:
    """A paragraph in a softer ink."""
    return Html(f'<p class="note">{escape(text)}</p>')


def warning(text: str) -> Html:
    """A paragraph that must not be missed."""
    return Html(f'<div class="warn">{escape(text)}</div>')


def folded(summary: str, part: Html) -> Html:
    """Shown on a click."""
    return Html(f"<details><summary>{escape(summary)}</summary>{part.markup}</details>")


def _cell(value: Any) -> str:
    if isinstance(value, Html):
        return value.markup
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}"
    return escape(f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value))
