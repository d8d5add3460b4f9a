"""Several servers write to the same rooms: of one batch, what holds is stored, and what does not is left behind and decided again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from securechat.domain import commands as c
from securechat.domain.accounts import Principal
from securechat.domain.entries import Entry, EntryType
from securechat.domain.ports import LogTransaction, RoomBatch
from securechat.domain.rooms import RoomRole
from securechat.errors import ChatError
from securechat.services.messaging import MessagingService
from securechat.services.room_log import Operation, RoomLog
from securechat.store.lanes import GoneOn, Lane
from securechat.store.postgres import PostgresDatabase
from securechat.store.postgres_pool import AnswerLost
from support.fakes import ManualClock, RecordingBus, principal
from support.logs import appending, founding, made, opened, write
from support.postgres import Postgres
from support.stores import Place, StoreUnderTest
from support.tcp_proxy import TcpProxy

HOT, MATE = "rm_1", "rm_2"
LANE = 1
"""That of both."""


@pytest.fixture
def place(tmp_path: Path, postgres: Postgres) -> Place:
    return Place(tmp_path, lambda: postgres)


@pytest.fixture
async def proxy(postgres: Postgres) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(postgres.port) as found:
        yield found


@pytest.fixture
async def one(place: Place, proxy: TcpProxy) -> AsyncIterator[StoreUnderTest]:
    async with opened(place, proxy.port) as store:
        for room in (HOT, MATE):
            assert store.log.lane(room) == LANE
            await write(store, *founding(room))
            await write(store, made(room, 3, EntryType.MESSAGE_SENT, device="dev_9", cmid=f"first {room}", body="first"))
        await batch(store, "warm", target=3)  # Statements are prepared by now.
        yield store


async def batch(
    store: StoreUnderTest,
    cmid: str,
    *rooms: str,
    target: int | None = None,
    member: str | None = None,
    apart: bool = True,
    found: dict[str, Any] | None = None,
) -> set[str]:
    """Send to some rooms in one commit, react to a message or let somebody join, and read it all; return what was left behind."""
    rooms = rooms or (HOT, MATE)

    async def work(tx: LogTransaction) -> LogTransaction:
        tx.apart = apart
        await tx.load(rooms, [(room, "dev_1", cmid) for room in rooms], [(room, target) for room in rooms if target is not None])
        for room in rooms:
            state = tx.room(room)
            assert state is not None
            if found is not None:
                found[room] = (sorted(state.members), tx.target((room, target or 0)))
            seq = state.last_seq + 1
            tx.append(made(room, seq, EntryType.MESSAGE_SENT, device="dev_1", cmid=cmid, body=f"text {cmid}"))
            if target is not None:
                tx.append(made(room, seq + 1, EntryType.REACTION_ADDED, target=target, emoji=cmid))
            if member is not None:
                tx.append(made(room, seq + 1, EntryType.MEMBER_JOINED, member=member, role="member"))
            if apart:
                tx.mark_read("usr_ana", room, seq, back=False)
        return tx

    done = await store.log.commit(work, LANE)
    behind = set(done.behind)
    assert {entry.room for entry in done.appended} == set(rooms) - behind
    return behind


async def ahead(other: StoreUnderTest, cmid: str, *rooms: str, member: str | None = None) -> None:
    """Let another server be ahead in some rooms."""
    await batch(other, cmid, *rooms, member=member, apart=False)


async def texts(store: StoreUnderTest, room: str) -> list[str | None]:
    page = await store.log.page(room, limit=200)
    assert [entry.seq for entry in page.entries] == list(range(1, page.last_seq + 1))
    return [entry.body for entry in page.entries if entry.type is EntryType.MESSAGE_SENT]


async def test_what_holds_is_stored_and_nothing_of_what_does_not(one: StoreUnderTest, other: StoreUnderTest) -> None:
    await ahead(other, "theirs", HOT)

    assert await batch(one, "ours", target=3) == {HOT}
    assert await batch(one, "joins", HOT, MATE, member="usr_eve") == set()  # What was behind knows where its room is.

    assert await texts(one, HOT) == ["first", "text warm", "text theirs", "text joins"]
    assert await texts(one, MATE) == ["first", "text warm", "text ours", "text joins"]
    hot, mate = [(await one.log.page(room, after=2, limit=1)).entries[0] for room in (HOT, MATE)]
    assert (hot.reactions, mate.reactions) == ({"warm": ["usr_ana"]}, {"warm": ["usr_ana"], "ours": ["usr_ana"]})
    await ahead(other, "theirs again", HOT)
    assert await batch(one, "comes", member="usr_bob") == {HOT}
    state = {room: await one.value(f"SELECT count(*) FROM members WHERE room_id = '{room}'") for room in (HOT, MATE)}
    assert state == {HOT: 2, MATE: 3}
    reads = {room: (await one.log.read_state("usr_ana", room))[0] for room in (HOT, MATE)}
    assert reads == {HOT: 7, MATE: 10}  # The marker of what was left behind did not move.


async def test_what_must_be_one_is_decided_again_as_one(one: StoreUnderTest, other: StoreUnderTest) -> None:
    await ahead(other, "theirs", HOT)
    found: dict[str, Any] = {}

    assert await batch(one, "ours", apart=False, found=found) == set()

    assert await texts(one, HOT) == ["first", "text warm", "text theirs", "text ours"]
    assert await texts(one, MATE) == ["first", "text warm", "text ours"]


async def test_who_is_behind_needs_one_round_trip_more_and_no_second_look(
    one: StoreUnderTest, other: StoreUnderTest, proxy: TcpProxy
) -> None:
    for number in range(3):
        await ahead(other, f"theirs {number}", HOT)
        turns = [proxy.turns]
        assert await batch(one, f"ours {number}", target=3) == {HOT}
        turns.append(proxy.turns)
        assert await batch(one, f"ours {number}", HOT, target=3) == set()
        turns.append(proxy.turns)

        assert [turns[1] - turns[0], turns[2] - turns[1]] == [2, 1]  # A look and the commit; the commit.


@pytest.mark.parametrize("heard", [False, True], ids=["meanwhile", "afterwards, and heard"])
async def test_what_another_server_changed_is_looked_at_again(
    one: StoreUnderTest, other: StoreUnderTest, monkeypatch: pytest.MonkeyPatch, *, heard: bool
) -> None:
    edit = made(HOT, 7 if heard else 6, EntryType.MESSAGE_EDITED, target=3, body="theirs")
    if heard:
        await ahead(other, "theirs", HOT)
        assert await batch(one, "ours", target=3) == {HOT}
        await write(other, edit)
        one.log.hear([RoomBatch(HOT, [edit])])
    else:
        call = PostgresDatabase.call

        async def after_the_look(self: PostgresDatabase, sql: str, *values: object) -> object:
            patch.undo()
            await write(other, edit)
            return await call(self, sql, *values)

        with monkeypatch.context() as patch:
            patch.setattr(PostgresDatabase, "call", after_the_look)
            assert await batch(one, "ours", target=3) == {HOT}
    found: dict[str, Any] = {}

    assert await batch(one, "again", HOT, target=3, found=found) == set()

    assert found[HOT][1].edited.body == "theirs"


async def test_who_came_meanwhile_is_there_when_it_is_decided_again(
    one: StoreUnderTest, other: StoreUnderTest, proxy: TcpProxy
) -> None:
    turns = []
    for number, eve in enumerate(("usr_eve1", "usr_eve2", "usr_eve3")):
        await ahead(other, f"theirs {number}", HOT, member=eve)
        assert await batch(one, f"ours {number}") == {HOT}
        found: dict[str, Any] = {}
        before = proxy.turns
        assert await batch(one, f"ours {number}", HOT, found=found) == set()
        turns.append(proxy.turns - before)
        assert eve in found[HOT][0]
    assert turns[-1] == 2  # It is read forward first, however many its members are.


async def test_of_an_answer_that_is_lost_each_room_is_decided_by_what_is_there(
    one: StoreUnderTest, other: StoreUnderTest, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ahead(other, "theirs", HOT)
    database = one.database
    assert isinstance(database, PostgresDatabase)
    call = database.call

    async def loses(sql: str, *values: object) -> object:
        proxy.swallow = True
        return await call(sql, *values)

    with monkeypatch.context() as patch:
        patch.setattr(database, "call", loses)
        assert await batch(one, "ours") == {HOT}
    assert await batch(one, "ours", HOT) == set()

    assert await texts(one, HOT) == ["first", "text warm", "text theirs", "text ours"]
    assert await texts(one, MATE) == ["first", "text warm", "text ours"]


async def test_of_an_answer_that_is_lost_with_everything_it_is_decided_at_once_with_locks(
    one: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a statement that never arrives would be sent again and again, each time for as long as it takes to be sure."""

    async def lose(_database: object, _sql: str, *_values: object) -> object:
        raise AnswerLost

    monkeypatch.setattr(PostgresDatabase, "call", lose)
    assert await batch(one, "ours") == set()

    assert await texts(one, HOT) == await texts(one, MATE) == ["first", "text warm", "text ours"]


