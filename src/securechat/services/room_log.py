"""RoomLog: the group commit. Everything that waits goes into one transaction; while it runs, the next batch gathers.

No timer: alone, an operation waits for nothing; under load a transaction carries hundreds. Answers go out after the commit is on
the disk, never before (law 1), and the next batch is taken after that, with what the answers set off (ADR 47). A refused operation
does not touch its batch-mates; a batch that fails as a whole is tried again, one operation at a time, so that a poisonous one fails
alone. Only when the store takes nothing now, all are told so at once.

Each operation is about one room. Where another server was ahead in some rooms of a batch, the store takes the others; what was left
behind goes first in the next batch, with what has come since.

Rooms that the store keeps in different places have lanes of their own, which do not wait for each other. While anything of a room
waits or is being stored, the room stays in its lane, so its operations never overtake each other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from securechat.domain.accounts import Principal
from securechat.domain.commands import Command, RoomSummary
from securechat.domain.entries import Entry, EntryType
from securechat.domain.ports import Clock, CmidKey, LogStore, LogTransaction, MessageBus, Moved, RoomBatch, TargetKey
from securechat.errors import ChatError, Draining, Internal, Unavailable

log = logging.getLogger(__name__)

WAITING_MAX: Final = 20_000
"""Operations that may wait; past it they are refused at once."""
BATCH_MAX: Final = 2_000
GATHER_TURNS: Final = 3
"""Turns of the loop between telling a batch and taking the next one: answers are written, and what they set off is read. Without
them those who send fall into two groups that take turns, and each write carries half of what it could. Measured, not reckoned: six
cost more than they bring."""
PATIENCE: Final = 6
"""How often an operation is left behind; after that, its room's are stored by themselves, all or nothing, whatever that takes."""

Decide = Callable[[LogTransaction, int], Any]
"""Decide on the loaded state: append entries and return the reply, or raise a `ChatError` before anything is appended."""
Done = Callable[[Any], None]
"""Gets the reply, or the `ChatError`."""
Origin = tuple[Principal, Command, str]
"""(who asked, for what, from which address)."""
Refused = Callable[[Origin, ChatError], None]
"""Hears of refusals. Does not wait, and does not raise."""


class Operation:
    """One change to rooms, waiting for its commit.

    Attributes:
        origin: Who asked for what, from where; set by the dispatcher, told when the operation is refused.
        tries: How often it was left behind.

    Args:
        decide: What to do, on loaded state.
        room: The room that it is about.
        sent: The cmid that it may be a repetition of.
        target: The entry that it is about.
    """

    __slots__ = ("decide", "done", "origin", "result", "room", "sent", "target", "tries")

    def __init__(self, decide: Decide, room: str, *, sent: CmidKey | None = None, target: TargetKey | None = None) -> None:
        self.decide = decide
        self.room = room
        self.sent = sent
        self.target = target
        self.done: Done = _nobody_waits
        self.result: Any = None
        self.origin: Origin | None = None
        self.tries = 0


class _Stored:
    """A batch that is stored, and not told yet.

    Attributes:
        batch: With their results.
        appended: What it added to the logs.
        refused: What was decided with a refusal.
        behind: What has to be decided again, in order.
        moved: What has to be stored in another lane instead, in order.
    """

    __slots__ = ("appended", "batch", "behind", "moved", "refused")

    def __init__(self, batch: list[Operation], appended: list[Entry], refused: list[Operation]) -> None:
        self.batch = batch
        self.appended = appended
        self.refused = refused
        self.behind: Sequence[Operation] = ()
        self.moved: Sequence[Operation] = ()


class _Lane:
    """What waits for one lane of the store, and the task that stores it."""

    __slots__ = ("number", "running", "waiting")

    def __init__(self, number: int) -> None:
        self.number = number
        self.waiting: list[Operation] = []
        self.running: asyncio.Task[None] | None = None


def _next_of(lane: _Lane) -> tuple[list[Operation], bool]:
    """Take the next batch of what waits; return it, and whether its rooms may be stored one without the other."""
    waiting = lane.waiting
    # What was left behind stands first.
    late = {operation.room for operation in waiting if operation.tries >= PATIENCE} if waiting[0].tries else set()
    if not late:
        batch = waiting[:BATCH_MAX]
        del waiting[:BATCH_MAX]
        return batch, True
    batch = []
    rest: list[Operation] = []
    for operation in waiting:
        (batch if operation.room in late and len(batch) < BATCH_MAX else rest).append(operation)
    lane.waiting = rest
    return batch, False


