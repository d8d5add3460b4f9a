"""What a measurement is made of: runs of the load client, the figures taken from them, lines of a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks import world as w

from securechat.cli.output import say

KINDS: Final = ("errors", "gaps", "closed", "unanswered", "missing", "storm_missing")
"""Of what must not be in a result."""

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
        windows: How many windows long it is: what is small beside the machine's noise needs more than one.
        rounds: How often it is run; the figures are those of the run in the middle.
    """

    letter: str
    mode: str
    connections: Callable[[bool], list[w.Connection]]
    figures: list[Figure]
    job: dict[str, object] = field(default_factory=dict)
    bare_job: dict[str, object] = field(default_factory=dict)
    windows: int = 1
    rounds: int = 1

    @property
    def decisive(self) -> Callable[[w.Result], float]:
        """How to take the figure that has a target; where none has one, the first."""
        return next((take for _, _, take, target in self.figures if target is not None), self.figures[0][2])


def connections(rooms: Rooms, senders: int, outstanding: int) -> Callable[[bool], list[w.Connection]]:
    """Return all members of the rooms, room after room in turn; the first `senders` of each room send."""

    def make(is_bare: bool) -> list[w.Connection]:  # noqa: FBT001 - called by position only
        found = []
        for place in range(max(len(tokens) for _, tokens in rooms)):
            for number, (room, tokens) in enumerate(rooms):
                if place < len(tokens):
                    token = room if is_bare else tokens[place]
                    where, many = (room, outstanding) if place < senders else (None, 0)
                    found.append(w.Connection(token, where, many, place + number))
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


def trouble(result: w.Result) -> str:
    """Say what must not be in a result; nothing if all is well."""
    if not result.faults:
        return ""
    found = [f"{getattr(result, kind)} {kind}" for kind in KINDS if getattr(result, kind)]
    return f"   FAULTS: {', '.join(found + result.violations[:3])}"


def verdict(sides: Sequence[w.Result]) -> str:
    """Say what the comparison of all runs with what is stored has found."""
    checked = sum(side.checked for side in sides)
    faults = sum(side.faults for side in sides)
    deliveries = sum(side.total_deliveries for side in sides)
    text = (
        f"{checked:,} acknowledged messages compared with the database, row and body; {deliveries:,} deliveries, each the next seq"
    )
    if not faults:
        return f"verification OK: {text}; nothing missing, nothing twice, no errors"
    found = [f"{total} {kind}" for kind in KINDS if (total := sum(getattr(side, kind) for side in sides))]
    violations = [violation for side in sides for violation in side.violations]
    return f"verification FAILED: {text}\n  " + "\n  ".join([", ".join(found), *violations[:10]])
