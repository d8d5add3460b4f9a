"""What sealing promises for a whole store: nothing moves unseen, keys change under running reads, erased is erased."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from securechat.crypto.key_provider import FileKeys
from securechat.domain.commands import StorageJob
from securechat.domain.entries import Entry, EntryType
from securechat.domain.ports import LogTransaction, SecretBox
from securechat.errors import Conflict, Internal, Shutdown, Unavailable
from securechat.store import storage_jobs
from securechat.store.database import Database
from securechat.store.factors import SqlFactors
from securechat.store.keys import KEY_LIFE_MS, KeyStore
from securechat.store.log import SqliteLog
from securechat.store.migrate import migrate
from securechat.store.old_secrets import OLD_KEY, take_over
from securechat.store.sealing import Sealing, Secrets
from securechat.store.sqlite import SqliteDatabase
from securechat.store.storage_jobs import StorageJobs
from support.fakes import ManualClock

ROOM = "rm_1"
OTHER = "rm_2"


class Store:
    """A store that can be closed and opened again on the same files."""

    def __init__(self, folder: Path, keys: Path) -> None:
        self.folder = folder
        self.clock = ManualClock()
        self.database = SqliteDatabase(folder / "securechat.db")
        self.keys = KeyStore(self.database, FileKeys(keys), self.clock)
        self.sealing = Sealing(self.keys)
        self.log = SqliteLog(self.database, sealing=self.sealing)
        self.jobs = StorageJobs(self.database, self.sealing, self.clock)

    async def switch(self, *, on: bool) -> Store:
        """Start with this setting, and work until there is nothing to do."""
        await self.jobs.start(on=on)
        await self.jobs.stop()
        await self.work()
        return self

    async def work(self, steps: int = 1_000) -> int:
        """Do at most so many steps; return how many there were."""
        done = 0
        while done < steps and (rows := self.database.rows("SELECT min(id) FROM storage_jobs WHERE finished_at IS NULL"))[0][0]:
            await self.jobs.step(rows[0][0])
            done += 1
        return done

    async def append(self, *entries: Entry) -> None:
        async def work(tx: LogTransaction) -> None:
            targets = [(each.room, each.target) for each in entries if each.target is not None]
            await tx.load(sorted({each.room for each in entries}), [], targets)
            for each in entries:
                tx.append(each)

        await self.log.commit(work)

    async def say(self, room: str, first: int, last: int, at: int = 1_000) -> None:
        await self.append(*(message(seq, room, at=at) for seq in range(first, last + 1)))

    async def texts(self, room: str = ROOM) -> list[str | None]:
        return [each.edited.body if each.edited else each.body for each in await self.entries(room)]

    async def entries(self, room: str = ROOM) -> list[Entry]:
        found: list[Entry] = []
        while page := (await self.log.page(room, after=found[-1].seq if found else 1, limit=100)).entries:
            found += page
        return found

    def write(self, sql: str, values: Sequence[object] = ()) -> None:
        """Change the database behind the server's back."""
        self.database._writer.execute(sql, values)

    def count(self, sql: str) -> int:
        return int(self.database.rows(sql)[0][0])


def message(seq: int, room: str = ROOM, **more: object) -> Entry:
    fields = {"at": 1_000, "user": "usr_ana", "body": f"text {seq}", **more}
    return Entry(type=EntryType.MESSAGE_SENT, room=room, seq=seq, device="dev_1", cmid=f"c{seq}", **fields)  # type: ignore[arg-type]


def changed(seq: int, what: EntryType, **more: object) -> Entry:
    return Entry(type=what, room=ROOM, seq=seq, at=1_000, user="usr_ana", **more)  # type: ignore[arg-type]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    (tmp_path / "data").mkdir()
    (tmp_path / "keys").mkdir(mode=0o700)
    migrate(tmp_path / "data/securechat.db")
    made = Store(tmp_path / "data", tmp_path / "keys")
    await made.keys.unlock()
    made.sealing.on = True
    for room in (ROOM, OTHER):
        await made.append(Entry(type=EntryType.ROOM_CREATED, room=room, seq=1, at=1, user="usr_ana", kind="private", name="x"))
    yield made
    await made.database.close()


