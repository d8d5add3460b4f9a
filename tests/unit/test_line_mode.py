"""The terminal without a server: links, lines, help, what an entry looks like."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from securechat.cli import line_mode, line_screen
from securechat.cli.durations import seconds_of
from securechat.cli.line_commands import LINES
from securechat.cli.line_mode import LineMode
from securechat.cli.line_screen import Screen
from securechat.cli.line_table import GROUPS, help_text
from securechat.cli.show import entry_line
from securechat.cli.signin import Link, log_in, read_link
from securechat.domain import commands as c
from securechat.domain.accounts import User
from securechat.domain.entries import Edited, Entry, EntryType
from securechat.errors import Shutdown
from securechat.protocol.frames import SignalFrame
from securechat.sdk.room import Room

ROOM, ANA, BOB = "rm_0", "usr_ana", "usr_bob"
PIN, OTHER = "ab" * 32, "cd" * 32
NAMES = {ANA: "@ana", BOB: "@bob"}


@pytest.mark.parametrize(
    ("text", "link"),
    [
        ("chat.example.org", Link("https://chat.example.org")),
        ("https://chat.example.org/rooms", Link("https://chat.example.org")),
        ("http://localhost:8080/setup#t=sc_lnk_1", Link("http://localhost:8080", "set_up", "sc_lnk_1")),
        ("https://chat.example.org:8443/i/AB-CD/", Link("https://chat.example.org:8443", "register", "AB-CD")),
        ("chat.example.org/reset#t=sc_lnk_2", Link("https://chat.example.org", "reset", "sc_lnk_2")),
        (f"chat.example.org/reset#pin={PIN},t=sc_lnk_2", Link("https://chat.example.org", "reset", "sc_lnk_2", (PIN,))),
        (f"chat.example.org/setup#t=x&pin={PIN.upper()}&pin=no", Link("https://chat.example.org", "set_up", "x", (PIN,))),
        (f"chat.example.org/i/AB-CD#pin={PIN},pin={OTHER}", Link("https://chat.example.org", "register", "AB-CD", (PIN, OTHER))),
        (f"chat.example.org#pin={PIN}", Link("https://chat.example.org", pins=(PIN,))),
    ],
)
def test_a_link_says_what_it_is_for(text: str, link: Link) -> None:
    assert read_link(text) == link


@pytest.mark.parametrize("text", ["https://chat.example.org/setup", "http://chat.example.org/i/X", "ftp://x", "", " "])
def test_half_a_link_and_an_unprotected_one_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_link(text)


def test_a_password_in_the_place_of_an_address_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="there is a space in it") as refused:
        read_link("long enough pass")
    assert "enough" not in str(refused.value)
    with pytest.raises(Shutdown, match="SERVER is empty") as ended:
        log_in("", username="bob")
    assert ended.value.code == 64
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("text", "seconds"), [("30m", 1_800), ("12h", 43_200), ("7d", 604_800), ("2w", 1_209_600)])
def test_durations_are_written_as_people_do(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "7 d", "-7d", "٣d", "7days"])
def test_other_durations_are_none(text: str) -> None:
    assert seconds_of(text) is None


def test_every_line_is_in_the_help_and_fits_a_narrow_terminal() -> None:
    text = help_text()
    assert {each.group for each in LINES.values()} == GROUPS.keys()
    for found in LINES.values():
        assert text.count(f"  {found.usage}  ") == 1, found.usage
    assert max(len(each) for each in text.splitlines()) <= 100
    assert help_text("/invite revoke").count("/invite") == 1
    assert help_text("server").splitlines()[0] == GROUPS["server"]
    assert "no /nothing" in help_text("nothing")


def test_the_reference_lists_every_line() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/cli.md").read_text()
    for name in LINES:
        assert f"`{name}`" in page, name


@pytest.mark.parametrize(
    ("name", "least"),
    [("/edit", 2), ("/history", 0), ("/history before", 1), ("/create", 1), ("/invite create", 0), ("/bot create", 1)],
)
def test_a_line_knows_its_name_and_how_many_words_it_needs(name: str, least: int) -> None:
    assert LINES[name].least == least


def shown(room: str = "#ops", **fields: Any) -> str:
    entry = Entry(room=ROOM, seq=7, at=0, **({"type": EntryType.MESSAGE_SENT, "user": BOB} | fields))
    return entry_line(entry, room, lambda user: NAMES.get(user or "", "someone"), {"usr_eve"}).partition(":")[2][3:]


def test_an_entry_is_one_line() -> None:
    assert shown(body="hi", reply_to=3, reactions={"👍": [ANA, BOB]}) == "@bob (to 3): hi  👍2"
    assert shown(body="hi", edited=Edited(seq=9, at=0, body="ho")) == "@bob: ho (edited)"
    assert shown(deleted=9) == "@bob: (deleted)"
    assert shown(body="read me", user="usr_eve") == "someone: (blocked)"
    assert shown(type=EntryType.MESSAGE_EDITED, target=3, body="ho") == "@bob changed 3: ho"
    assert shown(type=EntryType.MESSAGE_EDITED, target=3, deleted=9) == "@bob changed 3 (deleted)"
    assert shown(type=EntryType.ROOM_CREATED) == "@bob created the room"
    assert shown("@bob", type=EntryType.ROOM_CREATED) == "@bob began the conversation"
    assert shown(type=EntryType.MEMBER_JOINED, member=BOB) == "@bob joined"
    assert shown(type=EntryType.MEMBER_JOINED, member=ANA) == "@ana joined (brought in by @bob)"
    assert shown(type=EntryType.MEMBER_REMOVED, member=ANA) == "@ana was removed by @bob"
    assert shown(type=EntryType.ROOM_UPDATED, name="new", topic="") == "@bob renamed the room new and removed the topic"
    assert shown(type=EntryType.ROOM_UPDATED, topic="What runs") == "@bob set the topic: What runs"


def test_a_text_cannot_act_on_the_terminal() -> None:
    assert shown(body="\x1b[31mred\r\u202eetirw\nmore") == "@bob: \ufffd[31mred\ufffd\ufffdetirw\n    more"


class Silent:
    """A client of which nothing is asked."""

    def __init__(self) -> None:
        self.blocked: set[str] = set()
        self.connected = True
        self.rooms: dict[str, Room] = {}


async def test_typing_is_told_once_a_burst_and_only_to_somebody_who_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    now = 100.0
    monkeypatch.setattr(line_screen, "note", notes.append)
    monkeypatch.setattr(line_screen, "time", SimpleNamespace(monotonic=lambda: now))
    client: Any = Silent()
    screen = Screen(client)
    screen._names = {
        BOB: User(id=BOB, username="bob", display_name="Bob"),
        "usr_eve": User(id="usr_eve", username="eve", display_name="Eve"),
    }
    screen.room = Room(client, c.RoomSummary(id=ROOM, kind="public", name="ops"))

    async def typing(at: float, *, user: str = BOB, room: str = ROOM) -> int:
        nonlocal now
        now = at
        await screen.show_signal(SignalFrame(type="typing.started", room=room, user=user))
        return len(notes)

    screen._watched = False
    assert await typing(100) == 0
    screen._watched = True
    assert [await typing(at) for at in (101, 103, 105, 110.9)] == [1, 1, 1, 1]
    assert await typing(117) == 2
    assert await typing(117, room="rm_1") == 2
    await screen.show_entry(Entry(type=EntryType.MESSAGE_SENT, room=ROOM, seq=1, at=0, user=BOB, body="x"))
    client.blocked = {"usr_eve"}
    assert await typing(118, user="usr_eve") == 2
    assert notes == ["── @bob is typing…"] * 2


class Posting(Room):
    """A room whose bots answer to /roll, and that keeps what is sent to it."""

    def __init__(self, client: Any) -> None:
        super().__init__(client, c.RoomSummary(id=ROOM, kind="public", name="ops"))
        self.posted: list[str] = []

    async def commands(self) -> list[c.BotCommand]:
        return [c.BotCommand(name="roll")]

    def post(self, body: str, **_more: Any) -> asyncio.Future[c.Sent]:
        self.posted.append(body)
        return asyncio.get_running_loop().create_future()


@pytest.mark.parametrize(
    ("line", "sent"),
    [
        ("hello", "hello"),
        ("/roll 2", "/roll 2"),
        ("/rol 2", None),
        ("/Quit", None),
        ("/shrug", None),
        ("/invite", None),
        ("//shrug and go", "/shrug and go"),
        ("//help", "/help"),
        ("/etc/hosts is gone", "/etc/hosts is gone"),
        ("/ alone", "/ alone"),
        ("// a remark", "// a remark"),
    ],
)
async def test_a_command_that_nobody_knows_is_not_sent(line: str, sent: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr(line_mode, "note", notes.append)
    client: Any = Silent()
    mode = LineMode(client)
    mode.screen.room = room = Posting(client)

    await mode._line(line)

    assert room.posted == ([] if sent is None else [sent])
    assert bool(notes) == (sent is None)
    if line == "/rol 2":
        assert notes == [
            "error: there is no /rol here, and nothing was sent. Do you mean /roll?\n       //rol sends it as a message."
        ]


@pytest.mark.parametrize("line", ["/who", "/create --private secret", "/rooms"])
async def test_a_command_without_a_connection_is_refused_at_once(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr(line_mode, "note", notes.append)
    client: Any = Silent()
    client.connected = False
    await asyncio.wait_for(LineMode(client)._line(line), 2)
    assert notes == ["error: not connected, trying again; /quit leaves"]


@pytest.mark.parametrize("line", ["/create secret --hidden", "/create --public --private x", "/create --private"])
async def test_what_looks_like_an_option_is_no_part_of_a_name(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr(line_mode, "note", notes.append)
    client: Any = Silent()
    await LineMode(client)._line(line)
    assert notes[0].startswith("error: ")
