"""The checker: histories of clients and the rows of the store in, violations of the invariants out. A pure function.

I1 stored once · I2 nothing from nowhere · I3 delivered to everybody entitled · I4 shown once · I5 one order without gaps for all ·
I6 nobody else · I8 first in, first out per connection · I9 idempotent · I10 read your writes, and never back.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import asyncpg

from support.history import Record, digest
from support.sealed import sealed_texts

MESSAGE: Final = "message.sent"
JOINED: Final = "member.joined"
GONE: Final = frozenset({"member.left", "member.removed"})
FOREVER: Final = 2**62
EACH_MAX: Final = 20
"""Violations of one invariant that are told; the rest is only counted."""


class Violation(NamedTuple):
    """A promise that was broken."""

    invariant: str
    what: str

    def __str__(self) -> str:
        """Show it in one line."""
        return f"{self.invariant}: {self.what}"


class Row(NamedTuple):
    """One stored entry."""

    room: str
    seq: int
    kind: str
    user: str
    cmid: str
    body_sha: str
    member: str


def read_rows(database: Path) -> list[Row]:
    """Read the log of a stopped server, in order; its file must be sound."""
    with closing(sqlite3.connect(database)) as db:
        (verdict,) = db.execute("PRAGMA integrity_check").fetchone()
        if verdict != "ok":
            raise AssertionError(f"the database is damaged: {verdict}")
        found = db.execute(
            "SELECT room_id, seq, type, user_id, cmid, body, json_extract(extra, '$.member') FROM entries ORDER BY room_id, seq"
        ).fetchall()
        (sealed,) = db.execute("SELECT count(sealed) FROM entries").fetchone()
    texts = sealed_texts(database.parent) if sealed else {}
    return [
        Row(room, seq, kind, user, cmid or "", digest(texts.get((room, seq), body)), member or "")
        for room, seq, kind, user, cmid, body, member in found
    ]


async def read_postgres(url: str) -> list[Row]:
    """Read the log from a PostgreSQL, in order."""
    connection = await asyncpg.connect(url)
    try:
        found = await connection.fetch(
            "SELECT room_id, seq, type, user_id, cmid, body, extra::jsonb ->> 'member' FROM entries ORDER BY room_id, seq"
        )
    finally:
        await connection.close()
    return [
        Row(room, seq, kind, user, cmid or "", digest(body), member or "") for room, seq, kind, user, cmid, body, member in found
    ]


@dataclass
class _World:
    """Everything that the single checks look at."""

    history: Sequence[Record]
    rows: Sequence[Row]
    users: dict[str, str] = field(default_factory=dict)
    by_seq: dict[tuple[str, int], Row] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)
    intervals: dict[tuple[str, str], list[tuple[int, int]]] = field(default_factory=dict)
    found: list[Violation] = field(default_factory=list)

    def __post_init__(self) -> None:
        for record in self.history:
            if record.user and record.op == "connect":
                self.users[record.client] = record.user
        for row in self.rows:
            self.by_seq[row.room, row.seq] = row
            self.last[row.room] = max(self.last.get(row.room, 0), row.seq)
            spans = self.intervals.setdefault((row.room, row.member), [])
            if row.kind == JOINED:
                spans.append((row.seq, FOREVER))
            elif row.kind in GONE and spans:
                spans[-1] = (spans[-1][0], row.seq)

    def blame(self, invariant: str, what: str) -> None:
        self.found.append(Violation(invariant, what))

    def may_see(self, room: str, user: str, seq: int) -> bool:
        return any(first <= seq <= end for first, end in self.intervals.get((room, user), ()))

    def leaves_after(self, room: str, user: str, seq: int) -> bool:
        """Return whether a user who is in a room at a `seq` is out of it at some later one."""
        return any(first <= seq <= end < FOREVER for first, end in self.intervals.get((room, user), ()))


def check(history: Sequence[Record], rows: Sequence[Row]) -> list[Violation]:
    """Return every violation, or an empty list."""
    world = _World(history, rows)
    for look in (_stored_once, _nothing_from_nowhere, _on_the_wire, _shown, _fifo, _idempotent, _reads):
        look(world)
    return world.found


def summary(violations: Iterable[Violation]) -> str:
    """Return the violations as text, not endlessly many of each kind."""
    lines = []
    told: Counter[str] = Counter()
    for violation in violations:
        told[violation.invariant] += 1
        if told[violation.invariant] <= EACH_MAX:
            lines.append(str(violation))
    return "\n".join([", ".join(f"{name} x {count}" for name, count in sorted(told.items())), *lines])


def _stored_once(world: _World) -> None:
    """I1: every acknowledged send is exactly one row, where and what it was said to be; a refused one is none."""
    stored: defaultdict[tuple[str, str, str], list[Row]] = defaultdict(list)
    seen = set()
    for row in world.rows:
        if (row.room, row.seq) in seen:
            world.blame("I1", f"two rows at {row.room} {row.seq}")
        seen.add((row.room, row.seq))
        if row.cmid:
            stored[row.room, row.user, row.cmid].append(row)
    for room, last in world.last.items():
        if missing := [seq for seq in range(1, last + 1) if (room, seq) not in seen]:
            world.blame("I1", f"{room} has no row at {missing[:5]}")
    for key, same in stored.items():
        if len(same) > 1:
            world.blame("I1", f"{key[2]} of {key[1]} is stored {len(same)} times, at {[row.seq for row in same]}")
    outcome: defaultdict[tuple[str, str, str], set[str]] = defaultdict(set)
    for record in world.history:
        if record.op != "send":
            continue
        key = (record.room, world.users.get(record.client, ""), record.cmid)
        outcome[key].add(record.phase)
        if record.phase != "ok":
            continue
        if not stored[key]:
            world.blame("I1", f"{record.cmid} was acknowledged as {record.room} {record.seq} and is not stored")
        elif (stored[key][0].seq, stored[key][0].body_sha) != (record.seq, record.body_sha):
            world.blame(
                "I1", f"{record.cmid} was acknowledged as {record.seq} and is stored as {stored[key][0].seq}, or with another text"
            )
    for key, phases in outcome.items():
        if phases <= {"invoke", "fail"} and "fail" in phases and stored[key]:
            world.blame("I1", f"{key[2]} was refused and is stored")


def _nothing_from_nowhere(world: _World) -> None:
    """I2: every message that is stored was tried, with this text; every entry that anybody saw is stored."""
    tried = {
        (record.room, world.users.get(record.client, ""), record.cmid, record.body_sha)
        for record in world.history
        if record.op == "send" and record.phase == "invoke"
    }
    known = set(world.users.values())
    for row in world.rows:
        if row.kind == MESSAGE and row.user in known and (row.room, row.user, row.cmid, row.body_sha) not in tried:
            world.blame("I2", f"nobody sent what is stored at {row.room} {row.seq}")
    for record in world.history:
        if record.op in {"event", "shown", "read"} and (record.room, record.seq) not in world.by_seq:
            world.blame("I2", f"{record.client} saw {record.room} {record.seq}, which is not stored")


def _same(record: Record, row: Row) -> bool:
    """Return whether a client saw what is stored."""
    return (record.kind, record.user, record.cmid, record.body_sha, record.member) == row[2:]


@dataclass
class _Stream:
    """The entries of one room on one connection."""

    last: int | None
    """The newest one that this client holds; None when any may be next."""
    tip: int
    """What `ready` said: the client was a member at that point."""
    skipped: set[int] = field(default_factory=set)
    """What was left out so far."""
    begins: int | None = None
    """`last` at the beginning."""
    repeats: int | None = None
    """The newest one that came again. A batch that was just being committed when the client caught up is told once more: one
    stretch, at the beginning. Anything further is wrong."""


def _on_the_wire(world: _World) -> None:
    """I5, I6 on every connection as it came, without a client's healing; I3 for what the client then had."""
    streams: dict[tuple[str, int, str], _Stream] = {}
    held: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    base: dict[tuple[str, str], int | None] = {}
    raw: set[str] = set()
    quiet = {record.client for record in world.history if record.op == "quiet"}
    for record in world.history:
        me = world.users.get(record.client, "")
        if record.op == "connect" and record.phase == "ok":
            raw.add(record.client)
            for room, tip in record.tips.items():
                start = None if room in record.cut else record.after.get(room, tip)
                streams[record.client, record.conn, room] = _Stream(start, tip, begins=start)
                begins = tip if start is None else start
                if base.setdefault((record.client, room), begins) is None or room not in record.after:
                    base[record.client, room] = begins  # It did not hold this room: what was before is not pushed.
            for room in world.last.keys() - record.tips.keys():
                base[record.client, room] = None  # Not a member, whatever was before: it begins anew with the next entry.
            continue
        if record.op == "signal" and record.kind == "room.closed":
            untouched = streams.get((record.client, record.conn, record.room))
            if untouched is not None and untouched.last == untouched.begins:  # Out again since the snapshot that `ready` told of.
                del streams[record.client, record.conn, record.room]
                base[record.client, record.room] = None
            continue
        if record.op != "event":
            continue
        stream = streams.setdefault((record.client, record.conn, record.room), _Stream(None, 0))
        where = f"{record.client} connection {record.conn}, {record.room}"
        row = world.by_seq.get((record.room, record.seq))
        if row is not None and not _same(record, row):
            world.blame("I5", f"{where}: at {record.seq} something else than is stored")
        if record.seq > stream.tip and not world.may_see(record.room, me, record.seq):
            world.blame("I6", f"{where}: got {record.seq} without being a member then")
        held[record.client, record.room].add(record.seq)
        if base.get((record.client, record.room), 0) is None:
            spans = world.intervals.get((record.room, me), ())
            base[record.client, record.room] = max((first - 1 for first, _ in spans if first <= record.seq), default=0)
        if stream.last is None or record.seq == stream.last + 1:
            stream.last = record.seq
        elif record.seq > stream.last + 1 and stream.last < stream.tip and world.leaves_after(record.room, me, stream.tip):
            # Who is removed while older pages are read to them gets no more of those: they would show what was edited since.
            held[record.client, record.room].update(range(stream.last + 1, record.seq))
            stream.last = record.seq
        elif record.seq > stream.last + 1:
            world.blame("I5", f"{where}: a gap, {record.seq} after {stream.last}")
            stream.skipped.update(range(stream.last + 1, record.seq))
            stream.last = record.seq
        elif record.seq in stream.skipped:
            world.blame("I5", f"{where}: {record.seq} came late, after {stream.last}")
            stream.skipped.discard(record.seq)
        elif stream.repeats is None or record.seq == stream.repeats + 1:
            stream.repeats = record.seq
        else:
            world.blame("I4", f"{where}: {record.seq} came again, after {stream.last}")
        if record.kind in GONE and record.member == me:
            stream.last = None
    for client in raw & quiet:
        _delivered(world, client, held, base)


