"""A real server in a process of its own, on a data folder with bots and rooms in it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from securechat.cli.operator import Operator
from securechat.domain import commands as c
from securechat.server.config import DEFAULT_RATES
from securechat.server.datadir import DataDir
from securechat.store.migrate import migrate
from support import usage
from support.nursery import Child, nursery

TESTS: Final = Path(__file__).parent.parent
START_S: Final = 40.0
FREE: Final = {name: {"burst": 1_000_000, "per_s": 1_000_000} for name in DEFAULT_RATES}
"""Rates that nobody reaches."""
CONFIG: Final = {
    "rates": FREE,
    "max_pending_address": 500,
}  # fmt: skip


@dataclass(frozen=True)
class Bot:
    """An account that needs no password."""

    name: str
    user: str
    token: str


@dataclass(frozen=True)
class Population:
    """Who and what is in a data folder.

    Attributes:
        rooms: Public rooms that every bot of `bots` is in.
        hall: A public room that nobody is in.
        bots: Members of the rooms.
    """

    rooms: list[str]
    hall: str
    bots: list[Bot]


def populate(root: Path, rooms: int, bots: int) -> Population:
    """Make a data folder with rooms and bots."""
    data = DataDir(root)
    data.open()
    migrate(data.database)
    data.close()
    operator = Operator(root)
    made = [operator.perform(c.RoomCreate(name=f"room{number}", kind="public")).id for number in range(rooms)]
    hall = operator.perform(c.RoomCreate(name="hall", kind="public")).id
    found = []
    for number in range(bots):
        created = operator.perform(c.BotCreate(username=f"bot{number}", rooms=made))
        found.append(Bot(created.user.username, created.user.id, created.token))
    return Population(made, hall, found)


async def eventually(condition: Callable[[], bool], within_s: float = 30.0, what: str = "") -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: It does not, in time.
    """
    end = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {within_s} s: {what or condition}")
        await asyncio.sleep(0.01)


async def eventually_async(condition: Callable[[], Awaitable[bool]], within_s: float = 30.0, what: str = "") -> None:
    """Wait until a condition holds that has to be asked for.

    Raises:
        AssertionError: It does not, in time.
    """
    end = time.monotonic() + within_s
    while not await condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {within_s} s: {what or condition}")
        await asyncio.sleep(0.05)


