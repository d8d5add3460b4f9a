"""What a fault did to a cluster: figures with their limits, violations, and the table of a whole run."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from support.checker import Violation, summary
from support.history import Record

USUAL_MS: Final = 750
"""What a message may take when all is well and others use the machine, too: three times what it takes on a machine of its own."""


@dataclass(frozen=True)
class Figure:
    """Something that was measured.

    Attributes:
        name: What.
        value: How much.
        unit: Of what.
        limit: What it may be, in words; empty where it is told only.
        held: Whether it is within it.
    """

    name: str
    value: float
    unit: str
    limit: str
    held: bool

    def __str__(self) -> str:
        """Show it in a few words."""
        value = f"{self.value:.0f}" if self.value == int(self.value) or abs(self.value) >= 100 else f"{self.value:.2g}"
        told = f"{self.name} {value}{' ' if self.unit else ''}{self.unit}"
        return told + (f" ({self.limit})" if self.limit else "")


@dataclass
class FaultReport:
    """One fault.

    Attributes:
        fault: Its number.
        what: What was done.
        figures: See `Figure`.
        violations: Of invariants.
        notes: What else is to be said.
        passed: Whether everything held.
        seconds: How long it took.
    """

    fault: str
    what: str
    figures: list[Figure] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    passed: bool = False
    seconds: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def at_most(self, name: str, value: float, limit: float, unit: str = "") -> None:
        """Tell a figure that may be so much."""
        self.figures.append(Figure(name, value, unit, f"≤ {limit:g}", value <= limit))

    def at_least(self, name: str, value: float, limit: float, unit: str = "") -> None:
        """Tell a figure that has to be so much."""
        self.figures.append(Figure(name, value, unit, f"≥ {limit:g}", value >= limit))

    def told(self, name: str, value: float, unit: str = "") -> None:
        """Tell a figure that nothing is demanded of."""
        self.figures.append(Figure(name, value, unit, "", held=True))

    def conclude(self) -> None:
        """Fail if anything did not hold."""
        self.seconds = round(time.monotonic() - self.began, 1)
        broken = [str(figure) for figure in self.figures if not figure.held]
        self.passed = not broken and not self.violations
        print("; ".join(map(str, self.figures)))
        assert not self.violations, summary(self.violations)
        assert not broken, f"not within its limit: {'; '.join(broken)}"


@dataclass(frozen=True)
class Timing:
    """How long messages took, in seconds, and what became of them.

    Attributes:
        ack: From the first attempt to the acknowledgement.
        delivered: From the first attempt to each client that was told.
        refused: Attempts that were refused.
        unknown: Attempts of which nobody knows.
        duplicates: Share of entries that came again on the wire.
    """

    ack: list[float]
    delivered: list[float]
    refused: int
    unknown: int
    duplicates: float

    @classmethod
    def of(cls, history: Sequence[Record], since: float = 0.0, until: float = float("inf")) -> Timing:
        """Look at the messages that were first tried in a stretch of time."""
        tried: dict[tuple[str, str], float] = {}
        ack: list[float] = []
        delivered: list[float] = []
        came: Counter[tuple[str, str, int]] = Counter()
        ended: Counter[str] = Counter()
        answered: set[tuple[str, str]] = set()
        for record in history:
            key = (record.room, record.cmid)
            if record.op == "send":
                if record.phase == "invoke":
                    tried.setdefault(key, record.t_mono)
                elif since <= record.t_mono <= until:
                    ended[record.phase] += 1
                if record.phase == "ok" and key not in answered and since <= tried[key] <= until:
                    answered.add(key)
                    ack.append(record.t_mono - tried[key])
            elif record.op == "event":
                came[record.client, record.room, record.seq] += 1
                if came[record.client, record.room, record.seq] == 1 and key in tried and since <= tried[key] <= until:
                    delivered.append(record.t_mono - tried[key])
        again = sum(count - 1 for count in came.values())
        return cls(sorted(ack), sorted(delivered), ended["fail"], ended["info"], again / max(1, sum(came.values())))


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return a percentile of sorted figures; 0 of none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def write_reports(reports: Sequence[FaultReport], folder: Path, about: dict[str, Any]) -> None:
    """Write `faults.json` and `faults.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = sorted(reports, key=lambda report: (int("".join(filter(str.isdigit, report.fault)) or 0), report.what))
    told = [{key: value for key, value in asdict(report).items() if key != "began"} for report in ordered]
    (folder / "faults.json").write_text(json.dumps({"about": about, "faults": told}, indent=1, ensure_ascii=False))
    (folder / "faults.md").write_text(table(ordered))


def table(reports: Sequence[FaultReport]) -> str:
    """Return a table in Markdown."""
    lines = ["| fault | what was done | measured | invariants | result |", "|---|---|---|---|---|"]
    for report in reports:
        broken: defaultdict[str, int] = defaultdict(int)
        for violation in report.violations:
            broken[violation.invariant] += 1
        kept = ", ".join(f"{name} × {count}" for name, count in sorted(broken.items())) or "all held"
        measured = "; ".join(map(str, report.figures)) + "".join(f"; {note}" for note in report.notes)
        result = f"pass, {report.seconds:.0f} s" if report.passed else "**FAIL**"
        lines.append(f"| {report.fault} | {report.what} | {measured} | {kept} | {result} |")
    return "\n".join(lines) + "\n"
