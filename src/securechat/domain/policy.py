"""The one place that says who may do what. The default is no.

`RULES` is the whole policy: one row for each command, and for each finer right that no command has by itself. `decide` reads a row
and says yes or no, and why; it is asked at the door, again inside the transaction that changes a room, and by the hub before an
entry goes out (law 5). A room that somebody may not see answers exactly as a room that does not exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final, NamedTuple

from securechat.domain import scopes
from securechat.domain.accounts import Principal, Role
from securechat.domain.rooms import RoomKind, RoomRole, RoomState
from securechat.errors import ChatError, Conflict, EnrolmentRequired, Forbidden, NotFound, Unauthorized


class Level(IntEnum):
    """How much somebody may do in one room: what their two roles, on the server and in the room, come to."""

    OUTSIDE = 0
    GUEST = 1
    MEMBER = 2
    MODERATOR = 3
    OWNER = 4
    ADMIN = 5
    """An administrator of the server who is in the room."""
    SERVER_OWNER = 6
    OPERATOR = 7


RANK: Final = {
    Role.BOT: Level.GUEST,
    Role.GUEST: Level.GUEST,
    Role.MEMBER: Level.MEMBER,
    Role.MODERATOR: Level.MODERATOR,
    Role.ADMIN: Level.ADMIN,
    Role.OWNER: Level.SERVER_OWNER,
    Role.OPERATOR: Level.OPERATOR,
}
"""How server roles compare: nobody acts on an equal, or gives more than they have."""
LEVEL: Final = {
    RoomRole.GUEST: Level.GUEST,
    RoomRole.MEMBER: Level.MEMBER,
    RoomRole.MODERATOR: Level.MODERATOR,
    RoomRole.OWNER: Level.OWNER,
}
_FLOOR: Final = {Role.MODERATOR: Level.MODERATOR, Role.ADMIN: Level.ADMIN, Role.OWNER: Level.SERVER_OWNER}
"""Server roles that raise somebody in every room that they are in."""
_CEILING: Final = {Role.GUEST: Level.GUEST, Role.BOT: Level.MODERATOR}
"""Server roles that hold somebody down, whatever a room gives them."""

_USERS: Final = frozenset(Role) - {Role.OPERATOR}
_PEOPLE: Final = _USERS - {Role.BOT}
_KNOWN: Final = _USERS - {Role.GUEST}
_OPERATOR: Final = frozenset({Role.OPERATOR})
_ADMINS: Final = frozenset({Role.OPERATOR, Role.OWNER, Role.ADMIN})
_FULL: Final = _PEOPLE - {Role.GUEST} | _OPERATOR

WORDS: Final = {
    frozenset(Role): "anybody with an account, and the operator",
    _USERS: "anybody with an account",
    _PEOPLE: "people",
    _PEOPLE | _OPERATOR: "people, and the operator",
    _KNOWN: "anybody but guests",
    _KNOWN | _OPERATOR: "anybody but guests, and the operator",
    _FULL: "members of the server and above",
    _ADMINS: "administrators",
    _OPERATOR: "the operator, with the command line",
    frozenset({Role.BOT}): "bots",
}
"""The sets of server roles, in words."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the policy.

    Attributes:
        who: Server roles; None: strangers too.
        room: The least level in the room; `OUTSIDE`: whoever may see it; None: it is about no room.
        open: Whether a room may set another level (`room.permit`).
        also: A right that is needed besides.
        others: The right that is needed when what it is about is another person's.
        own: Only what is one's own.
        direct: Whether it can be done in a direct room at all.
        below: Whether the other person has to stand below.
    """

    who: frozenset[Role] | None
    room: Level | None = None
    open: bool = False
    also: str = ""
    others: str = ""
    own: bool = False
    direct: bool = True
    below: bool = False


_ANYBODY: Final = Rule(None)
_ALL: Final = frozenset(Role)
_ADMIN: Final = Rule(_ADMINS)
_ADMIN_BELOW: Final = Rule(_ADMINS, below=True)

RULES: Final[dict[str, Rule]] = {
    # Messages
    "message.send": Rule(_USERS, Level.GUEST, open=True),
    "message.edit": Rule(_USERS, Level.GUEST, also="message.send", own=True),
    "message.delete": Rule(_USERS, Level.GUEST, others="message.delete_any"),
    "message.delete_any": Rule(_USERS, Level.MODERATOR, open=True),
    "message.mention_all": Rule(_USERS, Level.MEMBER, open=True),
    "reaction.add": Rule(_USERS, Level.GUEST, open=True),
    "reaction.remove": Rule(_USERS, Level.GUEST),
    "fetch": Rule(_ALL, Level.GUEST),
    "read.mark": Rule(_USERS, Level.GUEST),
    "typing.start": Rule(_USERS, Level.GUEST, also="message.send"),
    # Rooms
    "room.create": Rule(_FULL),
    "room.direct": Rule(_USERS),
    "room.update": Rule(_PEOPLE | _OPERATOR, Level.GUEST, direct=False),
    "room.topic": Rule(_PEOPLE | _OPERATOR, Level.MODERATOR, open=True, direct=False),
    "room.rename": Rule(_PEOPLE | _OPERATOR, Level.OWNER, open=True, direct=False),
    "room.permit": Rule(_PEOPLE | _OPERATOR, Level.OWNER, direct=False),
    "room.list": Rule(_ALL),
    "room.browse": Rule(_KNOWN | _OPERATOR),
    "room.get": Rule(_ALL, Level.OUTSIDE),
    "room.lookup": Rule(_ALL),
    "room.join": Rule(_KNOWN, Level.OUTSIDE),
    "room.leave": Rule(_USERS, Level.GUEST, direct=False),
    "member.list": Rule(_ALL, Level.GUEST),
    "member.add": Rule(_PEOPLE | _OPERATOR, Level.MEMBER, open=True, direct=False),
    "member.remove": Rule(_PEOPLE | _OPERATOR, Level.MODERATOR, open=True, direct=False, below=True),
    "member.role": Rule(_PEOPLE | _OPERATOR, Level.OWNER, direct=False, below=True),
    # Where else a room's entries are sent
    "subscription.create": Rule(_PEOPLE | _OPERATOR, Level.OWNER, direct=False),
    "subscription.list": Rule(_PEOPLE | _OPERATOR, Level.OWNER, direct=False),
    "subscription.overview": Rule(_OPERATOR),
    "subscription.delete": Rule(_PEOPLE | _OPERATOR, Level.OWNER, direct=False),
    "subscription.pause": Rule(_PEOPLE | _OPERATOR, Level.OWNER, direct=False),
    "subscription.resume": Rule(_PEOPLE | _OPERATOR, Level.OWNER, direct=False),
    "subscription.rotate": Rule(_PEOPLE | _OPERATOR, Level.OWNER, direct=False),
    "dead.letter.list": Rule(_PEOPLE | _OPERATOR, Level.OWNER, direct=False),
    "dead.letter.replay": Rule(_PEOPLE | _OPERATOR, Level.OWNER, direct=False),
    "dead.letter.drop": Rule(_PEOPLE | _OPERATOR, Level.OWNER, direct=False),
    # People and bots
    "user.me": Rule(_ALL),
    "user.get": Rule(_ALL),
    "user.find": Rule(_ALL),
    "user.update": Rule(_USERS),
    "user.block": Rule(_PEOPLE),
    "user.unblock": Rule(_PEOPLE),
    "user.blocks": Rule(_USERS),
    "command.set": Rule(frozenset({Role.BOT})),
    "command.list": Rule(_USERS, Level.GUEST),
    # Coming in
    "setup.complete": _ANYBODY,
    "invite.get": _ANYBODY,
    "account.register": _ANYBODY,
    "session.create": _ANYBODY,
    "session.refresh": _ANYBODY,
    "password.reset": _ANYBODY,
    "session.delete": Rule(_USERS),
    "session.passkey": _ANYBODY,
    "passkey.challenge": _ANYBODY,
    "session.confirm": Rule(_PEOPLE),
    "password.change": Rule(_PEOPLE),
    "factor.list": Rule(_PEOPLE),
    "totp.begin": Rule(_PEOPLE),
    "totp.confirm": Rule(_PEOPLE),
    "totp.remove": Rule(_PEOPLE),
    "passkey.begin": Rule(_PEOPLE),
    "passkey.add": Rule(_PEOPLE),
    "passkey.remove": Rule(_PEOPLE),
    "recovery.create": Rule(_PEOPLE),
    "device.list": Rule(_USERS),
    "device.revoke": Rule(_PEOPLE),
    # Other providers
    "provider.list": _ANYBODY,
    "provider.begin": _ANYBODY,
    "provider.finish": _ANYBODY,
    "session.provider": _ANYBODY,
    "account.provider": _ANYBODY,
    "external.list": Rule(_PEOPLE),
    "external.begin": Rule(_PEOPLE),
    "external.add": Rule(_PEOPLE),
    "external.remove": Rule(_PEOPLE),
    # Apps and tokens
    "oauth.token": _ANYBODY,
    "oauth.device": _ANYBODY,
    "oauth.revoke": _ANYBODY,
    "consent.get": Rule(_PEOPLE),
    "consent.give": Rule(_PEOPLE),
    "grant.list": Rule(_PEOPLE),
    "grant.revoke": Rule(_PEOPLE),
    "token.create": Rule(_PEOPLE),
    "token.list": Rule(_PEOPLE),
    "token.revoke": Rule(_PEOPLE),
    "app.create": _ADMIN,
    "app.list": _ADMIN,
    "app.delete": _ADMIN,
    # Administration
    "policy.explain": Rule(_ALL),
    "policy.explain_others": _ADMIN,
    "invite.create": _ADMIN,
    "invite.list": _ADMIN,
    "invite.revoke": _ADMIN,
    "user.create": _ADMIN,
    "user.list": _ADMIN,
    "user.role": _ADMIN_BELOW,
    "user.disable": _ADMIN_BELOW,
    "user.enable": _ADMIN_BELOW,
    "user.reset": _ADMIN_BELOW,
    "factor.clear": _ADMIN_BELOW,
    "bot.create": _ADMIN,
    "bot.rotate": _ADMIN,
    "bot.revoke": _ADMIN,
    "setup.link": Rule(_OPERATOR),
    "backup.create": Rule(_OPERATOR),
    "server.status": Rule(_OPERATOR),
    "audit.list": _ADMIN,
    "audit.prune": Rule(_OPERATOR),
    "certificate.get": Rule(_OPERATOR),
    "certificate.renew": Rule(_OPERATOR),
    "storage.status": Rule(_OPERATOR),
    "storage.rotate": Rule(_OPERATOR),
    "storage.shred": Rule(_OPERATOR),
    "token.key.list": Rule(_OPERATOR),
    "token.key.rotate": Rule(_OPERATOR),
}
"""Everything that can be asked, by the command's name. What is not here nobody may do."""

