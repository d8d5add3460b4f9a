"""RateLimiter: token buckets by name of the bucket and by key: an address, an account, a room.

They are in this process, and nothing here waits. Where several servers share their limits, somebody takes what was spent here
(`due`), adds it up with what the others spent, and says how much the bucket holds (`learn`). Between two such moments each server
gives what it has: what was given too much is a debt of the bucket, so that over time the rate holds for all servers together.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import msgspec

from securechat.auth.addresses import source_of
from securechat.domain.ports import Spend
from securechat.errors import RateLimited

BUCKETS_MAX: Final = 50_000
"""Buckets of one name: some 10 MB. A flood of addresses pushes out addresses, and no accounts."""
SLICES: Final = 10.0
"""A server tells the others what it spent when that is so much of the burst: a tenth."""
GUARDS: Final = frozenset({"login.address", "login.account", "login.code", "consent.code", "register.address"})
"""What keeps guessing away: told with each token, and divided among the servers while they do not hear each other."""
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

    Attributes:
        rates: What holds now.
    """

    def __init__(self, rates: dict[str, Rate]) -> None:
        self._given = self.rates = rates
        self._apart = 1
        self._due: dict[tuple[str, str], _Bucket] | None = None
        self._tables: dict[str, OrderedDict[str, _Bucket]] = {}

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
        if bucket.tokens < cost:
            raise RateLimited(retry_after_ms=_wait_ms(rate, bucket.tokens, cost))
        self._spend(what, bucket, rate, cost)
        return bucket.tokens

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
            if bucket.tokens < cost:
                wait_ms = max(wait_ms, _wait_ms(rate, bucket.tokens, cost))
            taken.append((what, bucket, rate))
        if wait_ms:
            raise RateLimited(retry_after_ms=wait_ms)
        for what, bucket, rate in taken:
            self._spend(what, bucket, rate, cost)

    def headers(self, wanted: Sequence[tuple[str, str]], now: float) -> dict[str, str]:
        """Return `RateLimit-Policy` and `RateLimit` for these buckets (draft-ietf-httpapi-ratelimit-headers)."""
        policies, states = [], []
        for what, who in wanted:
            rate = self.rates.get(what)
            if rate is None:
                continue
            left = self._bucket(what, who, rate, now).tokens
            policies.append(f'"{what}";q={int(rate.burst)};w={max(1, math.ceil(rate.burst / rate.per_s))}')
            states.append(f'"{what}";r={max(0, int(left))};t={math.ceil((rate.burst - left) / rate.per_s)}')
        return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)} if policies else {}

    def change(self, rates: dict[str, Rate]) -> None:
        """Let other rates hold from now on."""
        self._given = rates
        self.part(self._apart)

    # ── several servers ──────────────────────────────────────────────────────────────────────────────────────────────

    def share(self) -> None:
        """Keep what is spent from now on for `due`."""
        self._due = {}

    def part(self, servers: int) -> None:
        """Hold for this server alone: one of so many that do not hear each other, of which each guards with its part."""
        self._apart = servers
        if servers == 1:
            self.rates = self._given
        else:
            self.rates = {what: _part(rate, servers) if what in GUARDS else rate for what, rate in self._given.items()}

    def due(self) -> list[Spend]:
        """Return what was spent since it was told, where it is enough to be told. It counts as told then."""
        found = []
        if self._due:
            for (what, key), bucket in self._due.items():
                rate = self._given.get(what)
                if rate is not None:
                    found.append(Spend(what, key, bucket.untold, rate.burst, rate.per_s))
                bucket.untold = 0.0
            self._due.clear()
        return found

    def learn(self, what: str, key: str, level: float, now: float) -> None:
        """Take over what a bucket holds after all that the servers told. Never more than what this server knew of it.

        Args:
            what: The bucket's name.
            key: As `due` gave it.
            level: Tokens; below 0 when more was given than there was. It counts down to an empty bucket's worth, no further.
            now: Seconds.
        """
        rate, table = self.rates.get(what), self._tables.get(what)
        bucket = table.get(key) if table is not None else None
        if rate is not None and bucket is not None:
            bucket.refill(rate, now)
            bucket.tokens = min(bucket.tokens, max(level - bucket.untold, -rate.burst))

    def _spend(self, what: str, bucket: _Bucket, rate: Rate, cost: float) -> None:
        bucket.tokens -= cost
        if self._due is not None:
            bucket.untold += cost
            if bucket.untold * SLICES >= rate.burst or what in GUARDS:
                self._due[what, bucket.key] = bucket

    def _bucket(self, what: str, who: str, rate: Rate, now: float) -> _Bucket:
        """Return the bucket as it is now."""
        table = self._tables.get(what)
        if table is None:
            table = self._tables[what] = OrderedDict()
        key = source_of(who) if what == "address" or what.endswith(BY_ADDRESS) else who
        bucket = table.get(key)
        if bucket is None:
            bucket = table[key] = _Bucket(key, rate.burst, now)
            if len(table) > BUCKETS_MAX:
                table.popitem(last=False)
        else:
            table.move_to_end(key)
            bucket.refill(rate, now)
        return bucket


class _Bucket:
    """Tokens, and what was spent of them since somebody was told."""

    __slots__ = ("at", "key", "tokens", "untold")

    def __init__(self, key: str, tokens: float, at: float) -> None:
        self.key = key
        self.tokens = tokens
        self.at = at
        self.untold = 0.0

    def refill(self, rate: Rate, now: float) -> None:
        self.tokens = min(rate.burst, self.tokens + (now - self.at) * rate.per_s)
        self.at = now


def _part(rate: Rate, servers: int) -> Rate:
    return Rate(burst=max(1.0, rate.burst / servers), per_s=rate.per_s / servers)


def _wait_ms(rate: Rate, left: float, cost: float) -> int:
    return int((cost - left) / rate.per_s * 1000) + 1