async def reopened(store: Store, keys: Path | None = None) -> Store:
    await store.database.close()
    again = Store(store.folder, keys or store.folder.parent / "keys")
    store.database = again.database
    await again.keys.unlock()
    await again.jobs.load()
    return again


# ── nothing moves unseen ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "change",
    [
        "at = at + 1", "user_id = 'usr_bob'", "extra = '{\"reply_to\":2}'", "target = 2", "type = 'message.edited'",
        "sealed = (SELECT sealed FROM entries WHERE room_id = 'rm_1' AND seq = 2)",
        "sealed = (SELECT sealed FROM entries WHERE room_id = 'rm_2' AND seq = 3)",
        "sealed = CAST(substr(sealed, 1, length(sealed) - 1) || CASE substr(sealed, -1) WHEN x'00' THEN x'01' ELSE x'00' END AS BLOB)", "sealed = x'01'", "sealed = x''", "sealed = zeroblob(60)",
    ],
)  # fmt: skip
async def test_a_text_whose_row_was_changed_is_not_served_and_its_neighbours_are(store: Store, change: str) -> None:
    await store.say(ROOM, 2, 4)
    await store.say(OTHER, 2, 4)
    store.write(f"UPDATE entries SET {change} WHERE room_id = 'rm_1' AND seq = 3")

    found = await store.entries()

    assert [each.body for each in found] == ["text 2", None, "text 4"]
    assert found[1].deleted == 3
    assert store.sealing.damaged == 1


async def test_a_text_put_at_another_place_of_the_log_is_not_served(store: Store) -> None:
    await store.say(ROOM, 2, 3)
    store.write("UPDATE entries SET seq = 10 - seq WHERE seq IN (2, 3) AND room_id = 'rm_1'")

    assert await store.texts() == [None, None]


async def test_a_message_whose_edit_was_changed_does_not_show_what_was_said_before(store: Store) -> None:
    await store.say(ROOM, 2, 2)
    await store.append(changed(3, EntryType.MESSAGE_EDITED, target=2, body="better"))
    assert await store.texts() == ["better", "better"]
    store.write("UPDATE entries SET at = 7 WHERE room_id = 'rm_1' AND seq = 3")

    assert await store.texts() == [None, None]


async def test_a_wrapped_key_of_another_room_opens_nothing(store: Store) -> None:
    await store.say(ROOM, 2, 2)
    await store.say(OTHER, 2, 2)
    store.write("UPDATE room_keys SET wrapped = (SELECT wrapped FROM room_keys WHERE room_id = 'rm_2') WHERE room_id = 'rm_1'")
    again = await reopened(store)

    assert await again.texts() == [None]
    assert await again.texts(OTHER) == ["text 2"]


async def test_a_key_of_a_commit_that_failed_seals_nothing(store: Store) -> None:
    with pytest.raises(ValueError):
        await store.say(ROOM, 3, 3)
    store.database._writer.execute("CREATE TEMP TRIGGER no BEFORE INSERT ON entries BEGIN SELECT raise(ABORT, 'no'); END")
    with pytest.raises(Exception, match="no"):
        await store.say(ROOM, 2, 2)
    store.database._writer.execute("DROP TRIGGER no")
    await store.say(ROOM, 2, 2)
    again = await reopened(store)

    assert await again.texts() == ["text 2"]


async def test_a_page_may_cross_from_one_message_key_to_the_next_and_from_one_room_key_to_the_next(store: Store) -> None:
    await store.say(ROOM, 2, 1_030)
    await store.say(ROOM, 1_031, 1_040, at=1_000 + KEY_LIFE_MS)
    page = await (await reopened(store)).log.page(ROOM, after=1_000, limit=100)

    assert [each.body for each in page.entries] == [f"text {seq}" for seq in range(1_001, 1_041)]