RIGHTS: Final = frozenset({"message.delete_any", "message.mention_all", "room.topic", "room.rename", "policy.explain_others"})
"""Rows that are no command: finer questions that a command asks."""
OPEN: Final = frozenset(action for action, rule in RULES.items() if rule.open)
"""What a room may decide for itself."""


_Permissions = tuple[tuple[str, RoomRole], ...]


class Decision(NamedTuple):
    """Yes or no, and why.

    Attributes:
        action: What was asked.
        rule: Which rule decided, in words.
        refusal: What a no is answered with; None is a yes.
        detail: Of the refusal.
    """

    action: str
    rule: str
    refusal: type[ChatError] | None = None
    detail: str = ""

    @property
    def allowed(self) -> bool:
        """Whether it is a yes."""
        return self.refusal is None


def level(user_id: str, role: Role, room: RoomState) -> Level:
    """Return how much somebody may do in a room; nobody is anything in a room that they are not in, but the operator."""
    return _level(role, room.members.get(user_id), room.kind)


def _level(role: Role, inside: RoomRole | None, kind: RoomKind) -> Level:
    if role is Role.OPERATOR:
        return Level.OPERATOR
    if inside is None:
        return Level.OUTSIDE
    own = LEVEL[inside]
    if kind is RoomKind.DIRECT:
        return min(own, Level.MEMBER)
    return min(max(own, _FLOOR.get(role, own)), _CEILING.get(role, Level.OPERATOR))


