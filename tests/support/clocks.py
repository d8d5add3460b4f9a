"""A wall clock that a test can move: for the server's process, patched in before anything reads it. The monotonic one goes on as it is."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

LOOK_S: Final = 0.02


def install(path: Path) -> None:
    """Have `time.time` and `time.time_ns` differ by the seconds that this file holds."""
    real_s, real_ns, monotonic = time.time, time.time_ns, time.monotonic
    offset_s, next_look = 0.0, 0.0

    def offset() -> float:
        nonlocal offset_s, next_look
        now = monotonic()
        if now >= next_look:
            next_look = now + LOOK_S
            offset_s = float(path.read_text() or 0)
        return offset_s

    time.time = lambda: real_s() + offset()
    time.time_ns = lambda: real_ns() + int(offset() * 1e9)


def move(path: Path, seconds: float) -> None:
    """Set the clock so many seconds ahead, or behind; in one step."""
    new = path.with_suffix(".new")
    new.write_text(str(seconds))
    new.replace(path)
