"""Scopes: what somebody may let an app or a token do in their name. A token without scopes is a person's own session.

A scope only ever narrows: whoever may not do something cannot let an app do it. A command that is in no row below is refused for
every token that has scopes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from securechat.errors import InvalidInput

PROFILE: Final = "profile"
ROOMS_READ: Final = "rooms:read"
ROOMS_WRITE: Final = "rooms:write"
MESSAGES_READ: Final = "messages:read"
MESSAGES_WRITE: Final = "messages:write"

WORDS: Final = {
    PROFILE: "See who you are",
    ROOMS_READ: "See your rooms, and the people in them",
    ROOMS_WRITE: "Create, join, change and leave rooms, and choose who is in them",
    MESSAGES_READ: "Read messages in your rooms",
    MESSAGES_WRITE: "Write, change and delete messages, and react, in your name",
}
"""Every scope, and what the person who is asked reads."""

ANY: Final = frozenset(WORDS)

_BY_SCOPE: Final[dict[str, tuple[str, ...]]] = {
    PROFILE: ("user.me",),
    ROOMS_READ: (
        "room.list", "room.browse", "room.get", "room.lookup", "member.list", "command.list", "user.get", "user.find",
        "user.blocks",
    ),
    ROOMS_WRITE: (
        "room.create", "room.direct", "room.update", "room.topic", "room.rename", "room.permit", "room.join", "room.leave",
        "member.add", "member.remove", "member.role",
    ),
    MESSAGES_READ: ("fetch",),
    MESSAGES_WRITE: (
        "message.send", "message.edit", "message.delete", "message.delete_any", "message.mention_all", "reaction.add",
        "reaction.remove", "typing.start", "read.mark",
    ),
}  # fmt: skip

SCOPES: Final[dict[str, frozenset[str]]] = {
    action: frozenset({scope}) for scope, actions in _BY_SCOPE.items() for action in actions
} | {"session.delete": ANY}
"""Action → the scopes of which one is needed."""

CONNECTION: Final = frozenset({ROOMS_READ, MESSAGES_READ})
"""What a connection to the gateway needs, all of it: it brings rooms, people and messages without asking."""


def allows(held: frozenset[str], action: str) -> bool:
    """Return whether a token with these scopes may do this, as far as its scopes go."""
    return not held.isdisjoint(SCOPES.get(action, frozenset()))


def clean_scopes(scopes: Iterable[str]) -> list[str]:
    """Return scopes once each, in the order of `WORDS`.

    Raises:
        InvalidInput: One of them does not exist, or there is none.
    """
    wanted = set(scopes)
    if unknown := sorted(wanted - ANY):
        raise InvalidInput(f"There is no scope {unknown[0][:64]}. There are: {', '.join(WORDS)}.", field="scopes")
    if not wanted:
        raise InvalidInput(f"Say at least one scope of: {', '.join(WORDS)}.", field="scopes")
    return [scope for scope in WORDS if scope in wanted]
