"""What may stand in SQL that is handed to polars, which also knows ``read_csv('/any/file')`` and subqueries.

A condition (``--where``, and that of a client of the server) compares columns with values and does nothing else. A
query may be any query, over the tables that it was given: files are named with ``--table``, never from within.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from beph_store.errors import QueryError

#: Characters of a condition of a client, and of one at the command line, which may list slides.
LONGEST, LONGEST_OWN = 2000, 200_000
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
#: Wherever it stands, in a string or a comment too: to tell those apart as polars does would be a parser of its own.
_READS_FILES = re.compile(
    r"(?:read|scan)_(?:csv|tsv|ipc|feather|arrow|json|ndjson|parquet|avro|delta|iceberg|excel|lance|database)",
    re.IGNORECASE,
)


def check_condition(
    condition: str, columns: Collection[str], *, name: str = "where", longest: int = LONGEST
) -> str:
    """``condition`` as it is, if it only compares ``columns`` with values; else QueryError, ``name`` first."""
    if len(condition) > longest:
        raise QueryError(f"{name} is longer than {longest} characters")
    at, depth, callable_ = 0, 0, False
    text = condition.rstrip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None or text.startswith(("--", "/*"), found.start() + _blank(text, at)):
            raise QueryError(
                f"{name}: {text[at : at + 20].strip()!r} is not understood: compare columns with values"
            )
        at = found.end()
        if found["sign"] == "(":
            depth += 1
            if callable_ or depth > _DEEPEST:
                raise QueryError(
                    f"{name}: functions are not allowed here, nor many brackets: compare columns with values"
                )
        depth -= found["sign"] == ")"
        callable_ = _is_column(found, columns, name)
    if not text.strip():
        raise QueryError(f"{name} is empty")
    return condition


def check_query(sql: str) -> str:
    """``sql`` as it is, unless it names a function that reads a file: QueryError."""
    found = _READS_FILES.search(sql)
    if found is not None:
        raise QueryError(f"a query reads no files by itself ({found[0]}): name them with --table NAME=FILE")
    return sql


def _blank(text: str, at: int) -> int:
    return len(text) - at - len(text[at:].lstrip())


def _is_column(found: re.Match[str], columns: Collection[str], name: str) -> bool:
    """Whether the token is a column; QueryError for a name that is none."""
    said = found["quoted"] or found["word"]
    if said is None:
        return False
    if found["word"] and said.upper() in _KEYWORDS:
        return False
    if said not in columns or (found["word"] and said.upper() in _QUERY):
        listed = ", ".join(sorted(columns))[:1000]
        raise QueryError(f"{name}: no column {said[:60]!r}; columns: {listed}")
    return True
