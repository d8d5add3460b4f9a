"""The line mode: a line is a message, a line that begins with / is a command. For people, pipes, screen readers and tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from securechat.cli.durations import seconds_of
from securechat.cli.output import columns, note, say, table, when
from securechat.cli.show import entry_line, printable
from securechat.cli.signin import NO_SESSION
from securechat.domain import commands as c
from securechat.domain.accounts import OPERATOR, Device, Role, User
from securechat.domain.entries import Entry, EntryType, Page
from securechat.domain.limits import LIMITS
from securechat.errors import ChatError, NotFound
from securechat.protocol.frames import SignalFrame
from securechat.sdk.client import ChatClient, Gap
from securechat.sdk.errors import ConnectionLost, Stopped
from securechat.sdk.room import Room

HISTORY: Final = 20
TYPING_S: Final = 6.0
"""How long a typing signal holds (spec 2.3): those that come within it belong to the same burst."""
MARK_EVERY_S: Final = 1.0
"""Read markers of what is shown live are told this often."""
LAST_MARK_S: Final = 2.0
GROUPS: Final = {
    "messages": "Messages",
    "rooms": "Rooms",
    "people": "People",
    "account": "Your account",
    "server": "For administrators",
}


class Misused(Exception):
    """The line cannot be carried out as it stands; the text says why, and is empty where the usage says it."""


class Quit(Exception):
    """The person leaves."""


@dataclass(frozen=True, slots=True)
class Line:
    """A command of the line mode.

    Attributes:
        group: Where `/help` lists it.
        usage: How it is written: words in capitals are needed, those in brackets are not.
        help: What it does.
        run: Does it; gets what stands after the command's own words.
    """

    group: str
    usage: str
    help: str
    run: Callable[[LineMode, str], Awaitable[None]]

    @property
    def name(self) -> str:
        """The words that call it: `/edit`, `/invite create`."""
        first, *more = self.usage.split()
        return " ".join([first, *more[:1]]) if more and more[0].isalpha() and more[0].islower() else first

    @property
    def least(self) -> int:
        """How many words have to follow."""
        return sum(word.isupper() for word in self.usage.removeprefix(self.name).split() if not set("[]") & set(word))


LINES: Final[dict[str, Line]] = {}


def line(group: str, usage: str, text: str) -> Callable[[Callable[[LineMode, str], Awaitable[None]]], Any]:
    """Make a method a command of the line mode."""

    def register(run: Callable[[LineMode, str], Awaitable[None]]) -> Any:
        found = Line(group, usage, text, run)
        LINES[found.name] = found
        return run

    return register


def _seq(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) >= 2**53:
        raise Misused("that is no number of a message")
    return int(text)


def _limit(text: str) -> int:
    return min(LIMITS.page_entries, max(1, _seq(text))) if text else HISTORY


class LineMode:
    """The line mode of one client.

    Args:
        client: Connected.
    """

    def __init__(self, client: ChatClient) -> None:
        self._client = client
        self._names: dict[str, User] = {}
        self._room: Room | None = None
        self._typing: dict[str, float] = {}
        self._to_mark: dict[str, int] = {}
        self._shown = asyncio.Event()
        self._pages: dict[str, tuple[int, int]] = {}
        self._screen = asyncio.Lock()
        # What is true only for a moment is for a person who looks at it, and not for a pipe.
        self._watched = sys.stdout.isatty() and sys.stderr.isatty()

    async def run(self, room_name: str | None) -> None:
        """Chat until the end of standard input, `/quit` or `/logout`.

        Raises:
            LoginRequired: The session has ended.
            ConnectionLost: The server wants this client to stop.
        """
        client = self._client
        room = await client.room(room_name) if room_name else next(iter(client.rooms.values()), None)
        note(f"Connected to {client.url} as @{client.user.username if client.user else ''}. /help lists commands.")
        if room is None:
            note("You are in no room yet: /browse, /join ROOM, /create NAME, /dm USER")
        else:
            await self._enter(room)
        reader = asyncio.create_task(self._read_lines())
        others = [asyncio.create_task(self._show_events()), asyncio.create_task(self._tell_markers())]
        try:
            await asyncio.wait({reader, *others}, return_when=asyncio.FIRST_COMPLETED)
            if reader.done():
                reader.result()
            else:
                await asyncio.gather(*(each for each in others if each.done()))  # It ended by an error, which ends the chat.
        finally:
            await self._stop(reader, *others)

    async def _stop(self, reader: asyncio.Task[None], *others: asyncio.Task[None]) -> None:
        if reader.done():  # What was written is sent; when the session has ended nothing can be.
            await self._client.outbox.flush()
        for task in (reader, *others):
            task.cancel()
        await asyncio.gather(reader, *others, return_exceptions=True)
        if self._client.connected:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_MARK_S):
                    await self._mark()

    # ── lines ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _read_lines(self) -> None:
        reader = asyncio.StreamReader(limit=1 << 20)
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
            lines: Any = reader.readline
        except (ValueError, OSError):  # A plain file cannot be polled.

            async def lines() -> bytes:
                return sys.stdin.buffer.readline()

        while data := await lines():
            text = data.decode("utf-8", "replace").rstrip("\r\n")
            try:
                if text:
                    await self._line(text)
            except Quit:
                return
            except ChatError as error:
                note(f"error: {error.detail}  [{error.code}]")
            except Stopped:
                raise
            except ConnectionLost as error:
                note(f"error: {error} It may have been done, or not.")
            sys.stdout.flush()

    async def _line(self, text: str) -> None:
        first, _, rest = text.partition(" ")
        second, _, more = rest.lstrip().partition(" ")
        if found := LINES.get(f"{first} {second}"):
            rest = more
        else:
            found = LINES.get(first)
        if found is None:
            self._say(text, first)
            return
        if len(rest.split()) < found.least:
            note(f"error: write {found.usage}")
            return
        try:
            async with self._screen:  # What comes meanwhile is shown after it, and not again if it was part of it.
                await found.run(self, rest.strip())
        except Misused as error:
            note(f"error: {error}; {found.usage}" if str(error) else f"error: write {found.usage}")

    def _say(self, text: str, first: str) -> None:
        """Send a message; `/word` goes to the bots as it is, unless it is the beginning of one of ours."""
        ours = [each.usage for each in LINES.values() if each.name.startswith(f"{first} ")]
        if ours:
            note("error: write " + " or ".join(ours))
            return
        try:
            sent = self._here.post(text.removeprefix("/") if text.startswith("//") else text)
        except Misused as error:
            note(f"error: {error}")
            return
        sent.add_done_callback(_tell_refusal)

    @property
    def _here(self) -> Room:
        if self._room is None:
            raise Misused("you are in no room; /join ROOM")
        return self._client.rooms.get(self._room.id, self._room)

    async def _user_id(self, name: str) -> str:
        return (await self._client.find_user(name)).id

    # ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @line("messages", "/reply N TEXT", "answer message N")
    async def _reply(self, rest: str) -> None:
        number, _, text = rest.partition(" ")
        await self._here.send(text, reply_to=_seq(number))

    @line("messages", "/edit N TEXT", "change your message N")
    async def _edit(self, rest: str) -> None:
        number, _, text = rest.partition(" ")
        await self._here.edit(_seq(number), text)

    @line("messages", "/delete N", "delete message N")
    async def _delete(self, rest: str) -> None:
        await self._here.delete(_seq(rest))

    @line("messages", "/react N EMOJI", "react to message N")
    async def _react(self, rest: str) -> None:
        number, _, emoji = rest.partition(" ")
        await self._here.react(_seq(number), emoji)

    @line("messages", "/unreact N EMOJI", "take your reaction back")
    async def _unreact(self, rest: str) -> None:
        number, _, emoji = rest.partition(" ")
        await self._here.unreact(_seq(number), emoji)

    @line("messages", "/history [COUNT]", "show the newest again")
    async def _history(self, rest: str) -> None:
        await self._show_page(self._here, await self._here.page(limit=_limit(rest)))

    @line("messages", "/history before N [COUNT]", "what was written before N")
    async def _history_before(self, rest: str) -> None:
        number, _, count = rest.partition(" ")
        await self._show_page(self._here, await self._here.page(before=_seq(number), limit=_limit(count)))

    @line("messages", "/history after N [COUNT]", "what was written after N")
    async def _history_after(self, rest: str) -> None:
        number, _, count = rest.partition(" ")
        await self._show_page(self._here, await self._here.page(after=_seq(number), limit=_limit(count)))

    @line("messages", "/history around N [COUNT]", "what was written around N")
    async def _history_around(self, rest: str) -> None:
        number, _, count = rest.partition(" ")
        await self._show_page(self._here, await self._here.page(around=_seq(number), limit=_limit(count)))

    @line("messages", "/unread N", "keep N and what follows as unread")
    async def _unread(self, rest: str) -> None:
        self._to_mark.pop(self._here.id, None)
        state = await self._here.mark_read(max(0, _seq(rest) - 1), back=True)
        note(f"── {state.unread} unread")

    @line("messages", "/typing", "show the others that you are writing")
    async def _type(self, _rest: str) -> None:
        await self._here.typing()

    @line("messages", "/commands", "what the bots in this room answer to")
    async def _commands(self, _rest: str) -> None:
        found = await self._here.commands()
        _list([(_call(each), printable(each.description)) for each in found], "no bot here answers to anything")

    # ── rooms ────────────────────────────────────────────────────────────────────────────────────────────────────────

    @line("rooms", "/rooms", "your rooms, and how much is unread")
    async def _rooms(self, _rest: str) -> None:
        rooms = await self._client.list_rooms()
        _list([(_room_name(room), f"{room.unread} unread", _size(room), room.topic) for room in rooms], "no rooms yet")

    @line("rooms", "/browse [WORD]", "public rooms that begin with WORD")
    async def _browse(self, rest: str) -> None:
        found = await self._client.browse_rooms(rest)
        _list([(_room_name(room), _size(room), room.topic) for room in found.rooms], "no such public room")
        if found.next_cursor is not None:
            note("── there are more: /browse WORD")

    @line("rooms", "/join ROOM", "go to a room; join it if it is public")
    async def _join(self, rest: str) -> None:
        room = await self._client.room(rest)
        if room.id not in self._client.rooms:
            await room.join()
        await self._enter(room)

    @line("rooms", "/create [--public] NAME", "create a room, for those you add or for all")
    async def _create(self, rest: str) -> None:
        name = rest.removeprefix("--public").strip() if rest.split(maxsplit=1)[0] == "--public" else rest
        if not name:
            raise Misused
        await self._enter(await self._client.create_room(name, kind="private" if name == rest else "public"))

    @line("rooms", "/dm USER", "talk to one person")
    async def _dm(self, rest: str) -> None:
        await self._enter(await self._client.direct(await self._user_id(rest)))

    @line("rooms", "/who", "who is in this room, and who is online")
    async def _who(self, _rest: str) -> None:
        members = await self._here.members()
        columns([(f"@{each.user.username}", each.user.display_name, _role(each), each.presence) for each in members])

    @line("rooms", "/add USER", "bring somebody in")
    async def _add(self, rest: str) -> None:
        await self._here.add(await self._user_id(rest))

    @line("rooms", "/remove USER", "remove somebody")
    async def _remove(self, rest: str) -> None:
        await self._here.remove(await self._user_id(rest))

    @line("rooms", "/topic TEXT", "say what this room is about")
    async def _topic(self, rest: str) -> None:
        await self._here.update(topic=rest)

    @line("rooms", "/rename NAME", "give this room another name")
    async def _rename(self, rest: str) -> None:
        await self._here.update(name=rest)

    @line("rooms", "/leave", "leave this room")
    async def _leave(self, _rest: str) -> None:
        room, self._room = self._here, None
        try:
            await room.leave()
        except ChatError:
            self._room = room
            raise
        note(f"── you left {room.name}; /rooms lists the others")

    # ── people ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @line("people", "/people [WORD]", "people whose name begins with WORD")
    async def _people(self, rest: str) -> None:
        found = await self._client.find_users(rest)
        _list([(f"@{user.username}", user.display_name, user.role.value) for user in found], "nobody")

    @line("people", "/block USER", "no direct messages from them; theirs are folded away")
    async def _block(self, rest: str) -> None:
        await self._client.block(await self._user_id(rest))
        note(f"── {rest} is blocked")

    @line("people", "/unblock USER", "take a block back")
    async def _unblock(self, rest: str) -> None:
        await self._client.unblock(await self._user_id(rest))
        note(f"── {rest} is not blocked any more")

    @line("people", "/blocks", "whom you have blocked")
    async def _blocks(self, _rest: str) -> None:
        _list([(f"@{user.username}", user.display_name) for user in await self._client.list_blocks()], "nobody")

    # ── account ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @line("account", "/me", "who you are here")
    async def _me(self, _rest: str) -> None:
        user = (await self._client.me()).user
        say(f"@{user.username} ({user.display_name}, {user.role.value}) on {self._client.url}")

    @line("account", "/name TEXT", "change the name that others see")
    async def _name_me(self, rest: str) -> None:
        note(f"── you are {(await self._client.update_me(rest)).user.display_name} now")

    @line("account", "/devices", "where you are signed in")
    async def _devices(self, _rest: str) -> None:
        columns([(each.id, each.name, _last_seen(each), each.address) for each in await self._client.list_devices()])

    @line("account", "/revoke DEVICE", "sign a device out; the beginning of its id is enough")
    async def _revoke(self, rest: str) -> None:
        found = [
            each for each in await self._client.list_devices() if each.id.removeprefix("dev_").startswith(rest.removeprefix("dev_"))
        ]
        if len(found) != 1 or rest == "dev_":
            raise Misused("no such device" if not found else "more than one device begins like this")
        if found[0].current:
            raise Misused("this is the device you are on; /logout")
        await self._client.revoke_device(found[0].id)
        note(f"── {found[0].name} is signed out")

    @line("account", "/logout", "sign this terminal out, and leave")
    async def _logout(self, _rest: str) -> None:
        if os.environ.get("SECURECHAT_TOKEN"):
            note(f"error: {NO_SESSION}")
            return
        await self._client.outbox.flush()
        await self._mark()
        try:
            await self._client.log_out()
            note("Signed out.")
        except ConnectionLost as error:
            note(f"Signed out here; the server was not told: {error} Sign this device out from another one.")
        raise Quit

    @line("account", "/quit", "leave; you stay signed in (Ctrl+D)")
    async def _quit(self, _rest: str) -> None:
        raise Quit

    @line("account", "/help [WORD]", "this list, or what it says of a command")
    async def _help(self, rest: str) -> None:
        note(help_text(rest))

    # ── administration ───────────────────────────────────────────────────────────────────────────────────────────────

    @line("server", "/invite create [USES] [7d] [ROOM …]", "an invitation for so many people, so long, into rooms")
    async def _invite_create(self, rest: str) -> None:
        uses, expires_s, names = 1, 604_800, []
        for word in rest.split():
            seconds = seconds_of(word)
            if seconds is not None:
                expires_s = seconds
            elif word.isascii() and word.isdigit():
                uses = _seq(word)
            else:
                names.append(word)
        invite = await self._client.create_invite(uses=uses, expires_s=expires_s, rooms=await self._room_ids(names))
        say(f"{invite.url}\n{invite.uses_left} uses, until {when(invite.expires_at)}")

    @line("server", "/invite list", "invitations that work")
    async def _invite_list(self, _rest: str) -> None:
        invites = await self._client.list_invites()
        table(("code", "uses left", "until"), [(each.code, each.uses_left, when(each.expires_at)) for each in invites])

    @line("server", "/invite revoke CODE", "end an invitation")
    async def _invite_revoke(self, rest: str) -> None:
        await self._client.revoke_invite(rest)
        note(f"── {rest} does not work any more")

    @line("server", "/bot create NAME [ROOM …]", "a bot and its token, shown once")
    async def _bot_create(self, rest: str) -> None:
        name, *rooms = rest.split()
        self._show_token(await self._client.create_bot(name, rooms=await self._room_ids(rooms)))

    @line("server", "/bot rotate NAME", "give a bot a new token")
    async def _bot_rotate(self, rest: str) -> None:
        self._show_token(await self._client.rotate_bot(await self._account_id(rest)))

    @line("server", "/bot revoke NAME", "end a bot")
    async def _bot_revoke(self, rest: str) -> None:
        await self._client.revoke_bot(await self._account_id(rest))
        note(f"── {rest} cannot connect any more")

    def _show_token(self, bot: c.BotCreated) -> None:
        note(f"── @{bot.user.username}: its token is shown this once")
        say(f"export SECURECHAT_URL={self._client.url}\nexport SECURECHAT_TOKEN={bot.token}")
        if bot.pin:
            say(f"export SECURECHAT_PIN={bot.pin}")
        if self._client.ca:
            say(f"export SECURECHAT_CA={self._client.ca}")

    async def _account_id(self, name: str) -> str:
        """Find an account, locked or not."""
        cursor: str | None = ""
        while cursor is not None:
            page = await self._client.list_users(cursor=cursor, limit=LIMITS.page_entries)
            for user in page.users:
                if user.username == name.removeprefix("@").lower():
                    return user.id
            cursor = page.next_cursor
        raise NotFound(f"No user {name}.")

    async def _room_ids(self, names: Collection[str]) -> list[str]:
        return [(await self._client.room(name)).id for name in names]

    # ── what is shown ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _enter(self, room: Room) -> None:
        self._room = room
        note(f"── {_room_name(room.summary)}  {room.summary.topic}".rstrip())
        await self._show_page(room, await room.page(limit=HISTORY))

    async def _show_page(self, room: Room, page: Page) -> None:
        await self._learn(name for entry in page.entries for name in (entry.user, entry.member))
        for entry in page.entries:
            self._show(room, entry)
        if page.entries:
            self._pages[room.id] = (page.entries[0].seq, page.entries[-1].seq)
        if not page.entries:
            note("── nothing there")
        elif page.entries[-1].seq >= page.last_seq:
            await room.mark_read(page.last_seq)
        sys.stdout.flush()

    async def _show_events(self) -> None:
        async for event in self._client.events():
            if isinstance(event, Gap):
                note("── some messages are not shown here: /history")
            else:
                async with self._screen:
                    await (self._show_entry(event) if isinstance(event, Entry) else self._show_signal(event))

    async def _show_entry(self, entry: Entry) -> None:
        room = self._client.rooms.get(entry.room)
        if room is None:
            return
        self._typing.pop(entry.user, None)
        first, last = self._pages.get(entry.room, (0, 0))
        if first <= entry.seq <= last:
            return
        await self._learn((entry.user, entry.member))
        self._show(room, entry)
        sys.stdout.flush()
        if entry.type is EntryType.MESSAGE_SENT and self._room is not None and self._room.id == entry.room:
            self._to_mark[entry.room] = entry.seq
            self._shown.set()

    async def _show_signal(self, signal: SignalFrame) -> None:
        here = self._room.id if self._room else ""
        if signal.type == "room.opened" and signal.summary and signal.summary.id != here:
            note(f"── you are in {_room_name(signal.summary)} now")
        elif signal.type == "room.closed" and self._room is not None and signal.room == here:
            note(f"── you are not in {self._room.name} any more; /rooms lists the others")
            self._room = None
        elif signal.type == "user.updated" and signal.person is not None:
            self._names[signal.person.id] = signal.person
        elif signal.type == "typing.started" and signal.room == here and signal.user and self._watched:
            now = time.monotonic()
            burst = now < self._typing.get(signal.user, 0)
            self._typing[signal.user] = now + TYPING_S
            if not burst and signal.user not in self._client.blocked:
                await self._learn((signal.user,))
                note(f"── {self._name(signal.user)} is typing…")

    async def _tell_markers(self) -> None:
        while True:
            await self._shown.wait()
            self._shown.clear()
            await self._mark()
            await asyncio.sleep(MARK_EVERY_S)

    async def _mark(self) -> None:
        """Tell how far one has read; it is no loss when it fails: the next marker says it again."""
        for room_id, seq in list(self._to_mark.items()):
            room = self._client.rooms.get(room_id)
            with contextlib.suppress(ChatError, ConnectionLost):
                if room is not None:
                    await room.mark_read(seq)
            if self._to_mark.get(room_id) == seq:
                del self._to_mark[room_id]

    async def _learn(self, users: Iterable[str | None]) -> None:
        unknown = {user for user in users if user and user not in self._names and user != OPERATOR.user_id}
        if unknown:
            try:
                self._names |= {user.id: user for user in await self._client.get_users(sorted(unknown)[:200])}
            except (ChatError, ConnectionLost) as error:
                note(f"── some names are not known: {error}")

    def _name(self, user_id: str | None) -> str:
        if user_id == OPERATOR.user_id:
            return "the operator"
        user = self._names.get(user_id or "")
        return f"@{user.username}" if user else "someone"

    def _show(self, room: Room, entry: Entry) -> None:
        say(entry_line(entry, _room_name(room.summary), self._name, self._client.blocked))


def _list(rows: Sequence[Sequence[object]], empty: str) -> None:
    columns(rows) if rows else note(f"── {empty}")


def _call(command: c.BotCommand) -> str:
    options = (option.name if option.required else f"[{option.name}]" for option in command.options)
    return " ".join([f"/{command.name}", *options])


def _room_name(room: c.RoomSummary) -> str:
    return f"@{room.peer.username if room.peer else ''}" if room.kind == "direct" else f"#{room.name}"


def _size(room: c.RoomSummary) -> str:
    return "" if room.kind == "direct" else f"{room.members} member{'' if room.members == 1 else 's'}"


def _role(member: c.Member) -> str:
    return member.user.role.value if member.user.role is Role.BOT else member.role


def _last_seen(device: Device) -> str:
    return "this one" if device.current else f"seen {when(device.last_seen_at)}"


def _tell_refusal(sent: asyncio.Future[c.Sent]) -> None:
    if not sent.cancelled() and (error := sent.exception()) is not None:
        note(f"error: not sent: {error}")


def help_text(word: str = "") -> str:
    """Return the list of commands; of one group, or of those that have the word in them."""
    word = word.removeprefix("/").casefold()
    groups = [word] if word in GROUPS else [*GROUPS]
    found = [each for each in LINES.values() if each.group in groups and (word in GROUPS or word in each.name)]
    if not found:
        return f"There is no /{word} here. /help lists what there is."
    width = max(len(each.usage) for each in found)
    text: list[str] = []
    for group in groups:
        lines = [f"  {each.usage.ljust(width)}  {each.help}" for each in found if each.group == group]
        if group == "messages" and (not word or word in GROUPS):
            lines = [
                f"  {'any other line'.ljust(width)}  is a message to the room",
                f"  {'/roll 2'.ljust(width)}  goes to the bots, as /word does that is not listed here",
                f"  {'//text'.ljust(width)}  is a message that begins with one /",
                *lines,
            ]
        if lines:
            text += ["", GROUPS[group], *lines]
    if not word:
        text += ["", "One part of this list: /help " + ", ".join(GROUPS)]
    return "\n".join(text[1:])
