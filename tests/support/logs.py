"""Writing entries straight into the log of a store, as the service does, without asking anybody."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from securechat.domain.audit import AuditEvent
from securechat.domain.entries import Entry, EntryType
from securechat.domain.ports import LogTransaction
from support.stores import Place, StoreUnderTest


@asynccontextmanager
async def opened(place: Place, port: int | None = None, *, sealed: bool = False) -> AsyncIterator[StoreUnderTest]:
    """Open a store as one more server would; `port` leads to it by another way."""
    store = await place.open(port=port)
    await store.keys.unlock()
    store.sealing.on = sealed
    try:
        yield store
    finally:
        await store.database.close()


def made(room: str, seq: int, what: EntryType, **more: object) -> Entry:
    """Return an entry of Ana's."""
    return Entry(type=what, room=room, seq=seq, at=seq, user="usr_ana", **more)  # type: ignore[arg-type]


def founding(room: str, name: str = "x", kind: str = "private") -> tuple[Entry, Entry]:
    """Return the first two entries of a room: it is Ana's."""
    return (
        made(room, 1, EntryType.ROOM_CREATED, kind=kind, name=name),
        made(room, 2, EntryType.MEMBER_JOINED, member="usr_ana", role="owner"),
    )


def appending(*entries: Entry, event: AuditEvent | None = None) -> Callable[[LogTransaction], Awaitable[None]]:
    """Return the work of a commit that appends these, and has something remembered."""

    async def work(tx: LogTransaction) -> None:
        targets = [(each.room, each.target) for each in entries if each.target is not None]
        await tx.load(sorted({each.room for each in entries}), [], targets)
        for each in entries:
            tx.append(each)
        if event is not None:
            tx.record(event)

    return work
