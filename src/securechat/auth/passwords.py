"""Passwords: Argon2id in a small executor of its own, with a limit on what waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

from securechat.domain.secret import Secret
from securechat.errors import Unavailable

T = TypeVar("T")

WORKERS: Final = 2
WAITING_MAX: Final = 32


class Passwords:
    """Hash and check. Parameters: RFC 9106, second recommendation's memory cut to 19 MiB as OWASP advises for servers.

    Args:
        time_cost: Passes.
        memory_kib: Memory in KiB.
    """

    def __init__(self, *, time_cost: int = 2, memory_kib: int = 19_456) -> None:
        self._hasher = PasswordHasher(time_cost=time_cost, memory_cost=memory_kib, parallelism=1)
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="argon2")
        self._waiting = 0
        # Checked for accounts that do not exist, so that the answer takes as long.
        self._nobody = self._hasher.hash("nobody's password")

    async def hash(self, password: Secret) -> str:
        """Return the hash to store.

        Raises:
            Unavailable: Too many wait.
        """
        return str(await self._run(self._hash, password))

    async def check(self, stored: str | None, password: Secret) -> bool:
        """Return whether the password is right; takes as long when there is no account.

        Raises:
            Unavailable: Too many wait.
        """
        return bool(await self._run(partial(self._check, stored or self._nobody), password)) and stored is not None

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _hash(self, password: Secret) -> str:
        return self._hasher.hash(password.reveal())

    def _check(self, stored: str, password: Secret) -> bool:
        try:
            return self._hasher.verify(stored, password.reveal())
        except (VerifyMismatchError, VerificationError, InvalidHashError):
            return False

    async def _run(self, function: Callable[[Secret], T], password: Secret) -> T:
        if self._waiting >= WAITING_MAX:
            raise Unavailable("Too many people are logging in.", retry_after_ms=1_000)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, function, password)
        finally:
            self._waiting -= 1
