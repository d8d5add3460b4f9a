"""What a server holds: memory, file descriptors, tasks, connections; and whether it holds more than before (I11)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from support.checker import Violation
from support.cluster_world import Server

GROWTH: Final = 1.15
FEW: Final = 5
SLACK: Final = 8 * 2**20
"""Memory that no leak needs and a heap of Python takes: arenas are not given back."""


@dataclass(frozen=True)
class Footprint:
    """One reading.

    Attributes:
        rss: Resident memory in bytes.
        fds: File descriptors, those of clients and of the database left out.
        tasks: Tasks of the event loop.
        connections: Of clients.
        database: Connections to PostgreSQL.
        waiting: Operations that wait for a commit.
        lag_s: Of the event loop, at its last look.
    """

    rss: int
    fds: int
    tasks: int
    connections: int
    database: int
    waiting: int
    lag_s: float


async def footprint(server: Server) -> Footprint:
    """Read it."""
    metrics = await server.process.metrics()
    database = await server.database.connections()
    connections = int(metrics["connections"])
    return Footprint(
        rss=server.process.rss(), fds=server.process.fds() - connections - database, tasks=int(metrics["tasks"]),
        connections=connections, database=database, waiting=int(metrics["commits_waiting"]),
        lag_s=metrics["event_loop_lag_seconds"],
    )  # fmt: skip


def grown(name: str, before: Footprint, after: Footprint, pool: int) -> list[Violation]:
    """Return what is more than it was.

    Args:
        name: Of the server.
        before: When it had served a little.
        after: With as many clients, and nothing to do.
        pool: Connections to PostgreSQL that it may have, beside one for its locks and one that asks whether it answers.
    """
    found = []
    if after.rss > before.rss * GROWTH + SLACK:
        found.append(f"memory grew from {before.rss >> 20} to {after.rss >> 20} MiB")
    if after.fds - before.fds > FEW:
        found.append(f"file descriptors: {before.fds} before, {after.fds} after")
    if after.tasks - before.tasks > FEW:
        found.append(f"tasks: {before.tasks} before, {after.tasks} after")
    if after.database > pool + 2:
        found.append(f"{after.database} connections to PostgreSQL of {pool}")
    if after.waiting:
        found.append(f"{after.waiting} operations wait")
    return [Violation("I11", f"{name}: {each}") for each in found]
