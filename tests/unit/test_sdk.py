"""The SDK's methods: one per command, each sending what its name says."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from securechat.domain import commands as c
from securechat.domain.accounts import User
from securechat.domain.entries import Entry, EntryType, Page
from securechat.domain.limits import LIMITS
from securechat.domain.secret import Secret, decode_hook, encode_hook
from securechat.errors import TooLarge, Unauthorized
from securechat.protocol import frames as f
from securechat.protocol.codec import encode_msgpack
from securechat.rest.routes import FORMS, ROUTES
from securechat.sdk import entrance
from securechat.sdk.backoff import Backoff
from securechat.sdk.client import RESUME_ROOMS, ChatClient
from securechat.sdk.commands import Commands
from securechat.sdk.entrance import Entrance
from securechat.sdk.errors import ConnectionLost, LoginRequired, Stopped
from securechat.sdk.following import EVENTS_MAX, Gap
from securechat.sdk.outbox import Outbox
from securechat.sdk.profile import Profile, ProfileToken, load_profile, save_profile
from securechat.sdk.room import Room
from securechat.sdk.transport import Closed, Transport

ROOM, ANA, BOB, DEVICE, SUB = "rm_0", "usr_ana", "usr_bob", "dev_0", "sub_0"
PEOPLE = [User(id=BOB, username="bob", display_name="Bob")]
SUMMARY = c.RoomSummary(id=ROOM, kind="public", name="ops")
SESSION = c.Session(user=PEOPLE[0], device=DEVICE, access_token="a", expires_in=600, refresh_token="r")
REPLIES: dict[type, Any] = {
    c.Sent: c.Sent(room=ROOM, seq=1, at=1),
    Page: Page(room=ROOM, entries=[], last_seq=1),
    c.ReadState: c.ReadState(room=ROOM, read_seq=1, unread=0),
    c.RoomSummary: SUMMARY,
    c.Rooms: c.Rooms(rooms=[SUMMARY]),
    c.Members: c.Members(members=[]),
    c.Users: c.Users(users=PEOPLE),
    c.BotCommands: c.BotCommands(commands=[]),
    c.Session: SESSION,
    c.Identity: c.Identity(user=PEOPLE[0], device=DEVICE),
    c.Devices: c.Devices(devices=[]),
    c.Invitation: c.Invitation(server_name="S", invited_by="Ana", rooms=[]),
    c.Invite: c.Invite(code="C", uses_left=1, expires_at=1),
    c.Invites: c.Invites(invites=[]),
    c.UserCreated: c.UserCreated(user=PEOPLE[0]),
    c.UserPage: c.UserPage(users=PEOPLE),
    c.Link: c.Link(url="u", expires_at=1),
    c.BotCreated: c.BotCreated(user=PEOPLE[0], token="t"),
    c.Explanation: c.Explanation(user=BOB, action="fetch", room=ROOM, allowed=True, rule="r"),
    c.AuditPage: c.AuditPage(records=[], names={}),
    c.PasskeyOptions: c.PasskeyOptions(ticket="t", options={}),
    c.TotpSecret: c.TotpSecret(ticket="t", secret="s", uri="u"),
    c.Factors: c.Factors(totp=False, passkeys=[], recovery_codes=0, required=False, confirmed=True),
    c.RecoveryCodes: c.RecoveryCodes(recovery_codes=["A"]),
    c.Providers: c.Providers(providers=[]),
    c.ProviderStart: c.ProviderStart(url="u", state="s", ticket="t"),
    c.ProviderOutcome: c.ProviderOutcome(ticket="t", known=True),
    c.ExternalAccounts: c.ExternalAccounts(externals=[]),
    c.Consent: c.Consent(app="app_0", name="N", scopes=[]),
    c.ConsentAnswer: c.ConsentAnswer(url="u"),
    c.Grants: c.Grants(grants=[]),
    c.PersonalTokens: c.PersonalTokens(tokens=[]),
    c.TokenCreated: c.TokenCreated(
        token=c.PersonalToken(id=DEVICE, name="N", scopes=["profile"], created_at=1, expires_at=2), secret="s"
    ),
    c.Apps: c.Apps(apps=[]),
    c.AppCreated: c.AppCreated(
        app=c.App(id="app_0", name="N", redirect_uris=[], scopes=[], confidential=False, device_flow=True, created_at=1)
    ),
    c.Subscriptions: c.Subscriptions(subscriptions=[]),
    c.SubscriptionCreated: c.SubscriptionCreated(
        subscription=c.Subscription(
            id=SUB,
            room=ROOM,
            url="u",
            types=[],
            state="active",
            reason="",
            cursor=1,
            behind=0,
            dead_letters=0,
            attempts=0,
            next_at=0,
            failing_since=0,
            delivered_at=0,
            created_by=ANA,
            created_at=1,
        ),
        secret="s",
    ),
    c.DeadLetters: c.DeadLetters(letters=[]),
    c.DeadLettersTaken: c.DeadLettersTaken(count=1),
    c.Done: c.Done(),
}


class Recorder(Commands):
    """Answers everything, and keeps what was asked."""

    def __init__(self) -> None:
        self.outbox = Outbox(self.call)
        self.blocked: set[str] = set()
        self.asked: list[c.Command] = []
        self.room = Room(self, SUMMARY)
        self.entrance = Entrance("https://chat.example.org")

    async def call(self, command: c.Command) -> Any:
        self.asked.append(command)
        return REPLIES[c.REPLIES[type(command)]]


Method = Callable[[Recorder], Awaitable[Any]]
CASES: list[tuple[c.Command, Method]] = [
    (c.MessageSend(room=ROOM, cmid="c", body="hi", reply_to=1), lambda x: x.room.send("hi", cmid="c", reply_to=1)),
    (c.MessageEdit(room=ROOM, seq=1, body="ho"), lambda x: x.room.edit(1, "ho")),
    (c.MessageDelete(room=ROOM, seq=1), lambda x: x.room.delete(1)),
    (c.ReactionAdd(room=ROOM, seq=1, emoji="👍"), lambda x: x.room.react(1, "👍")),
    (c.ReactionRemove(room=ROOM, seq=1, emoji="👍"), lambda x: x.room.unreact(1, "👍")),
    (c.Fetch(room=ROOM, around=7, limit=3), lambda x: x.room.page(around=7, limit=3)),
    (c.ReadMark(room=ROOM, seq=1, back=True), lambda x: x.room.mark_read(1, back=True)),
    (c.TypingStart(room=ROOM), lambda x: x.room.typing()),
    (c.RoomUpdate(room=ROOM, topic="t"), lambda x: x.room.update(topic="t")),
    (c.RoomJoin(room=ROOM), lambda x: x.room.join()),
    (c.RoomLeave(room=ROOM), lambda x: x.room.leave()),
    (c.MemberList(room=ROOM), lambda x: x.room.members()),
    (c.MemberAdd(room=ROOM, user=BOB), lambda x: x.room.add(BOB)),
    (c.MemberRemove(room=ROOM, user=BOB), lambda x: x.room.remove(BOB)),
    (c.MemberRole(room=ROOM, user=BOB, role="guest"), lambda x: x.room.set_role(BOB, "guest")),
    (c.RoomPermit(room=ROOM, action="message.send", role="owner"), lambda x: x.room.permit("message.send", "owner")),
    (
        c.SubscriptionCreate(room=ROOM, url="https://x", types=["message.sent"]),
        lambda x: x.room.subscribe("https://x", types=["message.sent"]),
    ),
    (c.SubscriptionList(room=ROOM), lambda x: x.room.subscriptions()),
    (c.SubscriptionDelete(room=ROOM, subscription=SUB), lambda x: x.room.unsubscribe(SUB)),
    (c.SubscriptionPause(room=ROOM, subscription=SUB), lambda x: x.room.pause_subscription(SUB)),
    (c.SubscriptionResume(room=ROOM, subscription=SUB), lambda x: x.room.resume_subscription(SUB)),
    (c.SubscriptionRotate(room=ROOM, subscription=SUB, keep_hours=3), lambda x: x.room.rotate_subscription(SUB, keep_hours=3)),
    (c.DeadLetterList(room=ROOM, subscription=SUB, after=2, limit=3), lambda x: x.room.dead_letters(SUB, after=2, limit=3)),
    (c.DeadLetterReplay(room=ROOM, subscription=SUB, seq=3), lambda x: x.room.replay_dead_letters(SUB, 3)),
    (c.DeadLetterDrop(room=ROOM, subscription=SUB), lambda x: x.room.drop_dead_letters(SUB)),
    (c.CommandList(room=ROOM), lambda x: x.room.commands()),
    (
        c.RoomCreate(name="ops", kind="public", topic="t", members=[BOB]),
        lambda x: x.create_room("ops", kind="public", topic="t", members=[BOB]),
    ),
    (c.RoomDirect(user=BOB), lambda x: x.direct(BOB)),
    (c.RoomList(), lambda x: x.list_rooms()),
    (c.RoomBrowse(query="o", cursor="n", limit=3), lambda x: x.browse_rooms("o", cursor="n", limit=3)),
    (c.RoomGet(room=ROOM), lambda x: x.get_room(ROOM)),
    (c.RoomLookup(name="ops"), lambda x: x.lookup_room("ops")),
    (c.UserGet(users=[BOB]), lambda x: x.get_users([BOB])),
    (c.UserFind(query="b", limit=3), lambda x: x.find_users("b", limit=3)),
    (c.UserBlock(user=BOB), lambda x: x.block(BOB)),
    (c.UserUnblock(user=BOB), lambda x: x.unblock(BOB)),
    (c.UserBlocks(), lambda x: x.list_blocks()),
    (c.Me(), lambda x: x.me()),
    (c.UserUpdate(display_name="B"), lambda x: x.update_me("B")),
    (c.DeviceList(), lambda x: x.list_devices()),
    (c.DeviceRevoke(device=DEVICE), lambda x: x.revoke_device(DEVICE)),
    (c.SessionDelete(), lambda x: x.end_session()),
    (c.CommandSet(commands=[c.BotCommand(name="roll")]), lambda x: x.set_commands([c.BotCommand(name="roll")])),
    (c.InviteCreate(uses=2, expires_s=60, rooms=[ROOM]), lambda x: x.create_invite(uses=2, expires_s=60, rooms=[ROOM])),
    (c.InviteList(), lambda x: x.list_invites()),
    (c.InviteRevoke(code=Secret("C")), lambda x: x.revoke_invite("C")),
    (
        c.UserCreate(username="bob", display_name="B", password=Secret("12345678"), role="admin"),
        lambda x: x.create_user("bob", display_name="B", password="12345678", role="admin"),
    ),
    (c.UserList(cursor="b", limit=3), lambda x: x.list_users(cursor="b", limit=3)),
    (c.UserDisable(user=BOB), lambda x: x.disable_user(BOB)),
    (c.UserEnable(user=BOB), lambda x: x.enable_user(BOB)),
    (c.UserReset(user=BOB), lambda x: x.reset_user(BOB)),
    (c.BotCreate(username="b", display_name="B", rooms=[ROOM]), lambda x: x.create_bot("b", display_name="B", rooms=[ROOM])),
    (c.BotRotate(user=BOB), lambda x: x.rotate_bot(BOB)),
    (c.BotRevoke(user=BOB), lambda x: x.revoke_bot(BOB)),
    (c.UserRole(user=BOB, role="guest"), lambda x: x.change_role(BOB, "guest")),
    (c.PolicyExplain(action="fetch", user=BOB, room=ROOM), lambda x: x.explain("fetch", user_id=BOB, room_id=ROOM)),
    (c.AuditList(before=9, action="user.", limit=3), lambda x: x.list_audit(before=9, action="user.", limit=3)),
    (
        c.SetupComplete(token=Secret("t"), username="b", password=Secret("p"), display_name="B", server_name="S", device_name="D"),
        lambda x: x.entrance.set_up("t", "b", "p", display_name="B", server_name="S", device_name="D"),
    ),
    (c.InviteGet(code=Secret("C")), lambda x: x.entrance.see_invite("C")),
    (
        c.AccountRegister(code=Secret("C"), username="b", password=Secret("p"), display_name="B", device_name="D"),
        lambda x: x.entrance.register("C", "b", "p", display_name="B", device_name="D"),
    ),
    (c.SessionCreate(username="b", password=Secret("p"), device_name="D"), lambda x: x.entrance.log_in("b", "p", device_name="D")),
    (c.SessionRefresh(refresh_token=Secret("r")), lambda x: x.entrance.refresh("r")),
    (c.PasswordReset(token=Secret("t"), password=Secret("p")), lambda x: x.entrance.reset_password("t", "p")),
    (c.PasskeyChallenge(), lambda x: x.entrance.passkey_challenge()),
    (
        c.SessionPasskey(ticket="t", credential={"id": "i"}, device_name="D"),
        lambda x: x.entrance.log_in_by_passkey("t", {"id": "i"}, device_name="D"),
    ),
    (c.SessionConfirm(password=Secret("p"), code=Secret("1")), lambda x: x.confirm("p", code="1")),
    (c.PasswordChange(current=Secret("p"), password=Secret("q")), lambda x: x.change_password("p", "q")),
    (c.FactorList(), lambda x: x.list_factors()),
    (c.TotpBegin(), lambda x: x.begin_totp()),
    (c.TotpConfirm(ticket="t", code=Secret("1")), lambda x: x.confirm_totp("t", "1")),
    (c.TotpRemove(), lambda x: x.remove_totp()),
    (c.PasskeyBegin(), lambda x: x.begin_passkey()),
    (c.PasskeyAdd(ticket="t", credential={"id": "i"}, name="N"), lambda x: x.add_passkey("t", {"id": "i"}, name="N")),
    (c.PasskeyRemove(passkey="P"), lambda x: x.remove_passkey("P")),
    (c.RecoveryCreate(), lambda x: x.create_recovery_codes()),
    (c.FactorClear(user=BOB), lambda x: x.clear_factors(BOB)),
    (c.ProviderList(), lambda x: x.entrance.list_providers()),
    (c.ProviderBegin(provider="p", origin="o"), lambda x: x.entrance.begin_provider("p", origin="o")),
    (
        c.ProviderFinish(provider="p", ticket="t", state="s", code=Secret("c"), iss="i"),
        lambda x: x.entrance.finish_provider("p", "t", state="s", code="c", iss="i"),
    ),
    (
        c.SessionProvider(ticket="t", code=Secret("1"), device_name="D"),
        lambda x: x.entrance.log_in_by_provider("t", code="1", device_name="D"),
    ),
    (
        c.AccountProvider(ticket="t", username="b", display_name="B", code=Secret("C"), device_name="D"),
        lambda x: x.entrance.register_by_provider("t", "b", code="C", display_name="B", device_name="D"),
    ),
    (c.ExternalList(), lambda x: x.list_externals()),
    (c.ExternalBegin(provider="p", origin="o"), lambda x: x.begin_external("p", origin="o")),
    (
        c.ExternalAdd(provider="p", ticket="t", state="s", code=Secret("c"), iss="i"),
        lambda x: x.add_external("p", "t", state="s", code="c", iss="i"),
    ),
    (c.ExternalRemove(external="ext_0"), lambda x: x.remove_external("ext_0")),
    (c.ConsentGet(user_code=Secret("c")), lambda x: x.get_consent(c.ConsentGet(user_code=Secret("c")))),
    (
        c.ConsentGive(user_code=Secret("c"), approve=True),
        lambda x: x.give_consent(c.ConsentGive(user_code=Secret("c"), approve=True)),
    ),
    (c.GrantList(), lambda x: x.list_grants()),
    (c.GrantRevoke(app="app_0"), lambda x: x.revoke_grant("app_0")),
    (c.TokenCreate(name="N", scopes=["profile"], expires_days=3), lambda x: x.create_token("N", ["profile"], expires_days=3)),
    (c.TokenList(), lambda x: x.list_tokens()),
    (c.TokenRevoke(token=DEVICE), lambda x: x.revoke_token(DEVICE)),
    (
        c.AppCreate(name="N", scopes=["profile"], redirect_uris=["https://a.example/"], confidential=True, device_flow=True),
        lambda x: x.create_app("N", ["profile"], redirect_uris=["https://a.example/"], confidential=True, device_flow=True),
    ),
    (c.AppList(), lambda x: x.list_apps()),
    (c.AppDelete(app="app_0"), lambda x: x.delete_app("app_0")),
]


OPERATORS = {
    "setup.link",
    "backup.create",
    "server.status",
    "certificate.get",
    "certificate.renew",
    "audit.prune",
    "storage.status",
    "storage.rotate",
    "storage.shred",
    "token.key.list",
    "token.key.rotate",
    "subscription.overview",
}


def test_every_command_of_people_and_bots_has_a_method() -> None:
    """What has no path in REST is the operator's, or an app's."""
    people_and_bots = {route.command for route in ROUTES}

    assert {type(command) for command, _ in CASES} == people_and_bots
    assert {f.name_of(command) for command in {*f.COMMANDS} - people_and_bots - {route.command for route in FORMS}} == OPERATORS


@pytest.mark.parametrize(
    ("command", "method"), CASES, ids=lambda each: f.name_of(type(each)) if isinstance(each, c.Command) else ""
)
async def test_a_method_sends_its_command_and_nothing_else(command: c.Command, method: Method, monkeypatch: Any) -> None:
    recorder = Recorder()

    async def ask_openly(url: str, asked: c.Command, ca: str) -> Any:
        assert (url, ca) == ("https://chat.example.org", "")
        return await recorder.call(asked)

    monkeypatch.setattr(entrance, "ask_openly", ask_openly)
    await method(recorder)
    (asked,) = recorder.asked
    if getattr(command, "cmid", "") is None:
        asked.cmid = None  # type: ignore[attr-defined]  # made anew for each change

    assert asked == command
    assert (
        msgspec.json.decode(msgspec.json.encode(asked, enc_hook=encode_hook), type=type(command), dec_hook=decode_hook) == command
    )  # within the bounds


def test_the_reference_names_a_method_for_every_command() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/sdk.md").read_text()
    found = dict(re.findall(r"^\| `([a-z.]+)` \| `([a-z]+\.[a-z_]+)\(", page, re.MULTILINE))
    homes = {"room": Room, "chat": ChatClient, "entrance": Entrance}

    assert found.keys() == {f.name_of(route.command) for route in ROUTES}
    for method in found.values():
        home, _, name = method.partition(".")
        assert callable(getattr(homes[home], name, None)), method


async def test_members_of_a_large_room_are_asked_for_page_after_page() -> None:
    def page(*names: str, cursor: str | None = None) -> c.Members:
        people = [User(id=f"usr_{name}", username=name, display_name=name.title()) for name in names]
        return c.Members(members=[c.Member(user=each, role="member", presence="offline") for each in people], next_cursor=cursor)

    pages = {"": page("bob", "eve", cursor="usr_eve"), "usr_eve": page("ana", cursor="usr_ana"), "usr_ana": page("dan")}

    class Large(Recorder):
        async def call(self, command: c.Command) -> Any:
            assert isinstance(command, c.MemberList)
            return pages[command.cursor]

    assert [each.user.username for each in await Large().room.members()] == ["ana", "bob", "dan", "eve"]


async def test_blocks_are_known_at_once() -> None:
    recorder = Recorder()
    await recorder.block(BOB)
    assert recorder.blocked == {BOB}
    await recorder.unblock(BOB)
    assert recorder.blocked == set()


# ── unread counts ────────────────────────────────────────────────────────────────────────────────────────────────────


class NoTransport:
    async def send(self, *frames: Any) -> None:
        """Nobody listens."""

    def authenticated(self) -> None:
        """Nothing to do."""


def ready_client(**summary: Any) -> ChatClient:
    client = ChatClient("https://chat.example.org", "sc_bot_x")
    room = c.RoomSummary(id=ROOM, kind="public", name="ops", **summary)
    user = User(id=ANA, username="ana", display_name="Ana")
    client._start_session(f.Ready(user=user, device=DEVICE, rooms=[room], resumed=True), NoTransport(), {})  # type: ignore[arg-type]
    return client


async def take(client: ChatClient, seq: int, user: str = BOB, kind: EntryType = EntryType.MESSAGE_SENT) -> None:
    await client._take(Entry(type=kind, room=ROOM, seq=seq, at=1, user=user, body="x"), NoTransport())  # type: ignore[arg-type]


async def test_unread_counts_the_messages_of_others_and_the_servers_word_wins() -> None:
    client = ready_client(last_seq=4, unread=2)
    summary = client.rooms[ROOM].summary
    await take(client, 5)
    await take(client, 6, user=ANA)
    await take(client, 7, kind=EntryType.REACTION_ADDED)
    assert (summary.unread, summary.last_seq) == (3, 7)
    await client._take(f.SignalFrame(type="read.updated", room=ROOM, read_seq=7, unread=0), NoTransport())  # type: ignore[arg-type]
    assert (summary.unread, summary.read_seq) == (0, 7)


async def test_what_the_summary_has_counted_is_not_counted_again_on_resume() -> None:
    client = ready_client(last_seq=9, unread=3, resumed=True)
    client._following._seen[ROOM] = 6
    for seq in (7, 8, 9, 10):
        await take(client, seq)

    assert client.rooms[ROOM].summary.unread == 4
    assert client.rooms[ROOM].summary.last_seq == 10


async def test_unread_stops_at_the_limit() -> None:
    client = ready_client(last_seq=4, unread=LIMITS.unread)
    await take(client, 5)

    assert client.rooms[ROOM].summary.unread == LIMITS.unread


# ── a reader that is slow ───────────────────────────────────────────────────────────────────────────────────────────


async def next_event(client: ChatClient) -> Any:
    client._runner = client._runner or asyncio.create_task(asyncio.Event().wait())  # type: ignore[arg-type]
    return await asyncio.wait_for(client._next_event(), 5)


async def test_a_room_that_opens_while_nobody_reads_is_told_as_a_gap() -> None:
    client = ready_client(last_seq=0)
    while not client._following.events.full():
        client._following.events.put_nowait(f.SignalFrame(type="typing.started", room=ROOM, user=BOB))
    opened = f.SignalFrame(type="room.opened", summary=c.RoomSummary(id="rm_1", kind="public", name="new"))
    await client._take(opened, NoTransport())  # type: ignore[arg-type]
    entry = Entry(type=EntryType.MESSAGE_SENT, room="rm_1", seq=1, at=1, user=BOB, body="x")
    await client._take(entry, NoTransport())  # type: ignore[arg-type]
    seen = [await next_event(client) for _ in range(EVENTS_MAX + 1)]
    assert client._runner is not None
    client._runner.cancel()

    assert seen[-1] == Gap("rm_1", 0)


# ── logging out ──────────────────────────────────────────────────────────────────────────────────────────────────────


def kept(path: Path) -> ChatClient:
    save_profile(Profile(url="https://chat.example.org", username="ana", refresh_token="r"), path)
    return ChatClient(profile=path)


@pytest.mark.parametrize(
    ("ends", "raised"),
    [
        ([c.Done()], None),
        ([ConnectionLost("closed"), LoginRequired("ended")], None),  # the close was faster than the answer
        ([ConnectionLost("closed"), c.Done()], None),
        ([Stopped("replaced")], Stopped),
        ([Unauthorized("no")], Unauthorized),
    ],
)
async def test_logging_out_forgets_the_tokens_whatever_happens(
    ends: list[Any], raised: type[Exception] | None, tmp_path: Path, monkeypatch: Any
) -> None:
    path = tmp_path / "profile.json"
    client = kept(path)

    async def call(command: c.Command) -> Any:
        assert isinstance(command, c.SessionDelete)
        await asyncio.sleep(0)
        answer = ends.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(client, "call", call)
    if raised is None:
        await client.log_out()
    else:
        with pytest.raises(raised):
            await client.log_out()

    assert not ends
    with pytest.raises(LoginRequired):
        load_profile(path)


async def test_a_frame_that_would_end_the_connection_is_not_sent() -> None:
    class Socket:
        async def send(self, data: bytes) -> None:
            raise AssertionError(len(data))

    hello = f.Hello(protocol=1, server="S", version="0", time=0, heartbeat_s=20, limits=LIMITS)
    transport = Transport(Socket(), None)  # type: ignore[arg-type]
    transport.hello = hello
    with pytest.raises(TooLarge):
        await transport.send(c.MessageSend(room=ROOM, cmid="c", body="x" * LIMITS.websocket_message_bytes))


# ── what ends a connection, and what that says about the token ───────────────────────────────────────────────────────


class Scripted:
    """A transport that receives what the test says; an exception is raised, and after the last step nothing comes."""

    session = None

    room = 8_187
    """What a stranger's record holds."""

    def __init__(self, *steps: Any) -> None:
        self.steps: asyncio.Queue[Any] = asyncio.Queue()
        self.sent: list[Any] = []
        for step in steps:
            self.steps.put_nowait(step)

    async def tell(self, step: Any) -> None:
        await self.steps.put(step)

    async def send(self, *frames: Any) -> None:
        self.sent += frames

    async def receive(self) -> list[Any]:
        step = await self.steps.get()
        if isinstance(step, Exception):
            raise step
        return [step]

    def authenticated(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Scripted]:
    """The transports that a client gets, one after the other, without a wait between them."""
    waiting: list[Scripted] = []
    opened = iter(waiting)

    async def open_one(*_: object) -> Scripted:
        return next(opened)

    monkeypatch.setattr(Transport, "open", open_one)
    monkeypatch.setattr(Backoff, "next", lambda _: 0.0)
    return waiting


