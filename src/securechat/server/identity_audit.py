"""Remember in the audit log when the server's identity keys changed, whoever changed the files, and whether it ran or not."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from securechat.domain.audit import AuditEvent
from securechat.domain.ports import AccountStore
from securechat.errors import ChatError, Shutdown
from securechat.server.identity import IdentityKeys

log = logging.getLogger(__name__)

LOOK_S: Final = 2.0
SETTING: Final = "identity_keys"
"""Key in the table `settings`: ids of the keys that were remembered, with spaces between."""


class IdentityAudit:
    """Compares the keys with those that were remembered last.

    Args:
        identities: The keys.
        accounts: The store: what was remembered, and the audit log.
    """

    def __init__(self, identities: IdentityKeys, accounts: AccountStore) -> None:
        self._identities = identities
        self._accounts = accounts

    async def look(self) -> None:
        """Remember what is new, in one transaction with the list of what is known."""
        now = [each.kid for each in self._identities.records()]
        known = (await self._accounts.setting(SETTING) or "").split()
        if now == known:
            return
        events = [self._event("identity.add", kid) for kid in now if kid not in known]
        events += [self._event("identity.remove", kid) for kid in known if kid not in now]
        await self._accounts.recording(*events).set_setting(SETTING, " ".join(now))

    async def watch(self) -> None:
        """Look every few seconds, for ever."""
        while True:
            try:
                await self.look()
            except (ChatError, Shutdown) as error:
                log.warning("identity keys not compared", extra={"reason": str(error)})
            await asyncio.sleep(LOOK_S)

    @staticmethod
    def _event(action: str, kid: str) -> AuditEvent:
        return AuditEvent(action=action, address="server", details={"key": kid})
