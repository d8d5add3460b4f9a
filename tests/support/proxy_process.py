"""Faulty proxies that take no time from who is measured: all of a run in one process."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from support.server_process import TESTS


class ProxyProcess:
    """The process."""

    def __init__(self) -> None:
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(TESTS)]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.proxy_main"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=dict(os.environ, PYTHONPATH=path),
        )  # fmt: skip
        self._one_at_a_time = asyncio.Lock()

    async def open(self, name: str, targets: Sequence[int]) -> Way:
        """Listen on a new port on the way to these."""
        way = Way(self, name)
        way.port = (await self.ask(name, "open", targets=list(targets)))["port"]
        return way

    async def ask(self, name: str, do: str, **fields: Any) -> Any:
        """Have something done with a proxy."""
        # Also when whoever asks is cancelled: two threads that read at once lose lines to each other.
        asking = asyncio.create_task(self._ask(name, do, **fields))
        return await asyncio.shield(asking)

    async def _ask(self, name: str, do: str, **fields: Any) -> Any:
        async with self._one_at_a_time:
            return json.loads(await asyncio.to_thread(self._exchange, {"name": name, "do": do, **fields}))

    def _exchange(self, command: Any) -> bytes:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(command).encode() + b"\n")
        stdin.flush()
        return stdout.readline()

    def close(self) -> None:
        """End it."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.kill()
        self._process.wait(10)


class Way:
    """One proxy.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, process: ProxyProcess, name: str) -> None:
        self.name = name
        self.port = 0
        self._process = process

    async def set(self, **faults: Any) -> None:
        """Have these faults (see `Faults`), and no others."""
        await self._process.ask(self.name, "set", faults=faults)

    async def heal(self) -> None:
        """Have none."""
        await self.set()

    async def hold(self, *, up: bool = True, down: bool = True) -> None:
        """Let nothing pass, and tell nobody."""
        await self.set(hold_up=up, hold_down=down)

    async def cut(self, *, reset: bool = True) -> None:
        """End all connections."""
        await self._process.ask(self.name, "cut", reset=reset)

    async def refuse(self) -> None:
        """Be nobody."""
        await self._process.ask(self.name, "refuse")

    async def listen(self) -> None:
        """Be there again."""
        await self._process.ask(self.name, "listen")

    async def aim(self, targets: Sequence[int]) -> None:
        """Lead new connections there."""
        await self._process.ask(self.name, "targets", targets=list(targets))

    async def connections(self) -> int:
        """Return how many connections there are."""
        return int((await self._process.ask(self.name, "count"))["open"])

    async def turns(self) -> int:
        """Return how many round trips there were."""
        return int((await self._process.ask(self.name, "count"))["turns"])
