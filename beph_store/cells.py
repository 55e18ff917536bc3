"""Cells of a CSV that a person may open in a spreadsheet, which runs what looks like a formula.

OWASP's rule ("CSV injection"): a cell that begins with ``= + - @``, a tab, a carriage return or a line feed gets a
single quote in front, which spreadsheets take for "this is text" and do not show. Numbers stay numbers, and a sign
alone is no formula. Tables of labels that we read lose the quote again, so that an id survives the way there and back.
"""

from __future__ import annotations

import re

#: With their full-width forms, which some spreadsheets take for the same.
_FIRST = "=+-@\t\r\n＝＋－＠"
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?%?")


def escaped(cell: str) -> str:
    """The cell as it may stand in a CSV.

    >>> escaped("=HYPERLINK(…)"), escaped("-1.5"), escaped("-"), escaped("slide-1.svs")
    ("'=HYPERLINK(…)", '-1.5', '-', 'slide-1.svs')
    """
    risky = len(cell) > 1 and cell[0] in _FIRST and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if risky or (cell[:1] == "'" and escaped(cell[1:]) != cell[1:]) else cell


def unescaped(cell: str) -> str:
    """The inverse: a quote that ``escaped`` put there is taken away, no other."""
    return cell[1:] if cell[:1] == "'" and escaped(cell[1:]) != cell[1:] else cell
