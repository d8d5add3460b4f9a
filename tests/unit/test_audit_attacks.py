"""Attack 116: every way to tamper with the audit log is found, and the first bad record is named."""

from __future__ import annotations

import asyncio
import copy
import shutil
import sqlite3
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from securechat.domain.audit import AuditEvent, AuditRecord, Head, hash_after, place
from securechat.errors import Shutdown
from securechat.ops.audit_key import PUBLIC_SUFFIX, AuditKey
from securechat.server.datadir import AUDIT_KEY
from securechat.store.audit import read_chain
from support.audit_log import AuditFolder
from support.fakes import ManualClock

COLUMNS = ["chain", "n", "at", "action", "actor", "device", "address", "subject", "room", "result", "reason", "details", "hash"]
DAY_S = 86_400


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ManualClock]:
    """Twenty records, with checkpoints at 5, 10, 15 and 20: the folder of a log for each test to copy, and its time."""

    async def write() -> ManualClock:
        folder = AuditFolder(above / "data").open()
        await folder.write(20)
        await folder.close()
        return folder.clock

    above = tmp_path_factory.mktemp("written")
    return above, asyncio.run(write())


@pytest.fixture
def log(tmp_path: Path, written: tuple[Path, ManualClock]) -> AuditFolder:
    """The log that was written, and the server stopped."""
    above, clock = written
    shutil.copytree(above, tmp_path, dirs_exist_ok=True)
    return AuditFolder(tmp_path / "data", copy.copy(clock))


def records(log: AuditFolder) -> list[AuditRecord]:
    return list(read_chain(log.data.database))


def rewrite(log: AuditFolder, found: list[AuditRecord], *, rehash_from: int = 0) -> None:
    """Replace the whole table; records from a place on get new hashes, as somebody would make them who knows how."""
    if rehash_from:
        done: list[AuditRecord] = []
        for record in found:
            if record.n >= rehash_from:
                previous = done[-1].hash if done else "0" * 64
                record = msgspec.structs.replace(record, hash=hash_after(previous, record))  # noqa: PLW2901 - the next form of it
            done.append(record)
        found = done

    def work(db: sqlite3.Connection) -> None:
        db.execute("DELETE FROM audit")
        for record in found:
            fields = msgspec.structs.asdict(record)
            fields["details"] = msgspec.json.encode(fields["details"]).decode()
            db.execute(
                f"INSERT INTO audit ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * 13)})", [fields[name] for name in COLUMNS]
            )

    log.change(work)


def first(log: AuditFolder, *, elsewhere: bool = True) -> tuple[str, int]:
    """Return the kind and place of the first finding."""
    report = log.verify(elsewhere=elsewhere)
    assert not report.whole
    return report.findings[0].kind, report.findings[0].n


def test_116_a_log_that_nobody_touched_is_whole(log: AuditFolder) -> None:
    report = log.verify()

    assert report.whole
    assert (report.records, report.checkpoints, list(report.heads.values())) == (20, 8, [20])
    assert log.verify(elsewhere=False).whole


# ── edit ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("column", [column for column in COLUMNS if column not in {"chain", "n", "at"}])
def test_116_edit_any_word_of_a_record_and_it_is_named(log: AuditFolder, column: str) -> None:
    log.sql(f"UPDATE audit SET {column} = ? WHERE n = 7", '{"number":8}' if column == "details" else "0" * 64)

    assert first(log) == ("record", 7)


@pytest.mark.parametrize("change", [-1, 1, 3_600_000, -3_600_000])
def test_116_edit_the_time_of_a_record_and_it_is_named(log: AuditFolder, change: int) -> None:
    log.sql("UPDATE audit SET at = at + ? WHERE n = 7", change)

    assert first(log) == ("record", 7)


def test_116_edit_a_record_with_a_hash_that_fits_it_and_the_next_one_is_named(log: AuditFolder) -> None:
    found = records(log)
    forged = msgspec.structs.replace(found[6], subject="usr_eve")
    found[6] = msgspec.structs.replace(forged, hash=hash_after(found[5].hash, forged))
    rewrite(log, found)

    assert first(log) == ("record", 8)