async def _takes(connecting: Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> bool:
    try:
        _, writer = await connecting
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


class ServerProcess:
    """A server that can be started, killed and started again on the same folder and port.

    Args:
        root: Data folder.
        port: Port with TLS.
        http_port: Port without.
        output: File for everything it says.
        settings: Besides `CONFIG`.
        prefix: What the command line begins with, such as `prlimit --nofile=256`; it has to become the server itself.

    Attributes:
        source: Where other code than ours is, such as that of an older release; it takes no faults.
    """

    def __init__(
        self, root: Path, port: int, http_port: int, output: Path, settings: dict[str, Any] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.root = root
        self.port = port
        self.http_port = http_port
        self.output = output
        self.starts = 0
        self._process: subprocess.Popen[bytes] | Child | None = None
        self._config = root.parent / f"{root.name}.json"
        self.prefix = list(prefix)
        self.source: Path | None = None
        self.nonces: Path | None = None
        """Where it writes down what it seals with, if that is looked at."""
        self.configure(settings or {})

    @property
    def config(self) -> Path:
        """Its configuration file."""
        return self._config

    def configure(self, settings: dict[str, Any]) -> None:
        """Have these settings; a server that runs takes what can be taken without a restart."""
        self._config.write_text(json.dumps(CONFIG | settings))

    @property
    def url(self) -> str:
        """Where the gateway is, without TLS."""
        return f"ws://127.0.0.1:{self.http_port}"

    @property
    def tls_url(self) -> str:
        """Where the gateway is, with TLS."""
        return f"wss://localhost:{self.port}"

    @property
    def database(self) -> Path:
        """Its database file."""
        return self.root / "securechat.db"

    @property
    def pid(self) -> int:
        """Process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """Exit status; negative for a signal, None while it runs."""
        return None if self._process is None else self._process.poll()

    async def start(self, *faults: str) -> None:
        """Start it with these faults (see `server_main`) and wait until it listens.

        Raises:
            AssertionError: It ended, or does not listen in time.
        """
        self.launch(*faults)
        await eventually_async(self._listens, START_S, f"the server listens\n{self.tail()}")

    def launch(self, *faults: str) -> None:
        """Start it with these faults; it may end before it listens."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SECURECHAT_")}
        path = [os.environ.get("PYTHONPATH"), str(TESTS)] if self.source is None else [str(self.source)]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        module = "support.server_main" if self.source is None else "securechat"
        if self.nonces is not None and self.source is None:
            faults = ("--nonces", str(self.nonces), *faults)
        arguments = [
            *faults, "serve", "--config", str(self._config), "--data", str(self.root),
            "--port", str(self.port), "--http-port", str(self.http_port),
        ]  # fmt: skip
        with self.output.open("ab") as output:
            if self.prefix or self.source is not None:
                command = [*self.prefix, sys.executable, "-m", module, *arguments]
                self._process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment)
            else:
                self._process = nursery().start(module, arguments, output, output, environment)
        self.starts += 1

    async def _listens(self) -> bool:
        if self.exit_status is not None:
            raise AssertionError(f"the server ended with {self.exit_status}\n{self.tail()}")
        admin = os.path.relpath(self.root / "admin.sock")  # Comes last; of a server that was killed it is still there.
        return await _takes(asyncio.open_connection("127.0.0.1", self.http_port)) and await _takes(
            asyncio.open_unix_connection(admin)
        )

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        """End it with -9, now."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        await self.ended(10)

    async def terminate(self, within_s: float) -> int:
        """Ask it to stop and return its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return await self.ended(within_s)

    async def ended(self, within_s: float) -> int:
        """Wait for its end and return its exit status."""
        await eventually(lambda: self.exit_status is not None, within_s, "the server ends")
        status = self.exit_status
        assert status is not None
        return status

    def clean_up(self) -> None:
        """End it, whatever it is doing."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)

    async def ask(self, op: str, **fields: Any) -> Any:
        """Perform a command as the operator and return its reply."""
        answer = await self.answer(op, **fields)
        if answer["op"] == "error":
            raise AssertionError(f"{op}: {answer}")
        return answer["data"]

    async def answer(self, op: str, **fields: Any) -> dict[str, Any]:
        """Perform a command as the operator and return the frame that comes back, also of a refusal.

        Raises:
            OSError: None came.
        """
        status, content = await self._admin("POST /command", json.dumps({"op": op, **fields}).encode())
        assert status == 200, content
        found: dict[str, Any] = json.loads(content)
        return found

    async def metric(self, name: str) -> float:
        """Read one figure."""
        return (await self.metrics())[name]

    async def metrics(self) -> dict[str, float]:
        """Read all figures."""
        text = (await self._admin("GET /metrics", b""))[1].decode()
        return {
            name: float(value) for name, value in re.findall(r"^securechat_(\w+?)(?:_total)? ([0-9.e+-]+)$", text, re.MULTILINE)
        }

    async def post(self, path: str, content: dict[str, Any]) -> Any:
        """Post to the REST API, and return its answer."""
        status, body = await self.answers(f"/api/v1{path}", json.dumps(content).encode())
        assert 200 <= status < 300, body
        return json.loads(body)

    async def answers(self, path: str, content: bytes = b"") -> tuple[int, bytes]:
        """Return status and body of a public page, or of what is posted to it; 0 when nobody answers within a few seconds."""
        head = f"{'POST' if content else 'GET'} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        if content:
            head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        try:
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.http_port)
                try:
                    writer.write(head.encode() + b"\r\n" + content)
                    first, _, body = (await reader.read()).partition(b"\r\n\r\n")
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return 0, b""
        return (int(first.split()[1]) if first else 0), body

    def fds(self) -> int:
        """Return how many file descriptors it has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def cpu_s(self) -> float:
        """Return the CPU time that it used, in seconds."""
        return usage.cpu_s(self.pid)

    async def readiness(self) -> tuple[int, dict[str, str]]:
        """Return the status of its readiness, as an operator sees it by a new connection, and what was looked at."""
        status, content = await self._admin("GET /readyz", b"")
        return status, json.loads(content)["checks"]

    async def _admin(self, request: str, body: bytes) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_unix_connection(os.path.relpath(self.root / "admin.sock"), limit=2**24)
        try:
            writer.write(
                f"{request} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
            )
            answer = await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()
        head, _, content = answer.partition(b"\r\n\r\n")
        if not head:
            raise ConnectionError("it ended before it answered")
        return int(head.split()[1]), content

    def rss(self) -> int:
        """Return its resident memory in bytes."""
        return usage.resident(self.pid)

    async def settled_rss(self) -> int:
        """Return its resident memory once it stands still: libraries are still loaded beside the start."""
        readings: list[int] = []

        def still() -> bool:
            readings.append(self.rss())
            return len(readings) > 30 and len(set(readings[-30:])) == 1

        await eventually(still, what="memory stands still")
        return readings[-1]

    def tail(self, lines: int = 40) -> str:
        """Return the last lines it said."""
        if not self.output.exists():
            return ""
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-lines:])

    def complaints(self) -> list[str]:
        """Return lines about mistakes of the server itself: errors, tracebacks, lost exceptions."""
        if not self.output.exists():
            return []
        words = ('"level":"ERROR"', '"level":"FATAL"', "Traceback", "never retrieved", "never awaited")
        return [line for line in self.output.read_text(errors="replace").splitlines() if any(word in line for word in words)]
