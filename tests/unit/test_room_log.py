"""The group commit: batching, order, refusals, poison, and that nothing is answered before the commit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Any, cast

import pytest

from securechat.domain.audit import AuditEvent
from securechat.domain.commands import MessageSend, Sent
from securechat.domain.entries import Entry, EntryType
from securechat.domain.ports import CmidKey, LogStore, LogTransaction, Moved, TargetKey
from securechat.domain.rooms import RoomKind, RoomRole, RoomState
from securechat.errors import ChatError, CmidConflict, Conflict, Draining, Forbidden, Internal, NotFound, Unavailable
from securechat.services import room_log as room_log_module
from securechat.services.messaging import MessagingService
from securechat.services.room_log import GATHER_TURNS, Operation, RoomLog
from support.fakes import ManualClock, RecordingBus, principal

ANA, BOB, EVE = principal("ana"), principal("bob"), principal("eve")


class MemoryTransaction:
    apart = False
    behind: Collection[str] = ()

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.appended: list[Entry] = []
        self.recorded: list[AuditEvent] = []

    async def load(self, rooms: Collection[str], sent: Collection[CmidKey], targets: Collection[TargetKey]) -> None:
        self._store.loads.append(list(rooms))

    def room(self, room_id: str) -> RoomState | None:
        return self._store.rooms.get(room_id)

    def sent(self, key: CmidKey) -> Entry | None:
        return next((e for e in [*self._store.entries, *self.appended] if (e.room, e.device, e.cmid) == key), None)

    def target(self, key: TargetKey) -> Entry | None:
        return next((e for e in self._store.entries if (e.room, e.seq) == key), None)

    def append(self, entry: Entry) -> None:
        self._store.rooms[entry.room].apply(entry)
        self.appended.append(entry)

    def record(self, event: AuditEvent) -> None:
        self.recorded.append(event)

    def mark_read(self, user_id: str, room_id: str, seq: int, *, back: bool) -> None:
        raise AssertionError


class MemoryStore:
    """Commits when the test lets it."""

    def __init__(self) -> None:
        members = {"usr_ana": RoomRole.OWNER, "usr_bob": RoomRole.MEMBER}
        self.rooms = {name: RoomState(name, RoomKind.PRIVATE, name, "", 1, dict(members)) for name in ("rm_a", "rm_b")}
        self.entries: list[Entry] = []
        self.recorded: list[AuditEvent] = []
        self.loads: list[list[str]] = []
        self.commits = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.fail: list[Exception] = []
        self.down: Unavailable | None = None

    lanes = 1

    def lane(self, _room_id: str, /) -> int:
        return 0

    def refusal(self, _lane: int, /) -> Unavailable | None:
        return self.down

    async def commit(self, work: Callable[[LogTransaction], Awaitable[Any]], _lane: int = 0, /) -> Any:
        transaction = MemoryTransaction(self)
        before = {name: state.last_seq for name, state in self.rooms.items()}
        try:
            result = await work(cast("LogTransaction", transaction))
            await self.gate.wait()
            if self.fail:
                raise self.fail.pop(0)
        except BaseException:
            for name, last_seq in before.items():
                self.rooms[name].last_seq = last_seq
            raise
        self.entries += transaction.appended
        self.recorded += transaction.recorded
        self.commits += 1
        return result

    async def head(self, user_id: str, room_id: str) -> None:
        return None


class World:
    def __init__(self) -> None:
        self.store = MemoryStore()
        self.bus = RecordingBus()
        self.log = RoomLog(cast("LogStore", self.store), self.bus, ManualClock())
        self.messaging = MessagingService(lambda _user, _other: False)
        self.answers: dict[str, Any] = {}

    def send(self, who: Any, room: str, cmid: str, body: str = "text") -> None:
        operation = self.messaging.send(who, MessageSend(room=room, cmid=cmid, body=body))
        self.log.submit(operation, lambda result: self.answers.__setitem__(f"{who.username}/{cmid}/{body}", result))

    async def settle(self) -> None:
        while any(lane.running for lane in self.log._lanes.values()):
            await asyncio.sleep(0)


@pytest.fixture
async def world() -> World:
    return World()


async def test_a_message_alone_waits_for_no_timer(world: World) -> None:
    world.send(ANA, "rm_a", "1")
    await world.settle()

    assert world.answers["ana/1/text"] == Sent(room="rm_a", seq=2, at=1_795_380_000_000)
    assert world.store.commits == 1


async def test_a_message_that_is_decided_several_times_takes_one_token(world: World) -> None:
    charged: list[str] = []
    messaging = MessagingService(lambda _user, _other: False, lambda bucket, _room: charged.append(bucket))
    operation = messaging.send(ANA, MessageSend(room="rm_a", cmid="1", body="@all come"))
    commit = world.store.commit

    async def twice(work: Any, lane: int = 0, /) -> Any:
        world.store.fail.append(Conflict())
        with suppress(Conflict):
            await commit(work, lane)
        return await commit(work, lane)

    world.store.commit = twice  # type: ignore[method-assign]
    answer = await world.log.perform(operation)

    assert answer.seq == 2
    assert sorted(charged) == sorted({*charged})
    assert len(charged) == 2


async def test_while_the_store_does_not_answer_nothing_waits_for_it(world: World) -> None:
    world.store.gate.clear()
    world.send(ANA, "rm_a", "1")
    await asyncio.sleep(0)
    world.send(ANA, "rm_a", "2")
    world.store.down = Unavailable("away", retry_after_ms=100)
    world.log.give_back()
    world.send(ANA, "rm_a", "3")

    assert world.answers == {"ana/2/text": world.store.down, "ana/3/text": world.store.down}
    assert world.log.waiting == 0
    world.store.down = None
    world.store.gate.set()
    world.send(ANA, "rm_a", "2")
    await world.settle()
    assert [entry.cmid for entry in world.store.entries] == ["1", "2"]


async def test_an_answer_that_cannot_be_given_costs_nobody_else_theirs(world: World) -> None:
    world.store.gate.clear()
    world.send(ANA, "rm_a", "1")
    await asyncio.sleep(0)

    def broken(_result: object) -> None:
        raise OSError

    messaging = MessagingService(lambda _user, _other: False, lambda _bucket, _room: None)
    world.log.submit(messaging.send(ANA, MessageSend(room="rm_a", cmid="2", body="x")), broken)
    world.send(ANA, "rm_a", "3")
    world.store.down = Unavailable("away", retry_after_ms=100)
    world.log.give_back()

    assert world.answers == {"ana/3/text": world.store.down}
    world.store.down = None
    world.store.gate.set()
    await world.settle()


async def test_what_is_stored_is_told_also_if_the_store_does_not_say_which_room_somebody_joined(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def head(_user_id: str, _room_id: str) -> None:
        raise Unavailable

    monkeypatch.setattr(world.store, "head", head)

    def join(transaction: LogTransaction, at: int) -> str:
        entry = Entry(type=EntryType.MEMBER_JOINED, room="rm_a", seq=2, at=at, user="usr_ana", member="usr_eve", role="member")
        transaction.append(entry)
        return "done"

    world.log.submit(Operation(join, "rm_a"), lambda result: world.answers.__setitem__("join", result))
    world.send(ANA, "rm_b", "1")
    await world.settle()
    assert world.answers["join"] == "done"
    assert [batch.room for batch in world.bus.batches] == ["rm_a", "rm_b"]


async def test_nothing_is_answered_or_told_before_the_commit(world: World) -> None:
    world.store.gate.clear()
    world.send(ANA, "rm_a", "1")
    for _ in range(10):
        await asyncio.sleep(0)

    assert (world.answers, world.bus.batches) == ({}, [])
    world.store.gate.set()
    await world.settle()
    assert len(world.answers) == len(world.bus.batches) == 1


async def test_what_comes_while_a_commit_runs_is_one_next_batch(world: World) -> None:
    world.store.gate.clear()
    world.send(ANA, "rm_a", "first")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for number in range(50):
        world.send(BOB, "rm_b" if number % 2 else "rm_a", str(number))
    world.store.gate.set()
    await world.settle()

    assert world.store.commits == 2
    assert [[e.seq for e in batch.entries] for batch in world.bus.batches] == [[2], list(range(3, 28)), list(range(2, 27))]
    assert world.store.loads[1] == ["rm_a", "rm_b"]  # In the order of their ids: no two servers can wait for each other.


def _note(order: list[str], what: str, _result: object) -> None:
    order.append(what)


async def test_a_batch_is_told_before_the_next_one_is_taken(world: World) -> None:
    order: list[str] = []
    load = world.store.commit

    async def commit(work: Callable[[LogTransaction], Awaitable[Any]], lane: int = 0, /) -> Any:
        order.append(f"store {len(order)}")
        return await load(work, lane)

    world.store.commit = commit  # type: ignore[method-assign]
    world.store.gate.clear()
    for cmid in ("one", "two"):
        operation = world.messaging.send(ANA, MessageSend(room="rm_a", cmid=cmid, body="text"))
        world.log.submit(operation, partial(_note, order, cmid))
        await asyncio.sleep(0)
    world.store.gate.set()
    await world.settle()

    assert order == ["store 0", "one", "store 2", "two"]


async def test_what_an_answer_sets_off_within_some_turns_is_in_the_next_batch_with_what_waited(world: World) -> None:
    batches: list[int] = []
    load = world.store.commit

    async def commit(work: Callable[[LogTransaction], Awaitable[Any]], lane: int = 0, /) -> Any:
        done = await load(work, lane)
        batches.append(len(done.appended))
        return done

    world.store.commit = commit  # type: ignore[method-assign]
    loop = asyncio.get_running_loop()

    def later(turns: int, cmid: str) -> None:
        if turns:
            loop.call_soon(later, turns - 1, cmid)
        else:
            world.send(ANA, "rm_a", cmid)

    world.store.gate.clear()
    operation = world.messaging.send(ANA, MessageSend(room="rm_a", cmid="first", body="text"))
    world.log.submit(operation, lambda _reply: later(GATHER_TURNS - 1, "set off"))
    await asyncio.sleep(0)
    world.send(ANA, "rm_a", "waited")
    world.store.gate.set()
    await world.settle()

    assert batches == [1, 2]


async def test_a_batch_that_takes_long_to_tell_is_told_before_the_next_one(world: World) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def head(user_id: str, room_id: str) -> None:
        begun.set()
        await go_on.wait()

    world.store.head = head  # type: ignore[method-assign]

    def joins(transaction: LogTransaction, now: int) -> None:
        transaction.append(Entry(type=EntryType.MEMBER_JOINED, room="rm_a", seq=2, at=now, user="usr_eve", member="usr_eve"))

    world.log.submit(Operation(joins, "rm_a"), lambda _result: None)
    await asyncio.sleep(0)
    world.send(ANA, "rm_a", "one")
    await begun.wait()
    go_on.set()
    await world.settle()

    assert [[entry.seq for entry in batch.entries] for batch in world.bus.batches] == [[2], [3]]


async def test_a_refused_operation_does_not_touch_its_batch_mates(world: World) -> None:
    world.send(ANA, "rm_a", "1")
    world.send(EVE, "rm_a", "2")
    world.send(BOB, "rm_a", "3")
    await world.settle()

    assert isinstance(world.answers["eve/2/text"], NotFound)
    assert [world.answers[f"{name}/text"].seq for name in ("ana/1", "bob/3")] == [2, 3]
    assert world.store.commits == 1


async def test_an_operation_that_breaks_fails_alone(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def broken(_transaction: LogTransaction, _now: int) -> None:
        raise ZeroDivisionError

    results: list[Any] = []
    world.send(ANA, "rm_a", "1")
    world.log.submit(Operation(broken, "rm_a"), results.append)
    world.send(BOB, "rm_a", "2")
    await world.settle()

    assert isinstance(results[0], Internal)
    assert [each.seq for each in world.answers.values()] == [2, 3]
    assert "ZeroDivisionError" in caplog.text


async def test_an_operation_that_breaks_half_way_is_undone_alone(world: World) -> None:
    def broken(transaction: LogTransaction, now: int) -> None:
        transaction.append(Entry(type=EntryType.MESSAGE_SENT, room="rm_a", seq=3, at=now, user="usr_ana", body="half"))
        raise ZeroDivisionError

    results: list[Any] = []
    world.send(ANA, "rm_a", "1")
    world.log.submit(Operation(broken, "rm_a"), results.append)
    world.send(BOB, "rm_a", "2")
    await world.settle()

    assert isinstance(results[0], Internal)
    assert [(entry.user, entry.seq) for entry in world.store.entries] == [("usr_ana", 2), ("usr_bob", 3)]


async def test_an_operation_that_is_refused_after_it_recorded_something_is_undone_alone(world: World) -> None:
    def changes_its_mind(transaction: LogTransaction, _now: int) -> None:
        transaction.record(AuditEvent(action="room.update"))
        raise Forbidden

    results: list[Any] = []
    world.send(ANA, "rm_a", "1")
    world.log.submit(Operation(changes_its_mind, "rm_a"), results.append)
    world.send(BOB, "rm_a", "2")
    await world.settle()

    assert isinstance(results[0], Internal)  # it is our mistake, and undone
    assert [each.seq for each in world.answers.values()] == [2, 3]
    assert world.store.recorded == []


async def test_a_refusal_is_told_once_after_its_batch_and_with_who_asked() -> None:
    heard: list[tuple[Any, str]] = []
    store, command = MemoryStore(), MessageSend(room="rm_a", cmid="1", body="x")
    log = RoomLog(
        cast("LogStore", store), RecordingBus(), ManualClock(), lambda origin, error: heard.append((origin, type(error).__name__))
    )

    def refuse(_transaction: LogTransaction, _now: int) -> None:
        raise Forbidden

    operation = Operation(refuse, "rm_a")
    operation.origin = (EVE, command, "10.0.0.1")
    store.fail = [OSError("disk")]  # The batch is tried again, one by one.
    other = Operation(lambda _transaction, _now: None, "rm_a")
    log.submit(operation, lambda _: None)
    log.submit(other, lambda _: None)
    await log.drain()

    assert heard == [((EVE, command, "10.0.0.1"), "Forbidden")]


async def test_a_commit_that_fails_is_tried_one_by_one(world: World) -> None:
    world.store.fail = [OSError("disk")]
    world.send(ANA, "rm_a", "1")
    world.send(BOB, "rm_a", "2")
    await world.settle()

    assert [each.seq for each in world.answers.values()] == [2, 3]
    assert world.store.commits == 2


async def test_a_commit_that_keeps_failing_answers_everybody_and_stores_nothing(world: World) -> None:
    world.store.fail = [Unavailable("disk full")] * 3
    world.send(ANA, "rm_a", "1")
    world.send(BOB, "rm_a", "2")
    await world.settle()

    assert all(isinstance(answer, Unavailable) for answer in world.answers.values())
    assert (world.store.entries, world.bus.batches) == ([], [])


async def test_a_store_that_takes_nothing_now_is_asked_once_for_the_whole_batch(world: World) -> None:
    world.store.fail = [Unavailable("no answer")]
    world.send(ANA, "rm_a", "1")
    world.send(BOB, "rm_a", "2")
    await world.settle()

    assert all(isinstance(answer, Unavailable) for answer in world.answers.values())
    assert len(world.store.loads) == 1


async def test_a_store_that_asks_again_hears_the_last_decision_and_each_refusal_is_told_once() -> None:
    heard: list[str] = []
    store = MemoryStore()
    log = RoomLog(cast("LogStore", store), RecordingBus(), ManualClock(), lambda _origin, error: heard.append(type(error).__name__))
    commit = store.commit

    async def twice(work: Callable[[LogTransaction], Awaitable[Any]], _lane: int = 0, /) -> Any:
        await work(cast("LogTransaction", MemoryTransaction(store)))
        return await commit(work)

    store.commit = twice  # type: ignore[method-assign]

    def refuse(_transaction: LogTransaction, _now: int) -> None:
        raise Forbidden

    operation = Operation(refuse, "rm_a")
    operation.origin = (EVE, MessageSend(room="rm_a", cmid="1", body="x"), "10.0.0.1")
    log.submit(operation, lambda _: None)
    await log.drain()

    assert heard == ["Forbidden"]


async def test_a_bus_that_breaks_costs_a_delivery_and_no_answer(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_batches: object) -> None:
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(world.bus, "publish", broken)
        world.send(ANA, "rm_a", "1")
        await world.settle()
    world.send(ANA, "rm_a", "2")
    await world.settle()

    assert [each.seq for each in world.answers.values()] == [2, 3]
    assert [[entry.seq for entry in batch.entries] for batch in world.bus.batches] == [[3]]
    assert "could not be delivered" in caplog.text


async def test_an_answer_that_breaks_costs_no_other_answer_and_no_delivery(world: World) -> None:
    def broken(_result: object) -> None:
        raise ConnectionError

    world.log.submit(world.messaging.send(ANA, MessageSend(room="rm_a", cmid="0", body="x")), broken)
    world.send(ANA, "rm_a", "1")
    await world.settle()

    assert world.answers["ana/1/text"].seq == 3
    assert [[entry.seq for entry in batch.entries] for batch in world.bus.batches] == [[2, 3]]


async def test_74_the_same_cmid_is_the_same_message_also_within_one_batch(world: World) -> None:
    world.send(ANA, "rm_a", "1")
    world.send(ANA, "rm_a", "1", "other text")
    world.send(ANA, "rm_b", "1")
    world.send(principal("ana", device=2), "rm_a", "1", "from a phone")
    await world.settle()
    first = world.answers["ana/1/text"]
    world.answers.clear()
    world.send(ANA, "rm_a", "1")
    await world.settle()

    assert isinstance(world.answers["ana/1/text"], Sent)
    assert len(world.store.entries) == 3
    assert first.seq == 2  # Sent to rm_b under the same key: the answer of the last callback.


async def test_74_the_same_cmid_with_another_text_is_a_conflict(world: World) -> None:
    world.send(ANA, "rm_a", "1")
    await world.settle()
    world.send(ANA, "rm_a", "1", "other")
    await world.settle()

    assert isinstance(world.answers["ana/1/other"], CmidConflict)
    assert [entry.body for entry in world.store.entries] == ["text"]


async def test_a_full_queue_refuses_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_log_module, "WAITING_MAX", 3)
    for number in range(5):
        world.send(ANA, "rm_a", str(number))

    refused = [answer for answer in world.answers.values() if isinstance(answer, ChatError)]

    assert [type(answer) for answer in refused] == [Unavailable, Unavailable]
    await world.settle()
    assert len(world.store.entries) == 3


async def test_draining_answers_what_waits_and_refuses_what_comes(world: World) -> None:
    world.send(ANA, "rm_a", "1")
    await world.log.drain()
    world.send(ANA, "rm_a", "2")

    assert world.answers["ana/1/text"].seq == 2
    assert isinstance(world.answers["ana/2/text"], Draining)


class OvertakenStore(MemoryStore):
    """In some rooms another server is ahead; `others` tells of each commit which ones, as often as somebody may be left behind."""

    def __init__(self, *others: set[str]) -> None:
        super().__init__()
        self.others = list(others)
        self.apart: list[bool] = []
        self.batches: list[int] = []

    async def commit(self, work: Callable[[LogTransaction], Awaitable[Any]], lane: int = 0, /) -> Any:
        ahead = self.others.pop(0) if self.others else set()

        async def overtaken(transaction: LogTransaction) -> Any:
            result = await work(transaction)
            self.apart.append(transaction.apart)
            self.batches.append(len(transaction.appended))
            if transaction.apart:
                left = [entry for entry in transaction.appended if entry.room in ahead]
                transaction.appended[:] = [entry for entry in transaction.appended if entry.room not in ahead]
                transaction.behind = ahead  # type: ignore[misc]  # as a store does
                for room in ahead:
                    self.rooms[room].last_seq += 10 - sum(entry.room == room for entry in left)
            return result

        return await super().commit(overtaken, lane)


async def test_what_is_left_behind_is_decided_again_before_what_came_since_and_its_batch_mates_are_answered() -> None:
    store, bus, told = OvertakenStore({"rm_a"}, {"rm_a"}), RecordingBus(), []
    log = RoomLog(cast("LogStore", store), bus, ManualClock(), lambda origin, error: told.append((origin[2], error)))
    store.gate.clear()
    first = _sends(log, "rm_a", "1", "2")
    mate = _sends(log, "rm_b", "1")
    refused: list[Any] = []
    for room in ("rm_a", "rm_b"):
        command = MessageSend(room=room, cmid="no", body="x")
        operation = MessagingService(lambda _a, _b: False).send(EVE, command)
        operation.origin = (EVE, command, room)
        log.submit(operation, refused.append)
    await asyncio.sleep(0)
    later = _sends(log, "rm_a", "3")
    store.gate.set()
    await log.drain()

    assert (first, mate, later) == (["1", "2"], ["1"], ["3"])
    assert [(entry.room, entry.cmid, entry.seq) for entry in store.entries] == [
        ("rm_b", "1", 2), ("rm_a", "1", 22), ("rm_a", "2", 23), ("rm_a", "3", 24)
    ]  # fmt: skip
    assert [(batch.room, [entry.seq for entry in batch.entries]) for batch in bus.batches] == [
        ("rm_b", [2]),
        ("rm_a", [22, 23, 24]),
    ]
    assert len(refused) == 2
    assert sorted(room for room, _ in told) == ["rm_a", "rm_b"]  # Each once, though one was decided three times.
    assert store.loads == [["rm_a", "rm_b"], ["rm_a"], ["rm_a"]]


async def test_who_is_left_behind_again_and_again_is_stored_by_itself_all_or_nothing() -> None:
    store = OvertakenStore(*[{"rm_a"}] * 100)
    log = RoomLog(cast("LogStore", store), RecordingBus(), ManualClock())
    answered = _sends(log, "rm_a", "1")
    while not answered:
        other = _sends(log, "rm_b", f"beside {len(store.loads)}")
        await asyncio.sleep(0)
    await log.drain()

    assert other
    assert store.apart.count(False) == 1
    assert store.loads[store.apart.index(False)] == ["rm_a"]
    assert store.apart.index(False) == room_log_module.PATIENCE


async def test_a_room_without_patience_is_stored_in_pieces_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_log_module, "BATCH_MAX", 3)
    store = OvertakenStore(*[{"rm_a"}] * room_log_module.PATIENCE)
    log = RoomLog(cast("LogStore", store), RecordingBus(), ManualClock())
    answered = _sends(log, "rm_a", *"12345678")
    beside = _sends(log, "rm_b", "1")
    await log.drain()

    assert (answered, beside) == (list("12345678"), ["1"])
    assert [entry.cmid for entry in store.entries if entry.room == "rm_a"] == list("12345678")
    assert max(store.batches) == 3


class LanedStore(MemoryStore):
    """Two lanes; each commits when the test lets it."""

    lanes = 2

    def __init__(self) -> None:
        super().__init__()
        self.places = {"rm_a": 0, "rm_b": 1}
        self.gates = [asyncio.Event(), asyncio.Event()]
        self.committed: list[tuple[int, str | None]] = []

    def lane(self, room_id: str, /) -> int:
        return self.places[room_id]

    async def commit(self, work: Callable[[LogTransaction], Awaitable[Any]], lane: int = 0, /) -> Any:
        transaction = MemoryTransaction(self)
        await self.gates[lane].wait()
        await transaction.load([], [], [])
        places = dict(self.places)

        async def looked(found: LogTransaction) -> Any:
            result = await work(found)
            if any(places[entry.room] != lane for entry in transaction.appended):
                for entry in transaction.appended:
                    self.rooms[entry.room].last_seq -= 1
                raise Moved
            return result

        result = await looked(cast("LogTransaction", transaction))
        self.entries += transaction.appended
        self.committed += [(lane, entry.cmid) for entry in transaction.appended]
        return result


def _sends(log: RoomLog, room: str, *cmids: str) -> list[str]:
    messaging = MessagingService(lambda _a, _b: False, lambda _bucket, _room: None)
    answered: list[str] = []
    for cmid in cmids:
        log.submit(messaging.send(ANA, MessageSend(room=room, cmid=cmid, body="x")), lambda _, cmid=cmid: answered.append(cmid))  # type: ignore[misc]
    return answered


async def test_lanes_do_not_wait_for_each_other() -> None:
    store = LanedStore()
    log = RoomLog(cast("LogStore", store), RecordingBus(), ManualClock())
    waits, goes = _sends(log, "rm_a", "1"), _sends(log, "rm_b", "2")
    store.gates[1].set()
    while not goes:
        await asyncio.sleep(0)

    assert waits == []
    assert log.waiting == 0  # Taken, and held by the store.
    store.gates[0].set()
    await log.drain()
    assert waits == ["1"]


async def test_what_was_sent_to_a_room_that_moves_stays_in_order() -> None:
    store = LanedStore()
    log = RoomLog(cast("LogStore", store), RecordingBus(), ManualClock())
    answered = _sends(log, "rm_a", "1", "2")
    await asyncio.sleep(0)
    answered_later = _sends(log, "rm_a", "3")
    store.places["rm_a"] = 1
    last = _sends(log, "rm_a", "4")
    store.gates[1].set()
    await asyncio.sleep(0)
    assert store.committed == []  # Nothing overtakes what the old lane still holds.
    store.gates[0].set()
    await log.drain()

    assert store.committed == [(1, cmid) for cmid in "1234"]
    assert (answered, answered_later, last) == (["1", "2"], ["3"], ["4"])
    assert log._busy == {}
