"""The matrix: what the policy answers to every kind of person. `tools/generate` prints it, and a test holds a real server to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from securechat.domain import policy
from securechat.domain.accounts import Principal, Role
from securechat.domain.rooms import RoomKind, RoomRole, RoomState


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of person.

    Attributes:
        name: What the table calls them.
        role: On the server; None: nobody has signed in.
        inside: Role in the room; None: not in it.
        room: Which kind of room it is about.
        was_inside: Whether they were a member once.
    """

    name: str
    role: Role | None
    inside: RoomRole | None = None
    room: RoomKind = RoomKind.PRIVATE
    was_inside: bool = False


KINDS: Final = (
    Kind("stranger", None),
    Kind("outsider", Role.MEMBER),
    Kind("former member", Role.MEMBER, was_inside=True),
    Kind("outsider of a public room", Role.MEMBER, room=RoomKind.PUBLIC),
    Kind("guest outside a public room", Role.GUEST, room=RoomKind.PUBLIC),
    Kind("guest", Role.GUEST, RoomRole.GUEST),
    Kind("member", Role.MEMBER, RoomRole.MEMBER),
    Kind("bot", Role.BOT, RoomRole.MEMBER),
    Kind("moderator of the room", Role.MEMBER, RoomRole.MODERATOR),
    Kind("owner of the room", Role.MEMBER, RoomRole.OWNER),
    Kind("moderator", Role.MODERATOR, RoomRole.MEMBER),
    Kind("administrator outside", Role.ADMIN),
    Kind("administrator", Role.ADMIN, RoomRole.MEMBER),
    Kind("owner", Role.OWNER, RoomRole.MEMBER),
)
"""Everybody but the operator, who has no account. Whom something is done to is always a member of the room and of the server."""


def answer(action: str, kind: Kind) -> policy.Decision:
    """Return what the policy says when this kind of person does this to a member, or with what is their own."""
    who = Principal("", "", Role.MEMBER, "") if kind.role is None else Principal("usr_who", "dev_who", kind.role, "who")
    members = {"usr_other": RoomRole.MEMBER} | ({"usr_who": kind.inside} if kind.inside else {})
    room = RoomState("rm_1", kind.room, "room", "", 1, members)
    target = int(policy.Level.MEMBER) if policy.RULES[action].below else -1
    return policy.decide(who, action, room, target=target)


def status(action: str, kind: Kind) -> int:
    """Return the HTTP status of the answer; 200 for a yes."""
    refusal = answer(action, kind).refusal
    return 200 if refusal is None else refusal.status
