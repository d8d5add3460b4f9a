"""Breaker: whether a dependency is asked at all, or everybody is told at once to come back.

closed      it is asked. Failures in a row open the breaker; a success forgets them.
open        nobody asks for a pause that grows with each failed probe.
half-open   the pause is over: one asks, the others are refused until it is known how that ended.

No clock and no loop: every call says when it is. There is one breaker for each database, each node of Redis and each
sign-in provider; targets of subscriptions have their own way to be left alone (`webhooks.relay`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from securechat.errors import Unavailable

PAUSE_S: Final = 0.1
"""The first pause; doubled with each probe that fails."""
PAUSE_MAX_S: Final = 2.0
"""The longest: what comes back is noticed within this time."""
FAILURES_MAX: Final = 3
"""So many in a row open it: one connection that was lost is not yet a dependency that is down."""


class BreakerState(StrEnum):
    """What becomes of who wants to ask."""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


class Breaker:
    """The breaker of one dependency.

    Args:
        failures_max: Failures in a row that open it.
        pause_max_s: The longest pause between two probes.

    Attributes:
        state: What holds now.
        since: When it began to be closed, or not to be closed, in the seconds of the caller's clock; 0.0: from the start.
        reason: Why it is not closed: the name of the error first, then a colon and what is for the operator only.
        opens: How often it opened.
        refused: How many were refused because it was not closed.
    """

    __slots__ = ("_failures", "_failures_max", "_pause_max_s", "_pause_s", "_until", "opens", "reason", "refused", "since", "state")

    def __init__(self, *, failures_max: int = FAILURES_MAX, pause_max_s: float = PAUSE_MAX_S) -> None:
        self._failures_max = failures_max
        self._pause_max_s = pause_max_s
        self._failures = 0
        self._pause_s = PAUSE_S
        self._until = 0.0
        self.state = BreakerState.CLOSED
        self.since = 0.0
        self.reason = ""
        self.opens = 0
        self.refused = 0

    @property
    def closed(self) -> bool:
        """Whether it is asked as usual."""
        return self.state is BreakerState.CLOSED

    def wait_s(self, now: float) -> float:
        """Return how long it is until somebody may ask; 0.0 when that is now."""
        return max(0.0, self._until - now) if self.state is BreakerState.OPEN else 0.0

    def refusal(self, now: float, detail: str) -> Unavailable | None:
        """Return what somebody is told who could not ask now, or None. Lets nobody in: it is for those who only queue."""
        if self.state is BreakerState.CLOSED or (self.state is BreakerState.OPEN and now >= self._until):
            return None
        self.refused += 1
        # Not 0: who comes back at once meets the probe.
        return Unavailable(detail, retry_after_ms=int(max(self.wait_s(now), self._pause_s) * 1_000) + 1)

    def enter(self, now: float, detail: str) -> None:
        """Let somebody ask, who then calls `succeeded`, `failed` or `gave_up`. After a pause the first one is the probe.

        Args:
            now: Seconds.
            detail: What who is refused is told.

        Raises:
            Unavailable: It is not asked now; `retry_after_ms` says when.
        """
        refusal = self.refusal(now, detail)
        if refusal is not None:
            try:
                raise refusal
            finally:
                del refusal  # Else it and this frame held each other, and who was refused with them, until the collector comes.
        if self.state is BreakerState.OPEN:
            self.state = BreakerState.HALF_OPEN

    def succeeded(self, now: float) -> bool:
        """It answered. Return whether this closed the breaker."""
        self._failures = 0
        if self.state is not BreakerState.HALF_OPEN:
            return False  # Closed already; or open, and this is an answer from before: the probe decides.
        self.state = BreakerState.CLOSED
        self.since = now
        self.reason = ""
        self._pause_s = PAUSE_S
        return True

    def failed(self, now: float, reason: str, *, surely: bool = False) -> bool:
        """It did not answer. Return whether this opened the breaker.

        Args:
            now: Seconds.
            reason: See `Breaker.reason`.
            surely: Whether this alone is enough.
        """
        if self.state is BreakerState.OPEN:
            return False  # Somebody who asked before it opened.
        self._failures += 1
        if self.state is BreakerState.HALF_OPEN:
            self._pause_s = min(self._pause_s * 2, self._pause_max_s)
        elif self._failures < self._failures_max and not surely:
            return False
        was_closed = self.state is BreakerState.CLOSED
        self.state = BreakerState.OPEN
        self._until = now + self._pause_s
        self.reason = reason
        if was_closed:
            self.since = now
            self.opens += 1
        return was_closed

    def gave_up(self, now: float) -> None:
        """Who asked does not want to know any more, and nothing was learned: another one may be the probe."""
        if self.state is BreakerState.HALF_OPEN:
            self.state = BreakerState.OPEN
            self._until = now