# ── keys change ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_room_gets_a_new_key_after_thirty_days_and_the_old_one_still_opens(store: Store) -> None:
    await store.say(ROOM, 2, 3)
    await store.say(ROOM, 4, 4, at=1_000 + KEY_LIFE_MS)
    await store.say(ROOM, 5, 6, at=1_001 + KEY_LIFE_MS)
    again = await reopened(store)

    assert store.count("SELECT count(*) FROM room_keys") == 2
    assert await again.texts() == [f"text {seq}" for seq in range(2, 7)]


async def test_switching_on_seals_what_is_there_and_switching_off_opens_it(store: Store) -> None:
    store.sealing.on = False
    await store.say(ROOM, 2, 900)
    await store.append(changed(901, EntryType.MESSAGE_EDITED, target=2, body="CANARY"))
    await store.append(changed(902, EntryType.MESSAGE_DELETED, target=3))
    before = await store.entries()

    await store.switch(on=True)

    assert store.count("SELECT count(*) FROM entries WHERE body IS NOT NULL") == 0
    assert store.count("SELECT count(*) FROM entries WHERE sealed IS NOT NULL") == 899
    assert await store.entries() == before
    assert b"CANARY" not in b"".join(path.read_bytes() for path in store.folder.iterdir())

    again = await (await reopened(store)).switch(on=False)

    assert again.count("SELECT count(*) FROM entries WHERE sealed IS NOT NULL") == 0
    assert await again.entries() == before


async def test_a_job_goes_on_where_it_was_and_new_texts_are_in_the_new_form(store: Store) -> None:
    store.sealing.on = False
    await store.say(ROOM, 2, 901)
    await store.jobs.start(on=True)
    await store.jobs.stop()
    assert await store.work(2) == 2
    half = store.count("SELECT count(*) FROM entries WHERE sealed IS NOT NULL")
    again = await reopened(store)
    assert again.sealing.on
    await again.say(ROOM, 902, 903)

    (job,) = [job for job in (await again.jobs.status()).jobs if job.finished_at is None]
    assert (job.kind, job.done, job.total) == ("seal", half, 900)
    assert 0 < half < 900
    await again.work()

    assert again.count("SELECT count(*) FROM entries WHERE sealed IS NOT NULL") == 902
    assert await again.texts() == [f"text {seq}" for seq in range(2, 904)]


async def test_a_rotation_wraps_every_key_anew_and_touches_no_text(store: Store) -> None:
    await store.say(ROOM, 2, 3)
    await store.say(OTHER, 2, 3)
    before = store.database.rows("SELECT sealed FROM entries ORDER BY room_id, seq")
    await store.jobs.rotate(messages=False)
    await store.work()

    status = await store.jobs.status()

    assert (status.kek, status.org_key, status.room_keys) == (2, 2, 2)
    assert store.count("SELECT count(*) FROM room_keys WHERE org_version <> 2") == 0
    assert store.count("SELECT count(*) FROM org_keys WHERE kek <> 2") == 0
    assert store.database.rows("SELECT sealed FROM entries ORDER BY room_id, seq") == before
    (store.folder.parent / "keys/kek-1.key").unlink()
    assert await (await reopened(store)).texts() == ["text 2", "text 3"]


async def test_a_rotation_with_messages_leaves_nothing_that_an_old_key_opens(store: Store) -> None:
    await store.say(ROOM, 2, 700)
    before = {row[0] for row in store.database.rows("SELECT wrapped FROM room_keys")}
    await store.jobs.rotate(messages=True)
    await store.work(3)
    await store.say(ROOM, 701, 702)
    await store.work()

    assert store.count("SELECT count(*) FROM room_keys") == 1
    assert store.count("SELECT count(*) FROM entries WHERE sealed IS NOT NULL AND hex(substr(sealed, 2, 4)) <> '00000002'") == 0
    assert await (await reopened(store)).texts() == [f"text {seq}" for seq in range(2, 703)]
    files = b"".join(path.read_bytes() for path in store.folder.iterdir())
    assert not any(wrapped in files for wrapped in before)


