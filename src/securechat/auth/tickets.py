"""Tickets: what the server remembers between the two steps of something, kept by the client under seal.

Strangers may begin as often as they like: nothing is stored for them. What was finished is remembered until the ticket ends, so
that nobody finishes it twice. That memory ends with the process, and so do its tickets.
"""

from __future__ import annotations

import base64
import secrets
from collections import OrderedDict
from typing import Final

import msgspec

from securechat.domain.ports import Clock, SecretBox
from securechat.errors import Forbidden

LIFETIME_S: Final = 600
USED_MAX: Final = 50_000
_STRANGE: Final = "This took too long or does not belong together. Begin again."


class _Ticket(msgspec.Struct, array_like=True):
    id: str
    user_id: str
    expires_at: int
    data: bytes


class Tickets:
    """Give out and take back.

    Args:
        box: Seals.
        clock: Time.
    """

    def __init__(self, box: SecretBox, clock: Clock) -> None:
        self._box = box
        self._clock = clock
        self._process = secrets.token_hex(8)
        self._used: OrderedDict[str, int] = OrderedDict()

    def issue(self, purpose: str, user_id: str, data: bytes) -> str:
        """Return a ticket that remembers `data` for this user; ten minutes."""
        expires_at = self._clock.now_ms() + LIFETIME_S * 1_000
        found = msgspec.msgpack.encode(_Ticket(self._process + secrets.token_urlsafe(12), user_id, expires_at, data))
        return base64.urlsafe_b64encode(self._box.seal(found, purpose=f"ticket:{purpose}", owner=user_id)).rstrip(b"=").decode()

    def read(self, purpose: str, user_id: str, ticket: str) -> tuple[str, bytes]:
        """Return (the ticket's id, what it remembers).

        Raises:
            Forbidden: It is not ours, for something or somebody else, too old, or finished already.
        """
        try:
            sealed = base64.b64decode(ticket + "=" * (-len(ticket) % 4), altchars=b"-_", validate=True)
        except ValueError as error:
            raise Forbidden(_STRANGE) from error
        opened = self._box.try_open(sealed, purpose=f"ticket:{purpose}", owner=user_id)
        if opened is None:
            raise Forbidden(_STRANGE)
        found = msgspec.msgpack.decode(opened, type=_Ticket)
        now, finished = self._clock.now_ms(), found.id in self._used or not found.id.startswith(self._process)
        if found.user_id != user_id or found.expires_at <= now or finished:
            raise Forbidden(_STRANGE)
        return found.id, found.data

    def finish(self, ticket_id: str) -> None:
        """Let a ticket work no more.

        Raises:
            Forbidden: Another request was faster.
        """
        now = self._clock.now_ms()
        while self._used and (len(self._used) >= USED_MAX or next(iter(self._used.values())) <= now):
            self._used.popitem(last=False)
        if ticket_id in self._used:
            raise Forbidden("This was done already.")
        self._used[ticket_id] = now + LIFETIME_S * 1_000
