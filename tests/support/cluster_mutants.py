"""Servers of a cluster that break one promise each, so that the checker is seen to notice.

They patch the running classes, as `mutants` does; nothing of it is in the server's own code.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable
from typing import Any, Final

from securechat.bus.redis import RedisBus
from securechat.bus.sequencer import Sequencer
from securechat.domain.ports import Signal
from securechat.gateway.connection import ClientConnection
from securechat.gateway.hub import Hub
from securechat.gateway.standing import Standing
from securechat.protocol.codec import Block
from securechat.store.audit import SqlAudit
from support.mutants import MUTANTS, wrap


def _keep_sessions() -> None:
    """A session that ended keeps its connections, whoever tells of it."""
    wrap(Hub, "disconnect", lambda _disconnect: lambda _self, **_whom: None)

    async def nothing(_self: Standing) -> None:
        """Look for nobody."""

    wrap(Standing, "_close_ended", lambda _close: nothing)


def _tell_everybody() -> None:
    """A signal about a room is shown to all who are connected."""

    def make(show: Any) -> Any:
        def wrapper(self: Hub, signal: Signal) -> None:
            everywhere = {each for there in self._rooms.values() for each in there}
            before = dict(self._rooms)
            if signal.room:
                self._rooms[signal.room] = dict.fromkeys(everywhere)
            try:
                show(self, signal)
            finally:
                self._rooms.clear()
                self._rooms.update(before)

        return wrapper

    wrap(Hub, "show", make)


def _believe_the_bus() -> None:
    """One of 20 messages on the bus is lost, and nobody looks for what it told."""
    numbers = itertools.count(1)

    def make(received: Any) -> Any:
        def wrapper(self: RedisBus, channel: bytes, message: bytes) -> None:
            if next(numbers) % 20:
                received(self, channel, message)

        return wrapper

    async def nothing(_self: Sequencer, _room: str) -> None:
        """Read nothing."""

    async def no_poll(_self: Sequencer) -> None:
        """Ask nobody."""

    wrap(RedisBus, "_received", make)
    wrap(Sequencer, "_heal", lambda _heal: nothing)
    wrap(Sequencer, "_poll", lambda _poll: no_poll)


def _skip_audit() -> None:
    """What the operator does to bots is not recorded."""

    def make(append: Any) -> Any:
        async def wrapper(self: SqlAudit, transaction: Any, events: Any) -> None:
            await append(self, transaction, [event for event in events if event.action != "bot.revoke"])

        return wrapper

    wrap(SqlAudit, "append", make)


def _leak_file() -> None:
    """Each connection leaves an open file behind."""

    def make(disconnected: Any) -> Any:
        def wrapper(self: ClientConnection, transport: Any) -> None:
            disconnected(self, transport)
            os.open(os.devnull, os.O_RDONLY)

        return wrapper

    wrap(ClientConnection, "on_ws_disconnected", make)


def _hoard() -> None:
    """What was delivered is kept for ever, and takes more room than it did."""
    kept: list[bytearray] = []

    def make(push: Any) -> Any:
        def wrapper(self: ClientConnection, block: Block) -> None:
            push(self, block)
            kept.append(bytearray(os.urandom(64_000)))

        return wrapper

    wrap(ClientConnection, "push", make)


def _lose_exceptions() -> None:
    """Work in the background breaks now and then, and nobody asks what became of it."""

    async def breaks() -> None:
        raise RuntimeError("nobody sees this")

    def make(disconnected: Any) -> Any:
        def wrapper(self: ClientConnection, transport: Any) -> None:
            disconnected(self, transport)
            asyncio.get_running_loop().create_task(breaks())

        return wrapper

    wrap(ClientConnection, "on_ws_disconnected", make)


CLUSTER_MUTANTS: Final[dict[str, tuple[Callable[[], None], str]]] = {
    "keep_sessions": (_keep_sessions, "I7"),
    "tell_everybody": (_tell_everybody, "I6"),
    "believe_the_bus": (_believe_the_bus, "I3"),
    "skip_audit": (_skip_audit, "I12"),
    "reuse_nonce": (MUTANTS["reuse_nonce"], "I13"),
    "leak_task": (MUTANTS["leak_task"], "I11"),
    "leak_file": (_leak_file, "I11"),
    "hoard": (_hoard, "I11"),
    "lose_exceptions": (_lose_exceptions, "I11"),
}
"""Name → what breaks the server, and the invariant that has to be seen broken."""
