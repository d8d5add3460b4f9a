"""`/api/docs`: the reference as one static page, made from the OpenAPI document. No script, so the strictest policy holds."""

from __future__ import annotations

import re
from html import escape
from typing import Any, Final

STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --quiet: #777; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
article { margin: 1.5rem 0; }
h3 { font-size: 1rem; margin: 0 0 .25rem; }
code { font-family: ui-monospace, monospace; font-size: .9em; }
.method { display: inline-block; min-width: 4.5em; font-weight: 700; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; padding: .2rem .75rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
nav { display: flex; flex-wrap: wrap; gap: 0 1rem; }
"""


def _type_of(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(_type_of(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {_type_of(schema.get('items', {}))}"
    limits = [
        f"{word} {schema[key]}" for key, word in (("minimum", "≥"), ("maximum", "≤"), ("maxLength", "at most")) if key in schema
    ]
    return " ".join([str(schema.get("type", "any")), *limits])


def _prose(text: str) -> str:
    """Return text as HTML; what stands in backquotes is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _rows(properties: dict[str, Any], required: list[str], where: str) -> list[str]:
    return [
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(_type_of(schema))}</td>"
        f"<td>{', '.join(filter(None, [where, 'required' if name in required else '']))}</td><td>{_prose(schema.get('description', ''))}</td></tr>"
        for name, schema in properties.items()
    ]


def _article(method: str, path: str, operation: dict[str, Any]) -> str:
    rows: list[str] = []
    for parameter in operation["parameters"]:
        rows += _rows(
            {parameter["name"]: parameter["schema"]}, [parameter["name"]] if parameter["required"] else [], parameter["in"]
        )
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    rows += _rows(body.get("properties", {}), body.get("required", []), "body")
    answers = [
        f"{status} <code>{escape(_type_of(found['content']['application/json']['schema']))}</code>"
        for status, found in operation["responses"].items()
        if status != "default"
    ]
    table = (
        f"<table><thead><tr><th>field</th><th>type</th><th>where</th><th></th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )
    return (
        f'<article id="{escape(operation["operationId"])}"><h3><code><span class="method">{method.upper()}</span>{escape(path)}</code></h3>'
        f"<p>{_prose(operation['summary'])} Operation <code>{escape(operation['operationId'])}</code>, answers {', '.join(answers)}."
        f"{'' if operation['security'] else ' Needs no token.'}</p>{table if rows else ''}</article>"
    )


def page(document: dict[str, Any]) -> str:
    """Return the page."""
    by_tag: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            by_tag.setdefault(operation["tags"][0], []).append(_article(method, path, operation))
    sections = "".join(f'<h2 id="{tag}">{tag}</h2>{"".join(articles)}' for tag, articles in sorted(by_tag.items()))
    errors = "".join(
        f'<tr id="error-{code}"><td><code>{code}</code></td><td>{found["status"]}</td><td>{escape(found["title"])}</td></tr>'
        for code, found in document["x-error-codes"].items()
    )
    schemas = "".join(
        f'<article id="schema-{escape(name)}"><h3><code>{escape(name)}</code></h3><p>{_prose(schema.get("description", ""))}</p>'
        f"<table><tbody>{''.join(_rows(schema.get('properties', {}), schema.get('required', []), ''))}</tbody></table></article>"
        for name, schema in sorted(document["components"]["schemas"].items())
        if schema.get("properties")
    )
    links = "".join(f'<a href="#{tag}">{tag}</a>' for tag in sorted(by_tag))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<title>SecureChat API</title><link rel="stylesheet" href="/api/docs.css"></head><body><main>'
        f"<h1>SecureChat API {escape(document['info']['version'])}</h1>"
        '<p>Send <code>Authorization: Bearer TOKEN</code>. The machine-readable form is <a href="/api/openapi.json">openapi.json</a>.</p>'
        f'<nav aria-label="Sections">{links}<a href="#errors">errors</a><a href="#schemas">schemas</a></nav>{sections}'
        '<h2 id="errors">errors</h2><p>A refusal is <code>application/problem+json</code>; its <code>code</code> is one of these.</p>'
        f"<table><tbody>{errors}</tbody></table>"
        f'<h2 id="schemas">schemas</h2>{schemas}</main></body></html>'
    )
