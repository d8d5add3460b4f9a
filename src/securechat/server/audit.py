"""The audit log of a data folder, looked at from outside: without the server, and without believing it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from securechat.ops.audit_verify import Finding, Report, gather, verify
from securechat.server.datadir import AUDIT_KEY, DataDir
from securechat.store.audit import read_chain


def verify_folder(data: DataDir, elsewhere: Path | None = None, trusted: Sequence[Path] = ()) -> Report:
    """Verify the audit log of a data folder; a server may be using it.

    Args:
        data: The folder.
        elsewhere: The other folder with checkpoints.
        trusted: Files of public keys.

    Raises:
        ValueError: A key or the database cannot be read.
    """
    report = verify(read_chain(data.database), gather(data.audit, elsewhere, trusted))
    if not report.whole:
        # The server may have pruned between the two: what is wrong now is wrong.
        report = verify(read_chain(data.database), gather(data.audit, elsewhere, trusted))
    if not report.records and (data.keys / AUDIT_KEY).exists():
        # Making the key is the first thing that is remembered.
        report.findings.insert(0, Finding(kind="end", n=1, text="Record 1 is missing: the audit log is empty, and its key exists."))
    return report
