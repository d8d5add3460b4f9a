"""The comparison of what was acknowledged with what is stored."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from securechat.crypto.key_provider import FileKeys
from securechat.server.clock import SystemClock
from securechat.store.keys import KeyStore
from securechat.store.rows import to_entry
from securechat.store.sealing import COLUMNS, Sealing
from securechat.store.sqlite import SqliteDatabase

Stored = Callable[[str], Sequence[tuple[str, int, str, str | None]]]
"""From the tag of a run to its rows: room, `seq`, cmid, text."""


def in_sqlite(path: Path) -> Stored:
    """Return how to read the rows of a run from SQLite, texts opened."""
    return partial(_in_sqlite, path)


def in_postgres(url: str) -> Stored:
    """Return how to read them from PostgreSQL, where texts are not sealed."""
    return partial(_in_postgres, url)


def verify(rows: Sequence[tuple[str, int, str, str | None]], acked: Path, body_of: Callable[[str], str]) -> tuple[int, list[str]]:
    """Compare the rows of a run with what was acknowledged.

    Args:
        rows: What is stored.
        acked: A line for each message that was tried: room, `seq` or 0, cmid.
        body_of: The text that goes with a cmid.

    Returns:
        How many acknowledgements were compared, and a line for each thing that is not as it must be: an acknowledged message
        without its row, another cmid or body in it, a message stored twice, a row that nobody sent.
    """
    found: list[str] = []
    stored = {(room, seq): (cmid, body) for room, seq, cmid, body in rows}
    by_cmid = {cmid: (room, seq) for room, seq, cmid, _ in rows}
    if len(by_cmid) != len(rows):
        found.append(f"{len(rows) - len(by_cmid)} messages are stored twice")
    found += [f"wrong body at {room} {seq}" for room, seq, cmid, body in rows if body != body_of(cmid)]
    checked = 0
    tried: set[str] = set()
    for line in acked.read_text().splitlines():
        room, seq, cmid = line.split()
        tried.add(cmid)
        if seq == "0":
            continue
        checked += 1
        row = stored.get((room, int(seq)))
        if row is None or row[0] != cmid:
            found.append(f"acknowledged and not stored: {line}")
    found += [f"stored and never sent: {cmid}" for cmid in by_cmid.keys() - tried]
    return checked, found


def _in_sqlite(path: Path, tag: str) -> Sequence[tuple[str, int, str, str | None]]:
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        rows = db.execute(
            "SELECT room_id, seq, cmid, body FROM entries WHERE cmid >= ? AND cmid < ?", (f"{tag}-", f"{tag}.")
        ).fetchall()
    return asyncio.run(_opened(path, tag)) if any(row[3] is None for row in rows) else rows


async def _opened(path: Path, tag: str) -> list[tuple[str, int, str, str | None]]:
    """Read sealed rows."""
    db = SqliteDatabase(path)
    sealing = Sealing(KeyStore(db, FileKeys(path.parent / "keys"), SystemClock()))
    found = []
    for row in await db.read(f"SELECT {COLUMNS}, room_id FROM entries WHERE cmid >= ? AND cmid < ?", (f"{tag}-", f"{tag}.")):
        entry = to_entry(row[-1], row)
        await sealing.open([entry], [row[:-1]])
        found.append((entry.room, entry.seq, entry.cmid or "", entry.body))
    await db.close()
    return found


def _in_postgres(url: str, tag: str) -> Sequence[tuple[str, int, str, str | None]]:
    from securechat.store.postgres import read_all  # noqa: PLC0415 - the driver takes memory, and one bench needs it

    rows = asyncio.run(read_all(url, f"SELECT room_id, seq, cmid, body FROM entries WHERE cmid LIKE '{tag}-%'"))
    return [(room, seq, cmid, body) for room, seq, cmid, body in rows]
