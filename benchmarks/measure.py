"""The measurements of `securechat bench`, and their table."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from benchmarks import sealed
from benchmarks import world as w
from benchmarks.cases import Case, Figure, connections, number, print_aligned, rate, shares, trouble, verdict
from benchmarks.machine import default_path, describe, filesystem

from securechat import __version__
from securechat.cli.output import note, say
from securechat.errors import Shutdown

LETTERS: Final = "abcdefgrs"
SECONDS: Final = 5.0
ROUNDS: Final = 3
"""Runs of what came out above its target one time and below it the next: the median counts, the JSON file has all."""
BARE_SECONDS: Final = 3.0
"""Longest window of the bare server: it has no disk whose pauses would have to even out."""
SETTLE_S: Final = 0.8
BUSY: Final = 90.0
"""Per cent of its core from which the load client may be what limits."""
STRANGERS: Final = 10.0
"""Per cent of a core taken by other programs from which a figure is doubtful."""

BARE: Final = "bare"

Start = Callable[[w.World, w.Cores, Path], AbstractContextManager[w.Target]]


@dataclass
class Row:
    """A line of the table.

    Attributes:
        letter: Of the measurement.
        name: What was measured.
        figure: SecureChat's.
        unit: Its unit.
        target: What it has to be at least (`>=`) or at most (`<=`), or None.
        result: What else is known of the run.
        bare: The same measurement of the bare server.
        bare_result: And what else is known of it.
    """

    letter: str
    name: str
    figure: float
    unit: str
    target: tuple[str, float] | None
    result: w.Result
    bare: float
    bare_result: w.Result

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.target is None:
            return None
        sign, value = self.target
        return self.figure >= value if sign == ">=" else self.figure <= value

    @property
    def ratio(self) -> float | None:
        """SecureChat's figure divided by the bare server's."""
        return self.figure / self.bare if self.bare else None

    def plain(self) -> dict[str, object]:
        """Return the row for the JSON file; CPU in per cent of one core."""
        found: dict[str, object] = {
            "letter": self.letter, "name": self.name, "figure": self.figure, "unit": self.unit, "target": self.target,
            "met": self.met, "bare": self.bare, "ratio": self.ratio,
        }  # fmt: skip
        for side, result in (("", self.result), ("bare_", self.bare_result)):
            server, load = shares(result)
            found |= {f"{side}server_cpu": server, f"{side}load_cpu": load, f"{side}strangers": result.strangers}
        return found


def run(only: str | None, seconds: float | None, json_path: Path | None) -> None:
    """Measure, print the table, write the JSON.

    Args:
        only: Letters of `abcdefgrs`; None for all. The comparison with the bare server (h) belongs to all but `r`, which compares
            encryption at rest with none, and `s`, which compares the sealed sub-protocol with the clear one.
        seconds: Length of each measured window; None for the usual one.
        json_path: None for `benchmarks/results/<time>.json`.

    Raises:
        Shutdown: A letter is unknown, a server or the client failed, or what was measured was not right.
    """
    letters = "".join(dict.fromkeys((only or LETTERS).lower().replace("h", "").replace(",", ""))) or LETTERS
    unknown = set(letters) - set(LETTERS)
    if unknown:
        raise Shutdown(f"--only takes letters of {LETTERS}, not {''.join(sorted(unknown))}.")
    seconds = seconds or SECONDS
    cores = w.Cores.choose()
    os.sched_setaffinity(0, {cores.load})
    began = time.time()
    machine = describe(cores)
    rows: list[Row] = []
    sealed_rows: list[sealed.SealedRow] = []
    results: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="securechat-bench-") as name:
        scratch = Path(name)
        machine["filesystem"] = filesystem(scratch)
        worlds: dict[str, w.World] = {}
        for group in ("abcdefs", "g", "r"):
            wanted = "".join(letter for letter in letters if letter in group)
            if wanted:
                note(f"creating accounts and rooms for {wanted}" + (" and 1,000,000 entries" if wanted == "g" else ""))
                world = w.create_world(scratch / f"data-{group}", wanted, at_rest="on" if group == "r" else "off")
                worlds |= dict.fromkeys(wanted, world)
        if "r" in letters:
            worlds["r off"] = w.create_world(scratch / "data-r-off", "r")
        for letter in letters.replace(sealed.LETTER, ""):
            cases = CASES[letter](worlds[letter])
            measured = [
                _measure(CASES[letter](world), start(world, cores, scratch), cores, scratch, min(seconds, most), label)
                for start, world, most, label in _sides(letter, worlds, seconds)
            ]
            for case, ours, others in zip(cases, *measured, strict=True):
                rows += _rows(case, ours[len(ours) // 2], others[len(others) // 2])
                for result, bare in zip(ours, others, strict=True):
                    results.append({"letter": letter, "job": case.job, "securechat": result, "bare": bare})
        if sealed.LETTER in letters:
            world = worlds[sealed.LETTER]
            sealed_rows = sealed.measure(world, w.secure_chat(world, cores, scratch), cores, scratch, seconds, SETTLE_S)
            for row in sealed_rows:
                for one, other in zip(row.sealed, row.clear, strict=True):
                    results.append({"letter": sealed.LETTER, "name": row.name, "sealed": one, "clear": other})
    faults = sum(side.faults for side in _results(results))
    _print(rows, machine, seconds)
    if sealed_rows:
        sealed.print_rows(sealed_rows)
    say("")
    say(verdict(_results(results)))
    path = json_path or default_path(began)
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)), "took_s": round(time.time() - began, 1), "seconds": seconds,
        "machine": machine, "raised": w.RAISED,
        "rows": [row.plain() for row in rows] + [row.plain() for row in sealed_rows], "runs": results,
    }  # fmt: skip
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document)) + b"\n")
    say(f"figures in {path}   took {time.time() - began:.0f} s")
    if faults:
        raise Shutdown(f"{faults} faults: these figures do not count.")


def _sides(letter: str, worlds: dict[str, w.World], seconds: float) -> list[tuple[Start, w.World, float, str]]:
    """Return the server that is measured and what it is compared with: the bare server, or itself without encryption at rest."""
    if letter == "r":
        return [(w.secure_chat, worlds["r"], seconds, "at rest on"), (w.secure_chat, worlds["r off"], seconds, "at rest off")]
    return [(w.secure_chat, worlds[letter], seconds, "SecureChat"), (w.bare, worlds[letter], BARE_SECONDS, BARE)]


def _results(results: list[dict[str, object]]) -> list[w.Result]:
    return [side for each in results for side in each.values() if isinstance(side, w.Result)]


def _measure(
    cases: list[Case], server: AbstractContextManager[w.Target], cores: w.Cores, scratch: Path, seconds: float, label: str
) -> list[list[w.Result]]:
    """Return the runs of each case, the median of what decides in the middle."""
    measured = []
    is_bare = label == BARE
    with server as target:
        for case in cases:
            job = {"seconds": seconds * case.windows, "settle": SETTLE_S, **case.job, **(case.bare_job if is_bare else {})}
            results = []
            for _ in range(case.rounds):
                results.append(w.drive(target, cores, scratch, case.mode, case.connections(is_bare), **job))
                shown = "   ".join(f"{name} {number(take(results[-1]))} {unit}" for name, unit, take, _ in case.figures)
                note(f"  {label:<11} {case.letter}   {shown}" + trouble(results[-1]))
            measured.append(sorted(results, key=case.decisive))
    return measured


# ── what is measured ─────────────────────────────────────────────────────────────────────────────────────────────────


def _accepted(world: w.World) -> list[Case]:
    return [
        Case(
            "a", "closed", connections(world.pairs, 1, outstanding),
            [(f"accepted, 100 senders × {outstanding} outstanding", "/s", rate(lambda result: result.acked), target)],
        )
        for outstanding, target in ((4, (">=", 12_000)), (1, None), (16, None))
    ]  # fmt: skip


def _delivered(world: w.World) -> list[Case]:
    deliveries = rate(lambda result: result.deliveries)
    cases = [
        Case(
            "b", "closed", connections([world.big], outstanding, 1),
            [(f"deliveries, room of 500, {outstanding} outstanding", "/s", deliveries, (">=", target))], rounds=ROUNDS,
        )
        for outstanding, target in ((1, 60_000), (16, 400_000), (64, 1_000_000))
    ]  # fmt: skip
    name = "deliveries, 10 rooms of 100, 10 outstanding each"
    return [*cases, Case("b", "closed", connections(world.tens, 10, 1), [(name, "/s", deliveries, (">=", 250_000))], rounds=ROUNDS)]


def _latency(world: w.World) -> list[Case]:
    cases = []
    for per_s, target in ((2_000, None), (20_000, ("<=", 10.0))):
        name = f"latency at {per_s:,} deliveries/s"
        figures: list[Figure] = [
            (f"{name}: p50", "ms", lambda result: result.latency_us.p50 / 1000, None),
            (f"{name}: p99", "ms", lambda result: result.latency_us.p99 / 1000, target),
            (f"{name}: max", "ms", lambda result: result.latency_us.max / 1000, None),
        ]
        cases.append(Case("c", "open", connections(world.tens, w.ROOM, 1), figures, {"rate": per_s / w.ROOM}, rounds=ROUNDS))
    return cases


def _memory(world: w.World) -> list[Case]:
    def megabytes(result: w.Result) -> float:
        return (result.rss_after_kib - result.rss_before_kib) * 1024 / 1e6

    figure: Figure = ("memory of 1,000 idle connections", "MB", megabytes, ("<=", 60.0))
    return [Case("d", "idle", connections(world.tens, 0, 0), [figure], {"seconds": 2, "settle": 1.5})]


def _logins(world: w.World) -> list[Case]:
    figure: Figure = ("connect + log in + ready, full handshakes", "/s", rate(lambda result: result.connects), (">=", 300))
    return [Case("e", "connect", connections(world.tens, 0, 0), [figure])]


def _cpu(world: w.World) -> list[Case]:
    def share(result: w.Result) -> float:
        return 100 * result.server_cpu_s / result.elapsed_s

    # On one machine the kernel charges the sender with waking the receiver; people's programs are woken by their own machines. So
    # the gate is measured with a client that reads every millisecond, and the row below it shows what waking it adds.
    name, who = "CPU at 1,000 connections, 5,000 deliveries/s", connections(world.tens, w.ROOM, 1)
    job: dict[str, object] = {"rate": 5_000 / w.ROOM}
    return [
        Case("f", "open", who, [(name, "%", share, ("<=", 15.0))], {**job, "pause_us": 1_000}, windows=3, rounds=ROUNDS),
        Case("f", "open", who, [(f"{name}, each waking its reader", "%", share, None)], job),
    ]


def _history(world: w.World) -> list[Case]:
    figure: Figure = ("history pages of 50, room of 1,000,000", "/s", rate(lambda result: result.pages), None)
    job: dict[str, object] = {"first": 1_000, "last": w.HISTORY_ENTRIES}
    return [Case("g", "fetch", connections([world.history], w.READERS, 4), [figure], job, {"first": 51, "last": 51})]


def _at_rest(world: w.World) -> list[Case]:
    def cpu(count: Callable[[w.Result], int]) -> Callable[[w.Result], float]:
        return lambda result: 1e6 * result.server_cpu_s / max(1, count(result))

    cases = []
    for outstanding in (4, 16):
        name = f"encrypted at rest: accepted, 100 senders × {outstanding}"
        figures: list[Figure] = [
            (name, "/s", rate(lambda result: result.acked), None),
            (f"{name}: CPU each", "µs", cpu(lambda result: result.acked), None),
        ]
        cases.append(Case("r", "closed", connections(world.pairs, 1, outstanding), figures))
    figures = [
        ("encrypted at rest: history pages of 50", "/s", rate(lambda result: result.pages), None),
        ("encrypted at rest: history pages of 50: CPU each", "µs", cpu(lambda result: result.pages), None),
    ]
    job: dict[str, object] = {"first": 1_000, "last": w.AT_REST_ENTRIES}
    return [*cases, Case("r", "fetch", connections([world.history], w.READERS, 4), figures, job)]


CASES: Final[dict[str, Callable[[w.World], list[Case]]]] = {
    "a": _accepted, "b": _delivered, "c": _latency, "d": _memory, "e": _logins, "f": _cpu, "g": _history, "r": _at_rest,
}  # fmt: skip


# ── the table ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _rows(case: Case, result: w.Result, bare: w.Result) -> Iterable[Row]:
    for name, unit, take, target in case.figures:
        yield Row(case.letter, name, take(result), unit, target, result, take(bare), bare)


def _print(rows: list[Row], machine: dict[str, Any], seconds: float) -> None:
    head = ["", "measurement", "figure", "unit", "target", "met", "server CPU %", "load CPU %", "bare", "its CPU %", "ratio"]
    lines = [head]
    for row in rows:
        met = {None: "", True: "yes", False: "NO"}[row.met]
        target = f"{row.target[0]} {number(row.target[1])}" if row.target else ""
        server, load = shares(row.result)
        lines.append([
            row.letter, row.name, number(row.figure), row.unit, target, met,
            f"{server:.0f}{_doubt(row.result)}", f"{load:.0f}{_busy(row.result)}", number(row.bare) + _busy(row.bare_result),
            f"{shares(row.bare_result)[0]:.0f}{_doubt(row.bare_result)}", "" if row.ratio is None else f"{row.ratio:.2f}",
        ])  # fmt: skip
    say(f"SecureChat {__version__} ({machine['commit']})   {machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}")
    say(
        f"server on core {machine['server_core']}, load on core {machine['load_core']}   TLS 1.3   bodies of {w.BODY_BYTES} bytes"
        f"   windows of {seconds:g} s, b, c and f the median of {ROUNDS}   database on {machine['filesystem']}, synchronous"
    )
    say(f"raised for the run: {_raised()}")
    say("")
    if rows:
        print_aligned(lines, left={0, 1, 3, 5})
    if any(row.letter == "r" for row in rows):
        say("r: in place of the bare server stands the same server without encryption at rest")
    if any(_busy(row.result) + _busy(row.bare_result) for row in rows):
        say("! the load client was busy: the server, or the bare one, may be faster than this")
    if any(_doubt(row.result) + _doubt(row.bare_result) for row in rows):
        say(f"? other programs took more than {STRANGERS:.0f} % of one of the two cores: measure again on a quiet machine")


def _busy(result: w.Result) -> str:
    return "!" if shares(result)[1] > BUSY else ""


def _doubt(result: w.Result) -> str:
    return "?" if result.strangers > STRANGERS else ""


def _raised() -> str:
    rates = ", ".join(f"rate `{name}` to {rate['per_s']:g}/s" for name, rate in w.RAISED["rates"].items())
    return f"{rates}, max_connections to {w.RAISED['max_connections']:,}"
