"""What ``--help`` shows is what was written."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import typer
from rich.text import Text

from beph_store_cli.main import app


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
