"""What a command prints: a short text for people, `--json` for programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from securechat.domain.secret import mask_hook


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """Print a line that is not the result: progress, hints."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def say_json(value: Any) -> None:
    """Print JSON."""
    say(msgspec.json.format(msgspec.json.encode(value, enc_hook=mask_hook)).decode())


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print aligned columns under a head."""
    columns([head, *rows])


def columns(rows: Sequence[Sequence[object]]) -> None:
    """Print aligned columns; all rows have as many."""
    shown = [[str(value) for value in row] for row in rows]
    widths = [max(len(value) for value in column) for column in zip(*shown, strict=True)]
    for row in shown:
        say("  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip())


def counted(count: int, one: str, more: str = "") -> str:
    """Return so many of something: `1 use`, `2 uses`."""
    return f"{count} {one if count == 1 else more or one + 's'}"


def when(ms: int) -> str:
    """Return a time as people write it, in the local zone."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(ms / 1000))
