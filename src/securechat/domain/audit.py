"""The audit log in words: who did what to whom, when, from where, with which device and result; and the chain that holds it.

Each record's hash covers the hash before it and the canonical encoding of the record (RFC 8785: keys sorted, no space, one form for
every value), so whoever changes, removes, adds or moves a record breaks the chain there. Checkpoints sign the chain's newest hash
and are kept outside of the database, so whoever cuts off the end or makes the whole chain anew is found too (ADR 0011).

Texts of messages, names of rooms and secrets are never part of a record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import msgspec

from securechat.domain.accounts import Principal

Detail = str | int | bool

ZERO: Final = "0" * 64
"""What the first record of a chain follows."""
WORD_CHARS: Final = 64
"""Characters of an action, id, address or reason; what is longer is cut."""
DETAIL_CHARS: Final = 256
DETAILS_MAX: Final = 16
CHECKPOINT_DOMAIN: Final = b"securechat audit checkpoint 1\n"
PRUNE_DOMAIN: Final = b"securechat audit prune 1\n"
"""What a signature begins with, so that one kind of statement cannot stand for the other."""


class Result(StrEnum):
    """How it ended."""

    DONE = "done"
    REFUSED = "refused"
    """Somebody asked for what they may not do, or could not prove who they are; nothing changed."""
    FAILED = "failed"
    """It was allowed and did not work."""


class AuditEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that has to be remembered. The store adds the place in the chain and the time.

    Attributes:
        action: The command's name, or another word in the same form: `session.reuse`.
        actor: Id of the account that did it; empty for somebody unknown.
        device: Id of the actor's device.
        address: Where the actor came from; `local` for the command line.
        subject: Id of the account that it was done to, when it is another thing than the room.
        room: Id of the room.
        result: How it ended.
        reason: Code of the refusal.
        details: A few short facts. No texts of messages, no names of rooms, no secrets.
    """

    action: str
    actor: str = ""
    device: str = ""
    address: str = ""
    subject: str = ""
    room: str = ""
    result: Result = Result.DONE
    reason: str = ""
    details: dict[str, Detail] = {}


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An event in its place.

    Attributes:
        chain: Id of the chain: one per server process that writes.
        n: Place in it, from 1, without a gap.
        at: Milliseconds since 1970, by the clock of the server.
        action, actor, device, address, subject, room, result, reason, details: As in `AuditEvent`.
        hash: SHA-256 of the hash before and the canonical encoding of everything above, in hex.
    """

    chain: str
    n: int
    at: int
    action: str
    actor: str
    device: str
    address: str
    subject: str
    room: str
    result: str
    reason: str
    details: dict[str, Detail]
    hash: str = ""


class Head(msgspec.Struct, frozen=True):
    """The newest record of a chain."""

    chain: str
    n: int
    hash: str
    at: int


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A signed statement: at this time, the chain had reached this record.

    Attributes:
        chain, n, hash: Of the record.
        at: When it was signed, in milliseconds since 1970.
        key: Id of the key.
        signature: Ed25519 over `CHECKPOINT_DOMAIN` and the canonical encoding of the rest, in hex.
    """

    chain: str
    n: int
    hash: str
    at: int
    key: str
    signature: str = ""


class PruneStatement(msgspec.Struct, frozen=True, kw_only=True):
    """A signed statement: these records were removed because they were old enough.

    Attributes:
        chain: Of which chain.
        first, through: The first and the last record that were removed.
        hash: Of the last one: the record after it follows it.
        until: Its time, in milliseconds since 1970.
        at: When they were removed.
        key: Id of the key.
        signature: Ed25519 over `PRUNE_DOMAIN` and the canonical encoding of the rest, in hex.
    """

    chain: str
    first: int
    through: int
    hash: str
    until: int
    at: int
    key: str
    signature: str = ""


_encode: Final = msgspec.json.Encoder(order="sorted").encode


def canonical(value: msgspec.Struct, *, without: str) -> bytes:
    """Return the canonical encoding (RFC 8785) of a struct of texts and integers below 2^53, without one of its fields."""
    fields = msgspec.structs.asdict(value)
    del fields[without]
    return _encode(fields)


def hash_after(previous: str, record: AuditRecord) -> str:
    """Return the hash of a record that follows the record with this hash."""
    return hashlib.sha256(bytes.fromhex(previous) + canonical(record, without="hash")).hexdigest()


def signed_bytes(statement: Checkpoint | PruneStatement) -> bytes:
    """Return what the signature of a statement is over."""
    domain = CHECKPOINT_DOMAIN if isinstance(statement, Checkpoint) else PRUNE_DOMAIN
    return domain + canonical(statement, without="signature")


def place(event: AuditEvent, previous: Head | None, *, chain: str, at: int) -> AuditRecord:
    """Return the event as the record after `previous`; everything in it is cut to its bounds first."""
    record = AuditRecord(
        chain=chain,
        n=1 if previous is None else previous.n + 1,
        at=at,
        action=_word(event.action),
        actor=_word(event.actor),
        device=_word(event.device),
        address=_word(event.address),
        subject=_word(event.subject),
        room=_word(event.room),
        result=event.result.value,
        reason=_word(event.reason),
        details=_details(event.details),
    )
    return msgspec.structs.replace(record, hash=hash_after(ZERO if previous is None else previous.hash, record))


def by(who: Principal, action: str, *, subject: str = "", room: str = "", **details: Detail) -> AuditEvent:
    """Return the event of something that somebody known did."""
    return AuditEvent(
        action=action, actor=who.user_id, device=who.device_id, address=who.address, subject=subject, room=room, details=details
    )


def mark_of(secret: str) -> str:
    """Return eight hex digits by which a code can be recognised, and not found out: many codes have the same."""
    return hashlib.sha256(secret.encode()).hexdigest()[:8]


def _word(text: str) -> str:
    return _plain(text)[:WORD_CHARS]


def _plain(text: str) -> str:
    """Return the text without what cannot be encoded."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _details(details: Mapping[str, Detail]) -> dict[str, Detail]:
    found: dict[str, Detail] = {}
    for name, value in list(details.items())[:DETAILS_MAX]:
        # Names in ASCII: all ways to sort them agree.
        key = name.encode("ascii", "replace").decode()[:WORD_CHARS]
        if isinstance(value, int):  # a bool is one
            found[key] = value if abs(value) < 2**53 else str(value)
        else:
            found[key] = _plain(str(value))[:DETAIL_CHARS]
    return dict(sorted(found.items()))
