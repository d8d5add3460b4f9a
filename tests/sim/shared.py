"""What several simulated servers have in common: a database that outlives each of them, and a Redis between them.

The database is the simulated SQLite, and one transaction runs at a time, as if every commit locked every room. What PostgreSQL's
rows and locks do is not here: real servers on a real one show that. What is here is everything that a server believes while others
write: answers of the database that are late, messages of the bus that are late, lost with or without a word, or in nobody's order
but their sender's.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, Final

from securechat.bus.publisher import Traffic
from securechat.domain.ports import LogStore
from securechat.errors import Unavailable
from securechat.store.log import SqliteLog
from securechat.store.sqlite import SqliteDatabase, SqliteTransaction
from sim.chance import clocks
from sim.disk import Life
from sim.loop import ProcessLoop

NOTICED_S: Final = 1.0
"""A link on which nothing passes is noticed after this time, as `bus.publisher.ANSWER_S` says."""
BACK_S: Final = 0.3
LOOK_S: Final = 2.0
"""Between two looks whether somebody leads, as `store.session_locks.LOOK_S`."""
READS: Final = ("page", "heads", "head", "room", "read_state", "browse", "lookup", "count_rooms", "newest", "rooms_of", "members")
"""Questions to the log: each is of one moment, and its answer is late."""


class Shared:
    """One database, one Redis, and who is there.

    Args:
        chance: For how long answers take.

    Attributes:
        life: The files of the database, whoever opens them.
        latency: Seconds that the database and Redis take for an answer, at least and at most.
        links: Those that are up.
        down: Whether Redis is.
        loses: How often Redis loses a message to one server without a word.
        late_s: What a message may be late besides.
        leader: The loop of the server that leads.
    """

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.life = Life()
        self.latency = (0.0002, 0.002)
        self.links: dict[SimLinks, None] = {}
        self.down = False
        self.loses = 0.0
        self.late_s = 0.0
        self.leader: ProcessLoop | None = None
        self.buckets: dict[bytes, int] = {}
        self.serving: dict[ProcessLoop, None] = {}
        self._writer: ProcessLoop | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._wrote: ProcessLoop | None = None
        self._logs: dict[ProcessLoop, SqliteLog] = {}

    # ── the database ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def delay(self) -> None:
        """Let the time of one way pass."""
        await asyncio.sleep(self._way())

    def _way(self) -> float:
        found = self.chance.uniform(*self.latency) / 2
        return found * 20 if self.chance.random() < 0.03 else found

    def adopt(self, log_store: LogStore) -> LogStore:
        """Know a server's log: what it remembers of rooms does not hold when another one has written."""
        assert isinstance(log_store, SqliteLog)
        self._logs[_loop()] = log_store
        database = log_store._sqlite

        async def read(sql: str, values: Sequence[object] = ()) -> Any:
            return database.rows(sql, values)

        log_store._db = SimpleNamespace(read=read)  # Of one moment; who asks waits before and after.
        return log_store

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Be the only one who writes."""
        loop = _loop()
        if self._writer is not None:
            turn: asyncio.Future[None] = loop.create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._give_on()
                raise
        self._writer = loop
        try:
            await self.delay()
            if self._wrote is not loop and loop in self._logs:
                self._logs[loop]._rooms.clear()
            self._wrote = loop
            yield
        finally:
            if self._writer is loop:
                self._give_on()

    def _give_on(self) -> None:
        self._writer = None
        while self._waiting:
            turn = self._waiting.popleft()
            loop: Any = turn.get_loop()
            if not loop.dead and not turn.done():
                self._writer = loop
                turn.set_result(None)
                return

    def ended(self, loop: ProcessLoop) -> None:
        """Let go of what a server held: the database and Redis notice that it is gone."""
        self.serving.pop(loop, None)
        self._logs.pop(loop, None)
        for link in [each for each in self.links if each.loop is loop]:
            del self.links[link]
        if self.leader is loop:
            self.leader = None
        if self._wrote is loop:
            self._wrote = None
        if self._writer is loop:
            self._give_on()

    # ── Redis ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def publish(self, link: SimLinks, channel: bytes, message: bytes) -> None:
        """Carry a message to all who are there."""
        if self.down or link.deaf:
            return
        for other in self.links:
            if other is link or self.chance.random() >= self.loses:
                other.carry(channel, message, self._way() + self._way() + self.chance.uniform(0.0, self.late_s))

    def execute(self, command: Sequence[Any]) -> Any:
        """Execute a command of those that limits are made of. Nothing expires: runs are short."""
        name, key, *values = command if len(command) > 1 else (command[0], b"")
        micros = int(clocks.now * 1_000_000)
        match name:
            case "TIME":
                return micros // 1_000_000, micros % 1_000_000
            case "SET":
                if "NX" in values and key in self.buckets:
                    return None
                self.buckets[key] = values[0]
                return True
            case "INCRBY":
                self.buckets[key] = self.buckets.get(key, 0) + values[0]
                return self.buckets[key]
            case "DEL":
                return int(self.buckets.pop(key, None) is not None)
            case "EXPIRE" | "PEXPIREAT":
                return 1
        raise AssertionError(f"Redis was asked for {name}")


class SimLinks:
    """Stands in for `bus.links.Links`: one server's way to the simulated Redis.

    Attributes:
        loop: Of the server.
        deaf: Nothing passes, and nobody was told.
    """

    is_cluster = False

    def __init__(
        self, _url: str, _channels: Sequence[bytes], received: Callable[[bytes, bytes], None], changed: Callable[[], None]
    ) -> None:
        self.loop = _loop()
        self.deaf = False
        self.problem = "not connected yet"
        self.breakers: dict[str, Any] = {}
        self.traffic = Traffic()
        self._shared: Shared = self.loop.owner.shared
        self._received = received
        self._changed = changed
        self._arrives_at = 0.0
        self._broken = asyncio.Event()

    def put(self, channel: bytes, message: bytes) -> None:
        """See `Links.put`."""
        if self in self._shared.links:
            self._shared.publish(self, channel, message)

    def carry(self, channel: bytes, message: bytes, seconds: float) -> None:
        """Bring a message, after all that came before it."""
        self._arrives_at = max(self._arrives_at, clocks.now + seconds)
        self.loop.call_at(self._arrives_at, self._arrived, channel, message)

    def _arrived(self, channel: bytes, message: bytes) -> None:
        if self in self._shared.links and not self.deaf:
            self._received(channel, message)

    async def execute(self, _channel: bytes, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """See `Links.execute`."""
        await self._shared.delay()
        if self not in self._shared.links or self.deaf:
            raise ConnectionError("not connected")
        answers = [self._shared.execute(command) for command in commands]
        await self._shared.delay()
        return answers

    async def sent(self, _within_s: float) -> None:
        """See `Links.sent`."""
        await self._shared.delay()

    async def ping(self) -> None:
        """See `Links.ping`."""
        if self.problem:
            raise ConnectionError(self.problem)

    def lose(self, *, silently: bool) -> None:
        """Break the link, at once or in silence: then it is noticed a moment later."""
        if silently:
            self.deaf = True
            self.loop.call_later(NOTICED_S, self._broken.set)
        else:
            self._broken.set()

    async def run(self) -> None:
        """See `Links.run`."""
        shared = self._shared
        while True:
            await asyncio.sleep(shared.chance.uniform(0.0, BACK_S))
            if shared.down:
                continue
            self._broken.clear()
            self.deaf = False
            shared.links[self] = None
            self.problem = ""
            self._changed()
            await self._broken.wait()
            shared.links.pop(self, None)
            self.problem = "the link broke"
            self._changed()


class SimLocks:
    """Stands in for `store.session_locks.ServerLocks`."""

    def __init__(self) -> None:
        self._loop = _loop()
        self._shared: Shared = self._loop.owner.shared
        self.alone = not self._shared.serving

    @property
    def leads(self) -> bool:
        """Whether this server works on jobs."""
        return self._shared.leader is self._loop

    async def enter(self) -> None:
        """See `ServerLocks.enter`."""
        await self._shared.delay()
        self._shared.serving[self._loop] = None
        self._lead()

    async def knows(self, _shards: int) -> None:
        """See `ServerLocks.knows`."""

    async def run(self) -> None:
        """See `ServerLocks.run`."""
        while True:
            await asyncio.sleep(LOOK_S)
            self._lead()

    async def leave(self) -> None:
        """See `ServerLocks.leave`."""
        self._shared.serving.pop(self._loop, None)
        if self.leads:
            self._shared.leader = None

    def _lead(self) -> None:
        if self._shared.leader is None:
            self._shared.leader = self._loop


def _loop() -> Any:
    return asyncio.get_running_loop()


def _shared() -> Shared | None:
    found: Shared | None = _loop().owner.shared
    return found


def replace_edges() -> None:
    """Put the shared database in place of one server's own, where a server has others beside it. Once per process."""
    alone = SqliteDatabase.transaction

    @asynccontextmanager
    async def transaction(database: SqliteDatabase) -> AsyncIterator[SqliteTransaction]:
        shared = _shared()
        if shared is None:
            async with alone(database) as found:
                yield found
        else:
            async with shared.writing(), alone(database) as found:
                yield found

    at_once = SqliteDatabase.read

    async def read(database: SqliteDatabase, sql: str, values: Sequence[object] = ()) -> Any:
        return await _late(at_once, database, sql, values)

    changes: list[tuple[str, Any]] = [
        ("transaction", transaction),
        ("read", read),
        ("_truncate", _at_home(SqliteDatabase._truncate)),
    ]
    changes += [(name, _own_file(getattr(SqliteDatabase, name))) for name in ("_checkpoint", "_erase")]
    for name, value in changes:
        setattr(SqliteDatabase, name, value)
    for name in READS:
        setattr(SqliteLog, name, _late_read(getattr(SqliteLog, name)))


async def _late(ask: Callable[..., Any], *values: Any, **named: Any) -> Any:
    shared = _shared()
    if shared is None:
        return await ask(*values, **named)
    await shared.delay()
    database = values[0] if isinstance(values[0], SqliteDatabase) else values[0]._sqlite
    if database._closed:
        raise Unavailable("The server stops.", retry_after_ms=1_000)
    found = await ask(*values, **named)
    await shared.delay()
    return found


def _late_read(ask: Any) -> Any:
    async def read(*values: Any, **named: Any) -> Any:
        return await _late(ask, *values, **named)

    return read


def _own_file(work: Any) -> Any:
    """Leave alone what a server does with a file that is its own: PostgreSQL does that by itself."""

    async def done(database: SqliteDatabase) -> None:
        if _shared() is None:
            await work(database)
        else:
            database._checkpointing = None

    return done


def _at_home(work: Any) -> Any:
    def done(database: SqliteDatabase) -> None:
        if _shared() is None:
            work(database)

    return done
