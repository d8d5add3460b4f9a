"""Coalescing: what matters only in its newest form is told at most once in a while, by key."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

REMEMBERED_MAX: Final = 10_000
"""Keys that are remembered; the oldest is forgotten first, which only ever tells once more."""


class Seldom:
    """Says whether enough time has passed for a key.

    Args:
        every_s: Seconds between two times.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._told: OrderedDict[Hashable, float] = OrderedDict()

    def now(self, key: Hashable, at: float) -> bool:
        """Return whether it is time, and remember that it was told."""
        if at - self._told.get(key, -self._every_s) < self._every_s:
            return False
        self._told[key] = at
        self._told.move_to_end(key)
        if len(self._told) > REMEMBERED_MAX:
            self._told.popitem(last=False)
        return True


class Latest:
    """Calls at once, then at most once in a while with the newest that came meanwhile.

    Args:
        every_s: Seconds between two calls for a key.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._waiting: dict[Hashable, Callable[[], None] | None] = {}

    def call(self, key: Hashable, tell: Callable[[], None]) -> None:
        """Call `tell` now or later, unless a newer one takes its place; at once when too many keys wait."""
        if key in self._waiting:
            self._waiting[key] = tell
            return
        tell()
        if len(self._waiting) < REMEMBERED_MAX:
            self._waiting[key] = None
            asyncio.get_running_loop().call_later(self._every_s, self._again, key)

    def _again(self, key: Hashable) -> None:
        tell = self._waiting.pop(key)
        if tell is not None:
            self.call(key, tell)
