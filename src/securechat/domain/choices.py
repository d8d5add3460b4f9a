"""What a field takes, for those who wrote something else: a decoder's complaint in words that people use."""

from __future__ import annotations

import re
from typing import Any, Final, Literal, get_args, get_origin

import msgspec

_EXPECTED: Final = re.compile(
    r"Expected `(?P<kind>[^`]+)`(?P<length> of length)?(?: (?P<than>[<>]=) (?P<bound>[-\d.]+))?(?:, got `(?P<got>[^`]+)`)?$"
)
_FIELD: Final = re.compile(r"Object (?P<what>missing required|contains unknown) field `(?P<field>[^`]+)`$")
KINDS: Final = {
    "str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "array": "a list", "object": "an object",
    "null": "nothing",
}  # fmt: skip
"""What people call the types of JSON."""
_UNITS: Final = {"str": "characters", "array": "entries", "object": "entries"}
_ENUM: Final = re.compile(r"Invalid (?:enum )?value (.+)$")


def choices(kind: Any) -> tuple[str, ...]:
    """Return the words that a type takes: those of its `Literal`, also as an item of a list; none for any other type."""
    if get_origin(kind) is Literal:
        return tuple(str(each) for each in get_args(kind))
    return tuple(word for inner in get_args(kind) for word in choices(inner))


def in_words(complaint: str, kind: Any = None) -> tuple[str, str]:
    """Return (what is wrong, where), in words, of what a decoder complains of.

    Args:
        complaint: As msgspec wrote it.
        kind: The struct, or the type of the one value, that was wanted; without it, the words that a field takes are not told.

    Returns:
        The first to be read behind a name, as in `must be text`; the second is a path, or empty for the whole.
    """
    what, _, path = complaint.partition(" - at `$")
    path = path.rstrip("`").removeprefix("[...]").removeprefix(".")
    if found := _ENUM.match(what):
        words = _choices_at(path, kind)
        return (f"must be one of: {', '.join(words)}; not {found[1]}" if words else f"cannot be {found[1]}"), path
    if found := _FIELD.match(what):
        whole = f"{path}.{found['field']}" if path else found["field"]
        return ("is missing" if found["what"] == "missing required" else "is not known"), whole
    if found := _EXPECTED.match(what):
        return _expected(found), path
    return what, path


def _choices_at(path: str, kind: Any) -> tuple[str, ...]:
    names = re.findall(r"\w+", re.sub(r"\[[^]]*\]", "", path))
    if len(names) > 1 or (names and not isinstance(kind, type)):
        return ()
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)} if names else {}
    return choices(fields.get(names[0]) if names else kind)


def _expected(found: re.Match[str]) -> str:
    kinds = found["kind"].split(" | ")
    if found["bound"] is None:
        got = f", not {KINDS.get(found['got'], found['got'])}" if found["got"] else ""
        return f"must be {' or '.join(KINDS.get(each, each) for each in kinds)}{got}"
    if found["length"] and found["than"] == ">=" and found["bound"] == "1":
        return "must not be empty"
    unit = f" {_UNITS.get(kinds[0], '')}".rstrip() if found["length"] else ""
    return f"must {'have' if found['length'] else 'be'} at {'least' if found['than'] == '>=' else 'most'} {found['bound']}{unit}"