def test_116_edit_a_record_and_every_hash_after_it_and_a_checkpoint_tells(log: AuditFolder) -> None:
    found = records(log)
    found[6] = msgspec.structs.replace(found[6], subject="usr_eve")
    rewrite(log, found, rehash_from=7)

    report = log.verify()
    assert (report.findings[0].kind, report.findings[0].n) == ("record", 6)
    assert "Record 6 or one after it, up to 10," in report.findings[0].text


def test_116_edit_what_is_no_number_or_no_text_any_more_is_named_too(log: AuditFolder) -> None:
    log.sql("UPDATE audit SET at = 'soon', details = 'x', actor = x'ff00' WHERE n = 7")

    assert first(log) == ("record", 7)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n=st.integers(1, 20), column=st.sampled_from(COLUMNS[3:]), text=st.text(max_size=20))
def test_116_edit_anything_to_anything_else_is_named(log: AuditFolder, n: int, column: str, text: str) -> None:
    ((before,),) = log.sql(f"SELECT {column} FROM audit WHERE n = ?", n)
    if "\x00" in text or text == before:
        return
    log.sql(f"UPDATE audit SET {column} = ? WHERE n = ?", text, n)
    try:
        assert first(log) == ("record", n)
    finally:
        log.sql(f"UPDATE audit SET {column} = ? WHERE n = ?", before, n)


# ── delete, reorder, insert ──────────────────────────────────────────────────────────────────────────────────────────


def test_116_delete_a_record_and_the_gap_is_named(log: AuditFolder) -> None:
    log.sql("DELETE FROM audit WHERE n = 7")

    report = log.verify()
    assert (report.findings[0].kind, report.findings[0].n) == ("record", 7)
    assert len(report.findings) == 1


def test_116_delete_some_records_and_close_the_gap_and_the_first_is_named(log: AuditFolder) -> None:
    log.sql("DELETE FROM audit WHERE n IN (7, 8)")
    log.sql("UPDATE audit SET n = n - 2 WHERE n > 8")

    assert first(log) == ("record", 7)


def test_116_delete_a_record_and_make_the_rest_anew_and_a_checkpoint_tells(log: AuditFolder) -> None:
    found = [msgspec.structs.replace(each, n=each.n - (each.n > 7)) for each in records(log) if each.n != 7]
    rewrite(log, found, rehash_from=7)

    assert first(log) == ("record", 6)


def test_116_delete_the_beginning_without_a_statement_and_it_is_named(log: AuditFolder) -> None:
    log.sql("DELETE FROM audit WHERE n <= 3")

    assert first(log) == ("record", 1)


@pytest.mark.parametrize("elsewhere", [True, False])
def test_116_delete_everything_and_it_is_named(log: AuditFolder, *, elsewhere: bool) -> None:
    log.sql("DELETE FROM audit")
    log.sql("DELETE FROM settings")

    assert first(log, elsewhere=elsewhere) == ("end", 1)


def test_116_delete_everything_and_every_checkpoint_and_it_is_named(log: AuditFolder) -> None:
    log.sql("DROP TABLE audit")
    shutil.rmtree(log.data.audit)

    assert first(log, elsewhere=False) == ("end", 1)


def test_116_reorder_two_records_and_the_first_is_named(log: AuditFolder) -> None:
    log.sql("UPDATE audit SET n = 100 WHERE n = 7")
    log.sql("UPDATE audit SET n = 7 WHERE n = 8")
    log.sql("UPDATE audit SET n = 8 WHERE n = 100")

    assert first(log) == ("record", 7)


def test_116_reorder_what_two_records_say_but_not_their_places_and_the_first_is_named(log: AuditFolder) -> None:
    found = records(log)
    seven, eight = found[6], found[7]
    found[6] = msgspec.structs.replace(eight, n=7, at=seven.at)
    found[7] = msgspec.structs.replace(seven, n=8, at=eight.at)
    rewrite(log, found)

    assert first(log) == ("record", 7)


