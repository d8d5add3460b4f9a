"""What the line mode shows: entries, signals, pages; and how far one has read."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterable
from typing import Final

from securechat.cli.line_table import HISTORY
from securechat.cli.output import note, say
from securechat.cli.show import entry_line, room_name
from securechat.domain.accounts import OPERATOR, User
from securechat.domain.entries import Entry, EntryType, Page
from securechat.errors import ChatError
from securechat.protocol.frames import SignalFrame
from securechat.sdk.client import ChatClient
from securechat.sdk.errors import ConnectionLost
from securechat.sdk.following import Gap
from securechat.sdk.room import Room

TYPING_S: Final = 6.0
"""How long a typing signal holds (spec 2.3): those that come within it belong to the same burst."""
MARK_EVERY_S: Final = 1.0
"""Read markers of what is shown live are told this often."""


class Screen:
    """What one client sees, line by line.

    Args:
        client: Connected.

    Attributes:
        room: Where one is.
        lock: Held while a command shows something: what comes meanwhile is shown after it.
        to_mark: Room id → how far one has read, where the server was not told yet.
    """

    def __init__(self, client: ChatClient) -> None:
        self._client = client
        self._names: dict[str, User] = {}
        self.room: Room | None = None
        self.lock = asyncio.Lock()
        self.to_mark: dict[str, int] = {}
        self._typing: dict[str, float] = {}
        self._shown = asyncio.Event()
        self._pages: dict[str, tuple[int, int]] = {}
        # What is true only for a moment is for a person who looks at it, and not for a pipe.
        self._watched = sys.stdout.isatty() and sys.stderr.isatty()

    async def enter(self, room: Room) -> None:
        """Go to a room, and show its newest page."""
        self.room = room
        note(f"── {room_name(room.summary)}  {room.summary.topic}".rstrip())
        await self.show_page(room, await room.page(limit=HISTORY))

    async def show_page(self, room: Room, page: Page) -> None:
        """Show a page; when it is the newest, what it holds counts as read."""
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

    async def show_events(self) -> None:
        """Show what comes, until the connection ends for good."""
        async for event in self._client.events():
            if isinstance(event, Gap):
                note("── some messages are not shown here: /history")
            else:
                async with self.lock:
                    await (self.show_entry(event) if isinstance(event, Entry) else self.show_signal(event))

    async def show_entry(self, entry: Entry) -> None:
        """Show an entry, unless a page has shown it."""
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
        if entry.type is EntryType.MESSAGE_SENT and self.room is not None and self.room.id == entry.room:
            self.to_mark[entry.room] = entry.seq
            self._shown.set()

    async def show_signal(self, signal: SignalFrame) -> None:
        """Tell of a signal that matters to somebody who reads lines."""
        here = self.room.id if self.room else ""
        if signal.type == "room.opened" and signal.summary and signal.summary.id != here:
            note(f"── you are in {room_name(signal.summary)} now")
        elif signal.type == "room.closed" and self.room is not None and signal.room == here:
            note(f"── you are not in {self.room.name} any more; /rooms lists the others")
            self.room = None
        elif signal.type == "user.updated" and signal.person is not None:
            self._names[signal.person.id] = signal.person
        elif signal.type == "typing.started" and signal.room == here and signal.user and self._watched:
            now = time.monotonic()
            burst = now < self._typing.get(signal.user, 0)
            self._typing[signal.user] = now + TYPING_S
            if not burst and signal.user not in self._client.blocked:
                await self._learn((signal.user,))
                note(f"── {self._name(signal.user)} is typing…")

    async def tell_markers(self) -> None:
        """Tell the server now and then how far one has read; without an end."""
        while True:
            await self._shown.wait()
            self._shown.clear()
            await self.mark()
            await asyncio.sleep(MARK_EVERY_S)

    async def mark(self) -> None:
        """Tell how far one has read; it is no loss when it fails: the next marker says it again."""
        for room_id, seq in list(self.to_mark.items()):
            room = self._client.rooms.get(room_id)
            with contextlib.suppress(ChatError, ConnectionLost):
                if room is not None:
                    await room.mark_read(seq)
            if self.to_mark.get(room_id) == seq:
                del self.to_mark[room_id]

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
        say(entry_line(entry, room_name(room.summary), self._name, self._client.blocked))
