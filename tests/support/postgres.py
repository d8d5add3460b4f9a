"""A real PostgreSQL for tests: Debian's package, a data folder of its own, fsync on, run by a user without rights."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from securechat.store.postgres import migrate_postgres
from support.ports import free_port
from support.running import wait_until

SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "64MB",
    "max_connections": "60",
    "logging_collector": "off",
    "recovery_init_sync_method": "syncfs",  # After a crash, not one file of every database after the other.
    "listen_addresses": "127.0.0.1",
}

SMALL = {"max_wal_size": "4MB", "min_wal_size": "2MB", "shared_buffers": "16MB"}
"""For a small disk."""


def programs() -> Path:
    """Return the folder of PostgreSQL's programs, the newest version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    assert found, "PostgreSQL is missing: run tools/services"
    return found[-1].parent


class Postgres:
    """One PostgreSQL.

    Args:
        folder: Where it lives, a small one; else a temporary folder.

    Attributes:
        port: On loopback; the socket is in its folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(tempfile.mkdtemp(prefix="sc-pg-"))
        self.port = free_port()
        self._settings = SETTINGS | ({} if folder is None else SMALL)
        self._user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        if os.getuid() == 0:
            shutil.chown(self.folder, self._user)
        self._databases = 0
        self._emptied = ""
        self._run(
            "initdb", "-D", str(self.folder / "data"), "-U", "securechat", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8",
            *([] if folder is None else ["--wal-segsize=1"]),
        )  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def url(self, database: str = "postgres", port: int | None = None) -> str:
        """Return where a database is."""
        return f"postgresql://securechat@127.0.0.1:{port or self.port}/{database}"

    @property
    def pid(self) -> int:
        """The process whose children do the work."""
        return int((self.folder / "data/postmaster.pid").read_text().split()[0])

    def new_database(self) -> str:
        """Make an empty database and return its name."""
        self._databases += 1
        name = f"test_{self._databases}"
        self.sql(f"CREATE DATABASE {name}")
        return name

    def emptied(self) -> str:
        """Return the name of a database with the schema and nothing in it: the same one each time, which nobody may be using."""
        if not self._emptied:
            self._emptied = self.new_database()
            asyncio.run(migrate_postgres(self.url(self._emptied)))
        else:
            tables = "SELECT string_agg('DELETE FROM ' || relname, ';') FROM pg_class WHERE relkind IN ('r', 'p')"
            mine = " AND relnamespace = 'public'::regnamespace AND NOT relispartition AND relname <> 'alembic_version'"
            self.sql(self.sql(tables + mine, self._emptied), self._emptied)
        return self._emptied

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Execute a statement from outside and return what it prints."""
        command = [str(programs() / "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement, self.url(database)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        command = [
            str(programs() / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port), "-k", str(self.folder), *options,
        ]  # fmt: skip
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(self._as_user(command), stdout=log, stderr=log, cwd=self.folder)
        wait_until(self._answers, "PostgreSQL answers", 30)

    @property
    def runs(self) -> bool:
        """Whether its first process is there."""
        return self._process is not None and self._process.poll() is None

    def stop(self, number: int = signal.SIGQUIT) -> None:
        """End it: SIGQUIT is an immediate stop, as after a crash; after SIGKILL its processes find out by themselves."""
        if not self.runs:
            self._process = None
        if self._process is not None:
            pids = self._pids()
            os.kill(pids[0], number)
            self._process.wait(30)
            self._process = None
            wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "its processes end", 30)

    def restart(self, number: int = signal.SIGQUIT) -> None:
        """End it and start it again."""
        self.stop(number)
        self.start()

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Keep all its processes from running: it takes connections, and answers nothing."""
        pids = self._pids()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        """End it and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _pids(self) -> list[int]:
        """Return its process id, and those of its children."""
        children = (Path(f"/proc/{self.pid}/task/{self.pid}/children")).read_text().split()
        return [self.pid, *map(int, children)]

    def _answers(self) -> bool:
        return (
            subprocess.run([programs() / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False).returncode == 0
        )

    def _run(self, program: str, *arguments: str) -> None:
        command = self._as_user([str(programs() / program), *arguments])
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder)

    def _as_user(self, command: list[str]) -> list[str]:
        return ["setpriv", f"--reuid={self._user}", "--regid=postgres", "--clear-groups", *command] if os.getuid() == 0 else command


@contextmanager
def running() -> Iterator[Postgres]:
    """Run one."""
    found = Postgres()
    try:
        yield found
    finally:
        found.close()
