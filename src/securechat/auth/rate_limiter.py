"""RateLimiter: token buckets in this process."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec

from securechat.errors import RateLimited

BUCKETS_MAX: Final = 50_000


class Rate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A token bucket: `burst` at once, `per_s` again each second."""

    burst: float
    per_s: float


class RateLimiter:
    """One bucket per (what, who). A bucket nobody used longest is forgotten first, which only ever gives tokens back.

    Args:
        rates: What is limited, and how. What is not listed is not limited.
    """

    def __init__(self, rates: dict[str, Rate]) -> None:
        self.rates = rates
        self._buckets: OrderedDict[tuple[str, str], list[float]] = OrderedDict()

    def take(self, what: str, who: str, now: float, cost: float = 1.0) -> float:
        """Take tokens and return how many are left.

        Raises:
            RateLimited: There are not enough; `retry_after_ms` says when there will be.
        """
        rate = self.rates.get(what)
        if rate is None:
            return 1.0
        bucket = self._buckets.get((what, who))
        if bucket is None:
            bucket = self._buckets[what, who] = [rate.burst, now]
            if len(self._buckets) > BUCKETS_MAX:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end((what, who))
            bucket[0] = min(rate.burst, bucket[0] + (now - bucket[1]) * rate.per_s)
            bucket[1] = now
        if bucket[0] < cost:
            raise RateLimited(retry_after_ms=int((cost - bucket[0]) / rate.per_s * 1000) + 1)
        bucket[0] -= cost
        return bucket[0]

    def left(self, what: str, who: str) -> float | None:
        """Return the tokens left when it was last used, or None where nothing limits."""
        rate = self.rates.get(what)
        if rate is None:
            return None
        bucket = self._buckets.get((what, who))
        return rate.burst if bucket is None else bucket[0]