async def test_an_entry_of_another_server_is_not_taken_for_one_whose_answer_was_lost(
    one: StoreUnderTest, other: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of who comes and goes there is no cmid: two entries of one moment differ in nothing but whom they are about."""
    for seq, member in ((6, "usr_bob"), (7, "usr_eve")):
        await write(one, made(HOT, seq, EntryType.MEMBER_JOINED, member=member, role="member"))

    async def lose(_database: object, _sql: str, *_values: object) -> object:
        patch.undo()
        await write(other, made(HOT, 8, EntryType.MEMBER_REMOVED, member="usr_eve"))
        raise AnswerLost

    async def remove_bob(tx: LogTransaction) -> None:
        await tx.load([HOT], [], [])
        state = tx.room(HOT)
        assert state is not None
        gone = made(HOT, state.last_seq + 1, EntryType.MEMBER_REMOVED, member="usr_bob")
        gone.at = 8
        tx.append(gone)

    with monkeypatch.context() as patch:
        patch.setattr(PostgresDatabase, "call", lose)
        await one.log.commit(remove_bob, LANE)

    page = await other.log.page(HOT, after=7, limit=9)
    assert [entry.member for entry in page.entries] == ["usr_eve", "usr_bob"]


@pytest.mark.parametrize("repeated", [False, True])
async def test_who_is_refused_keeps_no_other_room_waiting(
    one: StoreUnderTest, other: StoreUnderTest, proxy: TcpProxy, *, repeated: bool
) -> None:
    """What is refused may be a repetition that this server does not know: that is looked for before it is decided."""
    found: list[Entry | None] = []

    def refusing(*rooms: str) -> Callable[[LogTransaction], Awaitable[LogTransaction]]:
        async def work(tx: LogTransaction) -> LogTransaction:
            tx.apart = True
            await tx.load(rooms, [(room, "dev_1", "c") for room in rooms], [])
            for room in rooms:
                earlier, state = tx.sent((room, "dev_1", "c")), tx.room(room)
                assert state is not None
                if room == HOT:
                    found.append(earlier)
                else:
                    tx.append(made(room, state.last_seq + 1, EntryType.MESSAGE_SENT, device="dev_1", cmid="c", body="text c"))
            return tx

        return work

    turns, behind = [proxy.turns], []
    if repeated:
        await ahead(other, "c", HOT)
    for rooms in ((HOT, MATE), (HOT,)):
        behind.append(set((await one.log.commit(refusing(*rooms), LANE)).behind))
        turns.append(proxy.turns)

    assert behind == [{HOT}, set()]
    assert [after - before for before, after in pairwise(turns)] == [1, 2]  # The commit of the other room; a look and a commit.
    assert [each and each.seq for each in found] == [None, 6 if repeated else None]
    assert await texts(one, MATE) == ["first", "text warm", "text c"]


# ── two servers, whole ───────────────────────────────────────────────────────────────────────────────────────────────


class Server:
    """The group commit of a server, and people who talk through it."""

    def __init__(self, store: StoreUnderTest, rng: random.Random) -> None:
        self.store = store
        self.bus = RecordingBus()
        self.log = RoomLog(store.log, self.bus, ManualClock())
        self.messaging = MessagingService(lambda _user, _other: False)
        self.rng = rng
        self.others: list[Server] = []
        self.sent: list[tuple[Principal, Any, Any]] = []
        self.refused: list[str] = []

    def tell(self) -> None:
        """Let the other servers hear some of what was appended, as a bus that loses."""
        for heard in self.bus.batches:
            for other in self.others:
                if self.rng.random() < 0.5:
                    other.store.log.hear([heard])
        self.bus.batches.clear()

    def operation(self, who: Principal, rooms: Sequence[str], number: int) -> tuple[Any, Operation]:
        """Return something that somebody does."""
        room, seq = self.rng.choice(rooms), self.rng.randrange(11, 16)
        cmid = f"{who.device_id} {number}"
        match self.rng.randrange(8):
            case 0:
                edit = c.MessageEdit(room=room, seq=seq, body=f"edit {cmid}", cmid=cmid)
                return edit, self.messaging.edit(who, edit)
            case 1:
                react = c.ReactionAdd(room=room, seq=seq, emoji=self.rng.choice("👍🎉"), cmid=cmid)
                return react, self.messaging.react(who, react)
            case 2:
                unreact = c.ReactionRemove(room=room, seq=seq, emoji=self.rng.choice("👍🎉"), cmid=cmid)
                return unreact, self.messaging.unreact(who, unreact)
            case 3 if number % 10 == 3:
                delete = c.MessageDelete(room=room, seq=seq, cmid=cmid)
                return delete, self.messaging.delete(who, delete)
            case _:
                send = c.MessageSend(room=room, cmid=cmid, body=f"text {cmid}")
                return send, self.messaging.send(who, send)

    async def talk(self, who: Principal, rooms: Sequence[str], count: int) -> None:
        """Do so many things, a few at once; the same twice at times."""
        for number in range(count):
            command, operation = self.operation(who, rooms, number)
            try:
                self.sent.append((who, command, await self.log.perform(operation)))
            except ChatError as error:
                self.refused.append(error.code)
            if self.rng.random() < 0.3:
                self.tell()


@pytest.mark.parametrize("seed", range(6))
async def test_two_servers_that_write_to_the_same_rooms_keep_every_law(
    place: Place, postgres: Postgres, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One order without a gap, each command once with the answer it got, and reactions as the log says."""
    rng = random.Random(seed)
    rooms = ["rm_1", "rm_2", "rm_5"][: 1 + seed % 3]
    people = [principal(f"p{number}") for number in range(8)]
    behind: list[str] = []
    learn = Lane.learn

    def learns(lane: Lane, ahead: GoneOn, looked: Any) -> None:
        behind.extend(ahead)
        learn(lane, ahead, looked)

    monkeypatch.setattr(Lane, "learn", learns)
    async with (
        TcpProxy(postgres.port) as far,
        opened(place, far.port, sealed=bool(seed % 2)) as first,
        opened(place, far.port, sealed=bool(seed % 2)) as second,
    ):
        for room in rooms:
            members = [
                made(room, 3 + place, EntryType.MEMBER_JOINED, member=who.user_id, role="member")
                for place, who in enumerate(people)
            ]
            await first.log.commit(appending(*founding(room), *members), first.log.lane(room))
        servers = [Server(first, rng), Server(second, rng)]
        for server in servers:
            server.others = [each for each in servers if each is not server]
        far.set(latency_s=0.004, jitter_s=0.003)

        await asyncio.gather(*(servers[place % 2].talk(who, rooms, 25) for place, who in enumerate(people)))
        for server in servers:
            assert set(server.refused) <= {"conflict", "not_found", "forbidden"}
            await server.log.drain()

        far.set(latency_s=0.0, jitter_s=0.0)
        for room in rooms:
            log = await _whole(second, room)
            assert [entry.seq for entry in log] == list(range(1, len(log) + 1))
            by_seq = {entry.seq: entry for entry in log}
            for server in servers:
                _check_answers([each for each in server.sent if each[1].room == room], by_seq)
            state = await second.log.room(room, user_id="usr_p1")
            assert state is not None
            assert (state.last_seq, state.members) == (len(log), {"usr_p1": RoomRole.MEMBER})
            assert {seq: entry.reactions or {} for seq, entry in by_seq.items()} == _reactions(log)
    assert len(behind) > 10


async def _whole(store: StoreUnderTest, room: str) -> list[Entry]:
    entries: list[Entry] = []
    while True:
        page = await store.log.page(room, after=len(entries), limit=200)
        entries += page.entries
        if len(entries) >= page.last_seq:
            return entries


def _check_answers(sent: Sequence[tuple[Principal, Any, Any]], by_seq: dict[int, Entry]) -> None:
    """Each answer tells where that command is; and what one device sent is in the order in which it sent it."""
    last: dict[str, int] = {}
    for who, command, answer in sent:
        entry = by_seq[answer.seq]
        if entry.cmid != command.cmid:
            assert isinstance(command, c.ReactionAdd | c.ReactionRemove | c.MessageDelete)  # There was nothing to do.
            continue
        assert entry.device == who.device_id
        assert entry.seq > last.get(who.device_id, 0)
        last[who.device_id] = entry.seq


def _reactions(log: Sequence[Entry]) -> dict[int, dict[str, list[str]]]:
    found: dict[int, dict[str, list[str]]] = {entry.seq: {} for entry in log}
    for entry in log:
        if entry.type is EntryType.REACTION_ADDED:
            found[entry.target or 0].setdefault(entry.emoji or "", []).append(entry.user)
        elif entry.type is EntryType.REACTION_REMOVED:
            users = found[entry.target or 0][entry.emoji or ""]
            users.remove(entry.user)
            if not users:
                del found[entry.target or 0][entry.emoji or ""]
        elif entry.type is EntryType.MESSAGE_DELETED:
            found[entry.target or 0] = {}
    return found
