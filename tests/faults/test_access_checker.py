"""The second part of the checker itself: good histories, and for each rule one that breaks it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from support.access_checker import NO_BUS, check_access
from support.checker import Violation
from support.footprint import Footprint, grown
from support.history import Phase, Record

ROOM = "rm_1"
REVOKED = [("bot.revoke", "usr_ben")]
QUIET = Footprint(rss=80 * 2**20, fds=20, tasks=15, connections=10, database=4, waiting=0, lag_s=0.0)


def line(t: float, op: str, phase: Phase = "ok", **fields: Any) -> Record:
    return Record(t_mono=t, client="ben", op=op, phase=phase, **fields)


STORY = [
    line(0, "connect", user="usr_ben"),
    line(1, "join", "invoke", room=ROOM),
    line(1.1, "join", room=ROOM),
    line(2, "signal", room=ROOM, kind="typing.started"),
    line(3, "leave", "invoke", room=ROOM),
    line(3.1, "leave", room=ROOM),
    line(3.2, "signal", room=ROOM, kind="room.closed"),
]
END = [line(9, "revoke", "invoke"), line(9.1, "revoke"), line(9.5, "event", room=ROOM)]


ROTATED = [("bot.rotate", "usr_clerk")]


def operated(*phases: Phase) -> list[Record]:
    return [
        line(number, "operate", phase, kind="bot.rotate", user="usr_clerk")
        for number, last in enumerate(phases)
        for phase in ("invoke", last)
    ]


def broken(history: list[Record], audited: list[tuple[str, str]]) -> set[str]:
    return {violation.invariant for violation in check_access(history, audited)}


def test_a_good_history_has_no_violation() -> None:
    again = [line(6, "join", "invoke", room=ROOM), line(7, "signal", room=ROOM, kind="typing.started")]
    assert check_access([*STORY, *again, *END], REVOKED) == []


@pytest.mark.parametrize("times", [1, 2])
def test_what_nobody_knows_of_may_have_been_done(times: int) -> None:
    assert check_access([*operated("ok", "fail", "info"), line(9, "operate", "invoke", kind="x", user="y")], ROTATED * times) == []


@pytest.mark.parametrize(
    ("history", "audited", "invariant"),
    [
        ([*STORY, line(4.2, "signal", room=ROOM, kind="typing.started")], [], "I6"),
        ([*STORY, *END, line(10.2, "event", room=ROOM)], REVOKED, "I7"),
        ([*STORY, *END, line(10.2, "signal", room="rm_2")], REVOKED, "I7"),
        ([*STORY, *END, line(11, "connect", user="usr_ben")], REVOKED, "I7"),
        ([*STORY, *END], [], "I12"),
        ([*STORY, *END], REVOKED * 2, "I12"),
        ([*STORY, *END], [("bot.revoke", "usr_ann")], "I12"),
        (operated("ok", "ok"), ROTATED, "I12"),
        (operated("ok", "fail"), ROTATED * 2, "I12"),
        (operated("info"), ROTATED * 2, "I12"),
        (operated("fail"), ROTATED, "I12"),
    ],
    ids=[
        "signal after leaving",
        "event",
        "signal",
        "let in again",
        "no record",
        "two records",
        "of somebody else",
        "done twice",
        "done once",
        "perhaps done once",
        "refused",
    ],
)
def test_what_is_told_too_late_or_not_recorded_is_found(
    history: list[Record], audited: list[tuple[str, str]], invariant: str
) -> None:
    assert broken(history, audited) == {invariant}


def test_without_the_bus_a_revocation_may_take_longer() -> None:
    slow = [*STORY, line(9, "revoke", code=NO_BUS)]
    assert not broken([*slow, line(13.5, "event", room=ROOM)], REVOKED)
    assert broken([*slow, line(14.5, "event", room=ROOM)], REVOKED) == {"I7"}


@pytest.mark.parametrize(
    "more", [{"rss": 105 * 2**20}, {"fds": 26}, {"tasks": 21}, {"database": 9}, {"waiting": 1}], ids=lambda more: next(iter(more))
)
def test_what_a_server_holds_on_to_is_found(more: dict[str, int]) -> None:
    assert grown("one", QUIET, QUIET, pool=6) == []
    assert [violation.invariant for violation in grown("one", QUIET, replace(QUIET, **more), pool=6)] == ["I11"]


def test_a_violation_says_who_and_when() -> None:
    (found,) = check_access([*STORY, line(4.2, "signal", room=ROOM, kind="typing.started")])
    assert found == Violation("I6", f"ben got typing.started of {ROOM} 1.1 s after leaving it")
