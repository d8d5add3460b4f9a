"""A server on PostgreSQL, and the way there from SQLite."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw
import httpx2 as httpx
import pytest

from securechat.domain import commands as c
from securechat.domain.secret import Secret
from securechat.errors import Conflict, Shutdown
from securechat.server.audit import verify_folder
from securechat.server.datadir import DataDir
from support.postgres import Postgres, running
from support.running import RunningServer, clean_environment, wait_until


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with running() as found:
        yield found


def securechat(*arguments: str, url: str = "", status: int = 0) -> str:
    environment = clean_environment() | ({"SECURECHAT_DATABASE_URL": url} if url else {})
    done = subprocess.run(
        [sys.executable, "-m", "securechat", *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def speak(server: RunningServer) -> tuple[str, str]:
    token = server.set_up()["access_token"]
    room = server.room("ops", server.request("GET", "/me", None, token)["user"]["id"])
    for number in range(5):
        server.post(f"/rooms/{room}/messages", {"cmid": f"c{number}", "body": f"text {number}"}, token)
    server.request("PATCH", f"/rooms/{room}/messages/3", {"body": "better"}, token)
    return token, room


def page(server: RunningServer, token: str, room: str) -> object:
    return server.request("GET", f"/rooms/{room}/entries?limit=100", None, token)["entries"]


@pytest.mark.timeout(180)
def test_a_server_runs_on_postgresql_with_one_setting(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.url(postgres.new_database())
    server = RunningServer(tmp_path / "data", settings={"database_url": url}).start()
    try:
        assert "db postgresql" in server.banner
        token, room = speak(server)
        shown = page(server, token, room)
        app = server.operator().perform(c.AppCreate(name="Poll bot", scopes=["profile"], device_flow=True))
        assert [each.id for each in server.operator().perform(c.AppList()).apps] == [app.app.id]
        made = server.post("/tokens", {"name": "script", "scopes": ["rooms:read", "messages:read"]}, token)
        assert page(server, made["secret"], room) == shown
        server.request("DELETE", f"/tokens/{made['token']['id']}", None, token)
        server.request("GET", f"/rooms/{room}/entries", None, made["secret"], status=401)
        with pytest.raises(Conflict, match="pg_dump"):
            server.operator().perform(c.BackupCreate(path=str(tmp_path / "one.tar.gz")))
        doctor = securechat("doctor", "--data", str(server.data), url=url)
        assert "postgresql, schema" in doctor
        assert "chain and" in doctor
        postgres.stop()
        wait_until(lambda: httpx.get(f"{server.url}/readyz", trust_env=False).status_code == 503, "not ready")
        postgres.start()
        wait_until(lambda: _sends(server, token, room), "sends again")
        server.stop()
        assert not (server.data / "securechat.db").exists()
        with pytest.raises(Shutdown, match="PostgreSQL"):
            server.operator().perform(c.ServerStatus())
        server.start()
        assert page(server, token, room)[: len(shown)] == shown  # type: ignore[index,arg-type]
    finally:
        server.stop()


def _sends(server: RunningServer, token: str, room: str) -> bool:
    try:
        server.post(f"/rooms/{room}/messages", {"cmid": "again", "body": "again"}, token)
    except AssertionError:
        return False
    return True


@pytest.mark.timeout(180)
def test_everything_is_copied_to_postgresql_and_compared(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.url(postgres.new_database())
    server = RunningServer(tmp_path / "data", settings={"at_rest": "on"}).start()
    token, room = speak(server)
    shown = page(server, token, room)
    script = server.post("/tokens", {"name": "script", "scopes": ["messages:read"]}, token)["secret"]
    app = server.operator().perform(c.AppCreate(name="Poll bot", scopes=["profile"], device_flow=True)).app
    server.stop()
    _link(server.data / "securechat.db")

    report = json.loads(securechat("db", "copy", "--to", url, "--data", str(server.data), "--json"))
    assert all(each["sha256"] == each["sha256_there"] and each["rows"] == each["there"] for each in report)
    assert {each["table"]: each["rows"] for each in report}["entries"] >= 7
    assert "not empty" in securechat("db", "copy", "--to", url, "--data", str(server.data), status=2)
    assert "up to date" in securechat("db", "status", "--data", str(server.data), url=url)

    (server.data / "securechat.db").rename(tmp_path / "away.db")
    there = RunningServer(server.data, settings={"at_rest": "on", "database_url": url}).start()
    try:
        assert page(there, token, room) == page(there, script, room) == shown
        assert there.operator().perform(c.AppList()).apps == [app]
        taken = postgres.sql("SELECT kind || ' ' || key FROM names ORDER BY kind", url.rpartition("/")[2].partition("?")[0])
        assert taken == "external https://id.example 123\nroom ops\nusername ana"
        there.post(f"/rooms/{room}/messages", {"cmid": "new", "body": "new"}, token)
        assert verify_folder(DataDir(server.data), url=Secret(url)).whole
    finally:
        there.stop()


@pytest.mark.timeout(180)
def test_a_copy_that_is_not_the_same_is_told_by_table_and_room_and_nothing_is_kept(tmp_path: Path, postgres: Postgres) -> None:
    name = postgres.new_database()
    url = postgres.url(name)
    securechat("db", "migrate", "--data", str(tmp_path / "none"), url=url)
    postgres.sql(
        "CREATE FUNCTION damage() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.body := 'other'; RETURN NEW; END $$;"
        " CREATE TRIGGER damage BEFORE INSERT ON entries FOR EACH ROW WHEN (NEW.body = 'text 3') EXECUTE FUNCTION damage()",
        name,
    )
    server = RunningServer(tmp_path / "data").start()
    _, room = speak(server)
    server.stop()

    told = securechat("db", "copy", "--to", url, "--data", str(server.data), status=2)
    assert f"entries (8 rows, 8 there) in {room}. Nothing was kept" in " ".join(told.split())
    assert postgres.sql("SELECT (SELECT count(*) FROM entries) + (SELECT count(*) FROM users)", name) == "0"
    postgres.sql("DROP TRIGGER damage ON entries", name)
    assert "Everything is there" in securechat("db", "copy", "--to", url, "--data", str(server.data))


def _link(path: Path) -> None:
    """Link the account to one at another provider."""
    database = apsw.Connection(str(path))
    database.execute(
        "INSERT INTO externals (id, user_id, issuer, subject, name, created_at, last_used_at)"
        " SELECT 'ext_1', id, 'https://id.example', '123', 'Ana', 1, 0 FROM users"
    )
    database.close()
