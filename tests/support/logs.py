"""Writing entries straight into the log of a store, as the service does, without asking anybody."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from securechat.domain.audit import AuditEvent
from securechat.domain.entries import Entry, EntryType
from securechat.domain.ports import LogTransaction
from support.stores import Place, StoreUnderTest

ROOM = "rm_1"


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


async def create(store: StoreUnderTest, *rooms: str) -> None:
    for room in rooms or (ROOM,):
        await write(store, *founding(room))


async def write(store: StoreUnderTest, *entries: Entry) -> None:
    await store.log.commit(appending(*entries), store.log.lane(entries[0].room))


async def say(store: StoreUnderTest, *cmids: str, room: str = ROOM, runs: list[int] | None = None) -> list[int]:
    """Send as the service does: look for the cmid, then append; return the places."""

    async def work(tx: LogTransaction) -> list[int]:
        found = []
        if runs is not None:
            runs.append(len(runs))
        await tx.load([room], [(room, "dev_1", cmid) for cmid in cmids], [])
        for cmid in cmids:
            earlier = tx.sent((room, "dev_1", cmid))
            if earlier is not None:
                found.append(earlier.seq)
                continue
            state = tx.room(room)
            assert state is not None
            seq = state.last_seq + 1
            tx.append(made(room, seq, EntryType.MESSAGE_SENT, device="dev_1", cmid=cmid, body=f"text {cmid}"))
            found.append(seq)
        return found

    return await store.log.commit(work, store.log.lane(room))


async def say_everywhere(store: StoreUnderTest, rooms: list[str], cmid: str, *targets: int) -> None:
    """Send to many rooms in one commit, react to what is there, and read it all."""

    async def work(tx: LogTransaction) -> None:
        await tx.load(rooms, [(room, "dev_1", cmid) for room in rooms], [(room, seq) for room in rooms for seq in targets])
        for room in rooms:
            state = tx.room(room)
            assert state is not None
            assert tx.sent((room, "dev_1", cmid)) is None
            seq = state.last_seq + 1
            tx.append(made(room, seq, EntryType.MESSAGE_SENT, device="dev_1", cmid=cmid, body="text"))
            for each in targets:
                tx.append(made(room, seq + 1, EntryType.REACTION_ADDED, target=each, emoji=cmid))
            tx.mark_read("usr_ana", room, seq, back=False)

    await store.log.commit(work)


async def texts(store: StoreUnderTest, room: str = ROOM) -> list[str]:
    page = await store.log.page(room, after=2, limit=200)
    assert [entry.seq for entry in page.entries] == list(range(3, page.last_seq + 1))
    return [entry.body or "" for entry in page.entries]
