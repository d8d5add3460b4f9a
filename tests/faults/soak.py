"""The soak: the base load for a long time, a mild fault now and then, and whether anything grows.

`python tests/faults/soak.py --minutes 60 --report build/faults` ends with 0 when nothing does, and writes `soak.json`, `soak.md` and
each sample into `soak.jsonl`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parent.parent))

from support import postgres as postgres_module
from support import redis as redis_module
from support.checker import summary
from support.cluster_load import SOAK
from support.cluster_verdict import STORE_AWAY, judge, tell_latency
from support.cluster_world import Cluster
from support.fault_report import FaultReport
from support.footprint import Footprint, footprint

SAMPLE_S: Final = 10.0
WARM: Final = 2 / 3
"""Of the time; what is measured in it counts for nothing: caches fill. Among them are the cmids of the last 20,000 messages, which
takes 35 minutes at 20 messages a second on two servers.
"""
RSS_PERCENT_PER_H: Final = 5.0
COUNT_PER_H: Final = 3.0
"""File descriptors, tasks, connections to PostgreSQL."""
FAULT_EVERY_S: Final = 300.0
KINDS: Final = ("rss", "fds", "tasks", "database")


def slope_per_h(samples: Sequence[tuple[float, float]]) -> float:
    """Return the slope of a line through (seconds, value), per hour: the least squares."""
    count = len(samples)
    if count < 3:
        return 0.0
    mean_t = sum(t for t, _ in samples) / count
    mean_v = sum(v for _, v in samples) / count
    spread = sum((t - mean_t) ** 2 for t, _ in samples)
    return 3_600 * sum((t - mean_t) * (v - mean_v) for t, v in samples) / spread


class Soak:
    """One run."""

    def __init__(self, cluster: Cluster, folder: Path, minutes: float) -> None:
        self.cluster = cluster
        self.folder = folder
        self.minutes = minutes
        self.samples: list[list[tuple[float, Footprint]]] = [[] for _ in cluster.servers]
        self.faults: list[str] = []
        self.cpu: list[float] = []
        self._began = time.monotonic()

    async def run(self) -> None:
        """Have the load on, sample, and do something mild now and then."""
        await asyncio.sleep(10)
        cpu = [server.process.cpu_s() for server in self.cluster.servers]
        began = time.monotonic()
        end = self._began + 60 * self.minutes
        troubled = asyncio.create_task(self._trouble())
        try:
            with (self.folder / "soak.jsonl").open("w") as file:
                while time.monotonic() < end:
                    for number, server in enumerate(self.cluster.servers):
                        now, found = time.monotonic() - self._began, await footprint(server)
                        self.samples[number].append((now, found))
                        file.write(json.dumps({"t_s": round(now, 1), "server": number, **asdict(found)}) + "\n")
                    file.flush()
                    await asyncio.sleep(SAMPLE_S)
        finally:
            troubled.cancel()
            await asyncio.gather(troubled, return_exceptions=True)
        took = time.monotonic() - began
        self.cpu = [(server.process.cpu_s() - old) / took for server, old in zip(self.cluster.servers, cpu, strict=True)]

    async def _trouble(self) -> None:
        cluster = self.cluster
        one, two = cluster.servers

        async def redis_restarts() -> None:
            await asyncio.to_thread(cluster.redis.kill)
            await asyncio.sleep(3)
            await asyncio.to_thread(cluster.redis.start)

        async def slow_database() -> None:
            for server in cluster.servers:
                await server.database.set(latency_s=0.03, jitter_s=0.01)
            await asyncio.sleep(20)
            for server in cluster.servers:
                await server.database.heal()

        async def bus_is_silent() -> None:
            await one.bus.hold()
            await asyncio.sleep(6)
            await one.bus.heal()

        async def postgres_restarts() -> None:
            cluster.refusing()
            await asyncio.to_thread(cluster.postgres.restart)

        mild: list[tuple[str, Callable[[], Awaitable[object]]]] = [
            ("clients of one server are cut off", one.front.cut),
            ("Redis restarts", redis_restarts),
            ("PostgreSQL is 30 ms away for 20 s", slow_database),
            ("connections of one server to PostgreSQL are reset", two.database.cut),
            ("the bus of one server is silent for 6 s", bus_is_silent),
            ("PostgreSQL restarts", postgres_restarts),
        ]
        pause = min(FAULT_EVERY_S, 60 * self.minutes / 12)
        for turn in range(10_000):
            await asyncio.sleep(pause)
            name, work = mild[turn % len(mild)]
            self.faults.append(name)
            print(f"{time.monotonic() - self._began:.0f} s: {name}", flush=True)
            cluster.refusing()
            await work()

    def tell(self, report: FaultReport) -> None:
        """Put slopes into a report."""
        for number, samples in enumerate(self.samples):
            later = [(t, found) for t, found in samples if t > 60 * self.minutes * WARM]
            if not later:
                continue
            report.told(f"server {number}: memory first", samples[0][1].rss / 2**20, "MiB")
            report.told(f"server {number}: memory last", samples[-1][1].rss / 2**20, "MiB")
            report.told(f"server {number}: CPU", 100 * self.cpu[number], "% of a core")
            for kind in KINDS:
                values = [(t, float(getattr(found, kind))) for t, found in later]
                slope = slope_per_h(values)
                if kind == "rss":
                    mean = sum(v for _, v in values) / len(values)
                    report.at_most(f"server {number}: memory grows", 100 * slope / mean, RSS_PERCENT_PER_H, "%/h")
                else:
                    report.at_most(f"server {number}: {kind} grow", slope, COUNT_PER_H, "/h")


async def soak(minutes: float, folder: Path, per_s: float) -> bool:
    """Run, report, and return whether everything held."""
    folder.mkdir(parents=True, exist_ok=True)
    report = FaultReport("soak", f"{minutes:g} minutes of load on two servers, with mild faults")
    with (
        tempfile.TemporaryDirectory(prefix="sc-soak-") as place, postgres_module.running() as postgres, redis_module.one_node() as redis,
    ):  # fmt: skip
        cluster = Cluster(Path(place), "soak", postgres, redis, replace(SOAK, per_s=per_s))
        try:
            await cluster.start()
            cluster.talk.start()
            run = Soak(cluster, folder, minutes)
            await run.run()
            before = [samples[len(samples) // 3][1] for samples in run.samples]
            timing = await judge(cluster, report, before, expected=("work in the background broke", *STORE_AWAY))
            tell_latency(report, timing)
            run.tell(report)
            report.notes.append(f"{len(run.faults)} mild faults")
            try:
                report.conclude()
            except AssertionError as error:
                print(error)
        except Exception:
            print(cluster.describe())
            raise
        finally:
            try:
                await cluster.leave()
            finally:
                cluster.clean_up()
    told = {key: value for key, value in asdict(report).items() if key != "began"}
    (folder / "soak.json").write_text(json.dumps(told, indent=1, ensure_ascii=False))
    lines = [f"- {figure}{'' if figure.held else '  **not held**'}" for figure in report.figures]
    verdict = "Nothing grew, and every invariant held." if report.passed else "**It did not hold.**"
    (folder / "soak.md").write_text("\n".join([f"{report.what}; {', '.join(report.notes)}.", "", *lines, "", verdict, ""]))
    print(verdict, summary(report.violations))
    return report.passed


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Load for a long time, and whether anything grows.")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--per-s", type=float, default=SOAK.per_s, help="messages per second")
    parser.add_argument("--report", type=Path, default=Path("build/faults"), metavar="FOLDER")
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (8_000_000_000, 8_000_000_000))
    sys.exit(not asyncio.run(soak(given.minutes, given.report, given.per_s)))


if __name__ == "__main__":
    main()
