"""LimitSharing: what was spent here goes to Redis, what all servers together left comes back. Nobody who sends waits for it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from securechat.auth.rate_limiter import RateLimiter
from securechat.auth.throttle import Throttle
from securechat.domain.ports import Clock

if TYPE_CHECKING:
    from securechat.bus.redis import RedisBus

log = logging.getLogger(__name__)

EVERY_S: Final = 0.1


class LimitSharing:
    """Keeps the limits of this server in step with the others.

    Args:
        limiter: The token buckets.
        throttle: The failures in a row.
        redis: The way to the others.
        clock: For the buckets.

    Attributes:
        alone: Whether this server does not hear the others, and holds its part of what guards.
    """

    def __init__(self, limiter: RateLimiter, throttle: Throttle, redis: RedisBus, clock: Clock) -> None:
        self._limiter = limiter
        self._throttle = throttle
        self._redis = redis
        self._clock = clock
        self._servers = 1
        self.alone = False
        limiter.share()
        throttle.share()

    async def run(self) -> None:
        """Share, for ever."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.share()

    async def share(self) -> None:
        """Tell what was spent, and learn what is left."""
        spends, failures = self._limiter.due(), self._throttle.due()
        try:
            await self._redis.links.ping()
            left = await self._redis.limits.spend(spends)
            counted = await self._redis.limits.count(failures)
        except ConnectionError as error:
            self._part(str(error))
            return
        if self.alone:
            log.info("limits are shared again")
        self.alone = False
        self._servers = self._redis.peers + 1
        self._limiter.part(1)
        now = self._clock.monotonic()
        for spend, level in left:
            self._limiter.learn(spend.what, spend.who, level, now)
        for failure, count in counted:
            self._throttle.learn(failure.what, failure.who, count, now)

    def _part(self, reason: str) -> None:
        if not self.alone:
            log.warning("limits are not shared now", extra={"reason": reason, "servers": self._servers})
        self.alone = True
        self._limiter.part(self._servers)
