"""PresenceService: typing. Never stored, coalesced, dropped first (law 10). Who is online is known by the hub."""

from __future__ import annotations

from typing import Final

from securechat.domain import policy
from securechat.domain.accounts import Principal
from securechat.domain.commands import Done, TypingStart
from securechat.domain.ports import Clock, LogStore, MessageBus, Signal, Typing
from securechat.services.coalescing import Seldom

QUIET_S: Final = 3.0
"""One typing signal per user and room in this time is enough."""


class PresenceService:
    """Show that somebody writes.

    Args:
        log_store: Who is a member.
        bus: Who is told.
        clock: For coalescing.
    """

    def __init__(self, log_store: LogStore, bus: MessageBus, clock: Clock) -> None:
        self._log_store = log_store
        self._bus = bus
        self._clock = clock
        self._shown = Seldom(QUIET_S)

    async def typing(self, who: Principal, command: TypingStart) -> Done:
        """Tell the others in the room."""
        policy.require_in(who, "typing.start", await self._log_store.room(command.room, user_id=who.user_id), command.room)
        if self._shown.now((command.room, who.user_id), self._clock.monotonic()):
            self._bus.signal(Signal(Typing(command.room, who.user_id), room=command.room, except_user=who.user_id))
        return Done()
