"""Chat in a terminal, line by line: for people, pipes, screen readers and tests."""

from __future__ import annotations

import asyncio
import getpass
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from securechat.cli.output import note, say, say_json
from securechat.domain import commands as c
from securechat.domain.accounts import OPERATOR, User
from securechat.domain.entries import Entry, EntryType
from securechat.domain.secret import Secret
from securechat.errors import ChatError, Shutdown
from securechat.protocol.frames import SignalFrame
from securechat.sdk.client import ChatClient, Gap, Room
from securechat.sdk.errors import ConnectionLost, LoginRequired
from securechat.sdk.profile import Profile, check_url, load_profile, open_session, profile_path, save_profile

T = TypeVar("T")
HISTORY = 20
HELP = """/rooms             list your rooms          /join ROOM     go to a room (joining it if public)
/browse [WORD]     list public rooms        /create NAME   create a private room (/create --public NAME)
/dm USER           talk to one person       /who           who is in this room
/add USER          bring somebody in        /remove USER   remove somebody
/leave             leave this room          /block USER    no messages from them (/unblock USER)
/edit N TEXT       change your message N    /delete N      delete message N
/react N EMOJI     react                    /reply N TEXT  answer message N
/history [N]       show earlier messages    /quit          leave (Ctrl+D)
//text             a message that begins with /   (other /words go to bots as they are)"""


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except LoginRequired as error:
        raise Shutdown(str(error), 3) from error
    except (ConnectionLost, OSError) as error:
        raise Shutdown(f"The server cannot be reached: {error}") from error
    except ValueError as error:
        raise Shutdown(str(error), 64) from error


def log_in(url: str, username: str | None, ca: Path | None, code: str) -> None:
    """Sign this terminal in and keep the profile."""
    interactive = sys.stdin.isatty()
    if username is None:
        if not interactive:
            raise Shutdown("Give --user when standard input is not a terminal.", 64)
        username = input("Username: ")
    password = Secret(getpass.getpass("Password: ") if interactive else sys.stdin.readline().rstrip("\n"))
    authority = str(ca.resolve()) if ca else _own_ca(url)
    command: c.Command
    if code:
        command = c.AccountRegister(code=Secret(code), username=username, password=password, device_name="Terminal")
    else:
        command = c.SessionCreate(username=username, password=password, device_name="Terminal")

    async def work() -> c.Session:
        return await open_session(check_url(url), command, authority)

    session = _run(work())
    save_profile(
        Profile(
            url=check_url(url),
            username=session.user.username,
            device=session.device,
            refresh_token=session.refresh_token,
            ca=authority,
        )
    )
    say(f"Signed in to {check_url(url)} as @{session.user.username}. Kept in {profile_path()}.")


def _own_ca(url: str) -> str:
    """Return the CA of a server whose data folder is right here, as after `make run`."""
    ca = Path("securechat-data/tls/ca.crt")
    local = any(name in url for name in ("//localhost", "//127.0.0.1"))
    return str(ca.resolve()) if local and ca.exists() else ""


def log_out() -> None:
    """End the session and forget the profile."""

    async def work() -> None:
        async with ChatClient.connect() as client:
            await client.call(c.SessionDelete())

    try:
        _run(work())
    except Shutdown as error:
        note(f"The server was not told: {error.line}")
    profile_path().unlink(missing_ok=True)
    say("Signed out.")


def who_am_i(*, as_json: bool) -> None:
    """Print who one is."""

    async def work() -> tuple[c.Identity, str, int]:
        async with ChatClient.connect() as client:
            return await client.me(), client.url, len(client.rooms)

    identity, url, rooms = _run(work())
    if as_json:
        say_json(identity)
    else:
        say(f"@{identity.user.username} ({identity.user.display_name}, {identity.user.role.value}) on {url}, {rooms} rooms")


def send_one(room_name: str, text: str | None, cmid: str, *, as_json: bool) -> None:
    """Send one message."""
    body = text if text is not None else sys.stdin.read().rstrip("\n")

    async def work() -> c.Sent:
        async with ChatClient.connect() as client:
            return await (await client.room(room_name)).send(body, cmid=cmid)

    sent = _run(work())
    if as_json:
        say_json(sent)


