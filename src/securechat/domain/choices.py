"""Which words a field takes, for those who wrote another one."""

from __future__ import annotations

import re
from typing import Any, Final, Literal, get_args, get_origin

import msgspec

_ENUM: Final = re.compile(r"Invalid enum value (.+?)(?: - at `\$(.*)`)?$")


def choices(kind: Any) -> tuple[str, ...]:
    """Return the words that a type takes: those of its `Literal`, also as an item of a list; none for any other type."""
    if get_origin(kind) is Literal:
        return tuple(str(each) for each in get_args(kind))
    return tuple(word for inner in get_args(kind) for word in choices(inner))


def with_choices(complaint: str, kind: Any) -> str:
    """Return a decoder's complaint about a word that is none of a field's, with those that are; any other one as it is.

    Args:
        complaint: As msgspec wrote it.
        kind: The struct, or the type of the one value, that was wanted.
    """
    found = _ENUM.match(complaint)
    if found is None:
        return complaint
    names = re.findall(r"\.(\w+)", found[2] or "")
    if len(names) > 1 or (names and not isinstance(kind, type)):
        return complaint
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)} if names else {}
    words = choices(fields.get(names[0]) if names else kind)
    if not words:
        return complaint
    where = f" - at `${found[2]}`" if found[2] else ""
    return f"{found[1]} is none of: {', '.join(words)}{where}"
