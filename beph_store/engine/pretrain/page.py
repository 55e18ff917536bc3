"""The page of a pre-training: losses, use of the codebook and the probe, drawn again while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from beph_store.engine.pretrain.log import Row
from beph_store.engine.study import figures
from beph_store.engine.study.page import Html, cards, note, page, section
from beph_store.engine.study.page import figures as pictures

#: Seconds after which a browser looks again.
AGAIN = 10
#: Title, figures of the log, and what the axis says.
_PLOTS: tuple[tuple[str, str, dict[str, str], str], ...] = (
    ("tokenizer", "Tokenizer", {"distil": "1 - cosine to the teacher", "commit": "commitment"}, "loss"),
    ("tokenizer", "Codebook", {"codebook_use": "codes in use"}, "share"),
    ("masked", "Masked modelling", {"masked": "patches", "gathered": "class token"}, "cross-entropy"),
    ("masked", "Codes told right", {"right": "under the mask"}, "share"),
    ("masked", "Distillation", {"distil": "1 - cosine, cells and tile"}, "loss"),
)


def write_page(rows: Sequence[Row], path: Path, title: str, about: Sequence[str], *, running: bool) -> None:
    """Write ``path`` aside and rename; it loads itself again while ``running``."""
    text = render(rows, title, about, running=running)
    aside = path.with_suffix(".part")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def render(rows: Sequence[Row], title: str, about: Sequence[str], *, running: bool) -> str:
    """The page's text."""
    last = rows[-1] if rows else None
    state = "running" if running else "done"
    subtitle = (
        f"{state} · no step yet"
        if last is None
        else f"{state} · {last['stage']} {last['step']:,} of {last['of']:,}"
    )
    drawn = [picture for plot in _PLOTS if (picture := _plot(rows, *plot))]
    probe = _probe(rows)
    parts = [
        *([_now(last)] if last else []),
        *([section("The probe: labels are not learned, cases held out", pictures(probe))] if probe else []),
        *([section("By step", pictures(*drawn))] if drawn else []),
        section("What is trained", *(note(line) for line in about)),
    ]
    return page(title, subtitle, parts, again=AGAIN if running else None)


def _now(row: Row) -> Html:
    left = (row["of"] - row["step"]) * row["seconds"] / max(1, row["step"])
    return cards(
        [
            (f"{row['step'] / row['of']:.0%}", f"of stage {row['stage']}", f"about {_span(left)} left"),
            (f"{row['loss']:.3f}", "loss", f"learning rate {row['lr']:.1e}"),
            (
                f"{row['tiles_per_second']:.1f}",
                "tiles a second",
                f"{row['waiting']:.1%} of it waiting for tiles",
            ),
        ]
    )


def _plot(rows: Sequence[Row], stage: str, title: str, names: dict[str, str], what: str) -> str | None:
    lines = []
    for name, said in names.items():
        own = [row for row in rows if row["stage"] == stage and name in row]
        if own:
            x, y = np.array([row["step"] for row in own], float), np.array([row[name] for row in own], float)
            lines.append(figures.Line(said, x, y))
    return figures.history(lines, what, over="step", title=title) if lines else None


def _probe(rows: Sequence[Row]) -> str | None:
    names = sorted({name for row in rows for name in row if name.startswith("probe_")})
    lines = []
    for name in names:
        own = [row for row in rows if name in row]
        x, y = np.array([row["step"] for row in own], float), np.array([row[name] for row in own], float)
        lines.append(figures.Line(name.removeprefix("probe_").replace("_", " "), x, y))
    if not lines:
        return None
    return figures.history(
        lines, "on held-out cases", over="step of masked modelling", title="k nearest neighbours"
    )


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
