"""Rows per second of the group commit on SQLite and on PostgreSQL, side by side.

    python benchmarks/databases.py [seconds of each measurement]

Through `LogStore.commit`, 200-byte texts, 20 rooms, a cmid each; every commit is on the disk. PostgreSQL is started for it, on the
same disk and with fsync on.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from securechat.domain.entries import Entry, EntryType
from securechat.domain.ports import LogTransaction
from support.postgres import running
from support.stores import Place, StoreUnderTest

ROOMS = [f"rm_{number:02}" for number in range(20)]


async def prepare(store: StoreUnderTest) -> None:
    """Make the rooms."""

    async def work(tx: LogTransaction) -> None:
        await tx.load(ROOMS, [], [])
        for room in ROOMS:
            tx.append(Entry(type=EntryType.ROOM_CREATED, room=room, seq=1, at=1, user="usr_a", kind="private", name="x"))

    await store.log.commit(work)


async def measure(store: StoreUnderTest, batch: int, seconds: float, tag: str) -> tuple[float, float]:
    """Return (rows per second, microseconds of our CPU per row)."""
    count = 0
    began, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        wanted = [(ROOMS[(count + number) % len(ROOMS)], f"{tag}{count + number}") for number in range(batch)]

        async def work(tx: LogTransaction, wanted: list[tuple[str, str]] = wanted) -> None:
            await tx.load({room for room, _ in wanted}, [(room, "dev_1", cmid) for room, cmid in wanted], [])
            for room, cmid in wanted:
                state = tx.room(room)
                if state is None or tx.sent((room, "dev_1", cmid)) is not None:
                    raise RuntimeError(room)
                tx.append(
                    Entry(
                        type=EntryType.MESSAGE_SENT, room=room, seq=state.last_seq + 1, at=1, user="usr_a", device="dev_1",
                        cmid=cmid, body="x" * 200,
                    )
                )  # fmt: skip

        await store.log.commit(work)
        count += batch
    return count / (time.perf_counter() - began), (time.process_time() - cpu) / count * 1e6


async def main(seconds: float) -> None:
    """Measure both, alternating."""
    with running() as postgres, tempfile.TemporaryDirectory() as folder:
        places = {
            "sqlite": Place(Path(folder) / "a", None),
            "postgresql": await asyncio.to_thread(Place, Path(folder) / "b", lambda: postgres),
        }
        stores = {kind: await place.open() for kind, place in places.items()}
        for store in stores.values():
            await prepare(store)
        for batch in (1, 16, 128):
            found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in stores}
            for turn in range(3):
                for kind, store in stores.items():
                    found[kind].append(await measure(store, batch, seconds, f"{batch}-{turn}-"))
            best = {kind: max(each) for kind, each in found.items()}
            ratio = best["postgresql"][0] / best["sqlite"][0]
            words = "   ".join(f"{kind} {rate:>8,.0f} rows/s {cpu:6.1f} µs" for kind, (rate, cpu) in best.items())
            print(f"batch {batch:>4}   {words}   postgresql/sqlite {ratio:.2f}")
        for store in stores.values():
            await store.database.close()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.5))
