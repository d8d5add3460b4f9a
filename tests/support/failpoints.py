"""Failpoints of a server on PostgreSQL and Redis: the process ends, as by kill -9, at the count-th time that it comes to a point.

They patch the running classes, as `mutants` does; nothing of it is in the server's own code.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable
from typing import Any, Final

from securechat.bus.redis import RedisBus
from securechat.gateway.gateway import Gateway
from securechat.protocol.session import ServerSession
from securechat.store.audit import SqlAudit
from securechat.store.postgres import PostgresDatabase
from support.mutants import EXIT, FAILPOINTS, wrap


class _Countdown:
    """Ends the process at the count-th hit."""

    def __init__(self, count: int) -> None:
        self._hits = itertools.count(1)
        self._count = count

    def is_due(self) -> bool:
        return next(self._hits) >= self._count

    def hit(self) -> None:
        if self.is_due():
            os._exit(EXIT)


def _before_insert(count: int) -> None:
    due = _Countdown(count)

    def make(call: Any) -> Any:
        async def wrapper(self: PostgresDatabase, sql: str, *values: object) -> Any:
            due.hit()
            return await call(self, sql, *values)

        return wrapper

    wrap(PostgresDatabase, "call", make)


def _insert_under_way(count: int) -> None:
    """The statement is on its way, or at work: nobody here knows whether it is stored."""
    due = _Countdown(count)

    def make(call: Any) -> Any:
        async def wrapper(self: PostgresDatabase, sql: str, *values: object) -> Any:
            if due.is_due():
                asyncio.get_running_loop().call_later(0.001, os._exit, EXIT)
            return await call(self, sql, *values)

        return wrapper

    wrap(PostgresDatabase, "call", make)


def _after_commit(count: int) -> None:
    due = _Countdown(count)

    def make(call: Any) -> Any:
        async def wrapper(self: PostgresDatabase, sql: str, *values: object) -> Any:
            said = await call(self, sql, *values)
            due.hit()
            return said

        return wrapper

    wrap(PostgresDatabase, "call", make)


def _after_ack(count: int) -> None:
    """Answered, and told to nobody yet."""
    due = _Countdown(count)

    def make(publish: Any) -> Any:
        def wrapper(self: RedisBus, batches: Any) -> None:
            if due.is_due():
                # The answers leave at the end of this turn; what is told would leave with them.
                asyncio.get_running_loop().call_later(0.001, os._exit, EXIT)
            else:
                publish(self, batches)

        return wrapper

    wrap(RedisBus, "publish", make)


def _mid_bus(count: int) -> None:
    """People here were told; those on other servers never are."""
    due = _Countdown(count)

    def make(flush: Any) -> Any:
        def wrapper(self: RedisBus) -> None:
            if self._pending and due.is_due():
                self._pending.clear()
                asyncio.get_running_loop().call_later(0.001, os._exit, EXIT)
            flush(self)

        return wrapper

    wrap(RedisBus, "_flush", make)


def _mid_drain(_count: int) -> None:
    """Asked to stop, everybody is told to come back and some are let go, and then it ends without a word."""

    def make(drain: Any) -> Any:
        async def wrapper(self: Gateway, spread_s: float, window_s: float) -> None:
            asyncio.get_running_loop().call_later(0.1, os._exit, EXIT)
            await drain(self, spread_s, window_s)
            os._exit(EXIT)

        return wrapper

    wrap(Gateway, "drain", make)


def _mid_audit(count: int) -> None:
    """The record is in the transaction, which is never committed."""
    due = _Countdown(count)

    def make(append: Any) -> Any:
        async def wrapper(self: SqlAudit, transaction: Any, events: Any) -> None:
            await append(self, transaction, events)
            if any(event.action == "bot.revoke" for event in events):
                due.hit()

        return wrapper

    wrap(SqlAudit, "append", make)


def _mid_rekey(count: int) -> None:
    """Sealed sessions make new keys all the time; the client has proved some, and the server never says that it has them."""
    due = _Countdown(count)

    def make(take: Any) -> Any:
        def wrapper(self: ServerSession, content: bytes) -> None:
            due.hit()
            take(self, content)

        return wrapper

    wrap(ServerSession, "_take_confirm", make)
    ServerSession.worn = property(lambda session: session.authenticated and not session._init)  # type: ignore[assignment, method-assign]


CLUSTER_POINTS: Final[dict[str, Callable[[int], None]]] = {
    "before_insert": _before_insert,
    "insert_under_way": _insert_under_way,
    "after_commit": _after_commit,
    "after_ack": _after_ack,
    "mid_fanout": FAILPOINTS["mid_fanout"],
    "mid_bus": _mid_bus,
    "mid_drain": _mid_drain,
    "mid_audit": _mid_audit,
    "mid_rekey": _mid_rekey,
}
