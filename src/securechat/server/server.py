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
import shlex
import signal
import socket
import sys
import time
import urllib.parse
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from starlette.types import ASGIApp

from securechat import __version__
from securechat.auth import passkeys
from securechat.auth.addresses import is_loopback, networks
from securechat.domain import commands as c
from securechat.domain.accounts import OPERATOR
from securechat.domain.audit import AuditEvent, Result
from securechat.errors import ChatError, Conflict, Shutdown
from securechat.gateway.acceptor import quiet_about_strangers
from securechat.gateway.listener import Listener
from securechat.gateway.proxies import Proxies
from securechat.ops.audit import Auditor
from securechat.ops.health import Health
from securechat.ops.logger import Logger
from securechat.program import program
from securechat.rest.admin import AdminApp
from securechat.rest.app import RestApp
from securechat.rest.redirect import ToHttps
from securechat.rest.static import StaticFiles
from securechat.server.config import ConfigError, ConfigManager, Settings
from securechat.server.datadir import DataDir
from securechat.server.renewal import Renewal, in_daemon_thread
from securechat.server.shared_files import SharedFiles
from securechat.server.supervision import DEATHS_MAX, Supervisor
from securechat.server.tls import TLSContext
from securechat.server.watching import health_of, metrics_of
from securechat.server.wiring import Parts, build, caps_of
from securechat.store.old_secrets import OLD_KEY, take_over

if TYPE_CHECKING:
    from securechat.store.session_locks import ServerLocks

log = logging.getLogger(__name__)

