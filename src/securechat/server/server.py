"""Server: start, serve, drain, stop, in a stated order.

Start: data folder → logging → store → parts → listeners → admin socket → ready.
Stop: readiness red → no new connections → clients told to come back → commands in flight answered → store closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from securechat import __version__
from securechat.auth import passkeys
from securechat.domain.audit import AuditEvent
from securechat.errors import ChatError, Shutdown
from securechat.gateway import conversation
from securechat.gateway.acceptor import quiet_about_strangers
from securechat.ops.health import Health
from securechat.ops.logger import Logger
from securechat.server.banner import banner
from securechat.server.config import ConfigManager, Settings
from securechat.server.datadir import DataDir
from securechat.server.derived import caps_of
from securechat.server.listening import Listening
from securechat.server.reloading import Reloading
from securechat.server.renewal import Renewal, in_daemon_thread
from securechat.server.shared_files import SharedFiles
from securechat.server.supervision import DEATHS_MAX, Supervisor
from securechat.server.urls import Urls
from securechat.server.watching import health_of
from securechat.server.wiring import Parts, build
from securechat.store.old_secrets import OLD_KEY, take_over

if TYPE_CHECKING:
    from securechat.store.session_locks import ServerLocks

log = logging.getLogger(__name__)

ROTATION_POLL_S: Final = 15.0
"""Between two looks at the token keys, and at the files that servers have in common."""
ROTATION_HEARD_S: Final = 1.0
"""The same for token keys where several servers change them."""
IMPATIENT_S: Final = 1.0
"""A second signal later than this ends the server at once. An earlier one is the same wish: make and timeout pass signals on."""
SETTLE_S: Final = 2.0
"""The last records of the audit log are stored within this time, or 15 % of the drain time."""


class Server:
    """One server process.

    Args:
        config: The settings.
        announce: Gets the lines for a person, once the server is ready.
        worker: Which of several processes on one port this one is, from 0; None for the only one.
        workers: How many there are.
    """

    def __init__(
        self, config: ConfigManager, announce: Callable[[str], None], *, worker: int | None = None, workers: int = 1
    ) -> None:
        self._config = config
        self._announce = announce
        self._worker = worker
        self._workers = workers
        self._started = time.monotonic()
        self._stop = asyncio.Event()
        self._stop_asked_at = 0.0
        self._broken: list[str] = []
        self._fatal: Shutdown | None = None
        self._supervisor = Supervisor(self._given_up)
        self._health: Health | None = None
        self._urls = Urls(lambda: config.settings)

    @property
    def settings(self) -> Settings:
        """The settings that hold now."""
        return self._config.settings

    async def run(self) -> None:
        """Serve until SIGINT or SIGTERM.

        Raises:
            Shutdown: It cannot start.
        """
        settings = self.settings
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # A core dump would hold every key and many texts.
        data = DataDir(settings.data_dir, self._worker)
        data.open()
        path = data.log if settings.log_file else None
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
        loop.set_exception_handler(quiet_about_strangers)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._asked_to_stop)
        if self._worker is not None:
            loop.add_reader(sys.stdin.fileno(), self._parent_ended)
        parts = await build(lambda: self._config.settings, data, self._urls.public)
        parts.tls.load()
        health = self._health = health_of(parts)
        reloading = Reloading(self._config, parts.tls)
        keeping: asyncio.Task[None] | None = None
        try:
            await parts.storage.start(on=self.settings.at_rest == "on")
            await take_over(parts.database, parts.secrets, data.keys / OLD_KEY)
            if parts.shared_files is not None and parts.locks is not None:
                await parts.shared_files.begin(alone=parts.locks.alone)
            self._join_others(parts)
            self._supervisor.supervise("fence", parts.gateway.fence.beat)
            self._supervisor.supervise("standing", parts.gateway.watch_standing)
            listening = Listening(parts, health, self._config, self._urls, self._worker)
            await listening.begin()
            self._config.on_change(lambda settings: self._apply(settings, parts, logger))
            loop.add_signal_handler(signal.SIGHUP, reloading.asked)
            if parts.tls.source == "acme":
                parts.desk.renewal = self._renewal(parts)
                self._supervisor.supervise("certificate renewal", parts.desk.renewal.run)
            reloading.auditor = parts.auditor
            await parts.auditor.begin(AuditEvent(action="server.start", address="server", details={"version": __version__}))
            await parts.identity_audit.look()
            keeping = self._supervisor.supervise("audit log", parts.auditor.keep)
            for name, pool in parts.pools.items():
                self._supervisor.supervise(name, pool.watch)
                pool.went_away = parts.room_log.give_back
            background: dict[str, Callable[[], Awaitable[object]]] = {
                "connections": parts.gateway.look_after,
                "loop lag": health.watch_lag,
                "configuration": reloading.watch,
                "token keys": partial(self._rotate_token_keys, parts),
                "identity keys": parts.identity_audit.watch,
                "passkeys": partial(asyncio.to_thread, passkeys.load),
                "certificate": parts.tls.watch,
                "webhooks": parts.relay.run,
            }
            for name, work in background.items():
                self._supervisor.supervise(name, work)
            health.started = True
            gc.collect()
            gc.freeze()  # What is here now stays: the collector need not look at it again.
            gc.set_threshold(50_000, 50, 1_000)  # A message makes no cycles: looking for them less often costs nothing.
            await self._tell(parts)
            await self._stop.wait()
            await self._drain(parts, health, listening)
        finally:
            await self._close(parts, reloading, keeping)
        log.info("server stopped")
        if self._fatal is not None:
            raise self._fatal
        if self._broken:
            raise Shutdown(f"Ended: the work on {self._broken[0]} broke {DEATHS_MAX} times within a minute. See the log.", 1)

    async def _close(self, parts: Parts, reloading: Reloading, keeping: asyncio.Task[None] | None) -> None:
        """End everything, in the reverse order of the start."""
        if parts.redis is not None:
            await parts.redis.leave()
        self._supervisor.cancel()
        await self._settle(parts, reloading, keeping)
        await parts.database.close()
        if parts.locks is not None:
            await parts.locks.leave()
        parts.passwords.close()
        parts.session_layer.admission.close()
        with contextlib.suppress(OSError):
            parts.data.admin_socket.unlink()

    def _join_others(self, parts: Parts) -> None:
        """Begin to hear what other servers say, before anybody here can miss it."""
        if parts.locks is not None:
            self._supervisor.supervise("server locks", partial(self._hold, parts.locks))
        self._supervisor.supervise("blocks", parts.accounts.keep_fresh)
        if parts.redis is not None and parts.sequencer and parts.shared_files and parts.sharing:
            self._supervisor.supervise("sequencer", parts.sequencer.run)
            self._supervisor.supervise("bus", parts.redis.run)
            self._supervisor.supervise("limits", parts.sharing.run)
            self._supervisor.supervise("shared files", partial(self._compare_files, parts.shared_files))

    async def _hold(self, locks: ServerLocks) -> None:
        try:
            await locks.run()
        except Shutdown as error:
            self._fatal = error
            self._stop.set()

    async def _compare_files(self, files: SharedFiles) -> None:
        while True:
            await asyncio.sleep(ROTATION_POLL_S)
            try:
                await files.look()
            except (OSError, ChatError) as error:
                log.warning("keys cannot be compared now", extra={"reason": str(error)})

    def _renewal(self, parts: Parts) -> Renewal:
        # The library and what it brings take memory, and few servers need it.
        from securechat.server.acme import AcmeClient  # noqa: PLC0415

        settings, tls = self.settings, parts.tls
        authority = AcmeClient(
            tls.folder,
            settings.acme_directory,
            settings.acme_email,
            settings.acme_ca,
            settings.acme_challenge,
            tls.challenges,
            tls.make,
        )
        return Renewal(tls, lambda: in_daemon_thread(lambda: authority.obtain(tls.domains)))

    async def _tell(self, parts: Parts) -> None:
        took_s = time.monotonic() - self._started
        lines = await banner(parts, self._config, self._urls, self._workers)
        if not self._worker:
            self._announce(lines)
        log.info("server ready", extra={"port": self._urls.port, "http_port": self._urls.http_port, "ready_s": round(took_s, 3)})

    async def _drain(self, parts: Parts, health: Health, listening: Listening) -> None:
        """Stop within `drain_s` and the window in which others take our people, whatever hangs."""
        log.info("server draining", extra={"connections": len(parts.gateway.connections)})
        health.draining = True
        listening.stop_accepting()
        budget = self.settings.drain_s
        await parts.gateway.drain(budget, self.settings.drain_window_s if self._is_one_of_several(parts) else 0.0)
        try:
            async with asyncio.timeout(budget * 0.5):
                await parts.dispatcher.drain()
        except TimeoutError:
            log.warning("commands were not answered in time")
        await self._end_deliveries(parts, budget * 0.1)
        await conversation.finish(budget * 0.1)
        parts.gateway.abort()
        await listening.finish(budget * 0.2)

    def _is_one_of_several(self, parts: Parts) -> bool:
        """Return whether others are there who go on: workers of one machine stop together."""
        return parts.redis is not None and parts.redis.peers > self._workers - 1

    async def _end_deliveries(self, parts: Parts, within_s: float) -> None:
        """Send nothing elsewhere any more, and store how far targets have it; what is not stored is sent again."""
        try:
            async with asyncio.timeout(within_s):
                await parts.relay.stop()
        except TimeoutError:
            log.warning("deliveries did not end in time")

    async def _settle(self, parts: Parts, reloading: Reloading, keeping: asyncio.Task[None] | None) -> None:
        """Write what is left to write, unless the store hangs: nobody waits for that."""
        try:
            async with asyncio.timeout(max(SETTLE_S, self.settings.drain_s * 0.15)):
                if keeping is not None:
                    await asyncio.wait({keeping})
                await reloading.settle()
                await parts.auditor.settle(AuditEvent(action="server.stop", address="server"))
                await parts.storage.stop()
        except TimeoutError:
            log.error("ended without the last audit records: the store does not answer")  # noqa: TRY400 - no traceback helps

    def _given_up(self, name: str) -> None:
        """End the process in good order: something that the server needs cannot be kept alive, a new process perhaps can."""
        self._broken.append(name)
        if self._health is not None:
            self._health.broken.append(name)
        self._stop.set()

    def _asked_to_stop(self) -> None:
        now = time.monotonic()
        if not self._stop.is_set():
            self._stop_asked_at = now
            self._stop.set()
        elif now - self._stop_asked_at > IMPATIENT_S:
            log.warning("stopping at once")
            sys.exit(130)

    def _parent_ended(self) -> None:
        """Nothing is ever written to us: this is the end of our standard input, and of who would stop us."""
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        self._asked_to_stop()

    async def _rotate_token_keys(self, parts: Parts) -> None:
        while True:
            try:
                parts.token_keys.reload()
                if parts.locks is None or parts.locks.leads:
                    await parts.token_keys.rotate_if_older(self.settings.token_key_max_age_s)
            except (OSError, ChatError, Shutdown) as error:
                log.warning("token key not rotated, the old one stays", extra={"reason": str(error)})
            await asyncio.sleep(ROTATION_POLL_S if parts.redis is None else ROTATION_HEARD_S)

    def _apply(self, settings: Settings, parts: Parts, logger: Logger) -> None:
        parts.limiter.change(settings.rates)
        parts.gateway.pending.caps = caps_of(settings)
        parts.gateway.standing.rules_changed()
        logger.set_level(settings.log_level)
