"""Time. See `securechat.domain.ports`."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Time as a parameter."""

    def now_ms(self) -> int:
        """Milliseconds since 1970: for people, never for order or durations."""

    def monotonic(self) -> float:
        """Seconds that never go back: for durations."""
