"""What a run shows: the invariants of `support.checker` on its history, and those for which a run knows more than a history."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Final

import msgspec

from securechat.server.audit import verify_folder
from securechat.server.datadir import DataDir
from securechat.store.audit import read_chain
from sim.population import OUTSIDER
from sim.scenario import Run
from support import checker
from support.checker import Violation
from support.nonces import NONCES

LATE_S: Final = 1.0
"""How long after an acknowledgement what it ended may still be on its way to the wire."""
UNHEARD_S: Final = 3.0
"""The same where a message to another server is late or lost: then that one looks by itself, each second, and its database is slow."""


def judge(run: Run) -> list[Violation]:
    """Return every promise that was broken."""
    found = [Violation(*text.split(": ", 1)) if ": " in text else Violation("L", text) for text in run.trouble]
    rows = checker.read_rows(DataDir(run.servers[0].root).database)
    found += checker.check(run.diary.records, rows)
    found += _outsiders(run)
    found += _signed_out(run)
    found += _audit(run, rows)
    if NONCES.repeated:
        found.append(Violation("I13", f"{NONCES.repeated} nonces were used twice with one key"))
    return found


def fingerprint(run: Run) -> str:
    """Return a digest of everything that clients saw, and of how many steps it took."""
    encode = msgspec.json.Encoder().encode
    found = hashlib.sha256(str(run.timeline.steps).encode())
    for record in run.diary.records:
        found.update(encode(record))
    for name, client in run.clients.items():
        found.update(repr((name, client.closes, client.seen.told, client.seen.events)).encode())
    return found.hexdigest()


def _outsiders(run: Run) -> list[Violation]:
    """I6 for what is no entry: who was surely out of a room heard nothing of it.

    But the news itself that it is out: once on each connection, however late that one reads it.
    """
    found: list[Violation] = []
    late_s = LATE_S if run.shared is None else UNHEARD_S
    spans = [*run.membership.spans, *((user, room, at, float("inf")) for (user, room), at in run.membership.out.items())]
    by_user: dict[str, list[tuple[str, float, float]]] = {}
    for user, room, since, until in spans:
        by_user.setdefault(user, []).append((room, since, until))
    for client in run.clients.values():
        for room, since, until in by_user.get(client.user, ()):
            inside = max((to for other, _, to in by_user[client.user] if other == room and to <= since), default=0.0)
            heard = [told for told in client.seen.told if told.room == room and inside < told.written < until]
            news = {told.conn: id(told) for told in reversed(heard) if told.kind == "room.closed"}.values()
            found += [
                Violation("I6", f"{client.name} heard {told.kind} of {room}, {told.written - since:.2f} s after it left")
                for told in heard
                if id(told) not in news and (told.written > since + late_s or told.kind == "room.closed")
            ]
    secret = run.people.rooms["den"].encode()
    outsider = run.clients.get(OUTSIDER)
    if outsider is not None and any(secret in each for each in outsider.seen.raw):
        found.append(Violation("I6", f"{outsider.name} heard of a room that it never was in"))
    return found


def _signed_out(run: Run) -> list[Violation]:
    """I7: nothing leaves the server for a session that ended a second ago."""
    late_s = LATE_S if run.shared is None else UNHEARD_S
    return [
        Violation("I7", f"{name} got {room} {seq}, {written - ended.at:.2f} s after its session ended")
        for ended in run.ended
        for name in ended.clients
        for written, room, seq in run.clients[name].seen.events
        if written > ended.at + late_s
    ]


def _audit(run: Run, rows: list[checker.Row]) -> list[Violation]:
    """I12: the chain is whole, and whatever was acknowledged is in it."""
    data = DataDir(run.servers[0].root)
    report = verify_folder(data)
    found = [Violation("I12", f"{each.kind}: {each.text}") for each in report.findings if each.kind != "clock"]
    recorded = Counter((each.action, each.subject, each.room) for each in read_chain(data.database) if each.result == "done")
    missing = Counter(run.acked) - recorded
    found += [
        Violation("I12", f"{action} of {subject} {room} was acknowledged and is not recorded") for action, subject, room in missing
    ]
    removed = Counter(("member.remove", row.member, row.room) for row in rows if row.kind == "member.removed")
    for what in sorted({*removed, *(each for each in recorded if each[0] == "member.remove")}):
        if removed[what] != recorded[what]:
            found.append(
                Violation("I12", f"{' '.join(what)} happened {removed[what]} times and is recorded {recorded[what]} times")
            )
    return found
