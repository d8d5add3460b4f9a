"""What sealing costs: the sealed sub-protocol against the clear one, on the same server, in turn."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import world as w
from benchmarks.cases import Case, Figure, connections, number, print_aligned, rate, shares

from securechat.cli.output import note, say

LETTER: Final = "s"
ROUNDS: Final = 3
"""Each case runs so often in both ways, beginning with the clear one and with the sealed one in turn."""
SECONDS: Final = 2.5
"""Longest window of one run: what disturbs the machine should meet both ways."""
X25519: Final = 2
"""The suite, as the load client knows it."""
LEAST: Final = 0.7
"""Of the clear sub-protocol's throughput."""


@dataclass
class SealedRow:
    """A line of the table: what the rounds of one case have in common.

    Attributes:
        name: What was measured.
        unit: Of the figures.
        take: How the figure comes from a result.
        least: What it has to be at least; None where the target is `LEAST` of the clear sub-protocol.
        sealed: The result of each round.
        clear: The same on the clear sub-protocol.
    """

    name: str
    unit: str
    take: Callable[[w.Result], float]
    least: float | None
    sealed: list[w.Result]
    clear: list[w.Result]

    @property
    def figure(self) -> float:
        """Median of the rounds."""
        return median(map(self.take, self.sealed))

    @property
    def ratio(self) -> float:
        """Median of the rounds' ratios, sealed to clear: each round stands on a machine that is as busy for both."""
        return median(self.take(one) / self.take(other) for one, other in zip(self.sealed, self.clear, strict=True))

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.ratio >= LEAST if self.least is None else self.figure >= self.least

    def cost(self, results: list[w.Result]) -> float:
        """Return CPU time of the server for each thing that is counted, in µs: busy neighbours change it little."""
        return median(1e6 * each.server_cpu_s / (self.take(each) * each.elapsed_s) for each in results)

    @property
    def cpu_ratio(self) -> float:
        """The ratio of what a second of the server's CPU does: `ratio` where nothing but its CPU limits."""
        return self.cost(self.clear) / self.cost(self.sealed)

    def plain(self) -> dict[str, object]:
        """Return the row for the JSON file; CPU in per cent of one core, costs in µs."""
        return {
            "letter": LETTER, "name": self.name, "figure": self.figure, "unit": self.unit,
            "target": ("ratio >=", LEAST) if self.least is None else (">=", self.least), "met": self.met,
            "clear": median(map(self.take, self.clear)), "ratio": self.ratio,
            "ratios": [self.take(one) / self.take(other) for one, other in zip(self.sealed, self.clear, strict=True)],
            "cost_us": self.cost(self.sealed), "clear_cost_us": self.cost(self.clear), "cpu_ratio": self.cpu_ratio,
            "load_cpu": _load(self.sealed), "clear_load_cpu": _load(self.clear),
            "strangers": median(each.strangers for each in [*self.sealed, *self.clear]),
        }  # fmt: skip


def _load(results: list[w.Result]) -> float:
    return median(shares(each)[1] for each in results)


def _cases(world: w.World) -> list[Case]:
    accepted = rate(lambda result: result.acked)
    deliveries = rate(lambda result: result.deliveries)
    cases = [
        Case(
            LETTER, "closed", connections(world.pairs, 1, outstanding),
            [(f"accepted, 100 senders × {outstanding} outstanding", "/s", accepted, None)],
        )
        for outstanding in (1, 4, 16)
    ]  # fmt: skip
    cases += [
        Case(
            LETTER, "closed", connections([world.big], outstanding, 1),
            [(f"deliveries, room of 500, {outstanding} outstanding", "/s", deliveries, None)],
        )
        for outstanding in (1, 16, 64)
    ]  # fmt: skip
    tens: Figure = ("deliveries, 10 rooms of 100, 10 outstanding each", "/s", deliveries, None)
    logins: Figure = ("connect + handshakes + log in + ready", "/s", rate(lambda result: result.connects), (">=", 200))
    return [
        *cases,
        Case(LETTER, "closed", connections(world.tens, 10, 1), [tens]),
        Case(LETTER, "connect", connections(world.tens, 0, 0), [logins]),
    ]


def measure(
    world: w.World, start: AbstractContextManager[w.Target], cores: w.Cores, scratch: Path, seconds: float, settle: float
) -> list[SealedRow]:
    """Run every case in both ways, one after the other, on one server.

    Args:
        world: Its accounts and rooms.
        start: The server.
        cores: Where both sides run.
        scratch: For files of the runs.
        seconds: Longest window of a run.
        settle: Seconds of silence before the load.
    """
    rows = []
    with start as target:
        for case in _cases(world):
            results: dict[int, list[w.Result]] = {X25519: [], 0: []}
            for turn in range(ROUNDS):
                for suite in (0, X25519) if turn % 2 else (X25519, 0):
                    job = {"seconds": min(seconds, SECONDS), "settle": settle, "sealed": suite, **case.job}
                    results[suite].append(w.drive(target, cores, scratch, case.mode, case.connections(False), **job))  # noqa: FBT003 - by position
            [(name, unit, take, aim)] = case.figures
            row = SealedRow(name, unit, take, aim[1] if aim else None, results[X25519], results[0])
            rows.append(row)
            faults = sum(each.faults for each in row.sealed + row.clear)
            trouble = f"   FAULTS: {faults}" if faults else ""
            note(f"  sealed      {LETTER}   {name} {number(row.figure)} {unit}, {row.ratio:.2f} of clear{trouble}")
    return rows


def print_rows(rows: list[SealedRow]) -> None:
    """Print the table of the sealed sub-protocol."""
    head = [
        "", "sealed against clear, in turn", "sealed", "clear", "unit", "ratio", "of the rounds", "target", "met",
        "server µs each", "clear", "ratio", "load CPU %", "clear",
    ]  # fmt: skip
    lines = [head]
    for row in rows:
        found = row.plain()
        ratios = sorted(row.take(one) / row.take(other) for one, other in zip(row.sealed, row.clear, strict=True))
        lines.append([
            LETTER, row.name, number(row.figure), number(median(map(row.take, row.clear))), row.unit, f"{row.ratio:.2f}",
            f"{ratios[0]:.2f}–{ratios[-1]:.2f}", f">= {LEAST}" if row.least is None else f">= {number(row.least)} /s",
            "yes" if row.met else "NO", number(row.cost(row.sealed)), number(row.cost(row.clear)), f"{row.cpu_ratio:.2f}",
            f"{found['load_cpu']:.0f}", f"{found['clear_load_cpu']:.0f}",
        ])  # fmt: skip
    say("")
    print_aligned(lines, left={0, 1, 4})
