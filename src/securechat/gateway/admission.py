"""HandshakeAdmission: how many handshakes are computed at a time, and who has to come back later.

A handshake costs a signature and an exchange: half a millisecond of a core, in a thread. A flood of them must cost nobody else
anything, so there are two threads, a queue with an end, and a bucket for each source.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from securechat.auth.rate_limiter import RateLimiter
from securechat.gateway.turns import Turns
from securechat.protocol.handshake import ServerHandshake

THREADS: Final = 2
WAITING_MAX: Final = 1_000
"""A restart brings everybody back at once: what the threads do within `WAIT_S` may wait."""
WAIT_S: Final = 2.0
AGAIN_MS: Final = 1_000
RATE: Final = "handshake.address"


class HandshakeAdmission:
    """The turn of each handshake.

    Args:
        limiter: Has the bucket of each source.
    """

    def __init__(self, limiter: RateLimiter) -> None:
        self._limiter = limiter
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="handshake")
        self._turns = Turns(THREADS)

    async def answer(self, handshake: ServerHandshake, address: str) -> list[bytes]:
        """Compute the answer to a ClientHello that was read and judged.

        Raises:
            RateLimited: Too many from this source.
            Unavailable: Too many from everybody.
            SessionRefused: See `ServerHandshake.answer`.
        """
        self._limiter.take(RATE, address, time.monotonic())
        async with self._turns.turn("Too many handshakes.", again_ms=AGAIN_MS, waiting_max=WAITING_MAX, wait_s=WAIT_S):
            return await asyncio.get_running_loop().run_in_executor(self._pool, handshake.answer)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)