WEB: Final = Path(__file__).parent.parent / "web"
RELOAD_POLL_S: Final = 1.0
ROTATION_POLL_S: Final = 15.0
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
        self._auditor: Auditor | None = None
        self._health: Health | None = None
        self._remembering: set[asyncio.Task[None]] = set()
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
        if self.settings.tls_domains:
            return self._secure_url(self.settings.tls_domains[0])
        return f"http://localhost:{self.http_port}" if self.http_port else f"https://localhost:{self.port}"

    def _secure_url(self, domain: str) -> str:
        """Return the URL of a domain's listener: with the port of the public URL if there is one, else with our own."""
        public = urllib.parse.urlsplit(self.settings.public_url)
        port = (public.port or 443) if public.scheme == "https" else self.port or self.settings.port
        return f"https://{domain}" + ("" if port == 443 else f":{port}")

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
        parts = await build(lambda: self._config.settings, data, self.public_url)
        parts.tls.load()
        health = self._health = health_of(parts)
        keeping: asyncio.Task[None] | None = None
        try:
            await parts.storage.start(on=self.settings.at_rest == "on")
            await take_over(parts.database, parts.secrets, data.keys / OLD_KEY)
            if parts.shared_files is not None and parts.locks is not None:
                await parts.shared_files.begin(alone=parts.locks.alone)
            self._join_others(parts)
            listeners = await self._listen(parts, health)
            self._config.on_change(lambda settings: self._apply(settings, parts, logger))
            loop.add_signal_handler(signal.SIGHUP, self._reload, parts.tls)
            if parts.tls.source == "acme":
                parts.desk.renewal = self._renewal(parts)
                self._supervisor.supervise("certificate renewal", parts.desk.renewal.run)
            self._auditor = parts.auditor
            await parts.auditor.begin(AuditEvent(action="server.start", address="server", details={"version": __version__}))
            await parts.identity_audit.look()
            keeping = self._supervisor.supervise("audit log", parts.auditor.keep)
            for name, pool in parts.pools.items():
                self._supervisor.supervise(name, pool.watch)
                pool.went_away = parts.room_log.give_back
            background: dict[str, Callable[[], Awaitable[object]]] = {
                "connections": parts.gateway.look_after,
                "loop lag": health.watch_lag,
                "configuration": self._watch_config,
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
            await self._drain(parts, health, listeners)
        finally:
            await self._close(parts, keeping)
        log.info("server stopped")
        if self._fatal is not None:
            raise self._fatal
        if self._broken:
            raise Shutdown(f"Ended: the work on {self._broken[0]} broke {DEATHS_MAX} times within a minute. See the log.", 1)

    async def _close(self, parts: Parts, keeping: asyncio.Task[None] | None) -> None:
        """End everything, in the reverse order of the start."""
        if parts.redis is not None:
            await parts.redis.leave()
        self._supervisor.cancel()
        await self._settle(parts, keeping)
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
        if parts.redis is not None and parts.sequencer and parts.shared_files and parts.sharing:
            self._supervisor.supervise("sequencer", parts.sequencer.run)
            self._supervisor.supervise("bus", parts.redis.run)
            self._supervisor.supervise("limits", parts.sharing.run)
            self._supervisor.supervise("blocks", parts.accounts.keep_fresh)
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

    async def _listen(self, parts: Parts, health: Health) -> list[Listener]:
        settings = self.settings
        static = StaticFiles(WEB, lambda: parts.accounts.server_name)

        def origins() -> frozenset[str]:
            return frozenset(
                [*self.settings.origins, *([self.settings.public_url.rstrip("/")] if self.settings.public_url else [])]
            )

        def proxies() -> Proxies:
            return Proxies(networks(tuple(self.settings.trusted_proxies)), self.settings.proxy_header)

        def strict_for(host: str) -> int:
            return self.settings.hsts_days * 86_400 if parts.tls.strict_for(host) else 0

        rest = RestApp(
            parts.dispatcher,
            parts.auth,
            parts.limiter,
            health,
            parts.counters,
            static,
            origins,
            parts.session_layer.published,
            strict_for,
            self.public_url,
        )
        metrics = metrics_of(parts, health)
        public = Listener(rest.asgi, parts.gateway, origins, proxies)
        admin = Listener(AdminApp(parts.dispatcher, metrics, health, settings=self._config.told).asgi, None, origins, guarded=False)
        listeners = [public, admin]
        shared = self._worker is not None
        try:
            self.port = await public.listen(settings.host, settings.port, parts.tls, shared=shared)
            if settings.http_port:
                plain = public
                if settings.tls_domains:
                    plain = Listener(self._to_https(parts, local=rest.asgi), parts.gateway, origins, proxies)
                    listeners.append(plain)
                self.http_port = await plain.listen("127.0.0.1", settings.http_port, None, shared=shared)
            if settings.redirect_port:
                redirect = Listener(self._to_https(parts), None, origins, proxies)
                listeners.append(redirect)
                await redirect.listen(settings.host, settings.redirect_port, None, shared=shared)
            with contextlib.suppress(FileNotFoundError):
                parts.data.admin_socket.unlink()
            await admin.listen_unix(str(parts.data.admin_socket))
            parts.data.admin_socket.chmod(0o600)
            if settings.admin_listen:
                scrape = Listener(AdminApp(parts.dispatcher, metrics, health).asgi, None, origins, guarded=False)
                host, _, port = settings.admin_listen.rpartition(":")
                await scrape.listen(host or "127.0.0.1", int(port) + (self._worker or 0), None)
                listeners.append(scrape)
        except PermissionError as error:
            raise Shutdown(
                "Cannot listen: a port below 1024 needs a permission. See docs/howto/real-domain.md, or choose another port."
            ) from error
        except OSError as error:
            raise Shutdown(
                f"Cannot listen: {error.strerror or error}. Is another server running? Choose another --port or --http-port"
                ' (make run ARGS="--port 9443 --http-port 9080").'
            ) from error
        return listeners

    def _to_https(self, parts: Parts, local: ASGIApp | None = None) -> ToHttps:
        names = self.settings.tls_domains or [self._own_host()]
        return ToHttps(names, self._secure_url, lambda: parts.tls.challenges.tokens, local)

    def _own_host(self) -> str:
        return urllib.parse.urlsplit(self.settings.public_url).hostname or "localhost"

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
        took = time.monotonic() - self._started
        settings, kind = self.settings, parts.database.dialect
        lines = [
            f"SecureChat {__version__}   data {settings.data_dir}   db {kind}   registration {settings.registration}",
            f"  Chat     {self.public_url()}" + (f"   (or https://localhost:{self.port})" if self.http_port else ""),
        ]
        if parts.locks is None or parts.locks.leads:  # A new link ends the one that another server told.
            with contextlib.suppress(Conflict):  # There are people already: they invite each other.
                link = await parts.accounts.setup_link(OPERATOR.at("server"), c.SetupLink())
                lines.append(f"  Setup    {link.url}\n           one time, 60 minutes   (a new one: {self._call('setup-link')})")
        if parts.locks is not None and parts.redis is not None:
            lines.append(f"  Servers  several, by way of Redis{'; this one leads' if parts.locks.leads else ''}")
        lines.append(f"  Admin    unix:{parts.data.admin_socket}   (stop with Ctrl+C)")
        if parts.tls.source != "own-ca":
            state = parts.tls.problem or f"good until {parts.tls.certificate.not_after:%Y-%m-%d}"
            lines.insert(2, f"  TLS      {state}   ({self._call('cert show')})")
        if trouble := self._unreachable():
            lines.insert(2, f"  Warning  {trouble}")
            log.warning("public_url is not set: links that others get lead nowhere", extra={"host": settings.host})
        if self._workers > 1:
            lines[0] += f"   workers {self._workers}"
        if not self._worker:
            self._announce("\n".join(lines))
        log.info("server ready", extra={"port": self.port, "http_port": self.http_port, "ready_s": round(took, 3)})

    def _call(self, command: str) -> str:
        """Return how an operator calls a command for this server."""
        is_elsewhere = self._config.origin.get("data_dir", "environment") != "environment"
        return f"{program()} {command}" + (f" --data {shlex.quote(self.settings.data_dir)}" if is_elsewhere else "")

    def _unreachable(self) -> str:
        """Return a word about links that lead others nowhere: the server listens for them and does not know its name."""
        settings = self.settings
        if settings.public_url or settings.tls_domains or is_loopback(settings.host):
            return ""
        return (
            f"Links begin with {self.public_url()}, which nobody else can open.\n"
            f"           It listens on {settings.host} for others: say how they get here, for example\n"
            f"           --public-url https://{socket.gethostname()}:{self.port} (public_url in a configuration)"
        )

    async def _drain(self, parts: Parts, health: Health, listeners: list[Listener]) -> None:
        """Stop within `drain_s` and the window in which others take our people, whatever hangs."""
        log.info("server draining", extra={"connections": len(parts.gateway.connections)})
        health.draining = True
        for listener in listeners:
            listener.stop_accepting()
        budget = self.settings.drain_s
        await parts.gateway.drain(budget, self.settings.drain_window_s if self._is_one_of_several(parts) else 0.0)
        try:
            async with asyncio.timeout(budget * 0.5):
                await parts.dispatcher.drain()
        except TimeoutError:
            log.warning("commands were not answered in time")
        await self._end_deliveries(parts, budget * 0.1)
        parts.gateway.abort()
        await asyncio.gather(*(listener.finish(budget * 0.2) for listener in listeners))

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

    async def _settle(self, parts: Parts, keeping: asyncio.Task[None] | None) -> None:
        """Write what is left to write, unless the store hangs: nobody waits for that."""
        try:
            async with asyncio.timeout(max(SETTLE_S, self.settings.drain_s * 0.15)):
                if keeping is not None:
                    await asyncio.wait({keeping})
                if self._remembering:
                    await asyncio.wait(self._remembering)
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

    def _reload(self, tls: TLSContext | None = None) -> None:
        if tls is not None and tls.source != "own-ca":
            tls.reload()
        try:
            changed, waiting = self._config.reload()
        except ConfigError as error:
            log.error("configuration refused, the old one stays", extra={"mistakes": error.line})  # noqa: TRY400 - no traceback helps
            self._note_reload(Result.FAILED, changed="")
            return
        log.info("configuration read", extra={"changed": ", ".join(changed), "needs_restart": ", ".join(waiting)})
        self._note_reload(Result.DONE, changed=", ".join(changed))

    def _note_reload(self, result: Result, *, changed: str) -> None:
        """Remember that the settings were read again: which keys changed, not their values."""
        if self._auditor is not None:
            event = AuditEvent(action="config.reload", address="server", result=result, details={"changed": changed})
            task = asyncio.create_task(self._remember(self._auditor, event))
            self._remembering.add(task)
            task.add_done_callback(self._remembering.discard)

    async def _remember(self, auditor: Auditor, event: AuditEvent) -> None:
        try:
            await auditor.record(event)
        except ChatError as error:
            log.error("audit record not written", extra={"action": event.action, "error": error.code})  # noqa: TRY400 - no traceback helps

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
                parts.token_keys.reload()
                if parts.locks is None or parts.locks.leads:
                    await parts.token_keys.rotate_if_older(self.settings.token_key_max_age_s)
            except (OSError, ChatError, Shutdown) as error:
                log.warning("token key not rotated, the old one stays", extra={"reason": str(error)})
            await asyncio.sleep(ROTATION_POLL_S if parts.redis is None else RELOAD_POLL_S)

    def _apply(self, settings: Settings, parts: Parts, logger: Logger) -> None:
        parts.limiter.change(settings.rates)
        parts.gateway.pending.caps = caps_of(settings)
        parts.gateway.standing.rules_changed()
        logger.set_level(settings.log_level)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)
