"""The auditor: refusals within bounds, checkpoints and pruning at their time, and a disk that does not take it."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from securechat.auth.rate_limiter import Rate
from securechat.domain import commands as c
from securechat.domain.accounts import STRANGER
from securechat.domain.audit import AuditEvent, AuditRecord, Result
from securechat.domain.ports import AuditQuery
from securechat.errors import ChatError, Forbidden, InvalidInput, LinkInvalid, NotFound, RateLimited, Unauthorized, Unavailable
from securechat.ops import audit as ops_audit
from securechat.ops.audit import ALL, EACH
from support.audit_log import AuditFolder
from support.fakes import principal
from support.waiting import until

ANA, EVE = principal("ana"), principal("eve")
REFUSED = AuditEvent(action="user.list", actor="usr_eve", result=Result.REFUSED, reason="forbidden")
DELETE = c.MessageDelete(room="rm_1", seq=5)


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[AuditFolder]:
    folder = AuditFolder(tmp_path / "data").open()
    yield folder
    await folder.database.close()


async def all_of(log: AuditFolder) -> list[AuditRecord]:
    return await log.store.page(AuditQuery(after=0), limit=10_000)


async def test_what_was_noted_is_stored_in_order_and_nobody_waited(log: AuditFolder) -> None:
    for number in range(50):
        log.auditor.note(AuditEvent(action=f"a{number}"))

    assert await all_of(log) == []
    await log.auditor.flush()
    assert [record.action for record in await all_of(log)] == [f"a{number}" for number in range(50)]


async def test_one_who_is_refused_again_and_again_does_not_hide_the_others(tmp_path: Path) -> None:
    log = AuditFolder(tmp_path / "data").open(rates={EACH: Rate(3, 1), ALL: Rate(100, 1)})
    for _ in range(10):
        log.auditor.note(REFUSED)
    log.auditor.note(AuditEvent(action="other", actor="usr_bob"))
    await log.auditor.flush()
    log.clock.forward(1)
    log.auditor.note(REFUSED)
    await log.auditor.flush()
    found = await all_of(log)
    await log.close()

    assert [(record.action, record.details.get("suppressed")) for record in found] == [
        ("user.list", 7), ("user.list", None), ("user.list", None), ("other", None), ("user.list", None),
    ]  # fmt: skip


async def test_all_together_have_a_limit_too_and_the_queue_has_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops_audit, "WAITING_MAX", 5)
    log = AuditFolder(tmp_path / "data").open(rates={EACH: Rate(100, 1), ALL: Rate(8, 1)})
    for number in range(20):
        log.auditor.note(AuditEvent(action="a", address=f"10.0.0.{number}"))

    assert log.auditor.suppressed == 15
    await log.auditor.flush()
    assert [record.details for record in await all_of(log)] == [{"suppressed": 15}, {}, {}, {}, {}]
    await log.close()


@pytest.mark.parametrize(
    ("who", "error", "noted"),
    [
        (ANA, Forbidden(), "forbidden"),
        (ANA, LinkInvalid(), "link_invalid"),
        (STRANGER, Unauthorized(about="usr_bob"), "unauthorized"),
        (STRANGER, RateLimited(), "rate_limited"),
        (ANA, RateLimited(), ""),
        (ANA, NotFound(), ""),
        (ANA, InvalidInput(), ""),
        (ANA, Unavailable(), ""),
    ],
)
async def test_only_refusals_for_want_of_a_right_or_a_proof_are_noted(
    log: AuditFolder, who: Any, error: ChatError, noted: str
) -> None:
    log.auditor.refused((who, DELETE, "10.0.0.1"), error)
    await log.auditor.flush()

    found = [(r.action, r.actor, r.subject, r.room, r.address, r.result, r.reason) for r in await all_of(log)]
    assert found == ([("message.delete", who.user_id, error.about, "rm_1", "10.0.0.1", "refused", noted)] if noted else [])


async def test_a_disk_that_does_not_take_refusals_loses_none_of_their_number(
    log: AuditFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = log.store.write

    async def full(_events: object) -> None:
        raise Unavailable

    monkeypatch.setattr(log.store, "write", full)
    for _ in range(3):
        log.auditor.note(REFUSED)
    await until(lambda: log.auditor.suppressed == 3)
    with pytest.raises(Unavailable):
        await log.auditor.record(AuditEvent(action="backup.create"))
    await log.auditor.settle(AuditEvent(action="server.stop"))  # does not raise
    monkeypatch.setattr(log.store, "write", write)
    log.auditor.suppressed = 3
    await log.auditor.flush()

    assert [(record.action, record.details) for record in await all_of(log)] == [("audit.suppressed", {"suppressed": 3})]


async def test_checkpoints_are_signed_at_their_time_and_old_records_pruned_at_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops_audit, "LOOK_S", 0.005)
    log = AuditFolder(tmp_path / "data").open(checkpoint_s=60, keep_days=30)
    keeping = asyncio.create_task(log.auditor.keep())

    def signed() -> int:
        return len(list(log.data.audit.glob("*.checkpoint.json")))

    await log.auditor.record(REFUSED)
    await until(lambda: signed() == 1)  # the first one at once
    await log.auditor.record(REFUSED)
    log.clock.forward(61)
    await until(lambda: signed() == 2)
    for _ in range(10):
        await log.store.write([REFUSED] * 100)
    await until(lambda: signed() == 3)
    log.clock.forward(31 * 86_400)
    await until(lambda: log.database.rows("SELECT max(n) FROM audit") == [(1_003,)])
    keeping.cancel()
    await asyncio.wait({keeping})
    await log.auditor.settle()

    assert [(record.n, record.action) for record in await all_of(log)] == [(1_002, "user.list"), (1_003, "audit.prune")]
    await log.close()
    assert log.verify().whole


async def test_the_data_folder_keeps_the_newest_checkpoints_and_the_folder_elsewhere_all(
    log: AuditFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("securechat.ops.checkpoints.KEEP", 3)
    await log.write(10, checkpoint_every=1)

    assert len(list(log.data.audit.glob("*.checkpoint.json"))) == 3
    assert len(list(log.elsewhere.glob("*.checkpoint.json"))) == 10
    assert log.verify(elsewhere=False).whole
    assert {path.stat().st_mode & 0o777 for path in log.data.audit.iterdir()} == {0o600}


async def test_a_long_log_is_pruned_in_parts(log: AuditFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops_audit, "PRUNE_MAX", 4)
    await log.write(10)
    log.clock.forward(86_400)

    assert await log.auditor.prune(log.clock.ms, AuditEvent(action="audit.prune")) == 10
    assert [(record.action, record.details["through"]) for record in await all_of(log)] == [
        ("audit.prune", 4),
        ("audit.prune", 8),
        ("audit.prune", 10),
    ]
    assert log.verify().whole


async def test_a_folder_elsewhere_without_a_checkpoint_is_named(log: AuditFolder) -> None:
    await log.write(5)
    for path in log.elsewhere.iterdir():
        path.unlink()

    assert [finding.text for finding in log.verify().findings] == [f"There is no checkpoint in {log.elsewhere}."]


async def test_a_file_elsewhere_is_never_written_over_and_no_link_is_followed(log: AuditFolder, tmp_path: Path) -> None:
    await log.write(5)
    (path,) = log.elsewhere.glob("*.checkpoint.json")
    path.write_text("what was there")
    head = await log.store.head()
    assert head is not None
    log.auditor._checkpoints.write(head, log.clock.ms)

    assert path.read_text() == "what was there"
    target = tmp_path / "target"
    target.write_text("not ours")
    (log.elsewhere / f"{head.chain}-{head.n:012d}-{log.clock.ms + 1}.checkpoint.json").symlink_to(target)
    log.auditor._checkpoints.write(head, log.clock.ms + 1)
    assert target.read_text() == "not ours"


async def test_a_full_folder_elsewhere_leaves_no_half_file_and_gets_the_checkpoint_later(
    log: AuditFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.write(5)
    real = os.fsync

    def full(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(log.elsewhere):
            os.ftruncate(descriptor, 10)
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    head = await log.store.head()
    assert head is not None
    monkeypatch.setattr(os, "fsync", full)
    log.auditor._checkpoints.write(head, log.clock.ms + 1)
    monkeypatch.setattr(os, "fsync", real)
    between = log.verify()
    log.auditor._checkpoints.write(head, log.clock.ms + 1)

    assert between.whole, between.findings
    assert log.verify().whole
    assert len(list(log.elsewhere.iterdir())) == 3, "the public key, and two checkpoints"


async def test_a_folder_elsewhere_without_hard_links_gets_whole_files_or_none(
    log: AuditFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_values: object, **_more: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    await log.write(5)

    assert log.verify().whole
    assert len(list(log.elsewhere.iterdir())) == 2


async def test_an_empty_public_key_elsewhere_is_a_finding_and_no_crash(log: AuditFolder) -> None:
    await log.write(5)
    (path,) = log.elsewhere.glob("*.pub.pem")
    path.write_bytes(b"")
    findings = log.verify().findings

    assert [(each.kind, each.text) for each in findings] == [("key", f"{path} is not the public key of an audit log.")]
    path.unlink()
    await log.write(5)
    assert log.verify().whole, "the server writes it anew"


async def test_a_command_that_changes_nothing_signs_nothing(log: AuditFolder) -> None:
    await log.write(5)
    await log.close()
    log.clock.forward(10)
    await log.open().auditor.settle()  # as the command line does, without a server

    assert len(list(log.data.audit.glob("*.checkpoint.json"))) == 1


async def test_two_checkpoints_at_once_are_one(log: AuditFolder) -> None:
    await log.auditor.record(REFUSED)
    await asyncio.gather(*(log.auditor.checkpoint() for _ in range(5)))

    assert len(list(log.data.audit.glob("*.checkpoint.json"))) == 1
