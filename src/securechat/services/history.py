"""HistoryService: pages, catching up, and how far somebody has read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from securechat.domain import policy
from securechat.domain.accounts import Principal
from securechat.domain.commands import Fetch, ReadMark, ReadState
from securechat.domain.entries import PAGE_BYTES, Entry, Page, pieces, that_fit
from securechat.domain.limits import LIMITS
from securechat.domain.ports import LogStore, LogTransaction, MessageBus, Signal
from securechat.errors import InvalidInput
from securechat.services.coalescing import Latest
from securechat.services.room_log import Operation, RoomLog

NEWEST_PAGE: Final = 50
"""Entries given to a client that is too far behind."""
CATCH_UP_PAGE: Final = 15
"""Entries read and told at once to a client that catches up: few, so that others have their turn soon; 240 KiB of text at most."""
FAR_PAGE: Final = 60
"""Entries read at once from a database that is far away: what is few there is a journey for each; 960 KiB of text at most."""
FAR_S: Final = 0.02
"""What a read takes from which on the database is far away, or busy: either way fewer reads are better."""
READ_EVERY_S: Final = 1.0
"""A read marker that moves all the time is told to the user's other devices at most this often; the newest place wins."""


def _last_that_fit(entries: list[Entry], size: int = PAGE_BYTES) -> list[Entry]:
    return that_fit(reversed(entries), size)[::-1]


class HistoryService:
    """Read the log.

    Args:
        room_log: Where read markers go, in the group commit.
        log_store: Where the log is read.
        bus: Who is told that a user has read on.
    """

    def __init__(self, room_log: RoomLog, log_store: LogStore, bus: MessageBus) -> None:
        self._room_log = room_log
        self._log_store = log_store
        self._bus = bus
        self._told = Latest(READ_EVERY_S)

    async def fetch(self, who: Principal, command: Fetch) -> Page:
        """Read a page of a room's log: as many entries as were asked for, or as fit."""
        given = [value for value in (command.before, command.after, command.around) if value is not None]
        if len(given) > 1:
            raise InvalidInput("Give one of before, after and around.")
        room = await self._log_store.room(command.room, user_id=who.user_id)
        policy.require_in(who, "fetch", room, command.room)
        read, room_id, limit = self._log_store.page, command.room, command.limit
        if command.around is None:
            page = await read(room_id, before=command.before, after=command.after, limit=limit)
            page.entries = that_fit(page.entries) if command.after is not None else _last_that_fit(page.entries)
            return page
        older = await read(room_id, before=command.around, limit=limit // 2)
        newer = await read(room_id, after=command.around - 1, limit=limit - len(older.entries))
        entries = _last_that_fit(older.entries, PAGE_BYTES // 2) + that_fit(newer.entries, PAGE_BYTES // 2)
        return Page(room=room_id, entries=entries, last_seq=min(older.last_seq, newer.last_seq))

    async def missed(self, room_id: str, after: int, last_seq: int) -> AsyncIterator[list[Entry]]:
        """Give everything after a `seq` up to `last_seq`, in pages; or the newest page, when that is out of reach.

        The caller has checked that the reader is a member. A client that claims more than there is gets the newest page: it
        talks to a server whose data was restored from a backup.
        """
        if not 0 <= last_seq - after <= LIMITS.resume_entries:
            for piece in pieces((await self._log_store.page(room_id, limit=NEWEST_PAGE)).entries):
                yield piece
            return
        limit = CATCH_UP_PAGE
        now = asyncio.get_running_loop().time
        while after < last_seq:
            began = now()
            page = await self._log_store.page(room_id, after=after, limit=min(limit, last_seq - after))
            if not page.entries:
                return
            limit = FAR_PAGE if now() - began > FAR_S else CATCH_UP_PAGE
            for start in range(0, len(page.entries), CATCH_UP_PAGE):
                for piece in pieces(page.entries[start : start + CATCH_UP_PAGE]):
                    yield piece
            after = page.entries[-1].seq

    async def mark_read(self, who: Principal, command: ReadMark) -> ReadState:
        """Move a read marker, and tell all devices of the user where it is now."""

        def decide(transaction: LogTransaction, _now: int) -> None:
            room = policy.require_in(who, "read.mark", transaction.room(command.room), command.room)
            transaction.mark_read(who.user_id, command.room, min(command.seq, room.last_seq), back=command.back)

        await self._room_log.perform(Operation(decide, command.room))
        read_seq, unread = await self._log_store.read_state(who.user_id, command.room)
        state = ReadState(room=command.room, read_seq=read_seq, unread=unread)
        self._told.call((who.user_id, command.room), lambda: self._bus.signal(Signal(state, user=who.user_id, ephemeral=False)))
        return state
