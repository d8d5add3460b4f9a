"""Listening: which application is behind which port."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from starlette.types import ASGIApp

from securechat.auth.addresses import networks
from securechat.errors import Shutdown
from securechat.gateway.listener import Listener
from securechat.gateway.proxies import Proxies
from securechat.ops.health import Health
from securechat.rest.admin import AdminApp
from securechat.rest.app import RestApp
from securechat.rest.redirect import ToHttps
from securechat.rest.static import StaticFiles
from securechat.server.config import ConfigManager
from securechat.server.urls import Urls
from securechat.server.watching import metrics_of
from securechat.server.wiring import Parts

WEB: Final = Path(__file__).parent.parent / "web"


class Listening:
    """The listeners of one server.

    Args:
        parts: What they lead to.
        health: What the admin socket tells.
        config: The settings.
        urls: Learns the ports.
        worker: Which of several processes on one port this one is; None for the only one.
    """

    def __init__(self, parts: Parts, health: Health, config: ConfigManager, urls: Urls, worker: int | None) -> None:
        self._parts = parts
        self._health = health
        self._config = config
        self._urls = urls
        self._worker = worker
        self._metrics = metrics_of(parts, health)
        self._for_people: list[Listener] = []
        self._for_operators: list[Listener] = []

    async def begin(self) -> None:
        """Listen on all ports and on the admin socket.

        Raises:
            Shutdown: A port is taken, or not ours to take.
        """
        await self._serve_people()
        await self._serve_operators()

    def stop_accepting(self) -> None:
        """Take no new connections from people; operators can still see that this server is not ready, and why."""
        for listener in self._for_people:
            listener.stop_accepting()

    async def finish(self, within_s: float) -> None:
        """Take no connections at all, let requests end, and close theirs."""
        for listener in self._for_operators:
            listener.stop_accepting()
        await asyncio.gather(*(listener.finish(within_s) for listener in [*self._for_people, *self._for_operators]))

    async def _serve_people(self) -> None:
        """Listen with TLS, on loopback without, and where plain HTTP is sent to HTTPS."""
        settings, parts, urls = self._config.settings, self._parts, self._urls
        shared = self._worker is not None
        rest = self._rest()
        public = self._open(rest, to_gateway=True)
        with _told(f"{settings.host}:{settings.port}", '--port (make run ARGS="--port 9443")'):
            urls.port = await public.listen(settings.host, settings.port, parts.tls, shared=shared)
        if settings.http_port:
            plain = self._open(self._to_https(local=rest), to_gateway=True) if settings.tls_domains else public
            with _told(f"127.0.0.1:{settings.http_port}", '--http-port (make run ARGS="--http-port 9080")'):
                urls.http_port = await plain.listen("127.0.0.1", settings.http_port, None, shared=shared)
        if settings.redirect_port:
            redirect = self._open(self._to_https(), to_gateway=False)
            with _told(f"{settings.host}:{settings.redirect_port}", "redirect_port"):
                await redirect.listen(settings.host, settings.redirect_port, None, shared=shared)

    async def _serve_operators(self) -> None:
        """Listen on the admin socket, and where metrics are read."""
        settings, parts, socket = self._config.settings, self._parts, self._parts.data.admin_socket
        admin = self._open_unguarded(AdminApp(parts.dispatcher, self._metrics, self._health, settings=self._config.told).asgi)
        with contextlib.suppress(FileNotFoundError):
            socket.unlink()
        with _told(str(socket), "data folder (--data)"):
            await admin.listen_unix(str(socket))
        socket.chmod(0o600)
        if settings.admin_listen:
            scrape = self._open_unguarded(AdminApp(parts.dispatcher, self._metrics, self._health).asgi)
            host, _, port = settings.admin_listen.rpartition(":")
            with _told(settings.admin_listen, "admin_listen"):
                await scrape.listen(host or "127.0.0.1", int(port) + (self._worker or 0), None)

    def _open(self, app: ASGIApp, *, to_gateway: bool) -> Listener:
        listener = Listener(app, self._parts.gateway if to_gateway else None, self._urls.origins, self._proxies)
        self._for_people.append(listener)
        return listener

    def _open_unguarded(self, app: ASGIApp) -> Listener:
        listener = Listener(app, None, self._urls.origins, guarded=False)
        self._for_operators.append(listener)
        return listener

    def _rest(self) -> ASGIApp:
        parts, urls = self._parts, self._urls
        static = StaticFiles(WEB, lambda: parts.accounts.server_name)
        app = RestApp(
            parts.dispatcher,
            parts.auth,
            parts.limiter,
            self._health,
            parts.counters,
            static,
            urls.origins,
            parts.session_layer.published,
            self._strict_for,
            urls.public,
        )
        return app.asgi

    def _to_https(self, local: ASGIApp | None = None) -> ToHttps:
        return ToHttps(self._urls.names(), self._urls.secure, lambda: self._parts.tls.challenges.tokens, local)

    def _proxies(self) -> Proxies:
        settings = self._config.settings
        return Proxies(networks(tuple(settings.trusted_proxies)), settings.proxy_header)

    def _strict_for(self, host: str) -> int:
        """Return for how many seconds a browser is to remember that this host has TLS; 0 for not at all."""
        return self._config.settings.hsts_days * 86_400 if self._parts.tls.strict_for(host) else 0


@contextlib.contextmanager
def _told(place: str, choice: str) -> Iterator[None]:
    """Say where nobody can listen, and what to choose instead.

    Raises:
        Shutdown: The place is taken, or not ours to take.
    """
    try:
        yield
    except PermissionError as error:
        why = "a port below 1024 needs a permission. See docs/howto/real-domain.md, or choose"
        raise Shutdown(f"Cannot listen on {place}: {why} another {choice}.") from error
    except OSError as error:
        raise Shutdown(
            f"Cannot listen on {place}: {error.strerror or error}. Is another server running? Choose another {choice}."
        ) from error
