"""ReplayDetector: every record once, in order, and not late (spec/session-layer.md 6).

A WebSocket keeps order, so the next record has exactly the next number: there is no window in which something could be repeated.
The timestamp is no defence against replay; it only bounds how long somebody may hold a record back.
"""

from __future__ import annotations

from typing import Final

from securechat.crypto.wire import PROTOCOL
from securechat.errors import SessionRefused

REKEY_REQUIRED: Final = 4403
LATE_MS: Final = 120_000
EARLY_MS: Final = 5_000
BACKWARDS_MS: Final = 1_000


class ReplayDetector:
    """What one direction of one epoch may bring next.

    Args:
        epoch: Whose records these are.
        future: Whether a record from the future is refused. A client's estimate of the time is only a lower bound: it takes it.
    """

    __slots__ = ("_epoch", "_future", "_newest_ms", "_next")

    def __init__(self, epoch: int, *, future: bool) -> None:
        self._epoch = epoch
        self._future = future
        self._next = 0
        self._newest_ms = 0

    def admit(self, epoch: int, seq: int) -> None:
        """Take the number of an authentic record.

        Raises:
            SessionRefused: With 4400: a replay, a gap, or a record of another epoch.
        """
        if epoch != self._epoch or seq != self._next:
            raise SessionRefused(PROTOCOL, "replay")
        self._next += 1

    def fresh(self, timestamp_ms: int, now_ms: int) -> None:
        """Take its timestamp, after it was opened.

        Raises:
            SessionRefused: With 4403: it was held back, or its clock is wrong.
        """
        if timestamp_ms < now_ms - LATE_MS or (self._future and timestamp_ms > now_ms + EARLY_MS):
            raise SessionRefused(REKEY_REQUIRED, "stale")
        if timestamp_ms < self._newest_ms - BACKWARDS_MS:
            raise SessionRefused(REKEY_REQUIRED, "time runs backwards")
        self._newest_ms = max(self._newest_ms, timestamp_ms)
