"""For mkdocs: the list of commands from the commands themselves, and links to files beside the documentation."""

import posixpath
import re
import subprocess
import sys
from typing import Any

REPOSITORY = "https://github.com/beph-store/beph-store/blob/main/"


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """What mkdocs renders in place of a page's source."""
    if "<!-- commands -->" in markdown:
        markdown = markdown.replace("<!-- commands -->", _commands())
    return re.sub(r"\]\(((?:\.\./)[^)#\s]*)", lambda m: f"]({_outside(page.file.src_uri, m[1])}", markdown)


def _outside(page: str, target: str) -> str:
    """The address of a file of the project that is no page; links between pages stay as they are."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return (
        target if path.startswith("docs/") and path.endswith((".md", ".png", ".jpg")) else REPOSITORY + path
    )


def _commands() -> str:
    command = [sys.executable, "-m", "typer", "beph_store_cli.main", "utils", "docs", "--name", "beph-store"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return re.sub(r"^#", "##", text, flags=re.M)
