"""From every schema of before to this one, with what is in it; and beside servers of the release before."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import apsw
import asyncpg
import pytest

from securechat.domain.entries import EntryType
from securechat.domain.ports import LogTransaction
from securechat.errors import Shutdown
from securechat.store import migrate as migrate_module
from securechat.store import postgres as postgres_module
from securechat.store.migrate import HEAD, current, migrate, statements
from securechat.store.postgres import current_postgres, migrate_postgres, open_postgres
from support.postgres import Postgres
from support.stores import Place

OLDEST = "0001"
FIRST_EXPANDING = "0009"
"""From this migration on, servers of the release before may be running."""
_CONTRACTS = re.compile(
    r"\bDROP\s+(TABLE|COLUMN|FUNCTION|INDEX|CONSTRAINT)|\bRENAME\b|\bALTER\s+(COLUMN\s+)?\w+\s+(SET\s+DATA\s+)?TYPE\b"
    r"|\bSET\s+NOT\s+NULL|\bADD\s+(CONSTRAINT|UNIQUE|PRIMARY|FOREIGN|CHECK)|\bTRUNCATE\b",
    re.IGNORECASE,
)


_SAID = """
INSERT INTO users (id, username, display_name, name_key, role, password_hash, created_at)
  VALUES ('usr_ana', 'ana', 'Ana', 'ana', 'owner', 'h', 1);
INSERT INTO devices (id, user_id, name, address, created_at, last_seen_at, refreshed_at) VALUES ('dev_1', 'usr_ana', 'x', '', 1, 1, 1);
INSERT INTO rooms (id, kind, name, name_key, topic, created_at) VALUES ('rm_1', 'public', 'Ops', 'ops', 't', 1);
INSERT INTO members (room_id, user_id, role) VALUES ('rm_1', 'usr_ana', 'owner');
INSERT INTO entries (room_id, seq, type, at, user_id, device_id, cmid, target, body, extra, edit_seq) VALUES
  ('rm_1', 1, 'room.created', 1, 'usr_ana', NULL, NULL, NULL, NULL, '{"kind":"public","name":"Ops","topic":"t"}', NULL),
  ('rm_1', 2, 'member.joined', 2, 'usr_ana', NULL, NULL, NULL, NULL, '{"member":"usr_ana","role":"owner"}', NULL),
  ('rm_1', 3, 'message.sent', 3, 'usr_ana', 'dev_1', 'c1', NULL, 'first', NULL, 4),
  ('rm_1', 4, 'message.edited', 4, 'usr_ana', 'dev_1', NULL, 3, 'better', NULL, NULL);
