"""The line mode: a line is a message, a line that begins with / is a command. For people, pipes, screen readers and tests."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import re
import sys
from typing import Any, Final

from securechat.cli.line_commands import LINES
from securechat.cli.line_screen import Screen
from securechat.cli.line_table import Misused, Quit
from securechat.cli.output import counted, note
from securechat.domain import commands as c
from securechat.errors import ChatError
from securechat.sdk.client import ChatClient
from securechat.sdk.errors import ConnectionLost, Stopped
from securechat.sdk.room import Room

LAST_MARK_S: Final = 2.0
_WORD: Final = re.compile(r"/([a-z][a-z0-9_-]*)(?=\s|$)", re.IGNORECASE)
"""What looks like a command; the web client takes the same for one (`composer/slash.ts`). `/etc/hosts` does not."""


class LineMode:
    """The line mode of one client.

    Args:
        client: Connected.

    Attributes:
        client: The same.
        screen: What it shows.
    """

    def __init__(self, client: ChatClient) -> None:
        self.client = client
        self.screen = Screen(client)
        self._left = False

    async def run(self, room_name: str | None) -> None:
        """Chat until the end of standard input, `/quit` or `/logout`.

        Raises:
            LoginRequired: The session has ended.
            ConnectionLost: The server wants this client to stop.
        """
        client = self.client
        room = await client.room(room_name) if room_name else next(iter(client.rooms.values()), None)
        note(f"Connected to {client.url} as @{client.user.username if client.user else ''}. /help lists commands.")
        if room is None:
            note("You are in no room yet: /browse, /join ROOM, /create NAME, /dm USER")
        else:
            await self.screen.enter(room)
        reader = asyncio.create_task(self._read_lines())
        others = [asyncio.create_task(self.screen.show_events()), asyncio.create_task(self.screen.tell_markers())]
        try:
            await asyncio.wait({reader, *others}, return_when=asyncio.FIRST_COMPLETED)
            if reader.done():
                reader.result()
            else:
                await asyncio.gather(*(each for each in others if each.done()))  # It ended by an error, which ends the chat.
        finally:
            await self._stop(reader, *others)

    @property
    def here(self) -> Room:
        """The room where one is.

        Raises:
            Misused: One is in none.
        """
        room = self.screen.room
        if room is None:
            raise Misused("you are in no room; /join ROOM")
        return self.client.rooms.get(room.id, room)

    async def _stop(self, reader: asyncio.Task[None], *others: asyncio.Task[None]) -> None:
        if reader.done() and (self.client.connected or not self._left):
            if not self.client.connected and (unsent := self.client.outbox.waiting):
                note(f"{_messages(unsent)} waiting for a connection; Ctrl+C leaves without")
            await self.client.outbox.flush()  # What was written is sent; when the session has ended nothing can be.
        if self._left and (unsent := self.client.outbox.waiting):
            note(f"{_messages(unsent)} not sent")
        for task in (reader, *others):
            task.cancel()
        await asyncio.gather(reader, *others, return_exceptions=True)
        if self.client.connected:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_MARK_S):
                    await self.screen.mark()

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
                self._left = True
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
        try:
            if found is None:
                await self._say(text)
            elif len(rest.split()) < found.least:
                note(f"error: write {found.usage}")
            elif found.name in {"/help", "/quit", "/logout"}:
                await found.run(self, rest.strip())
            elif not self.client.connected:
                note("error: not connected, trying again; /quit leaves")
            else:
                async with self.screen.lock:  # What comes meanwhile is shown after it, and not again if it was part of it.
                    await found.run(self, rest.strip())
        except Misused as error:
            usage = found.usage if found else ""
            note("error: " + "; ".join(each for each in (str(error), usage and f"write {usage}") if each))

    async def _say(self, text: str) -> None:
        """Send a message. `/word` is sent when a bot here answers to it, `//word` always, as `/word`.

        Raises:
            Misused: Neither we nor a bot here know the command: a slip of the fingers is not for everybody to read.
        """
        room = self.here
        if text.startswith("//") and _WORD.match(text, 1):
            text = text[1:]
        elif word := _WORD.match(text):
            await self._require_bot(room, word[1])
        room.post(text).add_done_callback(_tell_refusal)

    async def _require_bot(self, room: Room, word: str) -> None:
        ours = [each.usage for each in LINES.values() if each.name.startswith(f"/{word} ")]
        if ours:
            raise Misused("write " + " or ".join(ours))
        bots = [f"/{each.name}" for each in await room.commands()]
        if f"/{word}" in bots:
            return
        near = difflib.get_close_matches(f"/{word}", [*(each.split()[0] for each in LINES), *bots], 1)
        meant = f"Do you mean {near[0]}?" if near else "/help lists what there is."
        raise Misused(f"there is no /{word} here, and nothing was sent. {meant}\n       //{word} sends it as a message.")


def _messages(count: int) -> str:
    return counted(count, "message is", "messages are")


def _tell_refusal(sent: asyncio.Future[c.Sent]) -> None:
    if not sent.cancelled() and (error := sent.exception()) is not None:
        note(f"error: not sent: {error}")
