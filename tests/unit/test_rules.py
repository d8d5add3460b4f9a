"""Small rules: names, policy, limits, tokens, retries, arguments of bots."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from securechat.auth.jwt_handler import LIFETIME_S, JWTHandler
from securechat.auth.passwords import WAITING_MAX, Passwords
from securechat.auth.rate_limiter import Rate, RateLimiter
from securechat.domain import policy, scopes
from securechat.domain.accounts import OPERATOR, STRANGER, Principal, Role, clean_name, clean_password, clean_username
from securechat.domain.commands import MessageSend, Sent
from securechat.domain.entries import Entry, EntryType
from securechat.domain.ids import DEVICE, USER, is_id, new_code, new_id
from securechat.domain.rooms import RoomKind, RoomRole, RoomState
from securechat.domain.secret import Secret
from securechat.errors import (
    ChatError,
    Forbidden,
    InvalidInput,
    NotFound,
    RateLimited,
    Unauthorized,
    Unavailable,
    all_errors,
)
from securechat.protocol import frames as f
from securechat.sdk.backoff import MOST_S, Backoff
from securechat.sdk.bot import UsageError, _Command
from securechat.sdk.errors import ConnectionLost, to_error
from securechat.sdk.outbox import Outbox
from securechat.sdk.profile import check_url
from securechat.services.messaging import check_body, check_emoji
from securechat.services.rooms import direct_room_id
from support.fakes import principal


def room(kind: RoomKind = RoomKind.PRIVATE) -> RoomState:
    return RoomState("rm_1", kind, "ops", "", 3, {"usr_ana": RoomRole.OWNER, "usr_bob": RoomRole.MEMBER})


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("text", "name"), [("  Ana   Ruiz ", "Ana Ruiz"), ("Ａna", "Ana"), ("Zoë", "Zoë"), ("日本", "日本")])
def test_a_name_has_one_form(text: str, name: str) -> None:
    assert clean_name(text, "name") == name


@pytest.mark.parametrize("text", ["", "   ", "a" * 65, "a\u202eb", "a\x00b", "a\u200bb", "\ud800"])
def test_a_name_that_cannot_be_seen_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        clean_name(text, "name")


@pytest.mark.parametrize("text", ["a", "-ana", "аna", "ana ruiz", "a" * 33, "ana@x", ""])
def test_a_username_has_one_small_alphabet(text: str) -> None:
    with pytest.raises(InvalidInput):
        clean_username(text)


def test_usernames_are_folded() -> None:
    assert clean_username(" @Ana.Ruiz ") == "ana.ruiz"


def test_a_password_is_the_same_on_every_keyboard() -> None:
    assert clean_password(Secret("cafe\u0301 au lait")) == clean_password(Secret("caf\u00e9 au lait"))


@given(st.sampled_from([USER, DEVICE]))
def test_ids_have_their_form(prefix: str) -> None:
    assert is_id(new_id(prefix), prefix)
    assert len(new_code()) == 14


def test_there_is_one_direct_room_of_two() -> None:
    assert direct_room_id("usr_1", "usr_2") == direct_room_id("usr_2", "usr_1") != direct_room_id("usr_1", "usr_3")


@pytest.mark.parametrize("body", ["   ", "\n", "a\x00b"])
def test_a_message_without_text_is_refused(body: str) -> None:
    with pytest.raises(InvalidInput):
        check_body(body)


def test_the_limit_of_a_message_counts_bytes() -> None:
    assert check_body("é" * 8_192)
    with pytest.raises(InvalidInput, match="at most 16384 bytes"):
        check_body("é" * 8_193)


@pytest.mark.parametrize("emoji", ["👍", "👩🏽‍🚀", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "1️⃣", "❤️"])
def test_emoji_are_reactions(emoji: str) -> None:
    assert check_emoji(emoji) == emoji


@pytest.mark.parametrize("text", ["ok", "1", "<b>", "👍 text", "ж"])
def test_text_is_no_reaction(text: str) -> None:
    with pytest.raises(InvalidInput):
        check_emoji(text)


# ── policy ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("state", [None, RoomState("rm_1"), room()])
def test_a_room_that_one_may_not_see_answers_as_one_that_does_not_exist(state: RoomState | None) -> None:
    for action, rule in policy.RULES.items():
        if rule.room is not None and Role.MEMBER in (rule.who or ()):
            with pytest.raises(NotFound) as refusal:
                policy.require_in(principal("eve"), action, state, "rm_1")
            assert str(refusal.value) == "No room rm_1 that you can see."


def test_a_public_room_says_that_it_has_to_be_joined() -> None:
    with pytest.raises(Forbidden):
        policy.require_in(principal("eve"), "fetch", room(RoomKind.PUBLIC), "rm_1")
    assert policy.require_in(principal("eve"), "room.join", room(RoomKind.PUBLIC), "rm_1")
    with pytest.raises(NotFound):
        policy.require_in(principal("eve"), "room.join", room(), "rm_1")


def test_only_an_owner_manages() -> None:
    for who in (principal("ana"), OPERATOR):
        assert policy.require_in(who, "room.rename", room(), "rm_1")
    with pytest.raises(Forbidden):
        policy.require_in(principal("bob"), "room.rename", room(), "rm_1")


def test_nobody_edits_what_another_wrote_and_an_owner_deletes() -> None:
    owner, member = principal("ana"), principal("bob")
    policy.require_in(member, "message.delete", room(), "rm_1", author="usr_bob")
    policy.require_in(owner, "message.delete", room(), "rm_1", author="usr_bob")
    for who, author, action in (
        (owner, "usr_bob", "message.edit"),
        (member, "usr_ana", "message.delete"),
        (member, "usr_ana", "message.edit"),
    ):
        with pytest.raises(Forbidden):
            policy.require_in(who, action, room(), "rm_1", author=author)


def test_strangers_bots_and_members_are_told_apart() -> None:
    with pytest.raises(Unauthorized):
        policy.require(STRANGER, "user.me")
    with pytest.raises(Forbidden):
        policy.require(principal("bot", role=Role.BOT), "device.revoke")
    with pytest.raises(Forbidden):
        policy.require(principal("ana"), "user.list")


@given(st.lists(st.sampled_from(["ana", "bob", "eve"]), max_size=30))
def test_the_state_of_a_room_is_what_its_log_says(names: list[str]) -> None:
    state = RoomState("rm_1")
    model: set[str] = set()
    for seq, name in enumerate(names, 1):
        kind = EntryType.MEMBER_LEFT if name in model else EntryType.MEMBER_JOINED
        model ^= {name}
        state.apply(Entry(type=kind, room="rm_1", seq=seq, at=0, user=name, member=name, role="member"))

    assert set(state.members) == model
    assert state.last_seq == len(names)


# ── limits and tokens ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_bucket_gives_its_burst_and_fills_again() -> None:
    limiter = RateLimiter({"x": Rate(burst=3, per_s=2)})
    for _ in range(3):
        limiter.take("x", "ana", 100.0)
    with pytest.raises(RateLimited) as refusal:
        limiter.take("x", "ana", 100.0)

    assert refusal.value.retry_after_ms == 501
    limiter.take("x", "bob", 100.0)
    limiter.take("x", "ana", 100.6)


@given(st.lists(st.floats(0, 5), max_size=60))
def test_no_pattern_gets_more_than_burst_plus_rate(pauses: list[float]) -> None:
    limiter, now, taken = RateLimiter({"x": Rate(burst=5, per_s=2)}), 0.0, 0
    for pause in pauses:
        now += pause
        try:
            limiter.take("x", "ana", now)
            taken += 1
        except RateLimited:
            pass

    assert taken <= 5 + 2 * now + 1e-6


def test_what_is_not_listed_is_not_limited() -> None:
    assert RateLimiter({}).take("x", "ana", 0.0) == 1.0


def test_a_token_holds_for_its_time_and_no_longer(tmp_path: Path) -> None:
    handler = JWTHandler(tmp_path / "keys.json", now=1_000)
    token = handler.issue(user_id="usr_1", device_id="dev_1", now=1_000)

    assert handler.verify(Secret(token), now=1_000 + LIFETIME_S - 1) == ("usr_1", "dev_1", 1_000 + LIFETIME_S)
    assert (tmp_path / "keys.json").stat().st_mode & 0o777 == 0o600
    with pytest.raises(Unauthorized):
        handler.verify(Secret(token), now=1_000 + LIFETIME_S)
    assert JWTHandler(tmp_path / "keys.json", now=1_000).verify(Secret(token), now=1_000)


def test_a_token_of_another_key_or_changed_or_unsigned_is_refused(tmp_path: Path) -> None:
    handler, other = JWTHandler(tmp_path / "keys.json", now=1_000), JWTHandler(tmp_path / "other.json", now=1_000)
    token = handler.issue(user_id="usr_1", device_id="dev_1", now=1_000)
    head, body, signature = token.split(".")
    none = "eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0"

    for bad in (
        other.issue(user_id="usr_1", device_id="dev_1", now=1_000),
        f"{head}.{body}.AAAA",
        f"{none}.{body}.",
        f"{head}.{body}",
        "",
        "x" * 2_000,
    ):
        with pytest.raises(Unauthorized):
            handler.verify(Secret(bad), now=1_000)
    assert signature


async def test_passwords_are_checked_and_the_queue_has_a_limit() -> None:
    passwords = Passwords(time_cost=1, memory_kib=64)
    stored = await passwords.hash(Secret("right"))

    assert await passwords.check(stored, Secret("right"))
    assert not await passwords.check(stored, Secret("wrong"))
    assert not await passwords.check(None, Secret("nobody's password"))
    waiting = [asyncio.ensure_future(passwords.check(stored, Secret("x"))) for _ in range(WAITING_MAX)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await passwords.check(stored, Secret("x"))
    await asyncio.gather(*waiting)
    passwords.close()


def test_every_error_has_its_own_code_and_comes_back_as_itself() -> None:
    errors = all_errors()

    assert len({error.code for error in errors}) == len(errors)
    for error in errors:
        assert type(to_error(f.error_frame("1", error("why", field="x")))) is error
    assert isinstance(to_error({"code": "of_a_newer_server", "detail": "why"}), ChatError)


# ── the SDK ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_backoff_grows_has_full_jitter_and_a_limit() -> None:
    backoff = Backoff()
    waits = [backoff.next() for _ in range(200)]

    assert waits[0] <= 1.0
    assert max(waits) <= MOST_S
    assert min(waits[10:]) < MOST_S / 4
    backoff.reset()
    assert backoff.next() <= 1.0


def test_passwords_do_not_travel_in_the_clear() -> None:
    assert check_url("chat.example.org/") == "https://chat.example.org"
    assert check_url("http://localhost:8080") == "http://localhost:8080"
    for bad in ("http://chat.example.org", "ftp://x", ""):
        with pytest.raises(ValueError):
            check_url(bad)


async def test_the_outbox_keeps_the_order_of_a_room_whatever_fails() -> None:
    calls: list[str] = []
    trouble = [ConnectionLost("x"), RateLimited(retry_after_ms=1), ConnectionLost("y"), Unavailable(retry_after_ms=1)]

    async def call(command: MessageSend) -> Sent:
        calls.append(command.cmid)
        if trouble:
            raise trouble.pop(0)
        return Sent(room=command.room, seq=len(set(calls)), at=0)

    outbox = Outbox(call)
    sent = [outbox.put(MessageSend(room="rm_1", cmid=str(number), body="x")) for number in range(3)]
    await outbox.flush()

    assert calls == ["0"] * 5 + ["1", "2"]
    assert [each.result().seq for each in sent] == [1, 2, 3]
    assert outbox.waiting == 0


async def test_the_log_says_once_in_a_while_that_the_rate_limit_slows_sending(caplog: pytest.LogCaptureFixture) -> None:
    trouble = [RateLimited("Too many messages.", retry_after_ms=1) for _ in range(5)]

    async def call(command: MessageSend) -> Sent:
        if trouble:
            raise trouble.pop()
        return Sent(room=command.room, seq=1, at=0)

    outbox = Outbox(call)
    with caplog.at_level(logging.INFO, "securechat.sdk.outbox"):
        outbox.put(MessageSend(room="rm_1", cmid="1", body="x"))
        await outbox.flush()

    assert [record.getMessage() for record in caplog.records] == [
        "sending waits 0.00 s, 1 messages in the queue: Too many messages."
    ]


async def test_a_refused_send_is_told_and_lets_the_next_one_go() -> None:
    async def call(command: MessageSend) -> Sent:
        if command.cmid == "bad":
            raise Forbidden("no")
        return Sent(room=command.room, seq=1, at=0)

    outbox = Outbox(call)
    bad, good = (outbox.put(MessageSend(room="rm_1", cmid=cmid, body="x")) for cmid in ("bad", "good"))
    await outbox.flush()

    assert isinstance(bad.exception(), Forbidden)
    assert good.result().seq == 1


async def test_closing_the_outbox_fails_what_waits_loudly() -> None:
    async def call(_command: Any) -> Sent:
        await asyncio.Event().wait()
        raise AssertionError

    outbox = Outbox(call)
    waiting = outbox.put(MessageSend(room="rm_1", cmid="1", body="x"))
    await asyncio.sleep(0)
    outbox.close()

    with pytest.raises(ConnectionLost):
        await waiting


async def roll(ctx: object, dice: int = 1, sides: int = 6) -> None:
    """Roll some dice."""


async def tell(ctx: object, who: str, text: str, loud: bool = False) -> None:  # noqa: FBT001, FBT002
    """Tell somebody."""


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("", {}),
        ("2", {"dice": 2}),
        ("2 20", {"dice": 2, "sides": 20}),
        ("sides:20", {"sides": 20}),
        ("sides:20 3", {"sides": 20, "dice": 3}),
    ],
)
def test_options_are_given_by_place_or_by_name(text: str, arguments: dict[str, int]) -> None:
    assert _Command("roll", roll).parse(text) == arguments


def test_quotes_hold_words_together() -> None:
    assert _Command("tell", tell).parse('bob "good morning" loud:true') == {"who": "bob", "text": "good morning", "loud": True}


@pytest.mark.parametrize("text", ["x", "1 2 3", "dice:1 dice:2"])
def test_arguments_that_do_not_fit_are_explained(text: str) -> None:
    with pytest.raises(UsageError, match=r"Usage: /roll \[dice:int\] \[sides:int\]"):
        _Command("roll", roll).parse(text)


def test_an_option_that_there_is_not_is_named() -> None:
    with pytest.raises(UsageError, match="There is no option colour"):
        _Command("roll", roll).parse("dice:2 colour:1")
    assert _Command("tell", tell).parse("bob at:noon")["text"] == "at:noon"


def test_the_annotations_are_the_definition() -> None:
    definition = _Command("roll", roll).definition

    assert (definition.name, definition.description) == ("roll", "Roll some dice.")
    assert [(option.name, option.type, option.required, option.default) for option in definition.options] == [
        ("dice", "int", False, "1"),
        ("sides", "int", False, "6"),
    ]


def test_every_scope_row_is_an_action_and_nothing_dangerous_has_one() -> None:
    assert set(scopes.SCOPES) <= set(policy.RULES)
    closed = {name for name in policy.RULES if name.split(".")[0] in CLOSED_TO_APPS}
    assert not {name for name in scopes.SCOPES if name in closed} - {
        "user.me",
        "user.get",
        "user.find",
        "user.blocks",
        "session.delete",
    }


CLOSED_TO_APPS = {
    "session", "account", "password", "factor", "totp", "passkey", "recovery", "device", "external", "provider", "oauth",
    "consent", "grant", "token", "app", "invite", "user", "bot", "setup", "backup", "server", "audit", "certificate", "storage",
    "policy", "command.set",
}  # fmt: skip


@pytest.mark.parametrize("action", sorted(policy.RULES))
def test_a_scope_only_narrows(action: str) -> None:
    room = RoomState("rm_1", RoomKind.PRIVATE, "room", "", 1, {"usr_1": RoomRole.OWNER})
    full = Principal("usr_1", "dev_1", Role.OWNER, "ana")
    for held in [frozenset({scope}) for scope in scopes.WORDS] + [scopes.ANY, frozenset[str]()]:
        scoped = msgspec.structs.replace(full, scopes=held)
        allowed = not held.isdisjoint(scopes.SCOPES.get(action, frozenset()))
        for plain, narrow in (
            (policy.at_the_door(full, action), policy.at_the_door(scoped, action)),
            (policy.decide(full, action, room), policy.decide(scoped, action, room)),
        ):
            assert narrow.allowed == (plain.allowed and allowed)


@pytest.mark.parametrize(
    "password", ["password", "Password1!", "qwertyuiop", "12345678", "87654321", "aaaaaaaa", "welcome123", "changeme2026"]
)
def test_the_commonest_passwords_are_refused(password: str) -> None:
    with pytest.raises(InvalidInput):
        clean_password(Secret(password))


@pytest.mark.parametrize("password", ["correct horse battery", "password of my grandmother", "1234 apples 5678", "x7!kd92l"])
def test_other_passwords_are_taken(password: str) -> None:
    assert clean_password(Secret(password)).reveal() == password


async def test_a_connection_that_is_lost_before_the_client_knows_it_keeps_nobody_from_finding_it_out() -> None:
    """Nothing in `call` waits then: whoever tries again at once would hold the loop for ever."""
    tries = 0
    found = asyncio.Event()

    async def call(command: MessageSend) -> Sent:
        nonlocal tries
        tries += 1
        assert tries < 1_000, "nobody else had a turn"
        if not found.is_set():
            raise ConnectionLost("closed")
        return Sent(room=command.room, seq=1, at=0)

    outbox = Outbox(call)
    sent = outbox.put(MessageSend(room="rm_1", cmid="c", body="x"))
    asyncio.get_running_loop().call_soon(asyncio.get_running_loop().call_soon, found.set)
    assert (await sent).seq == 1
