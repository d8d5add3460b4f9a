"""Workers: several processes on one port. This one starts them, starts those again that end, and stops them all.

The kernel spreads new connections over them (SO_REUSEPORT). To each other they are what servers on other machines are.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Sequence
from typing import Final

from securechat.errors import Shutdown
from securechat.server.config import Settings
from securechat.server.datadir import DataDir

log = logging.getLogger(__name__)

START_S: Final = 60.0
"""The first worker makes what all of them need within this time."""
PAUSE_S: Final = 0.5
PAUSE_MAX_S: Final = 30.0
STEADY_S: Final = 60.0
"""Who ran so long is started again at once."""
GRACE_S: Final = 5.0
"""More than `drain_s` and `drain_window_s` that a worker has for its end."""


class Workers:
    """The parent of some server processes on one data folder.

    Args:
        settings: Of all of them.
        command: Starts one; its number, from 0, is added. It ends when its standard input does.
        count: How many.
    """

    def __init__(self, settings: Settings, command: Sequence[str], count: int) -> None:
        self._settings = settings
        self._command = command
        self._count = count
        self._stop = asyncio.Event()
        self._began = False
        self._running: dict[int, asyncio.subprocess.Process] = {}

    async def run(self) -> None:
        """Serve until SIGINT or SIGTERM.

        Raises:
            Shutdown: They cannot start.
        """
        require_cluster(self._settings)
        data = DataDir(self._settings.data_dir)
        data.open()
        try:
            self._require_free_ports()
            loop = asyncio.get_running_loop()
            for each in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(each, self._stop.set)
            loop.add_signal_handler(signal.SIGHUP, self._pass_on, signal.SIGHUP)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep(0))
                await self._first(data)
                self._began = True
                for number in range(1, self._count):
                    group.create_task(self._keep(number))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            data.close()

    async def _first(self, data: DataDir) -> None:
        """Return when the first worker answers: keys and the schema are there then."""
        path = data.admin_socket
        with contextlib.suppress(OSError):
            path.unlink()
        until = time.monotonic() + START_S
        while not self._stop.is_set() and not path.exists():
            if time.monotonic() > until:
                raise Shutdown("The first worker did not start in time.", 1)
            await asyncio.sleep(0.05)

    async def _keep(self, number: int) -> None:
        """Run a worker, and another one when it ends, until all are to stop."""
        pause = PAUSE_S
        while not self._stop.is_set():
            began = time.monotonic()
            process = await asyncio.create_subprocess_exec(*self._command, str(number), stdin=asyncio.subprocess.PIPE)
            self._running[number] = process
            status = await self._end_of(process)
            del self._running[number]
            with contextlib.suppress(OSError):
                DataDir(self._settings.data_dir, number).admin_socket.unlink()  # One that was killed leaves it there.
            if self._stop.is_set():
                return
            if not self._began and status:
                raise Shutdown("", status)  # It said why.
            pause = PAUSE_S if time.monotonic() - began > STEADY_S else min(pause * 2, PAUSE_MAX_S)
            log.error("a worker ended", extra={"worker": number, "status": status, "again_in_s": pause})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stop.wait()

    async def _end_of(self, process: asyncio.subprocess.Process) -> int:
        """Return the exit status; when all are to stop, see to it that it comes."""
        ended, stopping = asyncio.ensure_future(process.wait()), asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                process.terminate()
                await asyncio.wait({ended}, timeout=self._settings.drain_s + self._settings.drain_window_s + GRACE_S)
            if not ended.done():
                process.kill()
            return await ended
        finally:
            stopping.cancel()
            if process.returncode is None:
                process.kill()

    def _pass_on(self, number: signal.Signals) -> None:
        for process in self._running.values():
            process.send_signal(number)

    def _require_free_ports(self) -> None:
        """Workers share their ports with whoever comes: so it is looked here that nobody has them."""
        settings = self._settings
        for host, port in (
            (settings.host, settings.port),
            ("127.0.0.1", settings.http_port),
            (settings.host, settings.redirect_port),
        ):
            if not port:
                continue
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, port))
                except OSError as error:
                    raise Shutdown(f"Cannot listen on {host}:{port}: {error.strerror}.") from error


def require_cluster(settings: Settings) -> None:
    """Raise `Shutdown` unless several processes can be one server with these settings."""
    missing = [name for name in ("database_url", "redis_url") if getattr(settings, name) is None]
    if missing:
        raise Shutdown(
            f"--workers needs {' and '.join(missing)}: several processes are one server by way of PostgreSQL and Redis"
            " (docs/howto/several-servers.md)."
        )
    if settings.tls_domains:
        raise Shutdown(
            "--workers and tls_domains do not go together: a challenge would be answered by another worker. Use tls_cert."
        )
    if not settings.port:
        raise Shutdown("--workers needs a port that is given, not 0: it is the same for all.")
