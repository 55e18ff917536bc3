"""Which group of ``beph-store --help`` a command stands in, and in which order."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import typer
from typer.core import TyperGroup

#: Every command once, in the order of a first week: what one needs first comes first.
PANELS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Begin": ("demo", "doctor"),
        "Fill a store, take from it": ("ingest", "import", "annotate", "export"),
        "Look and search": (
            "serve",
            "search",
            "slides-like",
            "index",
            "retrieval",
            "map",
            "audit",
            "query",
        ),
        "Heads": (
            "train",
            "predict",
            "heatmap",
            "compare",
            "splits",
            "reproduce",
            "probe",
            "probe-images",
            "protocol",
        ),
        "Encoders and pre-training": ("encoder", "embed", "finetune", "pretrain", "bench"),
        "Care of a store": ("info", "slides", "verify", "compact"),
    }
)


class Arranged(TyperGroup):
    """The commands as they stand in ``PANELS``."""

    def list_commands(self, ctx: object) -> list[str]:
        """Names, panel by panel."""
        known = [name for names in PANELS.values() for name in names]
        return [name for name in known if name in self.commands]


def arrange(app: typer.Typer) -> None:
    """Put every command of ``app`` into its panel."""
    panel_of = {name: panel for panel, names in PANELS.items() for name in names}
    for command in app.registered_commands:
        name = command.name or typer.main.get_command_name(command.callback.__name__)  # type: ignore[union-attr]
        command.rich_help_panel = panel_of[name]
    for group in app.registered_groups:
        group.rich_help_panel = panel_of[group.name or ""]
