"""What ``--help`` shows is what was written."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import typer
from rich.text import Text

from beph_store_cli.main import app
from beph_store_cli.panels import PANELS


def _helps() -> Iterator[tuple[str, str]]:
    """(command and parameter, its help) of every command."""
    commands = [("", typer.main.get_command(app))]
    while commands:
        name, command = commands.pop()
        commands += [
            (f"{name} {child}".strip(), inner) for child, inner in getattr(command, "commands", {}).items()
        ]
        for parameter in command.params:
            yield f"{name} {parameter.name}", getattr(parameter, "help", None) or ""


@pytest.mark.parametrize(("where", "text"), list(_helps()))
def test_no_bracket_is_lost_as_markup(where: str, text: str) -> None:
    shown = Text.from_markup(text).plain
    assert shown == text.replace("\\[", "["), (
        f"{where}: write \\\\[ for a bracket, or the terminal swallows it"
    )


def _commands() -> dict[str, typer.core.TyperCommand]:
    return typer.main.get_command(app).commands  # type: ignore[attr-defined,no-any-return]


def test_every_command_stands_in_one_panel_of_the_help() -> None:
    named = [name for names in PANELS.values() for name in names]
    assert sorted(named) == sorted(_commands())


def test_the_panels_come_in_the_order_of_a_first_week(capsys) -> None:
    with pytest.raises(SystemExit):
        app(["--help"])
    shown = capsys.readouterr().out
    places = [shown.index(f"─ {panel} ─") for panel in PANELS]
    assert places == sorted(places)
    assert "─ Commands ─" not in shown
    assert shown.index(" ingest ") < shown.index(" export ")