INSERT INTO reactions (room_id, seq, emoji, user_id, added_seq) VALUES ('rm_1', 3, '👍', 'usr_ana', 4);
INSERT INTO reads (user_id, room_id, read_seq) VALUES ('usr_ana', 'rm_1', 3);
INSERT INTO settings (key, value) VALUES ('server_name', 'Old');
"""
"""What people said and are under the oldest schema."""


def refused(sql: str) -> list[str]:
    """Return what in a migration the servers of the release before would not survive."""
    found = [match[0] for match in _CONTRACTS.finditer(sql)]
    made = {name.lower() for name in re.findall(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)", sql, re.IGNORECASE)}
    added = re.findall(r"ADD COLUMN [^;,]*", sql, re.IGNORECASE)
    unique = re.findall(r"CREATE UNIQUE INDEX \w+ ON (\w+)", sql, re.IGNORECASE)
    found += [each for each in added if "NOT NULL" in each.upper() and "DEFAULT" not in each.upper()]
    return found + [f"UNIQUE INDEX on {table}" for table in unique if table.lower() not in made]


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE rooms DROP COLUMN topic",
        "DROP TABLE links",
        "ALTER TABLE rooms RENAME topic TO subject",
        "ALTER TABLE rooms ADD COLUMN x bigint NOT NULL",
        "ALTER TABLE rooms ALTER COLUMN topic TYPE bytea",
        "ALTER TABLE rooms ALTER topic SET NOT NULL",
        "CREATE UNIQUE INDEX one ON rooms (id, name_key)",
        "ALTER TABLE rooms ADD CONSTRAINT c CHECK (id <> '')",
    ],
)
def test_what_takes_something_away_is_refused(sql: str) -> None:
    assert refused(sql)


def test_migrations_only_add(monkeypatch: pytest.MonkeyPatch) -> None:
    """What servers of the release before read and write stays; what they leave out has a default."""
    versions = Path(migrate_module.__file__).parent / "migrations/versions"
    newer = sorted(path.name[:4] for path in versions.glob("0*.py") if path.name[:4] >= FIRST_EXPANDING)
    assert newer
    before = max(path.name[:4] for path in versions.glob("0*.py") if path.name[:4] < FIRST_EXPANDING)
    for name in newer:
        monkeypatch.setattr(migrate_module, "HEAD", name)
        assert refused(statements(before)) == [], name
        before = name


async def test_what_was_said_under_the_oldest_schema_is_there(tmp_path: Path) -> None:
    place = Place(tmp_path, None)
    migrate(place.path, OLDEST)
    old = apsw.Connection(str(place.path))
    old.execute(_SAID)
    old.close()
    found = await place.open()
    await found.keys.unlock()
    try:
        assert current(place.path) == HEAD
        page = await found.log.page("rm_1", limit=9)
        assert [(each.seq, each.body) for each in page.entries] == [(1, None), (2, None), (3, "first"), (4, "better")]
        edited = page.entries[2].edited
        assert edited is not None
        assert (edited.body, page.entries[2].reactions) == ("better", {"👍": ["usr_ana"]})
        (head,) = (await found.log.heads("usr_ana")).rooms
        assert (head.name, head.last_seq, head.read_seq) == ("Ops", 4, 3)
        account = await found.accounts.account(username="ana")
        assert account is not None
        assert account.password_hash == "h"
        assert await found.accounts.setting("server_name") == "Old"

        async def again(tx: LogTransaction) -> int | None:
            await tx.load(["rm_1"], [("rm_1", "dev_1", "c1")], [])
            earlier = tx.sent(("rm_1", "dev_1", "c1"))
            return earlier.seq if earlier is not None and earlier.type is EntryType.MESSAGE_SENT else None

        assert await found.log.commit(again) == 3
    finally:
        await found.database.close()


@pytest.mark.slow
async def test_a_migration_lets_others_pass_while_it_waits(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_module, "MIGRATE_LOCK_MS", 50)
    monkeypatch.setattr(postgres_module, "MIGRATE_PAUSE_S", 0.05)
    name = await asyncio.to_thread(postgres.new_database)
    url = postgres.url(name)
    monkeypatch.setattr(postgres_module, "HEAD", "0008")
    monkeypatch.setattr(migrate_module, "HEAD", "0008")
    await migrate_postgres(url)
    monkeypatch.undo()
    monkeypatch.setattr(postgres_module, "MIGRATE_LOCK_MS", 50)
    monkeypatch.setattr(postgres_module, "MIGRATE_PAUSE_S", 0.05)
    monkeypatch.setattr(
        postgres_module, "statements", lambda _have: "LOCK TABLE rooms IN ACCESS EXCLUSIVE MODE;" + statements("0008")
    )
    busy = await asyncpg.connect(url)
    other = await asyncpg.connect(url)
    try:
        transaction = busy.transaction()
        await transaction.start()
        await busy.fetch("SELECT * FROM rooms")
        migrating = asyncio.create_task(migrate_postgres(url))
        for _ in range(20):
            await other.fetch("SELECT * FROM rooms", timeout=2)  # It never waits longer than the migration does.
        assert not migrating.done()
        await transaction.rollback()
        assert await migrating == "0008"
        assert await current_postgres(url) == HEAD
    finally:
        await busy.close()
        await other.close()


@pytest.mark.slow
async def test_a_server_of_before_goes_on_with_a_newer_schema_that_serves_it(postgres: Postgres) -> None:
    name = await asyncio.to_thread(postgres.new_database)
    url = postgres.url(name)
    await migrate_postgres(url)
    database = await open_postgres(url)
    await database.close()

    for serves, starts in ((HEAD, True), ("0500", False)):
        postgres.sql(
            f"UPDATE alembic_version SET version_num = '0500'; COMMENT ON TABLE alembic_version IS 'serves {serves}'", name
        )
        if starts:
            await (await open_postgres(url)).close()
        else:
            with pytest.raises(Shutdown, match="newer"):
                await open_postgres(url)
