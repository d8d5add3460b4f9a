"""Hosts: a host that fails again and again is left alone for a moment that grows, whoever has subscriptions there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from securechat.domain.breaker import Breaker
from securechat.errors import Unavailable

PAUSE_MAX_S: Final = 300.0
"""The longest that a host is left alone; then one subscription tries."""


class Hosts:
    """A breaker for each host.

    Args:
        now: Seconds that never go back.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._breakers: dict[str, Breaker] = {}

    @property
    def paused(self) -> int:
        """How many hosts are left alone."""
        return sum(not breaker.closed for breaker in self._breakers.values())

    def begin(self, host: str) -> bool:
        """Return whether somebody may speak to a host now. Whoever does says what came of it, and `end` at last."""
        try:
            self._of(host).enter(self._now(), "")
        except Unavailable:
            return False
        return True

    def worked(self, host: str) -> None:
        """Hear that the host is well."""
        self._of(host).succeeded(self._now())

    def failed(self, host: str, reason: str) -> None:
        """Hear that it is not."""
        self._of(host).failed(self._now(), reason)

    def end(self, host: str) -> None:
        """Speak to it no longer, also without having learned anything."""
        self._of(host).gave_up(self._now())

    def keep(self, hosts: set[str]) -> None:
        """Forget all other hosts: nobody has a subscription there."""
        for host in self._breakers.keys() - hosts:
            del self._breakers[host]

    def _of(self, host: str) -> Breaker:
        found = self._breakers.get(host)
        if found is None:
            found = self._breakers[host] = Breaker(pause_max_s=PAUSE_MAX_S)
        return found
