"""Names are shown as they are, whatever they look like to a terminal."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from beph_store.records import SlideOutcome
from beph_store_cli import progress, render

#: Markup that closes nothing, markup that hides, an emoji code, an escape sequence and a second line.
NAMES = ["[/bold].svs", "[red]a.svs", ":smile:.svs", "a\x1b[2J\nb.svs"]
SHOWN = ["[/bold].svs", "[red]a.svs", ":smile:.svs", r"a\x1b[2J\nb.svs"]


@pytest.fixture
def terminal(monkeypatch) -> io.StringIO:
    """What `console` draws on, taken for a terminal."""
    screen = io.StringIO()

    def made(**options: object) -> Console:
        return Console(
            **{**options, "file": screen, "force_terminal": True, "width": 100, "color_system": None}
        )

    monkeypatch.setattr(render, "Console", made)
    return screen


def ingested(name: str) -> None:
    with progress.IngestProgress() as shown:
        shown.planned(1, 0)
        shown.started(name, 4, 2)
        shown.advanced(name, 2)
        shown._bars.refresh()
        shown.finished(SlideOutcome(name, "done", 4, 1.0))


@pytest.mark.parametrize(("name", "expected"), list(zip(NAMES, SHOWN, strict=True)))
def test_on_a_terminal(terminal: io.StringIO, name: str, expected: str) -> None:
    ingested(name)
    text = terminal.getvalue()
    assert f"{expected} " in text  # the bar
    assert f"{expected}: going on after 2 of 4 tiles" in text
    assert f"{expected}: done, 4 tiles, 1.0 s" in text


@pytest.mark.parametrize(("name", "expected"), list(zip(NAMES, SHOWN, strict=True)))
def test_in_a_log_it_is_one_line(monkeypatch, name: str, expected: str) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    ingested(name)
    assert log.getvalue().splitlines()[-1] == f"{expected}: done, 4 tiles, 1.0 s"


@pytest.mark.parametrize(("name", "expected"), list(zip(NAMES[:3], SHOWN[:3], strict=True)))
def test_in_a_table(terminal: io.StringIO, name: str, expected: str) -> None:
    render.console().print(render.table(("slide",), [(name,)]))
    render.console().print(f"{name} → elsewhere")
    assert terminal.getvalue().count(expected) == 2
