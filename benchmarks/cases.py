"""What a measurement is made of: runs of the load client, the figures taken from them, lines of a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks import world as w

from securechat.cli.output import say

Rooms = Sequence[tuple[str, list[str]]]

Figure = tuple[str, str, Callable[[w.Result], float], tuple[str, float] | None]
"""What is taken from a result: its name, its unit, how, and its target."""


@dataclass
class Case:
    """One run of the load client against each server.

    Attributes:
        letter: Of the measurement.
        mode: Of the client.
        connections: Made for SecureChat (False) or the bare server (True).
        figures: What becomes rows.
        job: Further lines of the job; `bare_job` replaces some of them for the bare server.
    """

    letter: str
    mode: str
    connections: Callable[[bool], list[w.Connection]]
    figures: list[Figure]
    job: dict[str, object] = field(default_factory=dict)
    bare_job: dict[str, object] = field(default_factory=dict)


def connections(rooms: Rooms, senders: int, outstanding: int) -> Callable[[bool], list[w.Connection]]:
    """Return all members of the rooms, room after room in turn; the first `senders` of each room send."""

    def make(is_bare: bool) -> list[w.Connection]:  # noqa: FBT001 - called by position only
        found = []
        for place in range(max(len(tokens) for _, tokens in rooms)):
            for room, tokens in rooms:
                if place < len(tokens):
                    token = room if is_bare else tokens[place]
                    found.append(w.Connection(token, room, outstanding) if place < senders else w.Connection(token))
        return found

    return make


def rate(count: Callable[[w.Result], int]) -> Callable[[w.Result], float]:
    """Return how to take something that is counted from a result, per second of the window."""
    return lambda result: count(result) / result.elapsed_s


def shares(result: w.Result) -> tuple[float, float]:
    """Return the server's and the load client's CPU in per cent of one core."""
    return 100 * result.server_cpu_s / result.elapsed_s, 100 * result.own_cpu_s / result.elapsed_s


def number(value: float) -> str:
    """Return a figure with three digits, or all those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def print_aligned(lines: Sequence[Sequence[str]], left: set[int]) -> None:
    """Print a table; the columns in `left` are aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        say("  ".join(cells).rstrip())