@pytest.mark.parametrize("error", [Unavailable("The disk is full."), ValueError("a mistake of ours")], ids=["disk", "mistake"])
async def test_a_job_that_breaks_is_seen_and_tried_again_until_it_is_done(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    monkeypatch.setattr(storage_jobs, "RETRY_S", 0.001)
    await store.say(ROOM, 2, 10)
    jobs, step = store.jobs, store.jobs.step
    seen: list[str] = []

    async def broken(job_id: int, part: Database | None = None) -> None:
        seen.append((await jobs.status()).problem)
        if len(seen) <= 3:
            raise error
        await step(job_id, part)

    monkeypatch.setattr(jobs, "step", broken)
    await jobs.start(on=True)  # The job that seals what is there.
    async with asyncio.timeout(10):
        while (await jobs.status()).jobs[0].finished_at is None or jobs.problem:
            await asyncio.sleep(0.001)
    await jobs.stop()

    word = "waits: The disk is full." if isinstance(error, Unavailable) else "ValueError"
    assert seen[0] == ""
    assert all(word in each for each in seen[1:4])
    assert jobs.problem == ""
    assert len([each for each in caplog.records if "storage job" in each.message]) >= 3


async def test_the_pauses_of_a_job_that_breaks_grow_and_stopping_does_not_wait_for_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = [store.jobs._trouble(ValueError(), tries) for tries in range(1, 40)]

    assert pauses[:3] == [5, 10, 20]
    assert pauses[-1] == storage_jobs.RETRY_MOST_S

    async def broken(_job_id: int, _part: Database | None = None) -> None:
        raise ValueError

    monkeypatch.setattr(store.jobs, "step", broken)
    await store.jobs.start(on=True)
    async with asyncio.timeout(10):
        while not store.jobs.problem:
            await asyncio.sleep(0.001)
        await store.jobs.stop()  # In the middle of a pause of seconds.


async def test_damaged_texts_keep_their_old_key_and_are_counted(store: Store) -> None:
    await store.say(ROOM, 2, 4)
    store.write("UPDATE entries SET at = 7 WHERE seq = 3 AND room_id = 'rm_1'")
    await store.jobs.rotate(messages=True)
    await store.work()

    assert [(job.kind, job.done, job.damaged) for job in (await store.jobs.status()).jobs] == [("reseal", 2, 1), ("rewrap", 1, 0)]
    store.write("UPDATE entries SET at = 1000 WHERE seq = 3 AND room_id = 'rm_1'")
    assert await store.texts() == ["text 2", "text 3", "text 4"]


async def test_one_rotation_at_a_time(store: Store) -> None:
    await store.say(ROOM, 2, 2)
    await store.jobs.rotate(messages=False)

    with pytest.raises(Conflict):
        await store.jobs.rotate(messages=False)


async def test_a_newer_key_file_is_taken_at_the_start(store: Store) -> None:
    await store.say(ROOM, 2, 2)
    FileKeys(store.folder.parent / "keys").create()
    again = await reopened(store)

    assert again.count("SELECT count(*) FROM org_keys WHERE kek <> 2") == 0
    (store.folder.parent / "keys/kek-1.key").unlink()
    assert await (await reopened(store)).texts() == ["text 2"]


async def test_without_the_right_key_nothing_starts(store: Store, tmp_path: Path) -> None:
    await store.say(ROOM, 2, 2)
    wrong = tmp_path / "wrong"
    wrong.mkdir(mode=0o700)

    with pytest.raises(Unavailable, match="missing"):
        await reopened(store, wrong)
    FileKeys(wrong).create()
    with pytest.raises(Unavailable, match="not the key"):
        await reopened(store, wrong)
    assert await (await reopened(store)).texts() == ["text 2"]


# ── erased is erased ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_shredded_room_keeps_its_order_and_nothing_that_was_said(store: Store) -> None:
    await store.say(ROOM, 2, 400)
    await store.say(OTHER, 2, 3)
    await store.append(changed(401, EntryType.MESSAGE_EDITED, target=2, body="better"))
    await store.append(changed(402, EntryType.REACTION_ADDED, target=3, emoji="👍"))
    (wrapped,) = [row[0] for row in store.database.rows("SELECT wrapped FROM room_keys WHERE room_id = 'rm_1'")]
    sealed = [row[0] for row in store.database.rows("SELECT sealed FROM entries WHERE room_id = 'rm_1' AND sealed IS NOT NULL")]
    await store.append(changed(403, EntryType.ROOM_ERASED))

    at_once = await store.entries()
    await store.work()
    found = await store.entries()

    assert found == at_once
    assert [each.seq for each in found] == list(range(2, 404))
    assert {(each.body, each.deleted, each.edited, each.reactions) for each in found[:400]} == {(None, 403, None, None)}
    assert (found[-1].type, found[-1].deleted) == (EntryType.ROOM_ERASED, None)
    assert await store.texts(OTHER) == ["text 2", "text 3"]
    files = b"".join(path.read_bytes() for path in store.folder.iterdir())
    assert wrapped not in files
    assert not any(each in files for each in sealed)
    assert store.count("SELECT count(*) FROM room_keys WHERE destroyed_at = 1000 AND erased_seq = 403 AND wrapped IS NULL") == 1
    await store.say(ROOM, 404, 405)
    assert (await (await reopened(store)).texts())[-2:] == ["text 404", "text 405"]


async def test_what_is_said_in_the_same_commit_after_a_room_was_shredded_stays(store: Store) -> None:
    await store.append(message(2), changed(3, EntryType.ROOM_ERASED), message(4))
    await store.work()

    assert await store.texts() == [None, None, "text 4"]
    assert await (await reopened(store)).texts() == [None, None, "text 4"]


async def test_a_room_that_was_never_sealed_is_erased_too(store: Store) -> None:
    store.sealing.on = False
    await store.append(message(2, body="CANARY"), message(3))
    await store.append(changed(4, EntryType.ROOM_ERASED))
    await store.say(ROOM, 5, 5)
    await store.work()

    assert await store.texts() == [None, None, None, "text 5"]
    assert b"CANARY" not in b"".join(path.read_bytes() for path in store.folder.iterdir())


async def test_a_room_that_was_never_sealed_is_served_as_erased_from_the_commit_on(store: Store) -> None:
    store.sealing.on = False
    await store.say(ROOM, 2, 4)
    await store.append(changed(5, EntryType.MESSAGE_EDITED, target=2, body="better"), message(6))
    await store.append(changed(7, EntryType.REACTION_ADDED, target=3, emoji="👍"))
    await store.append(changed(8, EntryType.ROOM_ERASED), message(9))
    at_once = await store.entries()
    told: list[object] = []

    async def look(tx: LogTransaction) -> None:
        await tx.load([ROOM], [(ROOM, "dev_1", "c6")], [(ROOM, 2), (ROOM, 9)])
        for each in (tx.target((ROOM, 2)), tx.target((ROOM, 9)), tx.sent((ROOM, "dev_1", "c6"))):
            assert each is not None
            told.append((each.body, each.edited, each.deleted))

    await store.log.commit(look)
    await store.work()

    assert told == [(None, None, 8), ("text 9", None, None), (None, None, 8)]
    assert [each.body for each in at_once] == [None] * 7 + ["text 9"]
    assert at_once == await store.entries()


async def test_shredding_reaches_backups_once_their_key_file_is_gone(store: Store, tmp_path: Path) -> None:
    """A copy from before holds the room's key, wrapped. It is gone when the key-encryption key of that time is."""
    await store.say(ROOM, 2, 2)
    backup, keys = tmp_path / "backup", tmp_path / "keys"
    backup.mkdir()
    await store.database.backup(backup / "securechat.db")
    await store.append(changed(3, EntryType.ROOM_ERASED))
    await store.work()
    old = Store(backup, keys)
    await old.keys.unlock()
    assert await old.texts() == ["text 2"]
    await old.database.close()
    shutil.copy(backup / "securechat.db", tmp_path / "copy")

    await store.jobs.rotate(messages=False)
    await store.work()
    (keys / "kek-1.key").unlink()

    old = Store(backup, keys)
    with pytest.raises(Unavailable, match=r"kek-1\.key is missing"):
        await old.keys.unlock()
    await old.database.close()


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_secret_is_readable_for_its_owner_after_any_rotation(store: Store) -> None:
    secrets = Secrets(store.keys)
    sealed = secrets.seal(b"JBSWY3DP", purpose="totp", owner="usr_1")
    assert secrets.is_current(sealed)
    await store.jobs.rotate(messages=True)
    await store.work()
    again = Secrets((await reopened(store)).keys)

    assert again.open(sealed, purpose="totp", owner="usr_1") == b"JBSWY3DP"
    assert not again.is_current(sealed)
    for purpose, owner in (("totp", "usr_2"), ("oidc", "usr_1")):
        assert again.try_open(sealed, purpose=purpose, owner=owner) is None
        with pytest.raises(Internal):
            again.open(sealed, purpose=purpose, owner=owner)


async def test_a_box_opens_nothing_that_was_changed(store: Store) -> None:
    box: SecretBox = Secrets(store.keys)
    sealed = box.seal(b"secret", purpose="ticket:add", owner="")

    assert box.open(sealed, purpose="ticket:add", owner="") == b"secret"
    assert box.seal(b"secret", purpose="ticket:add", owner="") != sealed
    assert b"secret" not in sealed
    changed = [bytes([*sealed[:at], sealed[at] ^ 1, *sealed[at + 1 :]]) for at in range(len(sealed))]
    for each in [*changed, b"", sealed[:-1], sealed + b"x", b"\x01" * 40]:
        assert box.try_open(each, purpose="ticket:add", owner="") is None


def sealed_by_an_earlier_version(key: bytes, user_id: str, secret: bytes) -> bytes:
    """Return a secret as versions before 0.1.0 stored it: one byte, the nonce, AES-256-GCM under `keys/secrets.key`."""
    return b"\x01" + b"n" * 12 + AESGCM(key).encrypt(b"n" * 12, secret, f"totp:{user_id}".encode())


async def test_secrets_of_earlier_versions_are_taken_over_once(store: Store) -> None:
    factors, box, path = SqlFactors(store.database), Secrets(store.keys), store.folder / OLD_KEY
    assert await take_over(store.database, box, path) == 0
    path.write_bytes(b"k" * 32)
    await factors.set_totp("usr_1", sealed_by_an_earlier_version(b"k" * 32, "usr_1", b"JBSWY3DP"), 7, 1)
    await factors.set_totp("usr_2", box.seal(b"taken over before", purpose="totp", owner="usr_2"), 7, 1)
    await factors.set_totp("usr_3", sealed_by_an_earlier_version(b"x" * 32, "usr_3", b"of another key"), 7, 1)

    assert await take_over(store.database, box, path) == 1
    assert not path.exists()
    found = [await factors.totp(f"usr_{number}") for number in (1, 2, 3)]
    opened = [each and box.try_open(each.sealed_secret, purpose="totp", owner=f"usr_{at}") for at, each in enumerate(found, 1)]
    assert opened == [b"JBSWY3DP", b"taken over before", None]
    assert [each and each.last_step for each in found] == [7, 7, 7]


async def test_a_damaged_old_key_stops_the_start_and_stays(store: Store) -> None:
    path = store.folder / OLD_KEY
    path.write_bytes(b"short")
    with pytest.raises(Shutdown, match="Restore it from a backup"):
        await take_over(store.database, Secrets(store.keys), path)
    assert path.exists()


async def test_jobs_of_a_setting_that_changed_again_are_given_up(store: Store) -> None:
    store.sealing.on = False
    await store.say(ROOM, 2, 500)
    await store.jobs.start(on=True)
    await store.jobs.stop()
    await store.work(1)
    again = await reopened(store)
    await again.switch(on=False)

    jobs: list[StorageJob] = (await again.jobs.status()).jobs
    assert [job.kind for job in jobs] == ["unseal", "seal"]
    assert all(job.finished_at is not None for job in jobs)
    assert await again.texts() == [f"text {seq}" for seq in range(2, 501)]
    assert again.count("SELECT count(*) FROM entries WHERE sealed IS NOT NULL") == 0
