"""The audit log of a data folder, looked at from outside: without the server, and without believing it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path

from securechat.domain.audit import AuditRecord
from securechat.domain.secret import Secret
from securechat.ops.audit_verify import Finding, Report, gather, verify
from securechat.server.datadir import AUDIT_KEY, DataDir
from securechat.store.audit import READ_CHAIN, chain_of, read_chain


def verify_folder(
    data: DataDir, elsewhere: Path | None = None, trusted: Sequence[Path] = (), *, url: Secret | None = None
) -> Report:
    """Verify the audit log of a data folder; a server may be using it.

    Args:
        data: The folder.
        elsewhere: The other folder with checkpoints.
        trusted: Files of public keys.
        url: Of PostgreSQL, where the data is there.

    Raises:
        ValueError: A key or the database cannot be read.
    """
    report = verify(_chain(data, url), gather(data.audit, elsewhere, trusted))
    if not report.whole:
        # The server may have pruned between the two: what is wrong now is wrong.
        report = verify(_chain(data, url), gather(data.audit, elsewhere, trusted))
    if not report.records and (data.keys / AUDIT_KEY).exists():
        # Making the key is the first thing that is remembered.
        report.findings.insert(0, Finding(kind="end", n=1, text="Record 1 is missing: the audit log is empty, and its key exists."))
    return report


def _chain(data: DataDir, url: Secret | None) -> Iterable[AuditRecord]:
    if not url:
        if data.elsewhere.exists():
            raise ValueError("The audit log is in PostgreSQL: give database_url, or SECURECHAT_DATABASE_URL.")
        return read_chain(data.database)
    from securechat.store.postgres import read_all  # noqa: PLC0415 - the driver takes memory, and few need it

    return chain_of(asyncio.run(read_all(url.reveal(), READ_CHAIN)))
