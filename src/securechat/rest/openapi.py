"""OpenAPI 3.1 out of the same structs that decode requests: it cannot say anything else than the server does."""

from __future__ import annotations

import inspect
import re
from typing import Any, Final

import msgspec

from securechat import __version__
from securechat.domain.secret import schema_hook
from securechat.errors import all_errors
from securechat.protocol.frames import name_of
from securechat.rest.routes import BASE, ROUTES, Route


class Problem(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A refusal, after RFC 9457: `application/problem+json`."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    retryable: bool = False
    field: str | None = None
    retry_after_ms: int | None = None
    request_id: str = ""


_ATTRIBUTES: Final = re.compile(r"\n+Attributes:\n((?: {4}.*\n?)+)")
_ATTRIBUTE: Final = re.compile(r"^ {4}(\w+(?:, \w+)*): (.+(?:\n {8}.+)*)", re.MULTILINE)


def tell_properties(schema: dict[str, Any]) -> dict[str, Any]:
    """Move what a struct's docstring says of its attributes to the properties themselves."""
    told = inspect.cleandoc(schema.get("description", ""))
    section = _ATTRIBUTES.search(told)
    if section is None:
        return schema
    properties = dict(schema.get("properties", {}))
    for names, what in _ATTRIBUTE.findall(section[1]):
        text = " ".join(what.split())
        properties |= {name: {**properties[name], "description": text} for name in names.split(", ") if name in properties}
    return {**schema, "description": (told[: section.start()] + told[section.end() :]).strip(), "properties": properties}


def _without(schema: dict[str, Any], names: set[str]) -> dict[str, Any]:
    properties = {name: value for name, value in schema.get("properties", {}).items() if name not in names}
    required = [name for name in schema.get("required", []) if name not in names]
    body: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        body["required"] = required
    return body


def _path_names(route: Route) -> list[str]:
    return [part[1:-1] for part in route.path.split("/") if part.startswith("{")]


def _operation(route: Route, components: dict[str, Any]) -> dict[str, Any]:
    schema = components[route.command.__name__]
    in_path = _path_names(route)
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": schema["properties"][name]} for name in in_path
    ]
    rest = _without(schema, {*in_path, "op", "id"})
    if route.method in {"GET", "DELETE"}:
        parameters += [
            {"name": name, "in": "query", "required": name in rest.get("required", []), "schema": value}
            for name, value in rest["properties"].items()
        ]
    operation: dict[str, Any] = {
        "operationId": name_of(route.command),
        "summary": (route.command.__doc__ or "").strip().partition("\n")[0],
        "tags": [name_of(route.command).partition(".")[0]],
        "parameters": parameters,
        "responses": {
            str(route.status): {
                "description": (route.reply.__doc__ or "").strip().partition("\n")[0],
                "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{route.reply.__name__}"}}},
            },
            "default": {
                "description": "A refusal; nothing was stored.",
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        },
        "security": [] if route.open else [{"token": []}],
    }
    if route.method not in {"GET", "DELETE"} and rest["properties"]:
        operation["requestBody"] = {
            "required": bool(rest.get("required")),
            "content": {"application/json": {"schema": rest}},
        }
    return operation


def document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    types = dict.fromkeys([route.command for route in ROUTES] + [route.reply for route in ROUTES] + [Problem])
    _, components = msgspec.json.schema_components(types, schema_hook=schema_hook, ref_template="#/components/schemas/{name}")
    components = {name: tell_properties(schema) for name, schema in components.items()}
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(BASE + route.path, {})[route.method.lower()] = _operation(route, components)
    commands = {route.command.__name__ for route in ROUTES}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "SecureChat",
            "version": __version__,
            "description": "Commands over HTTP. The gateway (`/gateway`) has the same commands and the events.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": {name: schema for name, schema in components.items() if name not in commands},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "x-error-codes": {error.code: {"status": error.status, "title": error.title} for error in all_errors()},
    }


def frames_schema(frames: tuple[type, ...], side: str, replies: tuple[type, ...] = ()) -> dict[str, Any]:
    """Return the JSON Schema of one side's frames, and of what can be the `data` of its replies."""
    refs, components = msgspec.json.schema_components((*frames, *replies), schema_hook=schema_hook, ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Frames of the {side}",
        "oneOf": list(refs)[: len(frames)],
        "$defs": {name: tell_properties(schema) for name, schema in components.items()},
    }