def _need(action: str, rule: Rule, permissions: _Permissions) -> tuple[Level, bool]:
    """Return the level that an action needs in a room, and whether the room set it."""
    set_here = dict(permissions).get(action) if rule.open else None
    return (rule.room or Level.OUTSIDE, False) if set_here is None else (LEVEL[set_here], True)


def _in_words(action: str, need: Level, *, set_here: bool) -> str:
    return f"{action}: {need.name.lower()} of the room or above ({'set in this room' if set_here else 'the default'})"


def at_the_door(who: Principal, action: str) -> Decision:
    """Decide what can be decided without knowing a room: the same for every door."""
    if who.scopes is not None and not scopes.allows(who.scopes, action):
        return _out_of_scope(action)
    return _door(action, who.role if who.user_id else None)


def decide(
    who: Principal, action: str, room: RoomState | None = None, *, author: str = "", target: int = -1, grant: int = -1
) -> Decision:
    """Decide whether somebody may do something.

    Args:
        who: Who asks.
        action: A key of `RULES`.
        room: The room that it is about, if it is about one; None as well for one that does not exist.
        author: Whose message it is about; empty: one's own.
        target: Rank or level of the person that it is done to; -1: nobody, or oneself.
        grant: Rank or level of the role that it gives; -1: none.
    """
    if who.scopes is not None and not scopes.allows(who.scopes, action):
        return _out_of_scope(action)
    role = who.role if who.user_id else None
    if room is None or not room.last_seq:
        return _judge(action, role, None, None, (), True, target, grant)  # noqa: FBT003 - positional, for the cache
    permissions = tuple(room.permissions.items()) if room.permissions else ()
    own = not author or author == who.user_id
    return _judge(action, role, room.kind, room.members.get(who.user_id), permissions, own, target, grant)


