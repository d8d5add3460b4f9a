"""Urls: under which addresses this server is reached, as far as it knows."""

from __future__ import annotations

import socket
import urllib.parse
from collections.abc import Callable

from securechat.auth.addresses import is_loopback
from securechat.server.config import Settings


class Urls:
    """The addresses of one server.

    Args:
        settings: Those that hold now.

    Attributes:
        port: Where it listens with TLS; 0 before it does.
        http_port: Where it listens without, on loopback; 0 for nowhere.
    """

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings
        self.port = 0
        self.http_port = 0

    def public(self) -> str:
        """Return what links begin with."""
        settings = self._settings()
        if settings.public_url:
            return settings.public_url.rstrip("/")
        if settings.tls_domains:
            return self.secure(settings.tls_domains[0])
        return f"http://localhost:{self.http_port}" if self.http_port else f"https://localhost:{self.port}"

    def secure(self, domain: str) -> str:
        """Return the URL of a domain's listener: with the port of the public URL if there is one, else with our own."""
        settings = self._settings()
        public = urllib.parse.urlsplit(settings.public_url)
        port = (public.port or 443) if public.scheme == "https" else self.port or settings.port
        return f"https://{domain}" + ("" if port == 443 else f":{port}")

    def names(self) -> list[str]:
        """Return the hosts that browsers know this server by."""
        settings = self._settings()
        return settings.tls_domains or [urllib.parse.urlsplit(settings.public_url).hostname or "localhost"]

    def origins(self) -> frozenset[str]:
        """Return the origins of browsers that are allowed besides the server's own."""
        settings = self._settings()
        return frozenset([*settings.origins, *([settings.public_url.rstrip("/")] if settings.public_url else [])])

    def trouble(self) -> str:
        """Return a word about links that lead others nowhere: the server listens for them and does not know its name."""
        settings = self._settings()
        if settings.public_url or settings.tls_domains or is_loopback(settings.host):
            return ""
        return (
            f"Links begin with {self.public()}, which nobody else can open.\n"
            f"           It listens on {settings.host} for others: say how they get here, for example\n"
            f"           --public-url https://{socket.gethostname()}:{self.port} (public_url in a configuration)"
        )
