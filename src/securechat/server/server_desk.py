"""ServerDesk: what an operator asks of the server as a whole: how it is, and a copy of everything."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from securechat import __version__
from securechat.domain import commands as c
from securechat.domain.accounts import Principal
from securechat.domain.audit import Result, by
from securechat.domain.ports import Maintenance
from securechat.errors import ChatError, Conflict, Shutdown
from securechat.ops.audit import Auditor
from securechat.server.backup import create_backup
from securechat.server.datadir import DataDir


class ServerDesk:
    """Commands of operators.

    Args:
        maintenance: Counts and copies the store.
        data: The data folder.
        auditor: Remembers who took a copy.
        public_url: What people type to get here.
        connections: How many WebSocket connections there are.
    """

    def __init__(
        self,
        maintenance: Maintenance,
        data: DataDir,
        auditor: Auditor,
        public_url: Callable[[], str],
        connections: Callable[[], int],
    ) -> None:
        self._maintenance = maintenance
        self._data = data
        self._auditor = auditor
        self._public_url = public_url
        self._connections = connections
        self._started = time.monotonic()

    async def status(self, _who: Principal, _command: c.ServerStatus) -> c.Status:
        """Return how the server is."""
        users, rooms, entries = await self._maintenance.counts()
        return c.Status(
            version=__version__,
            url=self._public_url(),
            uptime_s=round(time.monotonic() - self._started, 1),
            connections=self._connections(),
            users=users,
            rooms=rooms,
            entries=entries,
        )

    async def backup(self, who: Principal, command: c.BackupCreate) -> c.Backup:
        """Write a copy of everything. It holds every key: it is not made when it cannot be remembered.

        Raises:
            Conflict: It could not be written.
        """
        await self._auditor.record(by(who, "backup.create", path=command.path))
        try:
            await self._auditor.checkpoint()
            return await create_backup(self._maintenance, self._data, command.path)
        except (ChatError, Shutdown, OSError) as error:
            event = by(who, "backup.create", path=command.path)
            self._auditor.note(msgspec.structs.replace(event, result=Result.FAILED, reason=type(error).__name__))
            if isinstance(error, Shutdown):  # It is for a command line; here it would end the server.
                raise Conflict(error.line) from error
            raise