def _out_of_scope(action: str) -> Decision:
    needed = sorted(scopes.SCOPES.get(action, ()))
    rule = f"{action}: the scope {' or '.join(needed)}" if needed else f"{action}: no scope, so no app and no token may"
    detail = f"This token needs the scope {' or '.join(needed)}." if needed else "An app or a token cannot do this."
    return Decision(action, rule, Forbidden, detail)


@lru_cache(maxsize=1_024)
def _door(action: str, role: Role | None) -> Decision:
    rule = RULES.get(action)
    if rule is None:
        return Decision(action, "default: no rule, so nobody may", Forbidden, "Nobody may do this.")
    if rule.who is None:
        return Decision(action, f"{action}: everybody")
    words = WORDS[rule.who]
    if role is None:
        return Decision(action, f"{action}: {words}", Unauthorized, Unauthorized.title)
    if role in rule.who:
        return Decision(action, action)
    return Decision(action, f"{action}: {words}", Forbidden, f"This is for {words}.")


@lru_cache(maxsize=8_192)
def _judge(  # noqa: C901 - the one decision, read from top to bottom
    action: str, role: Role | None, kind: RoomKind | None, inside: RoomRole | None, permissions: _Permissions,
    own: bool, target: int, grant: int,  # noqa: FBT001 - positional, for the cache
) -> Decision:  # fmt: skip
    """Decide on plain facts; the same facts have the same answer, so it is remembered: a message asks for it on the hot path.

    Args:
        action: A key of `RULES`.
        role: On the server; None: a stranger.
        kind: Of the room; None: there is no such room.
        inside: Role in the room; None: not in it.
        permissions: What the room has set.
        own: Whether it is about one's own message.
        target: As in `decide`.
        grant: As in `decide`.
    """
    door = _door(action, role)
    rule = RULES.get(action)
    if rule is None or door.refusal is not None or role is None:
        return door
    if rule.room is None:
        held, words = RANK[role], action if rule.who is None else f"{action}: {WORDS[rule.who]}"
    else:
        if kind is None:
            return Decision(action, "room.get: such a room does not exist", NotFound)
        held = _level(role, inside, kind)
        if held is Level.OUTSIDE:
            if kind is not RoomKind.PUBLIC or role is Role.GUEST:
                return Decision(action, "room.get: only members see this room", NotFound)
            if rule.room is not Level.OUTSIDE:
                return Decision(action, f"{action}: members of the room", Forbidden, "Join the room first.")
        if not own:
            if rule.own:
                return Decision(action, f"{action}: only one's own", Forbidden, "This message is not yours.")
            if rule.others:
                return _judge(rule.others, role, kind, inside, permissions, True, target, grant)  # noqa: FBT003 - as above
        need, set_here = _need(action, rule, permissions)
        words = _in_words(action, need, set_here=set_here) if set_here else action
        if held < need:
            words = _in_words(action, need, set_here=set_here)
            return Decision(action, words, Forbidden, f"This is for a {need.name.lower()} of the room or above.")
        if kind is RoomKind.DIRECT and not rule.direct:
            return Decision(
                action, f"{action}: not in a direct room", Conflict, "A direct room stays as it is, between two people."
            )
        if rule.also:
            also = _judge(rule.also, role, kind, inside, permissions, True, -1, -1)  # noqa: FBT003 - as above
            if not also.allowed:
                return also
    if rule.below and target >= held and role is not Role.OPERATOR:
        return Decision(action, f"{action}: only on whoever stands below", Forbidden, "They have the same rights as you, or more.")
    if grant > held:
        return Decision(
            action, f"{action}: nobody gives more than they have", Forbidden, "You cannot give more rights than you have."
        )
    return Decision(action, words)


