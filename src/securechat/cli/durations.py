"""Durations as people write them."""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def seconds_of(text: str) -> int | None:
    """Return the seconds of `30m`, `12h`, `7d`, `2w`, or None for anything else."""
    found = re.fullmatch(r"([0-9]{1,6})([mhdw])", text)
    return None if found is None else int(found[1]) * _UNITS[found[2]]
