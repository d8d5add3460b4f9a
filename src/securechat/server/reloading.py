"""Reloading: reading the configuration again, when somebody says so and when its file changes."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

from securechat.domain.audit import AuditEvent, Result
from securechat.errors import ChatError
from securechat.ops.audit import Auditor
from securechat.server.config import ConfigError, ConfigManager
from securechat.server.tls import TLSContext

log = logging.getLogger(__name__)

POLL_S: Final = 1.0
"""Between two looks at the file."""


class Reloading:
    """The configuration of a running server.

    Args:
        config: The settings.
        tls: The certificate: read again with them when somebody says so; changes of its files it sees by itself.

    Attributes:
        auditor: Remembers each time, once it has begun.
    """

    def __init__(self, config: ConfigManager, tls: TLSContext) -> None:
        self._config = config
        self._tls = tls
        self._remembering: set[asyncio.Task[None]] = set()
        self.auditor: Auditor | None = None

    def asked(self) -> None:
        """Somebody says so: read everything again."""
        if self._tls.source != "own-ca":
            self._tls.reload()
        self._reload()

    async def watch(self) -> None:
        """Read the file again when it changes, for ever."""
        path = self._config.path
        if path is None:
            return
        seen = _stamp(path)
        while True:
            await asyncio.sleep(POLL_S)
            if (now := _stamp(path)) != seen:
                seen = now
                self._reload()

    async def settle(self) -> None:
        """Wait until the audit log has what happened."""
        if self._remembering:
            await asyncio.wait(self._remembering)

    def _reload(self) -> None:
        try:
            changed, waiting = self._config.reload()
        except ConfigError as error:
            log.error("configuration refused, the old one stays", extra={"mistakes": error.line})  # noqa: TRY400 - no traceback helps
            self._note(Result.FAILED, changed="")
            return
        log.info("configuration read", extra={"changed": ", ".join(changed), "needs_restart": ", ".join(waiting)})
        self._note(Result.DONE, changed=", ".join(changed))

    def _note(self, result: Result, *, changed: str) -> None:
        """Remember that the settings were read again: which keys changed, not their values."""
        if self.auditor is not None:
            event = AuditEvent(action="config.reload", address="server", result=result, details={"changed": changed})
            task = asyncio.create_task(_remember(self.auditor, event))
            self._remembering.add(task)
            task.add_done_callback(self._remembering.discard)


async def _remember(auditor: Auditor, event: AuditEvent) -> None:
    try:
        await auditor.record(event)
    except ChatError as error:
        log.error("audit record not written", extra={"action": event.action, "error": error.code})  # noqa: TRY400 - no traceback helps


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)