def _delivered(
    world: _World, client: str, held: dict[tuple[str, str], set[int]], base: dict[tuple[str, str], int | None]
) -> None:  # fmt: skip
    user = world.users[client]
    for (room, member), spans in world.intervals.items():
        if member != user:
            continue
        have = held.get((client, room), set())
        after = base.get((client, room), 0)
        if after is None:  # Not in the room when it came last: only being in it again since would be owed.
            after = spans[-1][0] - 1 if spans[-1][1] == FOREVER else FOREVER
        wanted = {
            seq for first, end in spans for seq in range(max(first, after + 1), min(end, world.last[room]) + 1)
        }  # fmt: skip
        if lost := sorted(wanted - have):
            world.blame("I3", f"{client} never got {len(lost)} of {room}: {lost[:5]}")


def _shown(world: _World) -> None:
    """I3, I4, I5 for what a client library gave out."""
    shown: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    holes: defaultdict[tuple[str, str], int] = defaultdict(int)
    quiet = {record.client for record in world.history if record.op == "quiet"}
    clients = set()
    for record in world.history:
        if record.op == "gap":
            holes[record.client, record.room] += 1
        if record.op != "shown":
            continue
        clients.add(record.client)
        row = world.by_seq.get((record.room, record.seq))
        if row is not None and not _same(record, row):
            world.blame("I5", f"{record.client} was shown something else at {record.room} {record.seq} than is stored")
        shown[record.client, record.room].append(record.seq)
    for (client, room), seqs in shown.items():
        if twice := [seq for seq, count in Counter(seqs).items() if count > 1]:
            world.blame("I4", f"{client} was shown twice in {room}: {twice[:5]}")
        backwards = [(before, seq) for before, seq in pairwise(seqs) if seq < before]
        gaps = [(before, seq) for before, seq in pairwise(seqs) if seq > before + 1]
        if backwards:
            world.blame("I5", f"{client} was shown {room} out of order: {backwards[:5]}")
        if len(gaps) > holes[client, room]:
            world.blame("I5", f"{client} was shown {room} with gaps: {gaps[:5]}")
        if client in quiet and not holes[client, room] and (lost := sorted(set(range(1, world.last[room] + 1)) - set(seqs))):
            world.blame("I3", f"{client} was never shown {len(lost)} of {room}: {lost[:5]}")