def test_116_insert_a_record_that_fits_its_predecessor_and_the_next_one_is_named(log: AuditFolder) -> None:
    found = records(log)
    event = AuditEvent(action="user.create", actor="usr_ana", subject="usr_eve")
    forged = place(event, Head(found[5].chain, 6, found[5].hash, found[5].at), chain=found[5].chain, at=found[5].at)
    rewrite(log, [*found[:6], forged, *(msgspec.structs.replace(each, n=each.n + 1) for each in found[6:])])

    assert first(log) == ("record", 8)


def test_116_insert_a_record_and_make_the_rest_anew_and_a_checkpoint_tells(log: AuditFolder) -> None:
    found = records(log)
    forged = msgspec.structs.replace(found[6], action="user.create")
    rewrite(log, [*found[:6], forged, *(msgspec.structs.replace(each, n=each.n + 1) for each in found[6:])], rehash_from=7)

    assert first(log) == ("record", 6)


async def test_116_insert_a_record_at_the_end_while_the_server_is_down_and_its_next_start_tells(log: AuditFolder) -> None:
    newest = records(log)[-1]
    event = AuditEvent(action="user.create", actor="usr_ana", subject="usr_eve")
    forged = place(event, Head(newest.chain, 20, newest.hash, newest.at), chain=newest.chain, at=newest.at)
    rewrite(log, [*records(log), forged])

    log.open()
    await log.auditor.begin(AuditEvent(action="server.start"))
    await log.close()

    assert records(log)[-1].details == {"unsigned": 1, "whole": True}


# ── truncate the tail ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("elsewhere", [True, False])
def test_116_truncate_the_tail_and_the_first_missing_record_is_named(log: AuditFolder, *, elsewhere: bool) -> None:
    log.sql("DELETE FROM audit WHERE n > 12")

    report = log.verify(elsewhere=elsewhere)
    assert (report.findings[0].kind, report.findings[0].n) == ("end", 13)
    assert "it reached 20" in report.findings[0].text


def test_116_truncate_the_tail_and_its_checkpoints_and_those_elsewhere_tell(log: AuditFolder) -> None:
    log.sql("DELETE FROM audit WHERE n > 10")
    for path in log.data.audit.glob("*.json"):
        if int(path.name.split("-")[1].split(".")[0]) > 10:
            path.unlink()

    assert log.verify(elsewhere=False).whole
    assert first(log) == ("end", 11)


async def test_116_truncate_the_tail_and_let_the_server_go_on_and_the_first_new_record_is_named(log: AuditFolder) -> None:
    log.sql("DELETE FROM audit WHERE n > 10")
    log.open()
    await log.auditor.begin(AuditEvent(action="server.start"))
    await log.write(14)
    await log.close()

    assert first(log) == ("record", 11)
    assert "up to 15," in log.verify().findings[0].text
    (start,) = [record for record in records(log) if record.action == "server.start"]
    assert start.details["whole"] is False


# ── swap files ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_116_swap_two_checkpoints_and_both_are_named(log: AuditFolder) -> None:
    one, two = sorted(log.data.audit.glob("*.checkpoint.json"))[:2]
    first_text, second_text = one.read_bytes(), two.read_bytes()
    one.write_bytes(second_text)
    two.write_bytes(first_text)

    report = log.verify()
    assert [finding.kind for finding in report.findings] == ["checkpoint", "checkpoint"]
    assert {path.name for path in (one, two)} == {finding.text.partition(" ")[0] for finding in report.findings}


async def test_116_swap_the_database_for_that_of_another_server_and_it_is_named(log: AuditFolder, tmp_path: Path) -> None:
    other = AuditFolder(tmp_path / "other").open()
    await other.write(20)
    await other.close()
    shutil.copy(other.data.database, log.data.database)

    assert first(log) == ("end", 1)


