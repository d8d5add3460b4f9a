"""Whoever moves a bucket dies at one of its statements."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest


class Killed(BaseException):
    """Whoever moves is not there any more."""


class Death:
    """Ends the mover at one of its statements, before it or right after it, with its connections."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 10**9
        self.count = 0
        self.connections: list[Any] = []
        connect = asyncpg.connect

        async def connected(*arguments: Any, **more: Any) -> Any:
            made = await connect(*arguments, **more)
            if more.get("server_settings", {}).get("application_name") == "securechat-copy":
                self.connections.append(made)
            return made

        monkeypatch.setattr(asyncpg, "connect", connected)
        for name in ("execute", "fetch", "fetchval", "fetchrow", "copy_records_to_table", "executemany"):
            monkeypatch.setattr(asyncpg.Connection, name, self._mortal(getattr(asyncpg.Connection, name)))

    def _mortal(self, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def wrapper(connection: Any, *arguments: Any, **more: Any) -> Any:
            if connection not in self.connections:
                return await method(connection, *arguments, **more)
            self.count += 1
            self.left -= 1
            if self.left == 0:
                self._die()
            found = await method(connection, *arguments, **more)
            if self.left == 1:
                self.left = 0
                self._die()
            return found

        return wrapper

    def _die(self) -> None:
        for connection in self.connections:
            connection.terminate()
        self.connections.clear()
        raise Killed
