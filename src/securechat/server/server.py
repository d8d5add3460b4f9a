"""Server: start, serve, drain, stop, in a stated order.

Start: data folder → logging → store → parts → listeners → admin socket → ready.
Stop: readiness red → no new connections → clients told to come back → commands in flight answered → store closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from securechat import __version__
from securechat.auth import passkeys
from securechat.domain import commands as c
from securechat.domain.accounts import OPERATOR
from securechat.errors import Conflict, Shutdown
from securechat.gateway.listener import Listener
from securechat.ops.health import Health
from securechat.ops.logger import Logger
from securechat.ops.metrics import MetricsCollector
from securechat.rest.admin import AdminApp
from securechat.rest.app import RestApp
from securechat.rest.static import StaticFiles
from securechat.server.config import ConfigError, ConfigManager, Settings
from securechat.server.datadir import DataDir
from securechat.server.tls import TLSContext
from securechat.server.wiring import Parts, build

log = logging.getLogger(__name__)

WEB: Final = Path(__file__).parent.parent / "web"
RELOAD_POLL_S: Final = 1.0
ROTATION_POLL_S: Final = 15.0
IMPATIENT_S: Final = 1.0
"""A second signal later than this ends the server at once. An earlier one is the same wish: make and timeout pass signals on."""


class Server:
    """One server process.

    Args:
        config: The settings.
        announce: Gets the lines for a person, once the server is ready.
    """

    def __init__(self, config: ConfigManager, announce: Callable[[str], None]) -> None:
        self._config = config
        self._announce = announce
        self._started = time.monotonic()
        self._stop = asyncio.Event()
        self._stop_asked_at = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self.port = 0
        self.http_port = 0

    @property
    def settings(self) -> Settings:
        """The settings that hold now."""
        return self._config.settings

    def public_url(self) -> str:
        """Return what links begin with."""
        if self.settings.public_url:
            return self.settings.public_url.rstrip("/")
        return f"http://localhost:{self.http_port}" if self.http_port else f"https://localhost:{self.port}"

    async def run(self) -> None:
        """Serve until SIGINT or SIGTERM.

        Raises:
            Shutdown: It cannot start.
        """
        settings = self.settings
        data = DataDir(settings.data_dir)
        data.open()
        path = data.logs / "securechat.log" if settings.log_file else None
        logger = Logger(
            level=settings.log_level, style=settings.log_style, path=path, max_bytes=settings.log_max_bytes, keep=settings.log_keep
        )
        logger.start()
        try:
            await self._run(data, logger)
        finally:
            logger.stop()
            data.close()

    async def _run(self, data: DataDir, logger: Logger) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._asked_to_stop)
        parts = await build(lambda: self._config.settings, data, self.public_url)
        health = Health({"store": parts.maintenance.ping})
        try:
            listeners = await self._listen(parts, health)
            self._config.on_change(lambda settings: self._apply(settings, parts, logger))
            loop.add_signal_handler(signal.SIGHUP, self._reload)
            for work in (
                parts.gateway.look_after(),
                health.watch_lag(),
                self._watch_config(),
                self._rotate_token_keys(parts),
                asyncio.to_thread(passkeys.load),
            ):
                self._tasks.append(asyncio.create_task(work))
            health.started = True
            gc.collect()
            gc.freeze()  # What is here now stays: the collector need not look at it again.
            gc.set_threshold(50_000, 50, 1_000)  # A message makes no cycles: looking for them less often costs nothing.
            await self._tell(parts)
            await self._stop.wait()
            await self._drain(parts, health, listeners)
        finally:
            for task in self._tasks:
                task.cancel()
            await parts.database.close()
            parts.passwords.close()
            parts.admission.close()
            with contextlib.suppress(OSError):
                data.admin_socket.unlink()
        log.info("server stopped")

    async def _listen(self, parts: Parts, health: Health) -> list[Listener]:
        settings = self.settings
        static = StaticFiles(WEB)

        def origins() -> frozenset[str]:
            return frozenset(
                [*self.settings.origins, *([self.settings.public_url.rstrip("/")] if self.settings.public_url else [])]
            )

        rest = RestApp(
            parts.dispatcher, parts.auth, parts.limiter, health, parts.counters, static, origins, parts.identities.published
        )
        metrics = MetricsCollector(
            parts.counters,
            {
                "connections": ("WebSocket connections", lambda: len(parts.gateway.connections)),
                "commits_waiting": ("Operations that wait for the next commit", lambda: parts.room_log.waiting),
                "event_loop_lag_seconds": ("How late the event loop was at the last look", lambda: health.loop_lag_s),
            },
            __version__,
        )
        tls = TLSContext(parts.data.tls).context(cert=settings.tls_cert, key=settings.tls_key, host=settings.host)
        public = Listener(rest.asgi, parts.gateway, origins)
        admin = Listener(AdminApp(parts.dispatcher, metrics, health, may_command=True).asgi, None, origins)
        listeners = [public, admin]
        try:
            self.port = await public.listen(settings.host, settings.port, tls)
            if settings.http_port:
                self.http_port = await public.listen("127.0.0.1", settings.http_port, None)
            with contextlib.suppress(FileNotFoundError):
                parts.data.admin_socket.unlink()
            await admin.listen_unix(str(parts.data.admin_socket))
            parts.data.admin_socket.chmod(0o600)
            if settings.admin_listen:
                scrape = Listener(AdminApp(parts.dispatcher, metrics, health, may_command=False).asgi, None, origins)
                host, _, port = settings.admin_listen.rpartition(":")
                await scrape.listen(host or "127.0.0.1", int(port), None)
                listeners.append(scrape)
        except OSError as error:
            raise Shutdown(
                f"Cannot listen: {error.strerror or error}. Is another server running? Choose another --port or --http-port."
            ) from error
        return listeners

    async def _tell(self, parts: Parts) -> None:
        took = time.monotonic() - self._started
        settings = self.settings
        lines = [
            f"SecureChat {__version__}   data {settings.data_dir}   db sqlite   registration {settings.registration}",
            f"  Chat     {self.public_url()}" + (f"   (or https://localhost:{self.port})" if self.http_port else ""),
        ]
        try:
            link = await parts.accounts.setup_link(OPERATOR, c.SetupLink())
            lines.append(f"  Setup    {link.url}\n           one time, 60 minutes   (a new one: securechat setup-link)")
        except Conflict:
            pass  # There are people already: they invite each other.
        lines.append(f"  Admin    unix:{parts.data.admin_socket}   (stop with Ctrl+C)")
        self._announce("\n".join(lines))
        log.info("server ready", extra={"port": self.port, "http_port": self.http_port, "ready_s": round(took, 3)})

    async def _drain(self, parts: Parts, health: Health, listeners: list[Listener]) -> None:
        """Stop within `drain_s`, whatever hangs."""
        log.info("server draining", extra={"connections": len(parts.gateway.connections)})
        health.draining = True
        for listener in listeners:
            listener.stop_accepting()
        budget = self.settings.drain_s
        try:
            async with asyncio.timeout(budget * 0.5):
                await parts.dispatcher.drain()
        except TimeoutError:
            log.warning("commands were not answered in time")
        parts.gateway.drain(int(budget * 1000))
        await asyncio.gather(*(listener.finish(budget * 0.2) for listener in listeners))
        parts.gateway.abort()

    def _asked_to_stop(self) -> None:
        now = time.monotonic()
        if not self._stop.is_set():
            self._stop_asked_at = now
            self._stop.set()
        elif now - self._stop_asked_at > IMPATIENT_S:
            log.warning("stopping at once")
            sys.exit(130)

    def _reload(self) -> None:
        try:
            changed, waiting = self._config.reload()
        except ConfigError as error:
            log.error("configuration refused, the old one stays", extra={"mistakes": error.line})  # noqa: TRY400 - no traceback helps
            return
        log.info("configuration read", extra={"changed": ", ".join(changed), "needs_restart": ", ".join(waiting)})

    async def _watch_config(self) -> None:
        """Read the file again when it changes."""
        path = self._config.path
        if path is None:
            return
        seen = _stamp(path)
        while True:
            await asyncio.sleep(RELOAD_POLL_S)
            if (now := _stamp(path)) != seen:
                seen = now
                self._reload()

    async def _rotate_token_keys(self, parts: Parts) -> None:
        while True:
            try:
                parts.token_keys.rotate_if_older(self.settings.token_key_max_age_s)
            except (OSError, Conflict) as error:
                log.warning("token key not rotated, the old one stays", extra={"reason": str(error)})
            await asyncio.sleep(ROTATION_POLL_S)

    def _apply(self, settings: Settings, parts: Parts, logger: Logger) -> None:
        parts.limiter.rates = settings.rates
        parts.gateway.max_connections = settings.max_connections
        logger.set_level(settings.log_level)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)
