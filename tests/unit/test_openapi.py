"""The description of the REST interface, as text for people."""

from __future__ import annotations

import json

from securechat.rest import docs
from securechat.rest.openapi import document, tell_properties


def test_what_a_docstring_says_of_attributes_stands_at_the_properties() -> None:
    told = tell_properties({
        "description": "A thing.\n\n    More of it.\n\n    Attributes:\n        one, two: Both\n            of them.\n        gone: Not there.\n",
        "properties": {"one": {"type": "string"}, "two": {"$ref": "#/x"}, "three": {"type": "string"}},
    })  # fmt: skip

    assert told == {
        "description": "A thing.\n\nMore of it.",
        "properties": {
            "one": {"type": "string", "description": "Both of them."}, "two": {"$ref": "#/x", "description": "Both of them."},
            "three": {"type": "string"},
        },
    }  # fmt: skip


def test_the_document_and_its_page_are_prose_and_no_source() -> None:
    found = document()
    page = docs.page(found)

    assert "Attributes:" not in json.dumps(found)
    assert found["components"]["schemas"]["Entry"]["properties"]["seq"]["description"] == "Place in the room's log, from 1."
    assert "<code>seq</code> of the message that this one answers." in page
    assert "`" not in page