def _fifo(world: _World) -> None:
    """I8: on one connection, the order of sends is the order of their `seq`.

    While the store refuses for a while, or somebody is out of a room and in again, one can be refused and a later one taken: then
    the first is later when it is sent again.
    """
    order: dict[tuple[str, str], int] = {}
    answers: defaultdict[tuple[str, int, str], list[tuple[int, int]]] = defaultdict(list)
    tries: Counter[tuple[str, str, str]] = Counter()
    refusing = any(
        record.op == "refusing" or (record.op == "send" and record.phase == "info" and record.code) for record in world.history
    )
    for place, record in enumerate(world.history):
        if record.op != "send":
            continue
        if record.phase == "invoke":
            order[record.client, record.attempt] = place
            tries[record.client, record.room, record.cmid] += 1
        elif record.phase == "ok":
            spans = world.intervals.get((record.room, world.users.get(record.client, "")), ())
            excused = refusing or any(end < FOREVER for _, end in spans)
            if excused and tries[record.client, record.room, record.cmid] > 1:
                continue
            answers[record.client, record.conn, record.room].append((order[record.client, record.attempt], record.seq))
    for (client, conn, room), found in answers.items():
        seqs = [seq for _, seq in sorted(found)]
        for before, seq in pairwise(seqs):
            if seq <= before:
                world.blame("I8", f"{client} connection {conn}, {room}: {seq} was sent after {before}")