def because(who: Principal, decision: Decision, room: RoomState | None) -> str:
    """Return the rule that decided in full words, also for a yes, for whom the short form is enough otherwise."""
    rule = RULES.get(decision.action)
    if not decision.allowed or rule is None or decision.rule != decision.action:
        return decision.rule
    words = f"{decision.action}: {'everybody' if rule.who is None else WORDS[rule.who]}"
    if rule.room is None or room is None:
        return words
    need, set_here = _need(decision.action, rule, tuple(room.permissions.items()))
    if need is Level.OUTSIDE:
        return f"{words} who may see the room"
    held = level(who.user_id, who.role, room).name.lower().replace("_", " ")
    return f"{_in_words(decision.action, need, set_here=set_here)}; {who.username} is {held} here"


def require(who: Principal, action: str, *, target: int = -1, grant: int = -1) -> None:
    """Let somebody do something that is about no room.

    Raises:
        Unauthorized, Forbidden: The policy says no.
    """
    decision = decide(who, action, target=target, grant=grant)
    if decision.refusal is not None:
        raise decision.refusal(decision.detail or None)


def require_in(  # noqa: D417 - the rest is as in `decide`
    who: Principal, action: str, room: RoomState | None, what: str, *, author: str = "", target: int = -1, grant: int = -1
) -> RoomState:
    """Return the room if somebody may do something in it.

    Args:
        what: What the room was asked for by: id or name.

    Raises:
        NotFound: No such room, or a room that is not theirs to see: the answer is the same.
        Forbidden: Seen, and not allowed.
        Conflict: A direct room does not have it.
    """
    decision = decide(who, action, room, author=author, target=target, grant=grant)
    if decision.refusal is NotFound or room is None:
        raise NotFound(f"No room {what} that you can see.")
    if decision.refusal is not None:
        raise decision.refusal(decision.detail or None)
    return room


def may_read(room: RoomState, user_id: str) -> bool:
    """Return whether entries of the room may reach this user now: who is in it reads it. Asked for every page that is caught up."""
    return user_id in room.members


def keeps_an_owner(room: RoomState, user_id: str, role: RoomRole) -> bool:
    """Return whether a room that has an owner still has one when this member gets this role."""
    owners = {member for member, each in room.members.items() if each is RoomRole.OWNER}
    return role is RoomRole.OWNER or owners != {user_id}


def may_hold(role: Role, room_role: RoomRole) -> bool:
    """Return whether somebody with this server role can have this role in a room: no bot owns one, and a guest stays a guest."""
    return LEVEL[room_role] <= _CEILING.get(role, Level.OPERATOR)


def require_enrolled(who: Principal, *, setting_up: bool) -> None:
    """Raise `EnrolmentRequired` for who has to set a second factor up first, unless the command does that."""
    if who.enrolling and not setting_up:
        raise EnrolmentRequired("Your role wants a second factor. Set one up first.")


def require_connection(who: Principal) -> None:
    """Raise `Forbidden` for a token whose scopes do not cover what a connection brings without asking."""
    if who.scopes is not None and not who.scopes >= scopes.CONNECTION:
        raise Forbidden(f"A connection needs a token with the scopes {' and '.join(sorted(scopes.CONNECTION))}. REST needs fewer.")
