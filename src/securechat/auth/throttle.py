"""Throttle: guessing gets slower and slower, by what is guessed and from where; nobody is ever locked out for good.

Where several servers share their limits, somebody takes what was counted here (`due`), adds it to what the others counted, and says
how many failures there are (`learn`).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from securechat.auth.rate_limiter import Rate
from securechat.domain.ports import Failure
from securechat.errors import RateLimited

WAIT_MAX_S: Final = 900.0
KEYS_MAX: Final = 50_000
DUE_MAX: Final = 10_000
"""Changes that wait to be told; the oldest are dropped."""


class Throttle:
    """Counts failures in a row. The first `burst` are free; then each has to wait 1/`per_s` seconds, doubling, 15 minutes at most.

    An attempt counts as failed when it begins, so that many at once gain nothing; `forgive` takes that back. Failures are forgotten
    when none came for twice the longest wait.

    Args:
        rates: What is throttled and how, read at each use. What is not listed is not throttled.
    """

    def __init__(self, rates: Callable[[], dict[str, Rate]]) -> None:
        self._rates = rates
        self._failures: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()
        self._due: deque[Failure] | None = None

    def begin(self, what: str, who: str, now: float) -> None:
        """Count an attempt.

        Raises:
            RateLimited: It comes too early; `retry_after_ms` says when it may come. It is not counted.
        """
        rate = self._rates().get(what)
        if rate is None:
            return
        count, last = self._failures.get((what, who), (0, now))
        if now - last > 2 * WAIT_MAX_S:
            count = 0
        over = count - int(rate.burst)
        wait = min(WAIT_MAX_S, 2.0 ** min(over, 30) / rate.per_s) if over >= 0 else 0.0
        if now < last + wait:
            raise RateLimited(retry_after_ms=int((last + wait - now) * 1_000) + 1)
        self._put(what, who, count + 1, now)
        self._tell(what, who, 1)

    def withdraw(self, what: str, who: str) -> None:
        """Nothing was tried after all: do not count the last attempt."""
        count, last = self._failures.get((what, who), (0, 0.0))
        if count:
            self._failures[what, who] = (count - 1, last)
            self._tell(what, who, -1)

    def forgive(self, what: str, who: str) -> None:
        """It was right: forget the failures."""
        if self._failures.pop((what, who), None) is not None:
            self._tell(what, who, 0)

    # ── several servers ──────────────────────────────────────────────────────────────────────────────────────────────

    def share(self) -> None:
        """Keep what is counted from now on for `due`."""
        self._due = deque(maxlen=DUE_MAX)

    def due(self) -> list[Failure]:
        """Return what was counted since the last time, in order."""
        found = list(self._due or ())
        if self._due is not None:
            self._due.clear()
        return found

    def learn(self, what: str, who: str, count: int, now: float) -> None:
        """Take over how many failures there are at all servers. Never fewer than this one knows of: it forgets by itself."""
        known, _ = self._failures.get((what, who), (0, 0.0))
        if count > known:
            self._put(what, who, count, now)

    def _put(self, what: str, who: str, count: int, at: float) -> None:
        self._failures[what, who] = (count, at)
        self._failures.move_to_end((what, who))
        if len(self._failures) > KEYS_MAX:
            self._failures.popitem(last=False)

    def _tell(self, what: str, who: str, change: int) -> None:
        if self._due is not None:
            self._due.append(Failure(what, who, change))
