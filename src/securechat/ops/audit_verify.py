"""Verify the audit log: the chain, its checkpoints, what was pruned, and the clock. Trusts nothing but the public keys.

`verify` names the first record that is bad. What it cannot place exactly (somebody made the end of the chain anew, hashes and all)
it places after the newest checkpoint that still fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from securechat.domain.audit import ZERO, AuditRecord, Checkpoint, PruneStatement, hash_after
from securechat.ops.audit_key import PublicKeys, is_signed, key_id, read_public_key
from securechat.ops.checkpoints import public_keys, read_folder

CLOCK_MS: Final = 2_000
"""How far a clock may be set back without a word: time servers correct by milliseconds."""
FINDINGS_MAX: Final = 100


class Finding(msgspec.Struct, kw_only=True):
    """Something that is wrong.

    Attributes:
        kind: `record` (changed, removed, added, moved), `end` (the end is missing), `checkpoint`, `key`, or `clock`.
        chain: Which chain.
        n: The first bad record, or 0 when it is none.
        text: For people.
    """

    kind: str
    chain: str = ""
    n: int = 0
    text: str


class Report(msgspec.Struct, kw_only=True):
    """What was found.

    Attributes:
        records: How many were read.
        checkpoints: How many signatures were good.
        heads: Chain → place of its newest record.
        keys: Ids of the public keys that were trusted.
        findings: What is wrong, the first bad record first; at most 100.
    """

    records: int = 0
    checkpoints: int = 0
    heads: dict[str, int] = {}
    keys: list[str] = []
    findings: list[Finding] = []

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    @property
    def tampered(self) -> bool:
        """Whether something is wrong besides the clock."""
        return any(finding.kind != "clock" for finding in self.findings)


@dataclass(slots=True)
class Evidence:
    """What stands outside of the database.

    Attributes:
        keys: Public keys that are trusted.
        checkpoints: Those with a good signature, by chain and place. Two that contradict each other both stay.
        pruned: Statements with a good signature, by chain and the last record that was removed.
        findings: What is wrong with the files themselves.
    """

    keys: PublicKeys
    checkpoints: dict[str, dict[int, list[Checkpoint]]] = field(default_factory=dict)
    pruned: dict[str, dict[int, PruneStatement]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def gather(own: Path, elsewhere: Path | None, trusted: Sequence[Path] = ()) -> Evidence:
    """Read the folders of checkpoints.

    Args:
        own: The folder in the data folder.
        elsewhere: The operator's other folder.
        trusted: Files of public keys; without any, those in the folder elsewhere; without that, those in the own folder.

    Raises:
        ValueError: A trusted key cannot be read.
    """
    folders = [folder for folder in (own, elsewhere) if folder is not None]
    evidence = Evidence({key_id(key): key for key in map(read_public_key, trusted)})
    for folder in (elsewhere, own):
        if folder is not None and not evidence.keys:
            _take_keys(evidence, folder)
    if len(evidence.keys) > 1 and not trusted:
        text = f"There are the public keys {', '.join(sorted(evidence.keys))}: a key was replaced. Name those that you trust."
        evidence.findings.append(Finding(kind="key", text=text))
    for folder in folders:
        checkpoints, statements, bad = read_folder(folder)
        evidence.findings += [Finding(kind="checkpoint", text=f"{path.name} in {folder}: {why}.") for path, why in bad]
        if folder == elsewhere and not (checkpoints or bad):
            evidence.findings.append(Finding(kind="checkpoint", text=f"There is no checkpoint in {folder}."))
        for path, checkpoint in checkpoints:
            if _trust(evidence, path, checkpoint):
                evidence.checkpoints.setdefault(checkpoint.chain, {}).setdefault(checkpoint.n, []).append(checkpoint)
        for path, statement in statements:
            if _trust(evidence, path, statement):
                evidence.pruned.setdefault(statement.chain, {})[statement.through] = statement
    return evidence


def _take_keys(evidence: Evidence, folder: Path) -> None:
    """Trust the public keys of a folder; one that cannot be read is a finding."""
    for path in public_keys([folder]):
        try:
            key = read_public_key(path)
        except ValueError as error:
            evidence.findings.append(Finding(kind="key", text=str(error)))
        else:
            evidence.keys[key_id(key)] = key


def _trust(evidence: Evidence, path: Path, statement: Checkpoint | PruneStatement) -> bool:
    if is_signed(statement, evidence.keys):
        return True
    why = "its signature is wrong" if statement.key in evidence.keys else f"it is signed with the unknown key {statement.key}"
    n = statement.n if isinstance(statement, Checkpoint) else statement.through
    kind = "checkpoint" if statement.key in evidence.keys else "key"
    evidence.findings.append(Finding(kind=kind, chain=statement.chain, n=n, text=f"{path.name} in {path.parent}: {why}."))
    return False


def verify(records: Iterable[AuditRecord], evidence: Evidence) -> Report:
    """Compare the chain with itself and with the evidence.

    Args:
        records: All of them, chain by chain, in order.
        evidence: From `gather`, and gathered before the records are read: the chain only grows.
    """
    report = Report(heads={}, keys=sorted(evidence.keys), findings=[])
    checks: dict[str, _Chain] = {}
    for record in records:
        check = checks.get(record.chain)
        if check is None:
            check = checks[record.chain] = _Chain(record.chain, evidence)
        check.take(record)
        report.records += 1
    for chain in evidence.checkpoints:
        if chain not in checks:
            checks[chain] = _Chain(chain, evidence)
    found: list[Finding] = []
    for chain, check in checks.items():
        check.finish()
        report.heads[chain] = check.last
        found += check.findings
    if report.records and not evidence.checkpoints:
        found.append(Finding(kind="checkpoint", text="There is no checkpoint with a good signature."))
    # The bad records first, each chain's first one at the front; then the files.
    found.sort(key=lambda finding: (finding.kind == "clock", finding.n))
    report.findings = (found + evidence.findings)[:FINDINGS_MAX]
    report.checkpoints = sum(len(each) for places in evidence.checkpoints.values() for each in places.values())
    return report


class _Chain:
    """One chain, record by record."""

    def __init__(self, chain: str, evidence: Evidence) -> None:
        self._chain = chain
        self._checkpoints = evidence.checkpoints.get(chain, {})
        self._pruned = evidence.pruned.get(chain, {})
        self._hash = ZERO
        self._first = 0
        self._newest_at = 0
        self._signed_at = 0
        self._agreed: list[Checkpoint] = []
        self._begins_after = 0
        self._broken = False
        self._disagreed = False
        self.last = 0
        self.findings: list[Finding] = []

    def take(self, record: AuditRecord) -> None:
        if not self._first:
            self._begin(record)
        elif record.n != self.last + 1:
            missing = f"Record {self.last + 1} is missing: after {self.last} comes {record.n}."
            if record.n - self.last > 2:
                missing = f"Records {self.last + 1} to {record.n - 1} are missing."
            self._bad(self.last + 1, missing)
            self._hash = ""
        self._compare(record)
        self._look_at_clock(record)
        self._hash = record.hash
        self.last = record.n
        for checkpoint in self._checkpoints.get(record.n, ()):
            self._meet(checkpoint, record)

    def finish(self) -> None:
        beyond = sorted(n for n in self._checkpoints if n > self.last)
        if beyond:
            first = self.last + 1
            self._find(
                "end",
                first,
                f"Record {first} is missing: the chain ends at {self.last}, and a checkpoint says it reached {beyond[-1]}.",
            )

    def _begin(self, record: AuditRecord) -> None:
        self._first = record.n
        if record.n == 1:
            return
        statement = self._pruned.get(record.n - 1)
        if statement is None:
            self._bad(1, f"Records 1 to {record.n - 1} are missing, and no statement says that they were pruned.")
            self._hash = ""
        else:
            self._hash = statement.hash
            self._newest_at = statement.until
        self._begins_after = record.n - 1

    def _compare(self, record: AuditRecord) -> None:
        """Compute the record's hash. After a gap, what it followed is not known: it is taken as it stands."""
        if not self._hash:
            return
        try:
            right = hash_after(self._hash, record) == record.hash
        except ValueError:  # the hash before is no hash any more
            right = False
        if not right:
            self._bad(record.n, f"Record {record.n} ({record.action}) was changed, or does not follow record {record.n - 1}.")

    def _look_at_clock(self, record: AuditRecord) -> None:
        newest = max(self._newest_at, self._signed_at)
        if record.at < newest - CLOCK_MS:
            back = (newest - record.at) / 1000
            self._find("clock", record.n, f"Record {record.n} ({record.action}) is {back:.0f} s older than what was before it.")
        self._newest_at = max(self._newest_at, record.at)

    def _meet(self, checkpoint: Checkpoint, record: AuditRecord) -> None:
        if checkpoint.hash == record.hash:
            self._agreed.append(checkpoint)
        elif not self._disagreed:
            self._disagreed = True
            if not self._broken:
                # What was signed later than this checkpoint was signed over the other chain: it says nothing for this one.
                first = 1 + max((each.n for each in self._agreed if each.at <= checkpoint.at), default=self._begins_after)
                which = f"Record {first}" if first == record.n else f"Record {first} or one after it, up to {record.n},"
                self._bad(first, f"{which} was replaced: the checkpoint at {record.n} has another hash.")
        if checkpoint.at < record.at - CLOCK_MS:
            text = f"Record {record.n} is younger than the checkpoint that was signed over it."
            self._find("clock", record.n, text)
        self._signed_at = max(self._signed_at, checkpoint.at)

    def _bad(self, n: int, text: str) -> None:
        self._broken = True
        self._find("record", n, text)

    def _find(self, kind: str, n: int, text: str) -> None:
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(kind=kind, chain=self._chain, n=n, text=text))
