"""Whoever waits for a commit may be cancelled at any moment: it is stored or not, and nothing is between."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from securechat.domain.entries import Entry, EntryType
from securechat.domain.ports import LogTransaction
from securechat.store.sqlite import SqliteDatabase
from support.stores import Place, StoreUnderTest

ROOM = "rm_1"


def entry(seq: int, what: EntryType = EntryType.MESSAGE_SENT, **more: object) -> Entry:
    if what is EntryType.MESSAGE_SENT:
        more = {"device": "dev_1", "cmid": f"c{seq}", "body": f"text {seq}", **more}
    return Entry(type=what, room=ROOM, seq=seq, at=seq, user="usr_ana", **more)  # type: ignore[arg-type]


async def write(store: StoreUnderTest, *entries: Entry) -> None:
    async def work(tx: LogTransaction) -> None:
        await tx.load([ROOM], [], [])
        for each in entries:
            tx.append(each)

    await store.log.commit(work)


async def send(store: StoreUnderTest, cmid: str) -> int:
    """Send as a client does that does not know whether it was heard before."""

    async def work(tx: LogTransaction) -> int:
        await tx.load([ROOM], [(ROOM, "dev_1", cmid)], [])
        earlier, state = tx.sent((ROOM, "dev_1", cmid)), tx.room(ROOM)
        if earlier is not None:
            return earlier.seq
        assert state is not None
        tx.append(entry(state.last_seq + 1, cmid=cmid))
        return state.last_seq

    return await store.log.commit(work)


@pytest.fixture
async def store(place: Place) -> AsyncIterator[StoreUnderTest]:
    found = await place.open()
    found.sealing.on = True
    await found.keys.unlock()
    await write(
        found,
        entry(1, EntryType.ROOM_CREATED, kind="private", name="x"),
        entry(2, EntryType.MEMBER_JOINED, member="usr_ana", role="owner"),
    )
    yield found
    await found.database.close()


@pytest.mark.slow
async def test_a_commit_that_is_cancelled_at_any_moment_is_stored_once_or_not_at_all(store: StoreUnderTest) -> None:
    answered = {}
    for number in range(60):
        task = asyncio.create_task(send(store, f"c{number}"))
        for _ in range(number % 12):
            await asyncio.sleep(0)
        if number % 3 == 0:
            await asyncio.wait({task}, timeout=number / 20_000)
        task.cancel()
        await asyncio.wait({task})
        answered[f"c{number}"] = await send(store, f"c{number}")

    page = await store.log.page(ROOM, after=2, limit=200)
    assert {each.cmid: each.seq for each in page.entries} == answered
    assert [each.seq for each in page.entries] == list(range(3, 63))


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Hold the next commits of SQLite: (one has begun, let them go)."""
    begun, go = threading.Event(), threading.Event()
    commit = SqliteDatabase._commit

    def late(self: SqliteDatabase) -> None:
        begun.set()
        assert go.wait(10)
        commit(self)

    monkeypatch.setattr(SqliteDatabase, "_commit", late)
    return begun, go


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_nobody_writes_while_a_cancelled_commit_is_on_its_way(
    store: StoreUnderTest, held: tuple[threading.Event, threading.Event]
) -> None:
    begun, go = held
    first = asyncio.create_task(write(store, entry(3)))
    await asyncio.to_thread(begun.wait, 10)
    first.cancel()
    second = asyncio.create_task(write(store, entry(4)))
    done, _ = await asyncio.wait({first, second}, timeout=0.2)
    assert not done
    go.set()
    await asyncio.wait({first, second})

    assert first.cancelled()
    assert second.exception() is None
    assert [each.seq for each in (await store.log.page(ROOM, limit=9)).entries] == [1, 2, 3, 4]


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_what_a_cancelled_commit_destroyed_leaves_the_memory_and_the_files(
    store: StoreUnderTest, place: Place, held: tuple[threading.Event, threading.Event]
) -> None:
    begun, go = held
    go.set()
    await write(store, entry(3, body="a text to find"))
    assert await store.keys.newest(ROOM) is not None
    go.clear()
    begun.clear()
    task = asyncio.create_task(write(store, entry(4, EntryType.ROOM_ERASED)))
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    go.set()
    await asyncio.wait({task})

    assert task.cancelled()
    assert store.keys._newest == {}
    await store.jobs.erase(ROOM)
    assert all(b"a text to find" not in path.read_bytes() for path in Path(place.path.parent).iterdir())
