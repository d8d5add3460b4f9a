"""When to try again: full jitter over a window that doubles (spec, "Close codes")."""

from __future__ import annotations

import random
from typing import Final

FIRST_S: Final = 1.0
MOST_S: Final = 60.0


class Backoff:
    """Waiting times of one client."""

    def __init__(self) -> None:
        self._tries = 0

    def next(self) -> float:
        """Return how long to wait now, in seconds."""
        window = min(MOST_S, FIRST_S * 2.0**self._tries)
        self._tries = min(self._tries + 1, 16)
        return random.uniform(0, window)  # noqa: S311 - spreads load, keeps no secret

    def reset(self) -> None:
        """Begin anew: it worked."""
        self._tries = 0
