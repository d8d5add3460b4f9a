"""The policy against a small account of it by itself: states and questions are made at random."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from securechat.auth.rate_limiter import RateLimiter
from securechat.domain import commands as c
from securechat.domain import policy
from securechat.domain.accounts import OPERATOR, STRANGER, Principal, Role
from securechat.domain.entries import Entry, EntryType
from securechat.domain.matrix import KINDS, answer
from securechat.domain.rooms import RoomKind, RoomRole, RoomState
from securechat.errors import Forbidden, Unauthorized
from securechat.protocol.frames import COMMANDS, name_of
from securechat.services.dispatcher import CommandDispatcher
from support.fakes import ManualClock, principal

NAMES = ["ana", "bob", "cyd", "dan"]
ROLES = [role for role in Role if role is not Role.OPERATOR]
ORDER = ["guest", "member", "moderator", "owner"]
DEFAULTS = {
    "message.send": "guest", "reaction.add": "guest", "message.mention_all": "member", "member.add": "member",
    "message.delete_any": "moderator", "member.remove": "moderator", "room.topic": "moderator", "room.rename": "owner",
}  # fmt: skip
PEOPLE_ONLY = {"member.add", "member.remove", "room.topic", "room.rename", "member.role", "room.permit"}


def oracle(role: str, inside: str | None, kind: str, permissions: dict[str, str], action: str, *, author: bool) -> str:
    """Say yes, 403, 404 or 409, of text alone: server role, room role, kind of room, what the room set, action, whether it is one's own."""
    if role == "bot" and action in PEOPLE_ONLY:
        return "403"
    if inside is None:
        return "404" if kind != "public" or role == "guest" else "yes" if action == "room.get" else "403"
    if action == "room.get":
        return "yes"
    power = ORDER.index(inside)
    if kind == "direct":
        power = min(power, 1)
    elif role in {"owner", "admin"}:
        power = 4
    elif role == "moderator":
        power = max(power, 2)
    elif role == "guest":
        power = 0
    elif role == "bot":
        power = min(power, 2)
    if action == "message.edit" and not author:
        return "403"
    if action == "message.delete" and not author:
        action = "message.delete_any"
    wanted = {"message.edit": "message.send", "typing.start": "message.send", "message.delete": "", "fetch": ""}.get(action, action)
    settled = {"member.role", "room.permit"}
    least = "owner" if wanted in settled else permissions.get(wanted) or DEFAULTS.get(wanted, "guest")
    if power < ORDER.index(least):
        return "403"
    return "409" if kind == "direct" and action in PEOPLE_ONLY else "yes"


class PolicyMachine(RuleBasedStateMachine):
    """A room whose log grows at random; after each entry everybody asks for everything."""

    def __init__(self) -> None:
        super().__init__()
        self.room = RoomState("rm_1")
        self.inside: dict[str, str] = {}
        self.permissions: dict[str, str] = {}
        self.roles = dict.fromkeys(NAMES, Role.MEMBER)

    def append(self, entry_type: EntryType, **more: object) -> None:
        fields = {"room": "rm_1", "seq": self.room.last_seq + 1, "at": 0, "user": "usr_x"} | more
        self.room.apply(Entry(type=entry_type, **fields))  # type: ignore[arg-type]

    @initialize(kind=st.sampled_from(RoomKind))
    def create(self, kind: RoomKind) -> None:
        self.append(EntryType.ROOM_CREATED, kind=kind.value, name="room")

    @rule(name=st.sampled_from(NAMES), role=st.sampled_from(ORDER))
    def join_or_change(self, name: str, role: str) -> None:
        kind = EntryType.MEMBER_CHANGED if name in self.inside else EntryType.MEMBER_JOINED
        self.inside[name] = role
        self.append(kind, member=f"usr_{name}", role=role)

    @rule(name=st.sampled_from(NAMES), removed=st.booleans())
    def leave(self, name: str, removed: bool) -> None:  # noqa: FBT001
        if self.inside.pop(name, None):
            self.append(EntryType.MEMBER_REMOVED if removed else EntryType.MEMBER_LEFT, member=f"usr_{name}")

    @rule(name=st.sampled_from(NAMES), role=st.sampled_from(ROLES))
    def give_server_role(self, name: str, role: Role) -> None:
        self.roles[name] = role

    @rule(action=st.sampled_from(sorted(policy.OPEN)), role=st.sampled_from([*ORDER, ""]))
    def permit(self, action: str, role: str) -> None:
        self.permissions.pop(action, None)
        if role:
            self.permissions[action] = role
        self.append(EntryType.ROOM_UPDATED, permissions=dict(self.permissions))

    @invariant()
    def everybody_is_answered_as_the_oracle_says(self) -> None:
        if not self.room.last_seq:
            return
        for name in NAMES:
            who = principal(name, role=self.roles[name])
            for action in (
                "room.get",
                "fetch",
                "message.edit",
                "message.delete",
                "typing.start",
                "member.role",
                "room.permit",
                *DEFAULTS,
            ):
                for author in (name, "zoe"):
                    found = policy.decide(who, action, self.room, author=f"usr_{author}")
                    wanted = oracle(
                        self.roles[name].value,
                        self.inside.get(name),
                        self.room.kind.value,
                        self.permissions,
                        action,
                        author=author == name,
                    )
                    got = "yes" if found.refusal is None else str(found.refusal.status)
                    assert got == wanted, (name, action, author, self.roles[name], self.inside, self.room.kind, self.permissions)
                    assert policy.because(who, found, self.room).startswith(
                        ("room.get", action, "message.delete_any", "message.send")
                    )

    @invariant()
    def who_is_not_inside_reads_nothing(self) -> None:
        assert {name for name in NAMES if policy.may_read(self.room, f"usr_{name}")} == set(self.inside)


