"""What a request says, checked: numbers, choices, and a JSON body with known fields."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from beph_store.serve.answers import malformed

_WHOLE = re.compile(r"-?[0-9]{1,10}")


def whole(text: str, name: str, least: int, most: int) -> int:
    """``text`` as a whole number within bounds; 422 names what it should have been."""
    if not _WHOLE.fullmatch(text) or not least <= int(text) <= most:
        raise malformed(f"{name} is not a whole number from {least} to {most}")
    return int(text)


def whole_query(request: Request, name: str, default: int | None, least: int, most: int) -> int | None:
    """A whole number of the query string, or ``default`` where it is not given."""
    text = request.query_params.get(name)
    return default if text is None else whole(text, name, least, most)


def one_of(text: str | None, name: str, *choices: str) -> Any:
    """``text`` where it is one of ``choices`` or None; 422 lists them."""
    if text is not None and text not in choices:
        raise malformed(f"{name} is not one of {', '.join(choices)}")
    return text


async def json_body(request: Request) -> dict[str, Any]:
    """The body as a JSON object; 422 for anything else."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        raise malformed("send JSON, with content-type: application/json")
    try:
        data = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise malformed("the body is not JSON") from None
    if not isinstance(data, dict):
        raise malformed("the body is not a JSON object")
    return data


def field(data: Mapping[str, Any], name: str, kind: type, default: Any = None) -> Any:
    """A field of the body of the wanted type; true is no number, and 1 is no yes."""
    value = data.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise malformed(f"{name} is not a {_SPELLED[kind]}")
    return value


def whole_field(data: Mapping[str, Any], name: str, default: int | None, least: int, most: int) -> int | None:
    """A whole number of the body, within bounds."""
    value: int | None = field(data, name, int, default)
    if value is not None and not least <= value <= most:
        raise malformed(f"{name} is not a whole number from {least} to {most}")
    return value


def place(data: Mapping[str, Any], name: str, numbers: int) -> list[int] | None:
    """A list of so many whole level-0 px."""
    value = data.get(name)
    if value is None:
        return None
    fine = isinstance(value, list) and len(value) == numbers
    if not fine or not all(type(v) is int and abs(v) < 1 << 31 for v in value):
        raise malformed(f"{name} is not a list of {numbers} whole numbers, level-0 px")
    return list(value)


def only(data: Mapping[str, Any], *names: str) -> None:
    """422 for a field that nobody reads: a typing error must not be passed over."""
    odd = sorted(set(data) - set(names))
    if odd:
        raise malformed(f"no such field: {odd[0][:60]!r}; there are {', '.join(names)}")


_SPELLED = {int: "whole number", str: "string", bool: "true or false", dict: "JSON object"}