def chat_plain(room_name: str | None) -> None:
    """Chat until the end of standard input."""
    load_profile_or_stop()
    _run(_Plain().run(room_name))


def load_profile_or_stop() -> None:
    """Say at once when there is nobody to chat as."""
    import os  # noqa: PLC0415

    if "SECURECHAT_TOKEN" in os.environ:
        return
    try:
        load_profile()
    except LoginRequired as error:
        raise Shutdown(str(error), 3) from error


class _Plain:
    """The line mode."""

    def __init__(self) -> None:
        self._names: dict[str, User] = {}
        self._room: Room | None = None

    async def run(self, room_name: str | None) -> None:
        async with ChatClient.connect() as client:
            self._client = client
            room = await client.room(room_name) if room_name else next(iter(client.rooms.values()), None)
            name = client.user.username if client.user else ""
            note(f"Connected to {client.url} as @{name}. /help lists commands.")
            if room is None:
                note("You are in no room yet: /join ROOM")
            else:
                await self._enter(room)
            shower = asyncio.create_task(self._show_events())
            try:
                await self._read_lines()
            finally:
                await client.outbox.flush()
                shower.cancel()
                await asyncio.gather(shower, return_exceptions=True)

    async def _read_lines(self) -> None:
        reader = asyncio.StreamReader(limit=1 << 20)
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
            lines: Any = reader.readline
        except (ValueError, OSError):  # A plain file cannot be polled.

            async def lines() -> bytes:
                return sys.stdin.buffer.readline()

        while line := await lines():
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            if text == "/quit":
                return
            if text:
                try:
                    await self._line(text)
                except ChatError as error:
                    note(f"error: {error.detail}  [{error.code}]")
                except ValueError:
                    note("error: a number is wanted; /help lists commands")

    async def _line(self, text: str) -> None:
        word, _, rest = text.partition(" ")
        match word:
            case "/help":
                note(HELP)
            case "/rooms":
                for room in self._client.rooms.values():
                    say(f"#{room.name}  {room.summary.unread} unread" if room.summary.kind != "direct" else f"@{room.name}")
            case "/join":
                await self._join(rest)
            case "/browse":
                for summary in (await self._client.ask(c.RoomBrowse(query=rest), c.Rooms)).rooms:
                    say(f"#{summary.name}  {summary.members} members  {summary.topic}".rstrip())
            case "/create":
                public = rest.startswith("--public ")
                command = c.RoomCreate(name=rest.removeprefix("--public "), kind="public" if public else "private")
                await self._enter(Room(self._client, await self._client.ask(command, c.RoomSummary)))
            case "/block" | "/unblock":
                user = (await self._client.find_user(rest)).id
                await self._client.call(c.UserBlock(user=user) if word == "/block" else c.UserUnblock(user=user))
                note(f"── {rest} is {'blocked' if word == '/block' else 'not blocked any more'}")
            case "/dm":
                summary = await self._client.call(c.RoomDirect(user=(await self._client.find_user(rest)).id))
                await self._enter(Room(self._client, summary))
            case _:
                await self._in_room(word, rest, text)

    async def _in_room(self, word: str, rest: str, text: str) -> None:
        room = self._room
        if room is None:
            note("error: you are in no room; /join ROOM")
            return
        first, _, more = rest.partition(" ")
        match word:
            case "/who":
                for member in await room.members():
                    mark = "*" if member.presence == "online" else " "
                    say(f"{mark} @{member.user.username}  {member.user.display_name}  {member.role}")
            case "/add":
                await self._client.call(c.MemberAdd(room=room.id, user=(await self._client.find_user(rest)).id))
            case "/remove":
                await self._client.call(c.MemberRemove(room=room.id, user=(await self._client.find_user(rest)).id))
            case "/leave":
                await room.leave()
                self._room = None
                note(f"── you left {room.name}; /rooms lists the others")
            case "/history":
                await self._show_history(room, int(first or HISTORY))
            case "/edit":
                await room.edit(int(first), more)
            case "/delete":
                await room.delete(int(first))
            case "/react":
                await room.react(int(first), more)
            case "/reply":
                await room.send(more, reply_to=int(first))
            case _:
                sent = room.post(text.removeprefix("/") if text.startswith("//") else text)
                sent.add_done_callback(_tell_refusal)

    async def _join(self, name: str) -> None:
        room = await self._client.room(name)
        if room.id not in self._client.rooms:
            room = Room(self._client, await self._client.call(c.RoomJoin(room=room.id)))
        await self._enter(room)

    async def _enter(self, room: Room) -> None:
        self._room = room
        note(f"── {'@' if room.summary.kind == 'direct' else '#'}{room.name}  {room.summary.topic}".rstrip())
        await self._show_history(room, HISTORY)

    async def _show_history(self, room: Room, limit: int) -> None:
        page = await room.page(limit=min(200, max(1, limit)))
        await self._learn(page.entries)
        for entry in page.entries:
            self._show(room, entry)
        if page.entries:
            await room.mark_read(page.entries[-1].seq)

    async def _show_events(self) -> None:
        async for event in self._client.events():
            if isinstance(event, Gap):
                note("── some messages are not shown here: /history")
            elif isinstance(event, Entry):
                room = self._client.rooms.get(event.room)
                if room is not None:
                    await self._learn([event])
                    self._show(room, event)
            elif isinstance(event, SignalFrame) and event.type == "room.opened" and event.summary:
                note(f"── you are in {event.summary.name or 'a direct room'} now")

    async def _learn(self, entries: list[Entry]) -> None:
        unknown = {name for entry in entries for name in (entry.user, entry.member) if name and name not in self._names}
        if unknown:
            found = await self._client.call(c.UserGet(users=sorted(unknown)[:200]))
            self._names |= {user.id: user for user in found.users}

    def _name(self, user_id: str | None) -> str:
        if user_id == OPERATOR.user_id:
            return "the operator"
        user = self._names.get(user_id or "")
        return f"@{user.username}" if user else "someone"

    def _show(self, room: Room, entry: Entry) -> None:
        """Print one entry on one line: `#room 12 14:02 @ana: text`."""
        body = entry.edited.body if entry.edited else entry.body
        body = "".join(char if char.isprintable() else "\n    " if char == "\n" else "\ufffd" for char in body or "")
        match entry.type:
            case EntryType.MESSAGE_SENT if entry.deleted:
                text = f"{self._name(entry.user)}: (deleted)"
            case EntryType.MESSAGE_SENT:
                answer = f" (to {entry.reply_to})" if entry.reply_to else ""
                reactions = "  ".join(f"{emoji}{len(users)}" for emoji, users in (entry.reactions or {}).items())
                edited = " (edited)" if entry.edited else ""
                text = f"{self._name(entry.user)}{answer}: {body}{edited}{'  ' + reactions if reactions else ''}"
            case EntryType.MESSAGE_EDITED:
                text = f"{self._name(entry.user)} changed {entry.target}: {body}"
            case EntryType.MESSAGE_DELETED:
                text = f"{self._name(entry.user)} deleted {entry.target}"
            case EntryType.REACTION_ADDED:
                text = f"{self._name(entry.user)} reacted {entry.emoji} to {entry.target}"
            case EntryType.REACTION_REMOVED:
                text = f"{self._name(entry.user)} took {entry.emoji} back from {entry.target}"
            case EntryType.MEMBER_JOINED:
                text = f"{self._name(entry.member)} joined"
            case EntryType.MEMBER_LEFT | EntryType.MEMBER_REMOVED:
                text = f"{self._name(entry.member)} {'left' if entry.type is EntryType.MEMBER_LEFT else 'was removed'}"
            case _:
                text = f"{self._name(entry.user)} {entry.type.value.replace('room.', '')} the room {entry.name or ''}".rstrip()
        prefix = "@" if room.summary.kind == "direct" else "#"
        clock = time.strftime("%H:%M", time.localtime(entry.at / 1000))
        say(f"{prefix}{room.name} {entry.seq} {clock} {text}")
        sys.stdout.flush()


def _tell_refusal(sent: asyncio.Future[c.Sent]) -> None:
    if not sent.cancelled() and (error := sent.exception()) is not None:
        note(f"error: not sent: {error}")
