"""What people are told about a value that does not fit."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import pytest

from securechat.domain.choices import in_words


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    number: int


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    text: Annotated[str, msgspec.Meta(min_length=1, max_length=3)]
    count: Annotated[int, msgspec.Meta(ge=1, le=5)] = 1
    items: Annotated[list[int], msgspec.Meta(max_length=2)] = []
    kind: Literal["a", "b"] = "a"
    kinds: list[Literal["a", "b"]] = []
    maybe: int | None = None
    inner: Inner | None = None
    named: dict[str, Inner] = {}


@pytest.mark.parametrize(
    ("given", "words", "where"),
    [
        ("{}", "is missing", "text"),
        ("[]", "must be an object, not a list", ""),
        ('{"text": ""}', "must not be empty", "text"),
        ('{"text": "long"}', "must have at most 3 characters", "text"),
        ('{"text": 1}', "must be text, not a whole number", "text"),
        ('{"text": "a", "count": 0}', "must be at least 1", "count"),
        ('{"text": "a", "count": 9}', "must be at most 5", "count"),
        ('{"text": "a", "items": [1, 2, 3]}', "must have at most 2 entries", "items"),
        ('{"text": "a", "items": ["x"]}', "must be a whole number, not text", "items[0]"),
        ('{"text": "a", "kind": "c"}', "must be one of: a, b; not 'c'", "kind"),
        ('{"text": "a", "kinds": ["c"]}', "must be one of: a, b; not 'c'", "kinds[0]"),
        ('{"text": "a", "maybe": "x"}', "must be a whole number or nothing, not text", "maybe"),
        ('{"text": "a", "other": 1}', "is not known", "other"),
        ('{"text": "a", "inner": {}}', "is missing", "inner.number"),
        ('{"text": "a", "named": {"x": {"number": 1, "y": 2}}}', "is not known", "named[...].y"),
    ],
)
def test_a_complaint_is_told_in_words_and_with_its_place(given: str, words: str, where: str) -> None:
    with pytest.raises(msgspec.ValidationError) as refusal:
        msgspec.json.decode(given, type=Outer)
    assert in_words(str(refusal.value), Outer) == (words, where)


def test_what_is_not_understood_is_told_as_it_is() -> None:
    assert in_words("Something new - at `$.text`", Outer) == ("Something new", "text")
