"""What follows from the settings."""

from __future__ import annotations

from urllib.parse import urlsplit

from securechat.auth.addresses import host_of
from securechat.gateway.connection_limits import Caps
from securechat.server.config import Settings


def knows_host(settings: Settings, host: str) -> bool:
    """Return whether a host (`name[:port]`) that a client dialled is this server, as far as one can know."""
    if not settings.hosts and not settings.public_url and not settings.tls_domains:
        return True
    name = host_of(host)
    if name is None:
        return False
    known = {*map(str.lower, settings.hosts), *settings.tls_domains, "localhost", "127.0.0.1", "::1", settings.host}
    return name in known or name == (urlsplit(settings.public_url).hostname or "")


def caps_of(settings: Settings) -> Caps:
    """Return the limits of connections."""
    return Caps(
        connections=settings.max_connections,
        address=settings.max_connections_address,
        account=settings.max_connections_account,
        pending=settings.max_pending,
        pending_address=settings.max_pending_address,
        http=settings.max_http_connections,
        http_address=settings.max_http_connections_address,
    )
