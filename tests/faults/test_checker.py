"""The checker itself: a small good history, and for each invariant one that breaks it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.checker import JOINED, MESSAGE, Row, check
from support.history import History, Phase, Record, digest, read

ROOM = "rm_1"
ANN, BEN = "usr_ann", "usr_ben"


def line(client: str, op: str, phase: Phase = "ok", **fields: Any) -> Record:
    return Record(t_mono=0.0, client=client, op=op, phase=phase, **fields)


def connected(client: str, user: str, *, tip: int = 3, conn: int = 1) -> list[Record]:
    return [
        line(client, "connect", "invoke", conn=conn),
        line(client, "connect", conn=conn, user=user, tips={ROOM: tip}, after={ROOM: tip}),
    ]


def sent(cmid: str, seq: int, body: str = "", *, client: str = "ann", attempt: str = "", conn: int = 1) -> list[Record]:
    fields: dict[str, Any] = {
        "room": ROOM,
        "cmid": cmid,
        "attempt": attempt or cmid,
        "conn": conn,
        "body_sha": digest(body or cmid),
    }
    return [line(client, "send", "invoke", **fields), line(client, "send", seq=seq, **fields)]


def message(seq: int, cmid: str, user: str = ANN, body: str = "") -> Row:
    return Row(ROOM, seq, MESSAGE, user, cmid, digest(body or cmid), "")


def heard(client: str, row: Row, *, conn: int = 1, op: str = "event") -> Record:
    return line(
        client, op, conn=conn, room=row.room, seq=row.seq, kind=row.kind, user=row.user, cmid=row.cmid, body_sha=row.body_sha,
        member=row.member,
    )  # fmt: skip


ROWS = [
    Row(ROOM, 1, "room.created", "usr_operator", "", "", ""),
    Row(ROOM, 2, JOINED, "usr_operator", "", "", ANN),
    Row(ROOM, 3, JOINED, "usr_operator", "", "", BEN),
    message(4, "a"),
    message(5, "b"),
    message(6, "c"),
]
GOOD = [
    *connected("ann", ANN),
    *connected("ben", BEN),
    *sent("a", 4),
    *sent("b", 5),
    *sent("c", 6),
    *(heard(client, row) for row in ROWS[3:] for client in ("ann", "ben")),
    *(heard("library", row, op="shown") for row in ROWS),
    line("ann", "fetch", "invoke", room=ROOM, attempt="f"),
    line("ann", "fetch", room=ROOM, attempt="f", seq=6),
    *(line(client, "quiet") for client in ("ann", "ben", "library")),
]


def broken(history: list[Record], rows: list[Row]) -> set[str]:
    return {violation.invariant for violation in check(history, rows)}


def without(client: str, op: str, seq: int) -> list[Record]:
    return [record for record in GOOD if (record.client, record.op, record.seq) != (client, op, seq)]


def test_a_good_history_breaks_nothing() -> None:
    assert check(GOOD, ROWS) == []


def test_one_stretch_may_come_again_after_catching_up() -> None:
    assert check([*GOOD, heard("ben", ROWS[4]), heard("ben", ROWS[5])], ROWS) == []


def test_an_unknown_outcome_may_be_stored_or_not() -> None:
    fields = {"room": ROOM, "cmid": "d", "attempt": "d", "conn": 1, "body_sha": digest("d")}
    unknown = [*GOOD, line("ann", "send", "invoke", **fields), line("ann", "send", "info", **fields)]
    assert check(unknown, ROWS) == []
    later = [heard(client, message(7, "d")) for client in ("ann", "ben")] + [heard("library", message(7, "d"), op="shown")]
    assert check([*unknown, *later], [*ROWS, message(7, "d")]) == []


AWAY = [
    *ROWS,
    Row(ROOM, 7, "member.removed", ANN, "", "", BEN),
    message(8, "d"),
    Row(ROOM, 9, JOINED, BEN, "", "", BEN),
    message(10, "e"),
]
"""Ben is removed while he is away, and let in again after he is back."""


def back_again(*seqs: int) -> list[Record]:
    out = line("ben", "connect", conn=2, user=BEN, tips={}, after={ROOM: 6})
    both = [heard("library", row, op="shown") for row in AWAY[6:]] + [heard("ann", row) for row in AWAY[6:]]
    mine = [heard("ben", AWAY[seq - 1], conn=2) for seq in seqs]
    return [*GOOD, *sent("d", 8), *sent("e", 10), line("ben", "connect", "invoke", conn=2), out, *both, *mine]


def test_who_was_out_is_owed_what_came_since_it_was_in_again() -> None:
    assert check(back_again(9, 10), AWAY) == []
    assert broken(back_again(9), AWAY) == {"I3"}
    assert broken(back_again(10), AWAY) == {"I3"}
    assert broken(back_again(), AWAY) == {"I3"}


def resent(*before: Record) -> list[Record]:
    """Two were sent on one connection and only the later one was stored; both are sent again on the next."""
    again = [*sent("d", 8, attempt="d2", conn=2), *sent("e", 7, attempt="e2", conn=2)]
    rows = [message(7, "e"), message(8, "d")]
    told = [heard(client, row) for row in rows for client in ("ann", "ben")] + [heard("library", row, op="shown") for row in rows]
    return [*GOOD, *before, sent("d", 8)[0], sent("e", 7)[0], *connected("ann", ANN, tip=6, conn=2), *again, *told]


def test_what_a_refusing_store_did_not_take_may_come_later() -> None:
    rows = [*ROWS, message(7, "e"), message(8, "d")]
    assert broken(resent(), rows) == {"I8"}
    assert check(resent(line("disk", "refusing")), rows) == []


def test_what_was_refused_to_somebody_who_was_out_may_come_later() -> None:
    gone = Row(ROOM, 9, "member.removed", BEN, "", "", ANN)
    told = [heard("ann", gone), heard("ben", gone), heard("library", gone, op="shown")]
    assert check([*resent(), *told], [*ROWS, message(7, "e"), message(8, "d"), gone]) == []


CASES: dict[str, tuple[str, list[Record], list[Row]]] = {
    "acknowledged and not stored": ("I1", [*GOOD, *sent("d", 7)], ROWS),
    "stored twice": ("I1", GOOD, [*ROWS, message(7, "c")]),
    "stored elsewhere than acknowledged": ("I1", [*GOOD, *sent("d", 8)], [*ROWS, message(7, "d")]),
    "stored with another text": ("I1", [*GOOD, *sent("d", 7)], [*ROWS, message(7, "d", body="other")]),
    "refused and stored": (
        "I1",
        [*GOOD, sent("d", 7)[0], line("ann", "send", "fail", room=ROOM, cmid="d", attempt="d", conn=1)],
        [*ROWS, message(7, "d")],
    ),
    "a hole in the log": ("I1", GOOD, [row for row in ROWS if row.seq != 4]),
    "stored and never sent": ("I2", GOOD, [*ROWS, message(7, "ghost")]),
    "seen and not stored": ("I2", [*GOOD, heard("ben", message(7, "ghost"))], ROWS),
    "never delivered": ("I3", without("ben", "event", 6), ROWS),
    "never shown": ("I3", without("library", "shown", 6), ROWS),
    "shown twice": ("I4", [*GOOD, heard("library", ROWS[5], op="shown")], ROWS),
    "again and again on one connection": ("I4", [*GOOD, heard("ben", ROWS[4]), heard("ben", ROWS[4])], ROWS),
    "a gap on the wire": ("I5", without("ben", "event", 5), ROWS),
    "shown with a gap": ("I5", without("library", "shown", 5), ROWS),
    "shown out of order": (
        "I5",
        [*without("library", "shown", 5), heard("library", ROWS[4], op="shown")],
        ROWS,
    ),
    "another text at the same place": (
        "I5",
        [*without("ben", "event", 6), heard("ben", message(6, "c", body="other"))],
        ROWS,
    ),
    "heard before joining": (
        "I6",
        [*GOOD, line("eve", "connect", "invoke", conn=1), line("eve", "connect", conn=1, user="usr_eve"), heard("eve", ROWS[5])],
        [*ROWS, Row(ROOM, 7, JOINED, "usr_eve", "", "", "usr_eve")],
    ),
    "heard after removal": (
        "I6",
        [
            *GOOD,
            *(
                heard(who, row)
                for who in ("ann", "ben")
                for row in (Row(ROOM, 7, "member.removed", ANN, "", "", BEN), message(8, "d"))
            ),
        ],
        [*ROWS, Row(ROOM, 7, "member.removed", ANN, "", "", BEN), message(8, "d")],
    ),
    "overtaken on one connection": (
        "I8",
        [*GOOD, sent("d", 8)[0], sent("e", 7)[0], sent("d", 8)[1], sent("e", 7)[1]],
        [*ROWS, message(7, "e"), message(8, "d")],
    ),
    "another place for the same cmid": (
        "I9",
        [*GOOD, line("ann", "repeat", room=ROOM, cmid="c", seq=7, conn=1, attempt="r")],
        ROWS,
    ),
    "a repetition refused": ("I9", [*GOOD, line("ann", "repeat", "fail", room=ROOM, cmid="c", code="cmid_conflict")], ROWS),
    "another text taken for a known cmid": ("I9", [*GOOD, line("ann", "conflict", room=ROOM, cmid="c", seq=6)], ROWS),
    "another text refused for a wrong reason": (
        "I9",
        [*GOOD, line("ann", "conflict", "fail", room=ROOM, cmid="c", code="internal")],
        ROWS,
    ),
    "a read without what was acknowledged": (
        "I10",
        [*GOOD, line("ben", "fetch", "invoke", room=ROOM, attempt="g"), line("ben", "fetch", room=ROOM, attempt="g", seq=5)],
        ROWS,
    ),
    "the newest entry moved back over a reconnection": ("I10", [*GOOD, *connected("ben", BEN, tip=5, conn=2)], ROWS),
    "a page with a hole": (
        "I10",
        [
            *GOOD,
            line("ben", "fetch", "invoke", room=ROOM, attempt="g"),
            line("ben", "fetch", room=ROOM, attempt="g", seq=6, code="torn"),
        ],
        ROWS,
    ),
    "the log ends before what was known": ("I10", GOOD, ROWS[:5]),
}


@pytest.mark.parametrize("case", list(CASES))
def test_a_broken_promise_is_found(case: str) -> None:
    invariant, history, rows = CASES[case]
    assert invariant in broken(history, rows)


def test_a_history_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    before = time.monotonic()
    history.add("ann", "send", "invoke", room=ROOM, cmid="a", body_sha=digest("a"))
    history.add("ann", "send", room=ROOM, cmid="a", seq=4)
    found = history.records()
    history.close()
    assert [(record.phase, record.cmid, record.seq) for record in found] == [("invoke", "a", 0), ("ok", "a", 4)]
    assert found[0].t_mono >= before - 1
    assert history.acknowledged == 1
    assert [msgspec.to_builtins(record) for record in read(history.path)] == [msgspec.to_builtins(record) for record in found]
