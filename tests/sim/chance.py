"""Chance and time of a simulated process: everything that the code under test calls random comes from one seed, and its clocks are
those of the simulation.

`install` has to run before anything of the server is imported: some modules keep `time.monotonic` or `secrets.token_bytes` as they
found it. It changes the whole process, so a simulation has one of its own.
"""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Callable
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import x25519

EPOCH_S: Final = 1_800_000_000.0
"""What a wall clock shows when the monotonic one shows 0."""

real_monotonic: Final = time.monotonic
"""For budgets of a run, never for what is simulated."""


class Clocks:
    """The time now.

    Attributes:
        now: Seconds that never go back.
        offset: What the wall clock of whoever runs now is ahead.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.offset = 0.0

    def monotonic(self) -> float:
        """Stand in for `time.monotonic`."""
        return self.now

    def wall(self) -> float:
        """Stand in for `time.time`."""
        return EPOCH_S + self.now + self.offset

    def wall_ns(self) -> int:
        """Stand in for `time.time_ns`."""
        return round(self.wall() * 1_000_000) * 1_000


clocks: Final = Clocks()
_source: Final = random.Random(0)


def reseed(seed: str) -> None:
    """Begin anew: from here on the same seed gives the same bytes."""
    _source.seed(seed)


def _no_sleep(_seconds: float) -> None:
    raise AssertionError("something simulated sleeps")


class _X25519:
    """Makes keys as `X25519PrivateKey` does, of seeded bytes."""

    from_private_bytes = x25519.X25519PrivateKey.from_private_bytes

    @staticmethod
    def generate() -> x25519.X25519PrivateKey:
        return x25519.X25519PrivateKey.from_private_bytes(_source.randbytes(32))


def install() -> None:
    """Take the clocks and the sources of chance of this process over."""
    replaced: dict[Any, dict[str, Callable[..., Any]]] = {
        time: {
            "monotonic": clocks.monotonic,
            "perf_counter": clocks.monotonic,
            "time": clocks.wall,
            "time_ns": clocks.wall_ns,
            "sleep": _no_sleep,
        },
        secrets: {
            "token_bytes": lambda size=32: _source.randbytes(size),
            "token_hex": lambda size=32: _source.randbytes(size).hex(),
            "token_urlsafe": lambda size=32: _urlsafe(size),
            "randbits": _source.getrandbits,
            "randbelow": _source.randrange,
            "choice": _source.choice,
        },
        os: {"urandom": _source.randbytes},
    }
    for module, names in replaced.items():
        for name, stand_in in names.items():
            setattr(module, name, stand_in)


def _urlsafe(size: int) -> str:
    import base64  # noqa: PLC0415 - asked for a few times in a run

    return base64.urlsafe_b64encode(_source.randbytes(size)).rstrip(b"=").decode()
