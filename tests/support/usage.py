"""Usage: what a process has cost so far, as the kernel tells it."""

from __future__ import annotations

import os
import re
from pathlib import Path


def resident(pid: int) -> int:
    """Return its memory in bytes."""
    return _status(pid, "VmRSS")


def resident_most(pid: int) -> int:
    """Return the most memory in bytes that it had since `forget_most`."""
    return _status(pid, "VmHWM")


def forget_most(pid: int) -> None:
    """Begin anew with the most memory: with what it has now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def cpu_s(pid: int) -> float:
    """Return its processor time in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _status(pid: int, field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1_024
