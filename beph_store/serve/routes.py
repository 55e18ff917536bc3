"""A route as data: what the server answers and what the document says are made from the same table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Schema = dict[str, Any]
Handler = Callable[[Request], Awaitable[Response]]

STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}


def array(of: Schema) -> Schema:
    """A list of ``of``."""
    return {"type": "array", "items": of}


def record(**fields: Schema) -> Schema:
    """An object with these fields among others."""
    return {"type": "object", "properties": fields}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One of the path or, unless its name is in the path, of the query. ``style`` as OpenAPI has it."""

    name: str
    about: str
    schema: Schema
    style: str | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path. ``answers`` maps content types to what they hold, ``body`` likewise what is sent.

    ``errors`` are the statuses that it adds to those of every endpoint; ``status`` is that of an answer without error.
    """

    method: str
    path: str
    summary: str
    handler: Handler
    answers: dict[str, Schema]
    parameters: tuple[Parameter, ...] = ()
    body: dict[str, Schema] | None = None
    errors: tuple[int, ...] = ()
    status: int = 200

    @property
    def name(self) -> str:
        """Unique among the endpoints."""
        return self.handler.__name__

    def route(self) -> Route:
        """For Starlette."""
        return Route(self.path, self.handler, methods=[self.method], name=self.name)


_ERRORS = {
    401: "no valid token",
    403: "foreign Host or Origin, or a server that only reads",
    404: "no such thing",
    409: "what is there does not allow it: the encoder is not at hand, or the state is another one",
    410: "the slide's file has moved or changed",
    413: "the body is too large",
    422: "the request cannot be understood",
    503: "no runtime can be used on this machine",
}
_ERROR: Schema = {"$ref": "#/components/schemas/Error"}


def openapi(endpoints: Iterable[Endpoint], version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the endpoints."""
    paths: dict[str, Any] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "beph-store",
            "version": version,
            "description": "A store of embeddings of whole-slide images. Positions are level-0 px, x then y.",
        },
        "paths": paths,
        "components": {
            "schemas": {"Error": {**record(error=STRING), "required": ["error"]}},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": endpoint.name,
        "parameters": [_parameter(endpoint, parameter) for parameter in endpoint.parameters],
        "responses": {
            str(endpoint.status): {"description": "as asked", "content": _content(endpoint.answers)}
        },
    }
    if endpoint.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(endpoint.body)}
    always = (401, 403, 404) if "{" in endpoint.path else (401, 403)
    for status in sorted({*always, *endpoint.errors, *((413, 422) if endpoint.body else ())}):
        content = {"application/json": {"schema": _ERROR}}
        operation["responses"][str(status)] = {"description": _ERRORS[status], "content": content}
    return operation


def _content(kinds: dict[str, Schema]) -> dict[str, Any]:
    return {kind: {"schema": schema} for kind, schema in kinds.items()}


def _parameter(endpoint: Endpoint, parameter: Parameter) -> dict[str, Any]:
    in_path = f"{{{parameter.name}}}" in endpoint.path
    data: dict[str, Any] = {
        "name": parameter.name,
        "in": "path" if in_path else "query",
        "required": in_path,
        "description": parameter.about,
        "schema": parameter.schema,
    }
    return data | ({"style": parameter.style, "explode": True} if parameter.style else {})
