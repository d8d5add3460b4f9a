"""The end of a fault run: everybody gets everything, and then every invariant is looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import asyncpg

from securechat.domain.secret import Secret
from securechat.server.audit import verify_folder
from securechat.server.datadir import DataDir
from support.access_checker import check_access
from support.checker import Violation
from support.cluster_world import Cluster
from support.fault_report import FaultReport, Timing, percentile
from support.footprint import Footprint, footprint, grown
from support.history import Record

WITHIN_S: Final = 30.0
"""Everybody has everything within this time after the fault (I3)."""
AGAIN_MAX: Final = 0.02
"""Share of entries that may come again on the wire when there are faults."""


STORE_AWAY: Final = (
    "the database does not answer", "audit log not looked after", "audit log not written", "ended without the last audit records",
)  # fmt: skip
"""What servers complain of while PostgreSQL is away, and may."""


async def readings(cluster: Cluster) -> list[Footprint]:
    """Read what each server holds."""
    return [await footprint(server) for server in cluster.servers]


async def judge(
    cluster: Cluster, report: FaultReport, before: Sequence[Footprint], *, again_max: float = AGAIN_MAX,
    expected: Sequence[str] = (), within_s: float = WITHIN_S,
) -> Timing:  # fmt: skip
    """Bring a run to its end, and put what was found into its report.

    Args:
        cluster: With the load still on.
        report: Gets the figures and the violations.
        before: What each server held before the fault.
        again_max: Share of entries that may come again.
        expected: Words of complaints in the servers' logs that this fault causes.
        within_s: Everybody has everything by then.
    """
    await cluster.all_back(within_s)
    await cluster.all_heard(within_s)
    victim = next((each for each in cluster.victims if not each.revoked.is_set()), None)
    if victim is not None:
        await cluster.revoke(victim, by=next(each for each in cluster.servers if each.url != victim.url))
    report.at_most("all delivered after", await cluster.quiet(within_s), within_s, "s")
    report.violations += await violations_of(cluster, before, expected)
    timing = Timing.of(cluster.history.records())
    report.told("messages", len(timing.ack))
    report.told("deliveries", len(timing.delivered))
    report.at_most("again on the wire", 100 * timing.duplicates, 100 * again_max, "%")
    return timing


async def violations_of(cluster: Cluster, before: Sequence[Footprint], expected: Sequence[str] = ()) -> list[Violation]:
    """Disconnect everybody, and return every violation of a run that is quiet; arguments as of `judge`."""
    after = await settled(cluster, before)
    await cluster.leave()
    await cluster.no_connections()
    found = await cluster.verdict()
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        found += grown(f"server {number}", old, new, cluster.settings["database_connections"])
    found += await _audit(cluster)
    return found + [
        Violation("I11", f"server {number} complains: {line}")
        for number, server in enumerate(cluster.servers)
        for line in server.process.complaints()
        if not any(word in line for word in expected)
    ]


async def settled(cluster: Cluster, before: Sequence[Footprint], within_s: float = 15.0) -> list[Footprint]:
    """Read what each server holds, once that is as much as before, or after this time."""
    end = asyncio.get_running_loop().time() + within_s
    while True:
        after = await readings(cluster)
        pool = cluster.settings["database_connections"]
        whole = not any(grown("", old, new, pool) for old, new in zip(before, after, strict=True))
        if whole or asyncio.get_running_loop().time() > end:
            return after
        await asyncio.sleep(0.2)


async def _audit(cluster: Cluster) -> list[Violation]:
    """I12: the chain is whole, and tells what was done."""
    url = cluster.postgres.url(cluster.database)
    data = DataDir(cluster.servers[0].process.root)
    whole = await asyncio.to_thread(verify_folder, data, cluster.audit_folder, (), url=Secret(url))
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT action, subject FROM audit")
    finally:
        await connection.close()
    # A clock that went back is told by the verifier, and nothing was changed: F8 has clocks that do.
    found = [Violation("I12", finding.text) for finding in whole.findings if finding.kind != "clock"]
    return found + check_access(cluster.history.records(), [(row[0], row[1]) for row in rows])


def tell_latency(report: FaultReport, timing: Timing, *, ack_s: float = 0.0, delivered_s: float = 0.0) -> None:
    """Put percentiles into a report, with limits where there are any."""
    ack, delivered = percentile(timing.ack, 0.99), percentile(timing.delivered, 0.99)
    if ack_s:
        report.at_most("send→ack p99", 1_000 * ack, 1_000 * ack_s, "ms")
    else:
        report.told("send→ack p99", 1_000 * ack, "ms")
    if delivered_s:
        report.at_most("send→delivered p99", 1_000 * delivered, 1_000 * delivered_s, "ms")
    else:
        report.told("send→delivered p99", 1_000 * delivered, "ms")


def longest_wait(history: Sequence[Record], since: float = 0.0) -> float:
    """Return the longest time from an attempt to its answer of any kind, in seconds."""
    tried: dict[tuple[str, str], float] = {}
    longest = 0.0
    for record in history:
        if record.op != "send" or record.t_mono < since:
            continue
        if record.phase == "invoke":
            tried[record.client, record.attempt] = record.t_mono
        elif (began := tried.pop((record.client, record.attempt), None)) is not None:
            longest = max(longest, record.t_mono - began)
    return longest