async def test_116_swap_the_whole_folder_for_that_of_another_server_and_the_keys_elsewhere_tell(
    log: AuditFolder, tmp_path: Path
) -> None:
    other = AuditFolder(tmp_path / "other").open()
    await other.write(20)
    await other.close()
    shutil.rmtree(log.data.root)
    shutil.copytree(other.data.root, log.data.root)

    report = log.verify()
    assert report.tampered
    assert {"end", "key"} <= {finding.kind for finding in report.findings}


async def test_116_swap_the_database_for_an_older_copy_and_what_is_missing_is_named(tmp_path: Path) -> None:
    log = AuditFolder(tmp_path / "data").open()
    await log.write(10)
    await log.close()
    shutil.copy(log.data.database, tmp_path / "old")
    log.open()
    await log.write(10)
    await log.close()
    for path in log.data.database.parent.glob("securechat.db*"):
        path.unlink()
    shutil.copy(tmp_path / "old", log.data.database)

    assert first(log) == ("end", 11)


async def test_116_swap_the_key_and_sign_everything_anew_and_the_key_elsewhere_tells(log: AuditFolder, tmp_path: Path) -> None:
    keep = tmp_path / "kept.pem"
    shutil.copy(next(log.elsewhere.glob(f"*{PUBLIC_SUFFIX}")), keep)
    found = records(log)
    found[6] = msgspec.structs.replace(found[6], subject="usr_eve")
    rewrite(log, found, rehash_from=7)
    shutil.rmtree(log.data.audit)
    (log.data.keys / AUDIT_KEY).unlink()
    log.open()
    await log.auditor.checkpoint()
    await log.close()

    assert log.verify(elsewhere=False).whole  # with the whole folder in hand, all of it can be made anew,
    assert log.verify().tampered  # but not what is elsewhere,
    assert {finding.kind for finding in log.verify(elsewhere=False, trusted=(keep,)).findings} == {"key", "checkpoint"}


@pytest.mark.parametrize("name", ["n", "hash", "at", "key", "signature", "chain"])
def test_116_edit_a_checkpoint_and_it_is_named(log: AuditFolder, name: str) -> None:
    path = sorted(log.data.audit.glob("*.checkpoint.json"))[1]
    fields = msgspec.json.decode(path.read_bytes())
    fields[name] = fields[name] + 1 if isinstance(fields[name], int) else fields[name][:-4] + "0000"
    path.write_bytes(msgspec.json.encode(fields))

    report = log.verify()
    assert report.tampered
    assert all(path.name in finding.text for finding in report.findings)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff" * 10_000, b'{"n": "x"}'])
def test_116_a_checkpoint_that_is_garbage_is_named(log: AuditFolder, text: bytes) -> None:
    path = sorted(log.data.audit.glob("*.checkpoint.json"))[1]
    path.write_bytes(text)

    assert path.name in log.verify().findings[0].text


# ── roll the clock back ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("back_s", "found"), [(3_600, True), (60, True), (1.5, False)])
async def test_116_roll_the_clock_back_and_the_first_record_after_it_is_named(
    log: AuditFolder, back_s: float, *, found: bool
) -> None:
    log.clock.ms -= int(back_s * 1_000)
    log.open()
    await log.write(5, step_s=0)
    await log.close()

    report = log.verify()
    assert report.whole is not found
    if found:
        assert (report.findings[0].kind, report.findings[0].n, report.tampered) == ("clock", 21, False)


async def test_116_roll_the_clock_back_in_small_steps_and_it_is_named(log: AuditFolder) -> None:
    log.open()
    for _ in range(4):
        log.clock.ms -= 1_500
        await log.write(1, step_s=0)
    await log.close()

    assert first(log) == ("clock", 22)


async def test_116_roll_the_clock_back_behind_a_checkpoint_and_it_is_named(log: AuditFolder) -> None:
    log.open()
    await log.write(1)
    log.clock.forward(60)
    await log.auditor.checkpoint()
    log.clock.ms -= 50_000
    await log.write(1)
    await log.close()

    assert first(log) == ("clock", 22)


