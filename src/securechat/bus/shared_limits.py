"""SharedLimits: buckets and failures that all servers share, in Redis.

A bucket is one number: the moment at which it will be full again, in microseconds of Redis's clock. Who spends tokens moves it on
by the time that they take to come back (`INCRBY`: nobody's spending is lost, and none of it needs a script). At that moment the key
expires, so that what is not there is a full bucket. Failures are counted by `INCRBY`, too. Names are hashed with the bus key: who
looks into Redis learns nobody's address.
"""

from __future__ import annotations

import hmac
import math
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeVar

from securechat.bus.links import Links, key_beside
from securechat.domain.ports import Failure, Spend

KEPT_S: Final = 1_800
"""How long failures are remembered: as long as `auth.throttle` does."""
AT_ONCE: Final = 500
"""Buckets in one round trip."""
_MICRO: Final = 1_000_000

T = TypeVar("T", Spend, Failure)


class SharedLimits:
    """The shared half of the limits.

    Args:
        links: The way to Redis.
        channels: Over which the keys are spread, as the messages are.
        key: The bus key.
    """

    def __init__(self, links: Links, channels: Sequence[bytes], key: bytes) -> None:
        self._links = links
        self._channels = channels
        self._key = key

    async def spend(self, spends: Iterable[Spend]) -> list[tuple[Spend, float]]:
        """Take tokens, whether or not they are there; return what each bucket holds then, below 0 when it owes.

        Raises:
            ConnectionError: Redis does not answer. Nobody knows which of them were taken.
        """
        found: list[tuple[Spend, float]] = []
        for channel, some in self._placed(spends):
            found += await self._spend(channel, some)
        return found

    async def count(self, failures: Iterable[Failure]) -> list[tuple[Failure, int]]:
        """Count failures, in order; return how many there are at all servers after each.

        Raises:
            ConnectionError: Redis does not answer. Nobody knows which of them were counted.
        """
        found: list[tuple[Failure, int]] = []
        for channel, some in self._placed(failures):
            commands: list[Sequence[Any]] = []
            for each in some:
                key = self._name(channel, each)
                commands.append(("INCRBY", key, each.change) if each.change else ("DEL", key))
                commands.append(("EXPIRE", key, KEPT_S))
            answers = await self._links.execute(channel, commands)
            found += [(each, int(answer) if each.change else 0) for each, answer in zip(some, answers[::2], strict=True)]
        return found

    async def _spend(self, channel: bytes, spends: Sequence[Spend]) -> list[tuple[Spend, float]]:
        ((seconds, micros),) = await self._links.execute(channel, [("TIME",)])
        now = int(seconds) * _MICRO + int(micros)
        keys = [self._name(channel, each) for each in spends]
        costs = [max(1, round(each.cost / each.per_s * _MICRO)) for each in spends]
        commands: list[Sequence[Any]] = []
        for key, cost in zip(keys, costs, strict=True):
            commands.append(("SET", key, now, "NX", "PX", _ms(cost)))
            commands.append(("INCRBY", key, cost))
        answers = await self._links.execute(channel, commands)
        found: list[tuple[Spend, float]] = []
        later: list[Sequence[Any]] = []
        for spend, key, cost, is_new, full_at in zip(spends, keys, costs, answers[::2], answers[1::2], strict=True):
            at = int(full_at)
            if at < now:  # It expired between the two commands.
                at = now + cost
                later.append(("SET", key, at, "PX", _ms(cost)))
            elif not is_new:
                later.append(("PEXPIREAT", key, math.ceil(at / 1_000), "GT"))
            found.append((spend, spend.burst - (at - now) / _MICRO * spend.per_s))
        if later:
            await self._links.execute(channel, later)
        return found

    def _placed(self, wanted: Iterable[T]) -> list[tuple[bytes, list[T]]]:
        """Return them by the channel beside which they live, so many at a time that one round trip carries them."""
        placed: dict[bytes, list[T]] = {}
        for each in wanted:
            channel = self._channels[zlib.crc32(each.who.encode()) % len(self._channels)]
            placed.setdefault(channel, []).append(each)
        return [
            (channel, some[start : start + AT_ONCE]) for channel, some in placed.items() for start in range(0, len(some), AT_ONCE)
        ]

    def _name(self, channel: bytes, of: Spend | Failure) -> bytes:
        kind = "bucket" if isinstance(of, Spend) else "failures"
        digest = hmac.digest(self._key, f"{kind}\0{of.what}\0{of.who}".encode(), "sha256")
        return key_beside(channel, b"limit:" + digest[:16].hex().encode())


def _ms(micros: int) -> int:
    return -(-micros // 1_000) + 1
