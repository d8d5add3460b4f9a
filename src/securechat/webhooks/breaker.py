"""Breaker: a host that fails again and again is left alone for a moment that grows, whoever has subscriptions there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

FAILURES: Final = 3
"""In a row; then the breaker opens."""
PAUSE_S: Final = 5.0
PAUSE_MAX_S: Final = 300.0


@dataclass(slots=True)
class _Host:
    failures: int = 0
    pause_s: float = 0.0
    until: float = 0.0


class Breaker:
    """One for all hosts.

    Args:
        now: Seconds that never go back.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._hosts: dict[str, _Host] = {}

    def is_open(self, host: str) -> bool:
        """Return whether the host is left alone now. When a pause ends, the next failure opens the breaker again, for longer."""
        found = self._hosts.get(host)
        return found is not None and found.until > self._now()

    @property
    def open(self) -> int:
        """How many hosts are left alone."""
        return sum(each.until > self._now() for each in self._hosts.values())

    def worked(self, host: str) -> None:
        """Hear that the host answered."""
        self._hosts.pop(host, None)

    def failed(self, host: str) -> None:
        """Hear that it did not."""
        found = self._hosts.setdefault(host, _Host())
        found.failures += 1
        if found.failures >= FAILURES and found.until <= self._now():
            found.pause_s = min(max(PAUSE_S, found.pause_s * 2), PAUSE_MAX_S)
            found.until = self._now() + found.pause_s

    def keep(self, hosts: set[str]) -> None:
        """Forget all other hosts: nobody has a subscription there."""
        for host in self._hosts.keys() - hosts:
            del self._hosts[host]
