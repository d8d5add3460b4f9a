"""PostgresPool: connections to one database, with limits, deadlines and a breaker.

A connection that may be in the middle of something (its command was cancelled, timed out, or the other end is gone) is ended, and
never goes back to the pool. When the breaker opens the whole pool is left behind: what it held may be dead without knowing it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import asyncpg

from securechat.domain.breaker import Breaker
from securechat.errors import Unavailable

log = logging.getLogger(__name__)

CONNECT_S: Final = 3.0
"""A connection, or one of the pool, is there within this time."""
CONNECTING_MAX: Final = 4
"""Connections that are being made at a time: a database that just came back is not met by all of them at once."""
STATEMENT_MS: Final = 5_000
IDLE_IN_TRANSACTION_MS: Final = 10_000
COMMAND_S: Final = 6.0
"""Longer than a statement may take: only a server that does not answer at all is given up by us."""
CLOSE_S: Final = 3.0
RETRY_MS: Final = 1_000
WAITING_MAX: Final = 500
"""Who may wait for a connection at a time. One statement takes a millisecond or two: these wait for less than a second."""
WATCH_S: Final = 0.5
"""Between two looks whether the database answers."""
SLICE_S: Final = 0.1
SLICES: Final = 10
"""It answers within so many slices of our own time: a process that was stopped itself takes nobody for dead."""
PAUSE_MAX_S: Final = 1.0
DOWN: Final = "The database does not answer."

NOT_NOW: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,  # A standby that is about to take over.
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
"""What passes: the same may succeed later."""
NO_CONNECTION: Final = (*NOT_NOW, asyncpg.InternalServerError)
"""Why there is no new connection now. PostgreSQL calls it internal when its disk is too full to begin a session."""
GONE: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
"""After these nobody knows what became of the last command."""
OPTIONS: Final[dict[str, Any]] = {
    "timeout": CONNECT_S,
    "command_timeout": COMMAND_S,
    "statement_cache_size": 300,
    "server_settings": {
        "application_name": "securechat",
        "statement_timeout": str(STATEMENT_MS),
        "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MS),
        "jit": "off",  # Our statements are short; compiling them costs more than running them,
        "max_parallel_workers_per_gather": "0",  # and so does starting processes for them: 30 ms each time, without statistics.
    },
}


class AnswerLost(Exception):
    """The connection was lost while it committed: it may be stored or not."""


class TryAgain(Exception):
    """Somebody else was in the way, or the connection was lost before the commit. Nothing is stored."""


class PostgresPool:
    """The connections to one database.

    Args:
        url: `postgresql://user:password@host:port/database`.
        connections: How many there may be.

    Attributes:
        breaker: Whether the database is asked.
        driver: The driver's pool: another one after each time that the breaker opened. Awaited before it is used.
        waiting: Who waits for a connection.
        went_away: Called when it is found out that the database does not answer.
        came_back: Called when it answers again.
    """

    def __init__(self, url: str, connections: int) -> None:
        self._url = url
        self._connections = connections
        self._connecting = asyncio.Semaphore(CONNECTING_MAX)
        self.driver = self._fresh()
        self._left: set[asyncio.Task[None]] = set()
        self._now = asyncio.get_running_loop().time
        self.breaker = Breaker(pause_max_s=PAUSE_MAX_S)
        self._watched = False
        self.waiting = 0
        self.went_away: Callable[[], None] = _nobody_hears
        self.came_back: Callable[[], None] = _nobody_hears

    def _fresh(self) -> Any:
        """Return a pool without a connection in it."""
        return asyncpg.create_pool(
            self._url, min_size=0, max_size=self._connections, reset=_leave, connect=self._connect, **OPTIONS
        )

    def refusal(self) -> Unavailable | None:
        """Return what somebody is told who would ask now, or None. Where there is a watch, only that asks: nobody else waits."""
        if self._watched and not self.breaker.closed:
            self.breaker.refused += 1
            return Unavailable(DOWN, retry_after_ms=int(max(self.breaker.wait_s(self._now()), WATCH_S) * 1_000))
        return self.breaker.refusal(self._now(), DOWN)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """Lend a connection. What the server refuses for a reason that stays is raised as the driver does.

        Raises:
            AnswerLost: It was lost in use.
            TryAgain: Somebody else was in the way.
            Unavailable: There is none, or the server does not do it now.
        """
        pool, connection = await self._acquire()
        try:
            yield connection
        except GONE as error:
            _end(connection)
            self._failed(error)
            raise AnswerLost from error
        except asyncpg.TransactionRollbackError as error:
            self._answered()
            raise TryAgain from error
        except asyncpg.QueryCanceledError as error:
            self.breaker.gave_up(self._now())  # It took too long: that says nothing of the others.
            raise unavailable(error) from error
        except NOT_NOW as error:
            self._answered()
            raise unavailable(error) from error
        except asyncio.CancelledError:
            _end(connection)  # It is in the middle of something.
            self.breaker.gave_up(self._now())
            raise
        except BaseException:
            self._answered()
            raise
        else:
            self._answered()
        finally:
            with suppress(*NOT_NOW):
                await pool.release(connection, timeout=1)

    async def _acquire(self) -> tuple[Any, Any]:
        """Return a connection, and the pool that it goes back to.

        Raises:
            Unavailable: There is none.
        """
        if self.waiting >= WAITING_MAX:
            raise Unavailable("The database is busy.", retry_after_ms=RETRY_MS)
        refusal = self.refusal()
        if refusal is not None:
            try:
                raise refusal
            finally:
                del refusal  # As in `Breaker.enter`.
        self.breaker.enter(self._now(), DOWN)
        self.waiting += 1
        try:
            pool = await self.driver
            return pool, await pool.acquire(timeout=CONNECT_S)
        except NO_CONNECTION as error:
            self.breaker.gave_up(self._now())  # Whether it was the database that failed, or all were in use, `_connect` knows.
            raise unavailable(error) from error
        except BaseException:
            self.breaker.gave_up(self._now())
            raise
        finally:
            self.waiting -= 1

    async def _connect(self, *where: Any, **how: Any) -> Any:
        """Make a connection for the pool. Fails before who waits for it gives up: so it is known why."""
        async with self._connecting:
            try:
                return await asyncpg.connect(*where, **how | {"timeout": CONNECT_S * 0.8})
            except asyncpg.TooManyConnectionsError:
                raise  # It answers, and others of its connections work.
            except NO_CONNECTION as error:
                if not self._watched:  # Else that knows more: when only the name is not found out, what is connected goes on.
                    self._failed(error)
                raise

    # ── the breaker ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def watch(self) -> None:
        """Look for ever whether the database answers: so it is known before somebody asks, and who asks is no probe."""
        connection: Any = None
        self._watched = True
        try:
            while True:
                connection = await self._look(connection)
                await asyncio.sleep(WATCH_S if self.breaker.closed else min(WATCH_S, self.breaker.wait_s(self._now()) + 0.001))
        finally:
            self._watched = False
            if connection is not None:
                _end(connection)

    async def _look(self, connection: Any) -> Any:
        """Ask once; return the connection to ask on the next time."""
        if not self.breaker.closed:
            try:
                self.breaker.enter(self._now(), DOWN)
            except Unavailable:
                return connection  # Somebody else is the probe.
        asking = asyncio.create_task(self._ask(connection), name="database-asked")
        try:
            # A new connection takes more round trips than a look; while nobody may ask, nobody waits for it.
            patience = SLICES if connection is not None and self.breaker.closed else round(CONNECT_S / SLICE_S)
            for _ in range(patience):
                if (await asyncio.wait({asking}, timeout=SLICE_S))[0]:
                    break
        finally:
            asking.cancel()  # Nothing happens to one that is done.
        await asyncio.wait({asking})
        error = TimeoutError("no answer") if asking.cancelled() else asking.exception()
        if error is None:
            self._answered()
            return asking.result()
        # It answers, and others of its connections work, perhaps.
        if not isinstance(error, asyncpg.TooManyConnectionsError) or not self.breaker.closed:
            self._failed(error, surely=True)
        return None

    async def _ask(self, connection: Any) -> Any:
        """Return a connection on which the database answered: this one, or else a new one."""
        for known in (connection, None):
            here = known
            try:
                if here is None:
                    here = await asyncpg.connect(self._url, **OPTIONS)
                await here.fetchval("SELECT 1")
            except (*NOT_NOW, asyncpg.PostgresError):
                if here is not None:
                    _end(here)
                if known is None:
                    raise
            except BaseException:
                if here is not None:
                    _end(here)
                raise
            else:
                return here
        raise AssertionError

    def _answered(self) -> None:
        if self.breaker.succeeded(self._now()):
            log.warning("the database answers again")
            self.came_back()

    def _failed(self, error: BaseException, *, surely: bool = False) -> None:
        text = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        if self.breaker.failed(self._now(), text, surely=surely):
            log.error("the database does not answer: commands are refused until it does", extra={"error": text})
            left, self.driver = self.driver, self._fresh()
            task = asyncio.create_task(_close(left, COMMAND_S), name="database-left")
            self._left.add(task)
            task.add_done_callback(self._left.discard)
            self.went_away()

    async def close(self) -> None:
        """Wait for what is under way, but not for long, and not for a database that does not answer."""
        left = list(self._left)
        for task in left:
            task.cancel()
        await asyncio.gather(_close(self.driver, CLOSE_S if self.breaker.closed else 0.0), *left, return_exceptions=True)


async def _close(pool: Any, within_s: float) -> None:
    try:
        async with asyncio.timeout(within_s):
            await (await pool).close()
    except TimeoutError:
        pool.terminate()


def _end(connection: Any) -> None:
    """End a connection; one whose other end is gone has left the pool by itself."""
    with suppress(asyncpg.InterfaceError):
        connection.terminate()


def unavailable(error: BaseException) -> Unavailable:
    """Return what somebody is told when the database does not do what it was asked."""
    log.warning("the database refuses", extra={"error": type(error).__name__, "text": str(error)})
    return Unavailable("The database does not take it now.", retry_after_ms=RETRY_MS)


def _nobody_hears() -> None:
    pass


async def _leave(_connection: Any) -> None:
    """Do nothing when a connection comes back: our statements leave nothing behind, and a reset costs a round trip."""
