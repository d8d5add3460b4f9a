"""The checker, second part: who was told something after it was over. Histories and rows in, violations out; pure functions.

I6 nothing of a room, of any kind, after one has left it · I7 nothing after a session was revoked · I12 what the operator did is in the
audit log.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from support.checker import Violation
from support.history import Record

LATE_S: Final = 1.0
"""What is told later than this after the answer is a violation."""
LATE_WITHOUT_BUS_S: Final = 5.0
"""The same while Redis is away: the other servers ask the database."""
NO_BUS: Final = "no bus"
"""`code` of a record of what was done while Redis is away."""
_HEARD: Final = frozenset({"event", "signal", "shown"})


def check_access(history: Sequence[Record], audited: Sequence[tuple[str, str]] | None = None) -> list[Violation]:
    """Return every violation.

    Args:
        history: Of all clients.
        audited: Action and subject of each audit record; None if there is none to compare.
    """
    return [*_signals_after_leaving(history), *_after_revocation(history), *_audited(history, audited)]


def _signals_after_leaving(history: Sequence[Record]) -> list[Violation]:
    """I6: from a moment after a leave is acknowledged until the next join is asked for, no signal of this room."""
    left: dict[tuple[str, str], float] = {}
    found = []
    for record in history:
        key = (record.client, record.room)
        if record.op == "join" and record.phase == "invoke":
            left.pop(key, None)
        elif record.op == "leave" and record.phase == "ok":
            left[key] = record.t_mono
        elif record.op == "signal" and key in left and record.t_mono > left[key] + LATE_S:
            late = record.t_mono - left[key]
            found.append(Violation("I6", f"{record.client} got {record.kind} of {record.room} {late:.1f} s after leaving it"))
    return found


def _after_revocation(history: Sequence[Record]) -> list[Violation]:
    """I7: a revoked session hears nothing, and is not let in again."""
    ended: dict[str, tuple[float, float]] = {}
    found = []
    for record in history:
        if record.op == "revoke" and record.phase == "ok":
            ended[record.client] = (record.t_mono, LATE_WITHOUT_BUS_S if record.code == NO_BUS else LATE_S)
        elif record.client in ended:
            at, limit = ended[record.client]
            late = record.t_mono - at
            let_in = record.op == "connect" and record.phase == "ok"
            if late > limit and (record.op in _HEARD or let_in):
                found.append(
                    Violation("I7", f"{record.client} got {record.kind or record.op} {late:.1f} s after its session ended")
                )
    return found


def _audited(history: Sequence[Record], audited: Sequence[tuple[str, str]] | None) -> list[Violation]:
    """I12: each revocation that was acknowledged is in the audit log, once; of what was done again and again, as often as it was."""
    if audited is None:
        return []
    users = {record.client: record.user for record in history if record.op == "connect" and record.user}
    counted: defaultdict[tuple[str, str], int] = defaultdict(int)
    for action, subject in audited:
        counted[action, subject] += 1
    done: defaultdict[tuple[str, str], int] = defaultdict(int)
    unsure: defaultdict[tuple[str, str], int] = defaultdict(int)
    for record in history:
        if record.op == "operate":
            what = record.kind, record.user
            done[what] += record.phase == "ok"
            unsure[what] += {"invoke": 1, "info": 0}.get(record.phase, -1)  # Without an answer nobody knows.
    often = [
        Violation(
            "I12", f"{' '.join(what)} was acknowledged {sure} times, at most {may} may be, and the audit log has {counted[what]}"
        )
        for what, sure in done.items()
        for may in [sure + unsure[what]]
        if not sure <= counted[what] <= may
    ]
    return often + [
        Violation("I12", f"the revocation of {record.client} is in the audit log {count} times")
        for record in history
        if record.op == "revoke" and record.phase == "ok" and (count := counted["bot.revoke", users[record.client]]) != 1
    ]