def ready(*rooms: c.RoomSummary) -> f.Ready:
    return f.Ready(user=User(id=BOB, username="bob", display_name="Bob"), device=DEVICE, rooms=list(rooms), resumed=True)


REFUSED_TOKEN = f.ErrorFrame(id="auth", code="unauthorized", title="", status=401, detail="no")


async def test_a_bots_token_is_good_until_the_server_answers_that_it_is_not(connections: list[Scripted]) -> None:
    connections += [Scripted(Closed(4401)), Scripted(ready(), Closed(4401)), Scripted(ready(SUMMARY))]
    async with ChatClient("https://chat.example.org", "sc_bot_x") as client:
        await arrived(client, connects=2)
        assert client.rooms.keys() == {ROOM}

    connections.append(Scripted(REFUSED_TOKEN))
    with pytest.raises(LoginRequired):
        await asyncio.wait_for(ChatClient("https://chat.example.org", "sc_bot_x").start(), 5)


async def test_a_hint_that_nobody_proved_is_waited_for_and_nothing_more(
    connections: list[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    hints = [Closed(1006, "4409", wait_s=60.0) for _ in range(3)]

    async def open_one(*_: object) -> Scripted:
        if hints:
            raise hints.pop()
        return connections[0]

    async def wait(_self: ChatClient, seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(Transport, "open", open_one)
    monkeypatch.setattr(ChatClient, "_wait", wait)
    connections.append(Scripted(ready()))
    async with ChatClient("https://chat.example.org", "sc_bot_x"):
        assert waits == [60.0] * 3


async def test_a_4401_that_ends_a_connection_asks_for_a_fresh_token_of_a_person(
    connections: list[Scripted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = iter(("first", "second"))

    async def renew(self: ProfileToken) -> None:
        self._access, self._until = next(tokens), float("inf")

    monkeypatch.setattr(ProfileToken, "_renew", renew)
    connections += [Scripted(ready(), Closed(4401)), Scripted(ready())]
    client = kept(tmp_path / "profile.json")
    async with client:
        await arrived(client, connects=2)

    assert [each.sent[0].token.reveal() for each in connections] == ["first", "second"]


async def test_what_is_resumed_beyond_a_strangers_record_is_asked_for_after_ready(connections: list[Scripted]) -> None:
    held = {f"rm_{number:016}": number + 1 for number in range(400)}
    rooms = [c.RoomSummary(id=room, kind="public", last_seq=seq + 2) for room, seq in held.items()]
    only = connections
    only.append(Scripted())
    client = ChatClient("https://chat.example.org", "sc_bot_" + "x" * 40, resume=held)
    starting = asyncio.create_task(client.start())
    async with asyncio.timeout(5):
        while not only[0].sent:
            await asyncio.sleep(0)
        auth = only[0].sent[0]
        assert len(encode_msgpack([auth])) <= only[0].room
        for room in rooms:
            room.resumed = True if room.id in auth.resume else None
        await only[0].tell(ready(*rooms))
        await starting

        # What comes live in a room that was not resumed yet is neither shown nor asked for on its own.
        late = next(room for room in held if room not in auth.resume)
        await only[0].tell(Entry(type=EntryType.MESSAGE_SENT, room=late, seq=held[late] + 3, at=1, user=BOB, body="x"))
        asked = dict(auth.resume)
        for at in itertools.count(1):
            while len(only[0].sent) <= at:
                await asyncio.sleep(0)
            assert len(only[0].sent) == at + 1, "one at a time"
            resume = only[0].sent[at]
            assert isinstance(resume, f.Resume)
            assert len(resume.rooms) <= RESUME_ROOMS
            if at == 1:  # The server may say: not so fast.
                await only[0].tell(
                    f.ErrorFrame(id=resume.id, code="rate_limited", title="", status=429, detail="", retry_after_ms=1)
                )
                continue
            asked |= resume.rooms
            await only[0].tell(f.Reply(id=resume.id, data={"rooms": dict.fromkeys(resume.rooms, True)}))
            if len(asked) == len(held):
                break
    assert asked == held
    assert client.seen == held
    await client.close()


async def arrived(client: ChatClient, *, connects: int) -> None:
    async with asyncio.timeout(5):
        while client.connects < connects:
            await asyncio.sleep(0)


async def test_while_a_connection_closes_nobody_asks_on_it(connections: list[Scripted]) -> None:
    closing, closed = asyncio.Event(), asyncio.Event()

    class Slow(Scripted):
        async def close(self) -> None:
            closing.set()
            await closed.wait()

    connections += [Slow(ready(), Closed(1006, "gone")), Scripted(ready())]
    client = ChatClient("https://chat.example.org", "sc_bot_x")
    try:
        await client.start()
        await closing.wait()
        assert not client.connected
        closed.set()
        async with asyncio.timeout(5):
            while not client.connected:
                await asyncio.sleep(0.01)
    finally:
        closed.set()
        await client.close()
