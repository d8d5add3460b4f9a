"""Standing: whether those who are connected may still be, and as what: looked at now and then, for what was not told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from securechat.auth.manager import AuthManager
from securechat.domain.ports import AccountStore, Clock
from securechat.errors import ChatError
from securechat.gateway.hub import Hub
from securechat.protocol.frames import CloseCode

log = logging.getLogger(__name__)

ENDED_MS: Final = 10_000
"""How far back it is looked for sessions that ended without our being told, beside what was not looked at."""
RECHECK_BATCH: Final = 100
"""Users that are looked at in one turn of the loop."""


class _Debt:
    """Something to look at, until it was looked at.

    Attributes:
        is_owed: Whether it has to be looked at.
    """

    def __init__(self, look: Callable[[], Awaitable[None]], unknown: str) -> None:
        self.is_owed = False
        self._look = look
        self._unknown = unknown

    async def settle(self) -> None:
        """Look, if that is owed. It stays owed if it could not be done, or if it was asked for anew meanwhile."""
        if not self.is_owed:
            return
        self.is_owed = False
        try:
            await self._look()
        except BaseException as error:
            self.is_owed = True
            if not isinstance(error, ChatError):
                raise
            log.warning(self._unknown, extra={"code": error.code})


class Standing:
    """The rights by which connections are open.

    What is not known because a store does not answer is looked at again, the next time.

    Args:
        hub: Who is connected.
        auth: Who has to have a second factor.
        accounts: People.
        ended: Returns (user id, device id) of the sessions that ended since a time, in milliseconds since 1970.
        clock: For that time: it goes on while a machine sleeps.
    """

    def __init__(
        self,
        hub: Hub,
        auth: AuthManager,
        accounts: AccountStore,
        ended: Callable[[int], Awaitable[Iterable[tuple[str, str]]]],
        clock: Clock,
    ) -> None:
        self._hub = hub
        self._auth = auth
        self._accounts = accounts
        self._ended = ended
        self._roles = _Debt(self._read_roles, "roles are not known now")
        self._rules = _Debt(self._close_unenrolled, "who lacks a second factor is not known now")
        self._now_ms = clock.now_ms
        self._knew_ended_at = clock.now_ms()

    def roles_changed(self, _user_id: str) -> None:
        """Somebody's role may have changed without our being told."""
        self._roles.is_owed = True

    def rules_changed(self) -> None:
        """The settings changed: see to it that whoever is connected would still be let in."""
        self._rules.is_owed = True

    async def look(self) -> None:
        """Close who may not be here any more, and let the roles of now hold."""
        await self._close_ended()
        await self._roles.settle()
        await self._rules.settle()

    async def _close_ended(self) -> None:
        """Close what belongs to a session that ended, if the bus did not say so, or said so while it was authenticating."""
        now = self._now_ms()
        try:
            for user_id, device_id in await self._ended(min(now, self._knew_ended_at) - ENDED_MS):
                self._hub.disconnect(user_id=user_id, device_ids={device_id}, code=CloseCode.UNAUTHORIZED)
        except ChatError as error:
            log.warning("sessions that ended are not known now", extra={"code": error.code})
        else:
            self._knew_ended_at = now

    async def _read_roles(self) -> None:
        """Let the roles that the store knows hold on open connections."""
        users = self._hub.users()
        while users:
            told = self._hub.roles_told
            found = await self._accounts.users(users[:RECHECK_BATCH])
            if self._hub.roles_told != told:
                continue  # What came meanwhile may be newer than what was read.
            for user in found:
                self._hub.change_role(user)
            del users[:RECHECK_BATCH]

    async def _close_unenrolled(self) -> None:
        """Close connections of those whose role wants a second factor now, and who have none."""
        for number, user_id in enumerate(self._hub.users()):
            await self._auth.disconnect_unenrolled(user_id)
            if number % RECHECK_BATCH == 0:
                await asyncio.sleep(0)
