"""What a person is told when the server is ready: where it is, and what to do next."""

from __future__ import annotations

import contextlib
import logging
import shlex

from securechat import __version__
from securechat.domain import commands as c
from securechat.domain.accounts import OPERATOR
from securechat.errors import Conflict
from securechat.program import program
from securechat.server.config import ConfigManager
from securechat.server.urls import Urls
from securechat.server.wiring import Parts

log = logging.getLogger(__name__)


async def banner(parts: Parts, config: ConfigManager, urls: Urls, workers: int) -> str:
    """Return the lines; as long as nobody is there, with a new link for the first one, which ends the one before."""
    settings, kind = config.settings, parts.database.dialect
    lines = [
        f"SecureChat {__version__}   data {settings.data_dir}   db {kind}   registration {settings.registration}",
        f"  Chat     {urls.public()}" + (f"   (or https://localhost:{urls.port})" if urls.http_port else ""),
    ]
    if parts.locks is None or parts.locks.leads:  # A new link ends the one that another server told.
        with contextlib.suppress(Conflict):  # There are people already: they invite each other.
            link = await parts.accounts.setup_link(OPERATOR.at("server"), c.SetupLink())
            lines.append(f"  Setup    {link.url}\n           one time, 60 minutes   (a new one: {_call(config, 'setup-link')})")
    if parts.locks is not None and parts.redis is not None:
        lines.append(f"  Servers  several, by way of Redis{'; this one leads' if parts.locks.leads else ''}")
    lines.append(f"  Admin    unix:{parts.data.admin_socket}   (stop with Ctrl+C)")
    if parts.tls.source != "own-ca":
        state = parts.tls.problem or f"good until {parts.tls.certificate.not_after:%Y-%m-%d}"
        lines.insert(2, f"  TLS      {state}   ({_call(config, 'cert show')})")
    if trouble := urls.trouble():
        lines.insert(2, f"  Warning  {trouble}")
        log.warning("public_url is not set: links that others get lead nowhere", extra={"host": settings.host})
    if workers > 1:
        lines[0] += f"   workers {workers}"
    return "\n".join(lines)


def _call(config: ConfigManager, command: str) -> str:
    """Return how an operator calls a command for this server."""
    is_elsewhere = config.origin.get("data_dir", "environment") != "environment"
    return f"{program()} {command}" + (f" --data {shlex.quote(config.settings.data_dir)}" if is_elsewhere else "")
