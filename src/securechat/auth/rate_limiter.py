"""RateLimiter: token buckets in this process, by name of the bucket and by key: an address, an account, a room."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import msgspec

from securechat.auth.addresses import source_of
from securechat.errors import RateLimited

BUCKETS_MAX: Final = 50_000
"""Buckets of one name: some 10 MB. A flood of addresses pushes out addresses, and no accounts."""
BY_ADDRESS: Final = ".address"
"""Names with this end, and `address` itself, are keyed by the source of an address and not by the address."""


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
        self._tables: dict[str, OrderedDict[str, list[float]]] = {}

    def __len__(self) -> int:
        """Return how many buckets there are."""
        return sum(len(table) for table in self._tables.values())

    def take(self, what: str, who: str, now: float, cost: float = 1.0) -> float:
        """Take tokens and return how many are left.

        Raises:
            RateLimited: There are not enough; `retry_after_ms` says when there will be.
        """
        rate = self.rates.get(what)
        if rate is None:
            return 1.0
        bucket = self._bucket(what, who, rate, now)
        if bucket[0] < cost:
            raise RateLimited(retry_after_ms=_wait_ms(rate, bucket[0], cost))
        bucket[0] -= cost
        return bucket[0]

    def take_all(self, wanted: Sequence[tuple[str, str]], now: float, cost: float = 1.0) -> None:
        """Take tokens from several buckets, or from none: what is refused costs nobody else anything.

        Raises:
            RateLimited: One of them has not enough; `retry_after_ms` is the longest wait.
        """
        taken = []
        wait_ms = 0
        for what, who in wanted:
            rate = self.rates.get(what)
            if rate is None:
                continue
            bucket = self._bucket(what, who, rate, now)
            if bucket[0] < cost:
                wait_ms = max(wait_ms, _wait_ms(rate, bucket[0], cost))
            taken.append(bucket)
        if wait_ms:
            raise RateLimited(retry_after_ms=wait_ms)
        for bucket in taken:
            bucket[0] -= cost

    def headers(self, wanted: Sequence[tuple[str, str]], now: float) -> dict[str, str]:
        """Return `RateLimit-Policy` and `RateLimit` for these buckets (draft-ietf-httpapi-ratelimit-headers)."""
        policies, states = [], []
        for what, who in wanted:
            rate = self.rates.get(what)
            if rate is None:
                continue
            left = self._bucket(what, who, rate, now)[0]
            policies.append(f'"{what}";q={int(rate.burst)};w={max(1, math.ceil(rate.burst / rate.per_s))}')
            states.append(f'"{what}";r={max(0, int(left))};t={math.ceil((rate.burst - left) / rate.per_s)}')
        return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)} if policies else {}

    def _bucket(self, what: str, who: str, rate: Rate, now: float) -> list[float]:
        """Return the bucket [tokens, when] as it is now."""
        table = self._tables.get(what)
        if table is None:
            table = self._tables[what] = OrderedDict()
        key = source_of(who) if what == "address" or what.endswith(BY_ADDRESS) else who
        bucket = table.get(key)
        if bucket is None:
            bucket = table[key] = [rate.burst, now]
            if len(table) > BUCKETS_MAX:
                table.popitem(last=False)
        else:
            table.move_to_end(key)
            bucket[0] = min(rate.burst, bucket[0] + (now - bucket[1]) * rate.per_s)
            bucket[1] = now
        return bucket


def _wait_ms(rate: Rate, left: float, cost: float) -> int:
    return int((cost - left) / rate.per_s * 1000) + 1