# ── prune ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def pruned(tmp_path: Path) -> AuditFolder:
    """Ten old records that were pruned, ten new ones."""
    log = AuditFolder(tmp_path / "data").open()
    await log.write(10)
    log.clock.forward(10 * DAY_S)
    await log.write(10)
    removed = await log.auditor.prune(log.clock.ms - 5 * DAY_S * 1_000, AuditEvent(action="audit.prune"))
    await log.close()
    assert removed == 10
    return log


async def test_what_was_pruned_is_gone_and_the_rest_is_whole(tmp_path: Path) -> None:
    log = await pruned(tmp_path)

    assert [record.n for record in records(log)] == list(range(11, 22))
    assert log.verify().whole
    assert log.verify(elsewhere=False).whole
    newest = records(log)[-1]
    assert (newest.action, newest.details["first"], newest.details["through"]) == ("audit.prune", 1, 10)


async def test_116_delete_more_than_was_pruned_and_it_is_named(tmp_path: Path) -> None:
    log = await pruned(tmp_path)
    log.sql("DELETE FROM audit WHERE n <= 12")

    assert first(log) == ("record", 1)


async def test_116_a_statement_about_pruning_that_is_missing_or_forged_does_not_count(tmp_path: Path) -> None:
    log = await pruned(tmp_path)
    for folder in (log.data.audit, log.elsewhere):
        (statement,) = folder.glob("*.pruned.json")
        fields = msgspec.json.decode(statement.read_bytes())
        fields["until"] += 1
        statement.write_bytes(msgspec.json.encode(fields))

    assert {(finding.kind, finding.n) for finding in log.verify().findings} == {("record", 1), ("checkpoint", 10)}


async def test_116_edit_the_first_record_after_the_pruned_ones_and_it_is_named(tmp_path: Path) -> None:
    log = await pruned(tmp_path)
    log.sql("UPDATE audit SET actor = 'usr_eve' WHERE n = 11")

    assert first(log) == ("record", 11)


async def test_pruning_twice_and_pruning_nothing_leaves_a_whole_log(tmp_path: Path) -> None:
    log = (await pruned(tmp_path)).open()
    event = AuditEvent(action="audit.prune")

    assert await log.auditor.prune(log.clock.ms - 5 * DAY_S * 1_000, event) == 0
    log.clock.forward(10 * DAY_S)
    assert await log.auditor.prune(log.clock.ms, event) == 10  # the newest record stays
    assert await log.auditor.prune(log.clock.ms, event) == 1  # the record about the pruning before, which was the newest then
    assert await log.auditor.prune(log.clock.ms, event) == 0
    await log.close()
    assert log.verify().whole


async def test_a_clock_that_was_set_back_does_not_make_pruning_take_young_records(tmp_path: Path) -> None:
    log = AuditFolder(tmp_path / "data").open()
    await log.write(3)
    old = log.clock.ms
    log.clock.forward(10 * DAY_S)
    await log.write(3)
    log.clock.ms = old
    await log.write(3)
    log.clock.forward(20 * DAY_S)

    assert await log.auditor.prune(old + DAY_S * 1_000, AuditEvent(action="audit.prune")) == 3
    await log.close()
    assert not log.verify().tampered


# ── the key ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_key_of_the_audit_log_is_private_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "audit.pem"
    key = AuditKey(path)

    assert path.stat().st_mode & 0o777 == 0o600
    assert (key.created, AuditKey(path).created, AuditKey(path).id) == (True, False, key.id)


@pytest.mark.parametrize("spoil", [lambda path: path.chmod(0o644), lambda path: path.write_text("x")])
def test_a_key_that_others_can_read_or_that_is_none_is_refused(tmp_path: Path, spoil: object) -> None:
    path = tmp_path / "audit.pem"
    AuditKey(path)
    spoil(path)  # type: ignore[operator]

    with pytest.raises(Shutdown):
        AuditKey(path)


async def test_a_folder_elsewhere_that_is_away_does_not_stop_the_log(tmp_path: Path) -> None:
    log = AuditFolder(tmp_path / "data", ManualClock())
    log.elsewhere.write_text("a file, where a folder should be")
    log.open()
    await log.write(5)
    await log.close()

    assert log.verify(elsewhere=False).whole
