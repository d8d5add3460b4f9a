"""Backups, the audit log, certificates, storage."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from securechat.domain.audit import AuditRecord
from securechat.domain.commands.words import Command, Id, Place, Seq, Text
from securechat.domain.limits import LIMITS


class BackupCreate(Command, kw_only=True, tag="backup.create"):
    """Write a backup of everything, while the server runs."""

    path: Annotated[str, Meta(max_length=4_096)]


class Backup(msgspec.Struct, kw_only=True):
    """A backup, verified by reading it back.

    Attributes:
        audit: What is wrong with the audit log in it; empty when it is whole.
        key_apart: The storage key that it needs and does not hold.
    """

    path: str
    bytes: int
    users: int
    rooms: int
    entries: int
    schema: str
    audit: str = ""
    key_apart: str = ""


class AuditList(Command, kw_only=True, tag="audit.list"):
    """Read the audit log: the newest records first; after a place, the oldest first. `action` may end with a dot: `user.`."""

    chain: Text = ""
    before: Seq | None = None
    after: Place | None = None
    since: Place | None = None
    until: Place | None = None
    action: Text = ""
    actor: Id = ""
    subject: Id = ""
    room: Id = ""
    address: Text = ""
    result: Literal["", "done", "refused", "failed"] = ""
    limit: Annotated[int, Meta(ge=1, le=LIMITS.page_entries)] = 50


class AuditPage(msgspec.Struct, kw_only=True):
    """Records of the audit log, usernames for the ids in them, and the place of the last one when there are more."""

    records: list[AuditRecord]
    names: dict[str, str]
    next: int | None = None


class AuditPrune(Command, kw_only=True, tag="audit.prune"):
    """Remove records of the audit log that are older, with a signed statement. The newest record always stays."""

    keep_days: Annotated[int, Meta(ge=1, le=36_500)]


class AuditPruned(msgspec.Struct, kw_only=True):
    """How many records were removed."""

    records: int


class ServerStatus(Command, kw_only=True, tag="server.status"):
    """How the server is."""


class Status(msgspec.Struct, kw_only=True):
    """Figures of this process."""

    version: str
    url: str
    uptime_s: float
    connections: int
    users: int
    rooms: int
    entries: int


class CertificateGet(Command, kw_only=True, tag="certificate.get"):
    """Which TLS certificate is shown."""


class CertificateRenew(Command, kw_only=True, tag="certificate.renew"):
    """Get a new TLS certificate now: by ACME, of the own CA, or from the files again."""


class CertificateState(msgspec.Struct, kw_only=True):
    """The TLS certificate of this server.

    Attributes:
        source: `files`, `acme` or `own-ca`.
        not_after: Unix time in seconds.
        renews_at: Unix time in seconds; None when somebody else renews it.
        problem: What somebody should do something about; empty when all is well.
    """

    source: str
    names: list[str]
    issuer: str
    fingerprint: str
    not_after: int
    renews_at: int | None = None
    problem: str = ""


class StorageStatus(Command, kw_only=True, tag="storage.status"):
    """How texts are stored: keys, what is sealed, jobs and how far they are."""


class StorageRotate(Command, kw_only=True, tag="storage.rotate"):
    """Make new storage keys. With `messages`, every text is sealed again, with new keys of its room."""

    messages: bool = False


class StorageShred(Command, kw_only=True, tag="storage.shred"):
    """Destroy the keys of everything that was said in a room until now. The room and its order stay."""

    room: Id


class StorageJob(msgspec.Struct, kw_only=True):
    """Work on the whole store. `total` is known once it begins; `damaged` texts did not open and were left."""

    kind: str
    room: str = ""
    done: int
    total: int | None = None
    damaged: int = 0
    started_at: int
    finished_at: int | None = None


class Storage(msgspec.Struct, kw_only=True):
    """How texts are stored. Keys are told by their numbers only.

    Attributes:
        at_rest: Whether new texts are sealed: `on` or `off`.
        running: Whether jobs are worked on: by a running server only.
        keys: Where the key-encryption keys are.
        kek: Number of the one in use.
        org_key: Version of the organisation key.
        room_keys: Rooms' keys that exist.
        shredded_keys: Rooms' keys that were destroyed.
        sealed: Texts that are sealed.
        clear: Texts that are not.
        damaged: Texts that did not open since the start.
        problem: Why jobs do not go on at this moment, one line; empty when all is well.
        jobs: Those that wait, in order, then the newest that are finished.
    """

    at_rest: str
    running: bool
    keys: str
    kek: int
    org_key: int
    room_keys: int
    shredded_keys: int
    sealed: int
    clear: int
    damaged: int
    problem: str = ""
    jobs: list[StorageJob]
