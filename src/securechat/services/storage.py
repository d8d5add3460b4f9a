"""StorageService: what the operator asks about how texts are stored."""

from __future__ import annotations

from securechat.domain.accounts import Principal
from securechat.domain.audit import by
from securechat.domain.commands import Sent, Storage, StorageRotate, StorageShred, StorageStatus
from securechat.domain.entries import Entry, EntryType
from securechat.domain.ports import LogTransaction, StorageKeeper
from securechat.errors import NotFound
from securechat.services.room_log import Operation, RoomLog


class StorageService:
    """Status, rotation, shredding; for the operator only.

    Args:
        keeper: Who keeps the store in the form that is wanted.
        room_log: A shredded room says so in its log.
    """

    def __init__(self, keeper: StorageKeeper, room_log: RoomLog) -> None:
        self._keeper = keeper
        self._room_log = room_log

    async def status(self, _who: Principal, _command: StorageStatus) -> Storage:
        """Tell keys by number, what is sealed, and jobs."""
        return await self._keeper.status()

    async def rotate(self, who: Principal, command: StorageRotate) -> Storage:
        """Make new keys; the answer tells the jobs that this began."""
        await self._keeper.rotate(messages=command.messages, event=by(who, "storage.rotate", messages=command.messages))
        return await self._keeper.status()

    async def shred(self, who: Principal, command: StorageShred) -> Sent:
        """Destroy a room's keys. The answer names the entry that says so; a job removes what nobody can read any more."""

        def decide(transaction: LogTransaction, now: int) -> Sent:
            room = transaction.room(command.room)
            if room is None:
                raise NotFound("There is no such room.", field="room")
            entry = Entry(type=EntryType.ROOM_ERASED, room=room.id, seq=room.last_seq + 1, at=now, user=who.user_id)
            transaction.append(entry)
            return Sent(room=room.id, seq=entry.seq, at=now)

        sent: Sent = await self._room_log.perform(Operation(decide, command.room))
        await self._keeper.erase(command.room)
        return sent
