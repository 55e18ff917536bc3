"""SQL conditions of a client, let through only as far as they compare columns.

The engine hands a condition to polars' SQL, which also knows ``read_csv('/any/file')`` and subqueries. Its user at the
command line may do as they like; over HTTP a condition is a comparison of columns with values and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from beph_store.serve.answers import malformed

_LONGEST = 2000
_DEEPEST = 20
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^']|'')*')|"(?P<quoted>[^"]+)"|(?P<number>[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)"""
    r"""|(?P<word>[^\W0-9]\w*)|(?P<sign><=|>=|<>|!=|[=<>(),+*/%-]))"""
)
_KEYWORDS = {"AND", "OR", "NOT", "IN", "LIKE", "ILIKE", "BETWEEN", "IS", "NULL", "TRUE", "FALSE"}
#: A column of such a name must be quoted, so that no condition can grow into a query.
_QUERY = {
    "SELECT",
    "FROM",
    "UNION",
    "INTERSECT",
    "EXCEPT",
    "JOIN",
    "WITH",
    "GROUP",
    "ORDER",
    "LIMIT",
    "HAVING",
}


def checked(condition: str, columns: Collection[str]) -> str:
    """``condition`` as it is, if it only compares ``columns`` with values; else 422."""
    if len(condition) > _LONGEST:
        raise malformed(f"where is longer than {_LONGEST} characters")
    at, depth, callable_ = 0, 0, False
    text = condition.rstrip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None or text.startswith(("--", "/*"), found.start() + _blank(text, at)):
            raise malformed(
                f"where: {text[at : at + 20].strip()!r} is not understood: compare columns with values"
            )
        at = found.end()
        if found["sign"] == "(":
            depth += 1
            if callable_ or depth > _DEEPEST:
                raise malformed(
                    "where: functions are not allowed here, nor many brackets: compare columns with values"
                )
        depth -= found["sign"] == ")"
        callable_ = _is_column(found, columns)
    if not text.strip():
        raise malformed("where is empty")
    return condition


def _blank(text: str, at: int) -> int:
    return len(text) - at - len(text[at:].lstrip())


def _is_column(found: re.Match[str], columns: Collection[str]) -> bool:
    """Whether the token is a column; 422 for a name that is none."""
    name = found["quoted"] or found["word"]
    if name is None:
        return False
    if found["word"] and name.upper() in _KEYWORDS:
        return False
    if name not in columns or (found["word"] and name.upper() in _QUERY):
        raise malformed(f"where: no column {name[:60]!r}; there are {', '.join(sorted(columns))[:1000]}")
    return True
