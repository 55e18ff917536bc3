"""The fenced blocks of the documentation, and what stands above them.

A block that can run (``bash``, ``console``, ``python``) runs, unless a comment directly above it says why not::

    <!-- not run: needs a GPU -->

``console`` is a transcript: its lines that begin with "$ " are commands, the rest is what they said. All blocks of a
page run in one folder, in their order; ``<!-- workbench: NAME -->`` on the page says which folder that is.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: What may stand after the three backquotes. Only the first three are run.
RUNNABLE = ("bash", "console", "python")
LANGUAGES = (*RUNNABLE, "text", "json", "yaml", "csv", "toml", "sql", "typescript", "c", "xml", "html")

_FENCE = re.compile(r"^( *)```(\S*)[^\n]*$")
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->")
_WORKBENCH = re.compile(r"<!-- workbench: (\w+) -->")


@dataclass(frozen=True)
class Block:
    """One block: ``line`` of its fence, counted from 1; ``why_not`` the reason that it is not run."""

    page: Path
    line: int
    language: str
    text: str
    why_not: str | None

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def runs(self) -> bool:
        return self.language in RUNNABLE and self.why_not is None

    @property
    def commands(self) -> str:
        """What a shell is given."""
        if self.language != "console":
            return self.text
        return "\n".join(line[2:] for line in self.text.splitlines() if line.startswith("$ "))


def pages() -> list[Path]:
    """Every page that a user may read."""
    return sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def blocks(page: Path) -> list[Block]:
    """The blocks of a page in their order. An indented fence, in a list say, counts as any other."""
    found, lines = [], page.read_text().splitlines()
    at = 0
    while at < len(lines):
        fence = _FENCE.match(lines[at])
        at += 1
        if fence is None:
            continue
        start, indent = at, len(fence[1])
        while lines[at].strip() != "```":
            at += 1
        above = lines[start - 2].strip() if start > 1 else ""
        reason = _NOT_RUN.fullmatch(above)
        text = "\n".join(line[indent:] for line in lines[start:at]) + "\n"
        found.append(Block(page, start, fence[2], text, reason[1] if reason else None))
        at += 1
    return found


def workbench(page: Path) -> str:
    """The folder that the page's blocks run in: ``empty`` unless the page names another."""
    named = _WORKBENCH.search(page.read_text())
    return named[1] if named else "empty"
