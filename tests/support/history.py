"""The history: what clients asked for and what they were told, one line each, written by the clients.

A server's log is no evidence. `ok` means that the answer came, `fail` that it was refused and nothing stored, `info` that nobody
knows: never counted as failed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

Phase = Literal["invoke", "ok", "fail", "info"]


class Record(msgspec.Struct, kw_only=True, omit_defaults=True, frozen=True):
    """One line.

    Attributes:
        t_mono: Seconds on the monotonic clock of the clients' process.
        client: Who.
        op: `send`, `repeat` (a send again, on purpose), `conflict` (a known cmid with another body), `fetch`, `read` (an entry of
            a fetched page), `connect`, `closed`, `event` (an entry as it came on the wire), `shown` (an entry as a client library
            gave it out), `gap` (a client library said that some are missing), `quiet` (has had time to get everything),
            `refusing` (nobody's: from now on the store may refuse for a while), `signal` (one about a room), `join` and `leave` (of
            a room), `removed` (of a room, by the operator), `revoke` (its session, by the operator), `edit` (of a message),
            `operate` (the operator's, to the account `user`; `kind` is the command).
        phase: How far it is.
        conn: Which connection of this client, from 1.
        attempt: Ties an answer to its invocation.
        room: Where.
        cmid: The client's id of the message.
        seq: Place in the log; of a fetch, the newest one there.
        body_sha: Digest of the text.
        kind: Type of the entry.
        user: Who did it; of a connection, who this client is.
        member: Whom a member entry is about.
        code: Of a refusal, or of the end of a connection.
        tips: Of a connection: newest `seq` of each room as `ready` says.
        after: Of a connection: where each room is resumed.
        cut: Of a connection: rooms that were too far behind.
    """

    t_mono: float
    client: str
    op: str
    phase: Phase = "ok"
    conn: int = 0
    attempt: str = ""
    room: str = ""
    cmid: str = ""
    seq: int = 0
    body_sha: str = ""
    kind: str = ""
    user: str = ""
    member: str = ""
    code: str = ""
    tips: dict[str, int] = {}
    after: dict[str, int] = {}
    cut: list[str] = []


def digest(body: str | None) -> str:
    """Return a short digest of a text; of none, an empty one."""
    return "" if body is None else hashlib.sha256(body.encode()).hexdigest()[:16]


class History:
    """An append-only file of records.

    Args:
        path: Where it is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab")
        self._encode = msgspec.json.Encoder().encode
        self.acknowledged = 0

    def add(self, client: str, op: str, phase: Phase = "ok", **fields: object) -> None:
        """Append a record, now."""
        record = Record(t_mono=round(time.monotonic(), 6), client=client, op=op, phase=phase, **fields)  # type: ignore[arg-type]
        if op == "send" and phase == "ok":
            self.acknowledged += 1
        self._file.write(self._encode(record) + b"\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def records(self) -> list[Record]:
        """Read everything that was written."""
        if not self._file.closed:
            self._file.flush()
        return list(read(self.path))


def read(path: Path) -> Iterator[Record]:
    """Read the records of a file."""
    decode = msgspec.json.Decoder(Record).decode
    with path.open("rb") as file:
        for line in file:
            yield decode(line)