def _idempotent(world: _World) -> None:
    """I9: the same cmid always answers the same `seq`; with another text it is refused."""
    first: dict[tuple[str, str, str], int] = {}
    for record in world.history:
        key = (world.users.get(record.client, record.client), record.room, record.cmid)
        if record.op in {"send", "repeat"} and record.phase == "ok":
            if first.setdefault(key, record.seq) != record.seq:
                world.blame("I9", f"{record.cmid} of {record.client} was answered {first[key]} and {record.seq}")
        elif record.op == "repeat" and record.phase == "fail":
            world.blame("I9", f"{record.cmid} of {record.client} again was refused: {record.code}")
        elif record.op == "conflict" and record.phase == "ok":
            world.blame("I9", f"{record.cmid} of {record.client} with another text was taken as {record.seq}")
        elif record.op == "conflict" and record.phase == "fail" and record.code != "cmid_conflict":
            world.blame("I9", f"{record.cmid} of {record.client} with another text was refused with {record.code}")


def _reads(world: _World) -> None:
    """I10: what anybody was told is in every later read, and the newest `seq` never moves back."""
    known: dict[str, int] = {}
    asked: dict[tuple[str, str], dict[str, int]] = {}

    def learn(room: str, seq: int) -> None:
        known[room] = max(known.get(room, 0), seq)

    for record in world.history:
        key = (record.client, f"{record.op} {record.attempt or record.conn}")
        if record.op in {"fetch", "connect"} and record.phase == "invoke":
            asked[key] = dict(known)
        elif record.op in {"fetch", "connect"} and record.phase == "ok":
            if record.code:
                world.blame("I10", f"{record.client} read a page of {record.room} that is {record.code}")
            for room, tip in (record.tips or {record.room: record.seq}).items():
                if tip < asked[key].get(room, 0):
                    world.blame(
                        "I10", f"{record.client} was told {tip} as the newest of {room}, after {asked[key][room]} was known"
                    )
                learn(room, tip)
        elif record.op == "read":
            row = world.by_seq.get((record.room, record.seq))
            if row is not None and not _same(record, row):
                world.blame("I10", f"{record.client} read something else at {record.room} {record.seq} than is stored")
        elif record.op in {"send", "event", "shown"} and record.phase == "ok":
            learn(record.room, record.seq)
    for room, seq in known.items():
        if seq > world.last.get(room, 0):
            world.blame("I10", f"{room} ended at {world.last.get(room, 0)} after {seq} was known")