def _nobody_waits(_result: object) -> None:
    pass


def _set(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():  # Whoever waited may be gone; the operation went on all the same.
        future.set_result(result)


def _nobody_hears(_origin: Origin, _error: ChatError) -> None:
    pass


class _Poisoned(Exception):
    """An operation broke after it had begun to append: the batch must be undone."""


class RoomLog:
    """The one way to change a room.

    Args:
        store: Where the log lives.
        bus: Who is told after the commit.
        clock: For `at`.
        refused: Hears of operations that were refused.
    """

    def __init__(self, store: LogStore, bus: MessageBus, clock: Clock, refused: Refused | None = None) -> None:
        self._store = store
        self._bus = bus
        self._clock = clock
        self._refused: Refused = refused or _nobody_hears
        self._lanes: dict[int, _Lane] = {}
        self._busy: dict[str, list[int]] = {}
        """Room → [its lane, how many of its operations wait or are being stored], where there is more than one lane."""
        self._draining = False

    @property
    def waiting(self) -> int:
        """How many operations wait for the next commit."""
        return sum(len(lane.waiting) for lane in self._lanes.values())

    def submit(self, operation: Operation, done: Done) -> None:
        """Queue an operation; `done` is called once, after the commit or the refusal."""
        operation.done = done
        if self._draining:
            done(Draining(retry_after_ms=1_000))
        elif self.waiting >= WAITING_MAX:
            done(Unavailable("Too many messages are waiting.", retry_after_ms=1_000))
        elif (refusal := self._store.refusal(self._lane_of(operation.room))) is not None:
            done(refusal)
        else:
            self._put(operation)

    def give_back(self) -> None:
        """Refuse what waits for a store that does not answer: nothing of it was begun."""
        for lane in self._lanes.values():
            refusal = self._store.refusal(lane.number)
            if refusal is not None:
                waiting, lane.waiting = lane.waiting, []
                for operation in waiting:
                    _answer(operation, refusal)
                self._leave(waiting)

    def _lane_of(self, room: str) -> int:
        busy = self._busy.get(room)
        return self._store.lane(room) if busy is None else busy[0]

    def _put(self, operation: Operation) -> None:
        number = 0
        if self._store.lanes > 1:
            number = self._lane_of(operation.room)
            self._busy.setdefault(operation.room, [number, 0])[1] += 1
        lane = self._lanes.get(number)
        if lane is None:
            lane = self._lanes[number] = _Lane(number)
        lane.waiting.append(operation)
        if lane.running is None:
            lane.running = asyncio.create_task(self._run(lane), name="room-log")

    def _leave(self, operations: Sequence[Operation]) -> None:
        """Let the rooms go of those that are answered, or that look for their lane again."""
        if not self._busy:
            return
        for operation in operations:
            busy = self._busy[operation.room]
            busy[1] -= 1
            if not busy[1]:
                del self._busy[operation.room]

    async def perform(self, operation: Operation) -> Any:
        """Queue an operation and wait for its reply.

        Raises:
            ChatError: It was refused.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.submit(operation, partial(_set, future))
        result = await future
        try:
            if isinstance(result, ChatError):
                raise result
            return result
        finally:  # A refusal holds this frame: what holds the refusal may not be in it.
            operation.done, operation.result = _nobody_waits, None
            del future, result

    async def drain(self) -> None:
        """Refuse what comes now, and return when everything that waits is answered."""
        self._draining = True
        while running := [lane.running for lane in self._lanes.values() if lane.running is not None]:
            await asyncio.wait(running)

    async def _run(self, lane: _Lane) -> None:
        try:
            while lane.waiting:
                batch, apart = _next_of(lane)
                stored = await self._store_batch(lane, batch, apart=apart)
                lane.waiting[:0] = stored.behind
                await self._tell(stored)
                if stored.moved:
                    again = [*stored.moved, *lane.waiting]  # All that there is of their rooms.
                    lane.waiting = []
                    self._leave(again)
                    for operation in again:
                        operation.tries = 0
                        self._put(operation)
                for _ in range(GATHER_TURNS):
                    await asyncio.sleep(0)
        finally:
            lane.running = None

    async def _store_batch(self, lane: _Lane, batch: list[Operation], *, apart: bool) -> _Stored:
        """Store a batch, or of what is `apart` the rooms that hold; what is refused or fails has its answer then."""
        try:
            return await self._attempt(lane, batch, apart=apart)
        except Moved:
            done = _Stored([], [], [])
            done.moved = batch
            return done
        except Exception as error:  # noqa: BLE001 - the border; the batch is undone, each operation gets its own answer
            if len(batch) > 1 and not isinstance(error, Unavailable):
                log.warning(
                    "batch failed, trying its operations one by one", extra={"operations": len(batch), "error": repr(error)}
                )
                done = _Stored([], [], [])
                for place, operation in enumerate(batch):
                    alone = await self._store_batch(lane, [operation], apart=False)
                    if alone.moved:
                        done.moved = batch[place:]
                        break
                    done.batch += alone.batch
                    done.appended += alone.appended
                    done.refused += alone.refused
                return done
            answer = _as_answer(error)
            for operation in batch:
                operation.result = answer  # Where the store does not take it now, trying one by one would only take longer.
            return _Stored(batch, [], [])

    async def _tell(self, stored: _Stored) -> None:
        """Answer those who asked, and tell those who hear the rooms.

        It is stored. Whatever fails here costs an answer or a delivery, which the log heals, and no other operation.
        """
        for operation in stored.batch:
            _answer(operation, operation.result)
        for operation in stored.refused:
            if operation.origin is not None:
                self._refused(operation.origin, operation.result)
        if stored.appended:
            try:
                self._bus.publish(await self._by_room(stored.appended))
            except Exception:
                log.exception("a batch could not be delivered")
        self._leave(stored.batch)  # Not before it was told: what comes next may take another lane.

    async def _attempt(self, lane: _Lane, batch: list[Operation], *, apart: bool) -> _Stored:
        refused: list[Operation] = []

        async def work(transaction: LogTransaction) -> LogTransaction:
            refused.clear()  # The store may ask again: only the last time counts.
            transaction.apart = apart
            await transaction.load(
                sorted({operation.room for operation in batch}),
                [operation.sent for operation in batch if operation.sent is not None],
                [operation.target for operation in batch if operation.target is not None],
            )
            now = self._clock.now_ms()
            appended, recorded = transaction.appended, transaction.recorded
            for operation in batch:
                before = len(appended) + len(recorded)
                try:
                    operation.result = operation.decide(transaction, now)
                except ChatError as error:
                    operation.result = error
                    refused.append(operation)
                except Exception as error:  # noqa: BLE001 - the border; this operation fails, not its batch-mates
                    operation.result = _as_answer(error)
                if isinstance(operation.result, ChatError) and len(appended) + len(recorded) != before:
                    raise _Poisoned from operation.result
            return transaction

        done = await self._store.commit(work, lane.number)
        behind = done.behind
        if not behind:
            return _Stored(batch, done.appended, refused)
        stored = _Stored(
            [operation for operation in batch if operation.room not in behind],
            done.appended,
            [operation for operation in refused if operation.room not in behind],
        )
        stored.behind = [operation for operation in batch if operation.room in behind]
        for operation in stored.behind:
            operation.tries += 1
        return stored

    async def _by_room(self, appended: Sequence[Entry]) -> list[RoomBatch]:
        batches: dict[str, RoomBatch] = {}
        for entry in appended:
            batch = batches.get(entry.room)
            if batch is None:
                batch = batches[entry.room] = RoomBatch(entry.room, [])
            batch.entries.append(entry)
            if entry.type is EntryType.MEMBER_JOINED and entry.member is not None:
                summary = await self._summary(entry.member, entry.room)
                if summary is not None:
                    batch.opened[entry.member] = summary
        return list(batches.values())

    async def _summary(self, user_id: str, room_id: str) -> RoomSummary | None:
        """Return the room that somebody joined. If the store does not say, everybody else is told of the join all the same."""
        try:
            return await self._store.head(user_id, room_id)
        except Unavailable:
            log.warning("who joined is not told which room it is", extra={"room": room_id})
            return None


def _as_answer(error: Exception) -> ChatError:
    if isinstance(error, ChatError):
        return error
    log.error("operation failed", exc_info=error)
    return Internal()


def _answer(operation: Operation, result: object) -> None:
    """Answer who asked. If that fails it costs this answer, and nobody else theirs."""
    try:
        operation.done(result)
    except Exception:
        log.exception("an answer could not be given")
