"""A real server process for a test, and REST and SDK clients of it."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2 as httpx

from securechat.cli.operator import Operator
from securechat.domain import commands as c
from securechat.server.config import DEFAULT_RATES
from support.nursery import Child, nursery
from support.ports import free_port
from support.usage import resident

SECURECHAT = str(Path(sys.executable).parent / "securechat")
READY_S = 20.0
PASSWORD = "correct horse battery"
PIPE_BYTES = 2**20


def clean_environment(**more: str) -> dict[str, str]:
    """Return the environment without settings of ours, and with these."""
    return {key: value for key, value in os.environ.items() if not key.startswith("SECURECHAT_")} | more


def command_line(
    *words: str, stdin: str = "", environment: Mapping[str, str] | None = None, within_s: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run `securechat` with these words as a process of its own, from the nursery, and return what it said.

    Args:
        words: What is typed after `securechat`.
        stdin: What it reads, by a pipe; at most `PIPE_BYTES`.
        environment: Its whole environment; one without settings of ours otherwise.
        within_s: The time that it has.
    """
    reads, writes = os.pipe()
    fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    with os.fdopen(reads) as said, tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        with os.fdopen(writes, "w") as saying:
            saying.write(stdin)
        environment = clean_environment() if environment is None else environment
        child = nursery().start("securechat.cli.main", words, out, errors, environment, said.fileno())
        try:
            status = child.wait(within_s)
        finally:
            child.kill()
        out.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(["securechat", *words], status, out.read(), errors.read())


class RunningServer:
    """`securechat serve` as its own process, on free ports. One with a `program` is started anew, the others come from the nursery."""

    def __init__(
        self,
        data: Path,
        *flags: str,
        settings: dict[str, Any] | None = None,
        ports: tuple[int, int] | None = None,
        program: Sequence[str] = (),
    ) -> None:
        self.data = data
        self.port, self.http_port = ports or (free_port(), free_port())
        self.url = f"http://localhost:{self.http_port}"
        self.tls_url = f"https://localhost:{self.port}"
        self.config = data.parent / f"{data.name}.json"
        rates = {name: {"burst": 100_000, "per_s": 100_000} for name in DEFAULT_RATES}
        self.config.write_text(json.dumps({"rates": rates} | (settings or {})))
        self._program = program
        self._arguments = ["serve", "--data", str(data), "--port", str(self.port), "--http-port", str(self.http_port)]
        self._arguments += ["--config", str(self.config), *flags]
        self.process: subprocess.Popen[str] | Child | None = None
        self.banner = ""

    def start(self) -> RunningServer:
        """Start, and return when it is ready."""
        with (self.data.parent / f"{self.data.name}.log").open("a") as log:
            if self._program:
                command = [*self._program, *self._arguments]
                self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=clean_environment())
            else:
                self.process = nursery().start("securechat.cli.main", self._arguments, None, log, clean_environment())
        self.banner = ""
        stream = self.process.stdout
        assert stream is not None
        for line in stream:
            self.banner += line
            if "Admin" in line:
                return self
        raise AssertionError(f"the server did not start: {self.banner}{self.log}")

    def crowd(self, room: str, count: int) -> None:
        """Put many people into a room, by way of the database: as accounts they would be made one by one."""
        people = [(f"usr_crowd{number:011}", f"crowd{number}", f"Crowd {number}") for number in range(count)]
        with closing(sqlite3.connect(self.data / "securechat.db")) as db:
            db.executemany(
                "INSERT INTO users (id, username, display_name, name_key, role, created_at)"
                " VALUES (?1, ?2, ?3, lower(?3), 'member', 0)", people,
            )  # fmt: skip
            db.executemany(
                "INSERT INTO members (room_id, user_id, role) VALUES (?, ?, 'member')", [(room, each[0]) for each in people]
            )
            db.commit()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop, and return the exit status."""
        if self.process is None:
            return 0
        self.process.send_signal(number)
        code = self.process.wait(15)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None
        return code

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def settled(self) -> int:
        """Return its memory in bytes once it stands still: libraries are still loaded beside the start."""
        readings: list[int] = []

        def still() -> bool:
            readings.append(resident(self.pid))
            return len(readings) > 20 and len(set(readings[-20:])) == 1

        wait_until(still, "memory stands still")
        return readings[-1]

    @property
    def ca(self) -> str:
        return str(self.data / "tls" / "ca.crt")

    @property
    def log(self) -> str:
        """What it logged."""
        return (self.data.parent / f"{self.data.name}.log").read_text()

    @property
    def setup_token(self) -> str:
        found = re.search(r"[#,]t=(\S+)", self.banner)
        assert found, self.banner
        return found[1]

    def operator(self) -> Operator:
        return Operator(self.data)

    def post(self, path: str, body: dict[str, Any], token: str = "", status: int = 0) -> Any:
        return self.request("POST", path, body, token, status)

    def request(self, method: str, path: str, body: dict[str, Any] | None = None, token: str = "", status: int = 0) -> Any:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with httpx.Client(trust_env=False, timeout=20) as http:
            answer = http.request(method, f"{self.url}/api/v1{path}", json=body, headers=headers)
        if status:
            assert answer.status_code == status, answer.text
        else:
            assert answer.status_code < 300, answer.text
        return answer.json()

    def set_up(self, username: str = "ana") -> Any:
        """Create the first account and return its session."""
        return self.post(
            "/setup", {"token": self.setup_token, "username": username, "password": PASSWORD, "display_name": username.title()}
        )

    def invite(self, username: str, rooms: Sequence[str] = ()) -> Any:
        """Create another account by invitation and return its session."""
        code = self.operator().perform(c.InviteCreate(rooms=list(rooms))).code
        return self.post("/accounts", {"code": code, "username": username, "password": PASSWORD, "display_name": username.title()})

    def room(self, name: str, *members: str) -> str:
        """Create a public room with these user ids and return its id."""
        room = self.operator().perform(c.RoomCreate(name=name, kind="public", members=list(members)))
        return str(room.id)

    def bot(self, username: str, *rooms: str) -> str:
        """Create a bot and return its token."""
        return str(self.operator().perform(c.BotCreate(username=username, rooms=list(rooms))).token)


def wait_until(condition: Any, what: str, within_s: float = 15.0) -> None:
    """Return when the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.02)


async def wait_until_async(condition: Any, what: str, within_s: float = 15.0) -> None:
    """As `wait_until`, and the loop goes on meanwhile."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        await asyncio.sleep(0.02)