TestPolicyMachine = PolicyMachine.TestCase
TestPolicyMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_what_has_no_rule_nobody_may() -> None:
    for who in (STRANGER, OPERATOR, principal("ana", role=Role.OWNER)):
        found = policy.decide(who, "message.forge")
        assert not found.allowed
        assert found.rule.startswith("default")


def test_every_command_has_a_row() -> None:
    assert {name_of(command) for command in COMMANDS} <= set(policy.RULES)


def test_every_set_of_roles_has_words() -> None:
    assert {rule.who for rule in policy.RULES.values() if rule.who is not None} <= set(policy.WORDS)


@pytest.mark.parametrize("action", [name for name, rule in policy.RULES.items() if rule.who is not None])
def test_a_stranger_may_nothing_but_come_in(action: str) -> None:
    assert answer(action, KINDS[0]).refusal is not None


@pytest.mark.parametrize("action", ["user.role", "user.disable", "user.reset", "user.enable"])
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("other", ROLES)
def test_nobody_acts_on_an_equal_or_on_whoever_stands_above(action: str, role: Role, other: Role) -> None:
    admins = {Role.ADMIN: 1, Role.OWNER: 2}
    may = policy.decide(principal("ana", role=role), action, target=policy.RANK[other]).allowed

    assert may == (role in admins and admins.get(other, 0) < admins[role])


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("given", ROLES)
def test_nobody_gives_more_than_they_have(role: Role, given: Role) -> None:
    may = policy.decide(principal("ana", role=role), "user.create", grant=policy.RANK[given]).allowed

    assert may == (role is Role.OWNER or (role is Role.ADMIN and given is not Role.OWNER))


def test_a_moderator_does_not_remove_an_owner_and_an_owner_does_not_remove_an_administrator() -> None:
    members = {"usr_own": RoomRole.OWNER, "usr_mod": RoomRole.MODERATOR, "usr_adm": RoomRole.MEMBER, "usr_two": RoomRole.OWNER}
    room = RoomState("rm_1", RoomKind.PRIVATE, "room", "", 5, members)

    def removes(who: Principal, other: str, role: Role = Role.MEMBER) -> bool:
        return policy.decide(who, "member.remove", room, target=policy.level(f"usr_{other}", role, room)).allowed

    assert removes(principal("own"), "mod")
    assert not removes(principal("mod"), "own")
    assert not removes(principal("own"), "two")
    assert not removes(principal("own"), "adm", Role.ADMIN)
    assert removes(OPERATOR, "adm", Role.ADMIN)


def test_a_room_that_has_an_owner_keeps_one() -> None:
    room = RoomState("rm_1", RoomKind.PRIVATE, "room", "", 2, {"usr_ana": RoomRole.OWNER, "usr_bob": RoomRole.MEMBER})

    assert not policy.keeps_an_owner(room, "usr_ana", RoomRole.MEMBER)
    assert policy.keeps_an_owner(room, "usr_bob", RoomRole.GUEST)
    room.members["usr_bob"] = RoomRole.OWNER
    assert policy.keeps_an_owner(room, "usr_ana", RoomRole.MEMBER)


class _NobodyWaits:
    def submit(self, _operation: object, done: Any) -> None:
        done(None)


class Forge(c.Command, tag="message.forge"):
    """A command that somebody registered and forgot to give a rule."""


async def test_the_door_asks_before_any_handler_and_a_command_without_a_rule_is_nobodys() -> None:
    called: list[object] = []

    async def ask(_who: object, command: object) -> None:
        called.append(command)

    def to_operation(_who: object, command: object) -> object:
        called.append(command)
        return SimpleNamespace()

    asks = {c.UserList: ask, Forge: ask, c.RoomList: ask}
    parts: list[Any] = [
        {c.MessageSend: to_operation},
        asks,
        {},
        _NobodyWaits(),
        RateLimiter({}),
        ManualClock(),
        lambda _origin, _error: None,
    ]
    dispatcher = CommandDispatcher(*parts)
    send = c.MessageSend(room="rm_1", cmid="1", body="x")
    member, owner = principal("ana"), principal("own", role=Role.OWNER)
    for who, command, refusal in (
        (member, c.UserList(), Forbidden), (owner, Forge(), Forbidden), (OPERATOR, Forge(), Forbidden), (STRANGER, c.RoomList(), Unauthorized),
        (STRANGER, send, Unauthorized), (OPERATOR, send, Forbidden),
    ):  # fmt: skip
        with pytest.raises(refusal):
            await dispatcher.perform(who, command, "")
        answered: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        dispatcher.dispatch(who, command, "", answered.set_result)
        assert isinstance(await answered, refusal)

    assert called == []
    await dispatcher.perform(member, c.RoomList(), "")
    assert len(called) == 1
