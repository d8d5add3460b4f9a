"""The real clock."""

from __future__ import annotations

import time


class SystemClock:
    """A `Clock` on the system's."""

    def now_ms(self) -> int:
        """See `Clock.now_ms`."""
        return time.time_ns() // 1_000_000

    monotonic = staticmethod(time.monotonic)
    """See `Clock.monotonic`. Asked for each sealed record, so it is the function itself."""
