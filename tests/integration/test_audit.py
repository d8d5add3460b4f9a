"""The audit log of a real server: what is remembered, who may read it, the command line."""

from __future__ import annotations

import csv
import io
import json
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import httpx2 as httpx
import pyotp
import pytest

from securechat.cli.audit import cell
from securechat.domain import commands as c
from securechat.domain.audit import AuditEvent
from securechat.domain.secret import Secret
from securechat.errors import Forbidden
from securechat.sdk.client import ChatClient
from securechat.server.audit import verify_folder
from securechat.server.datadir import DataDir
from securechat.server.identity import IdentityKeys
from securechat.store.audit import SqlAudit
from securechat.store.factors import SqlFactors
from securechat.store.migrate import migrate
from securechat.store.sqlite import SqliteDatabase
from support.running import PASSWORD, SECURECHAT, RunningServer, clean_environment, command_line, wait_until
from support.totp import earlier_code


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    """A server that has never been started before: its log is empty."""
    running = RunningServer(tmp_path / "data").start()
    yield running
    running.stop()


def records(server: RunningServer, **query: Any) -> list[Any]:
    """Return the records, the oldest first."""
    found: list[Any] = []
    after: int | None = 0
    while after is not None:
        page: c.AuditPage = server.operator().perform(c.AuditList(after=after, limit=200, **query))
        found += page.records
        after = page.next
    return found


def actions(server: RunningServer, **query: Any) -> list[str]:
    return [record.action for record in records(server, **query)]


def run(*words: str, server: RunningServer, status: int = 0) -> str:
    found = command_line("audit", *words, "--data", str(server.data))
    assert found.returncode == status, found.stdout + found.stderr
    return found.stdout


def story(server: RunningServer, names: dict[str, str], since: int) -> list[tuple[str, ...]]:
    """Return what was remembered after a place, with names for ids."""
    return [
        (r.action, r.result, *(names.get(each, each) for each in (r.actor, r.subject, r.room)), r.address)
        for r in records(server)
        if r.n > since
    ]


def newest(server: RunningServer) -> int:
    return int(records(server)[-1].n)


# ── what is remembered ───────────────────────────────────────────────────────────────────────────────────────────────

HERE = "127.0.0.1"


def test_how_people_come_in_and_go_is_remembered(server: RunningServer) -> None:
    ana = server.set_up()
    bob = server.invite("bob")
    names = {ana["user"]["id"]: "ana", bob["user"]["id"]: "bob", "usr_operator": "operator"}

    assert story(server, names, 0) == [
        ("key.create", "done", "", "", "", "server"),
        ("server.start", "done", "", "", "", "server"),
        ("identity.add", "done", "", "", "", "server"),
        ("setup.link", "done", "operator", "", "", "server"),
        ("setup.complete", "done", "ana", "", "", HERE),
        ("session.create", "done", "ana", "", "", HERE),
        ("invite.create", "done", "operator", "", "", "local"),
        ("account.register", "done", "bob", "", "", HERE),
        ("session.create", "done", "bob", "", "", HERE),
    ]
    invited, registered = records(server)[6], records(server)[7]
    assert invited.details["invite"] == registered.details["invite"]

    since = newest(server)
    server.request("POST", "/sessions", {"username": "bob", "password": "wrong wrong"}, status=401)
    server.request("POST", "/sessions", {"username": "nobody", "password": "wrong wrong"}, status=401)
    laptop = server.post("/sessions", {"username": "bob", "password": PASSWORD})
    server.request("DELETE", f"/devices/{laptop['device']}", token=bob["access_token"])
    phone = server.post("/sessions", {"username": "bob", "password": PASSWORD})
    server.request("DELETE", "/sessions/current", token=phone["access_token"])
    first = server.post("/sessions", {"username": "bob", "password": PASSWORD})
    second = server.post("/sessions/refresh", {"refresh_token": first["refresh_token"]})
    server.post("/sessions/refresh", {"refresh_token": second["refresh_token"]})
    server.request("POST", "/sessions/refresh", {"refresh_token": first["refresh_token"]}, status=401)
    server.stop()
    server.start()

    assert story(server, names, since)[:9] == [
        ("session.create", "refused", "", "bob", "", HERE),
        ("session.create", "refused", "", "", "", HERE),
        ("session.create", "done", "bob", "", "", HERE),
        ("device.revoke", "done", "bob", "bob", "", HERE),
        ("session.create", "done", "bob", "", "", HERE),
        ("session.delete", "done", "bob", "", "", HERE),
        ("session.create", "done", "bob", "", "", HERE),
        ("session.reuse", "refused", "", "bob", "", HERE),
        ("session.refresh", "refused", "", "bob", "", HERE),
    ]
    assert [(r.action, r.details) for r in records(server)[-2:]] == [
        ("server.stop", {}),
        ("server.start", {"unsigned": 0, "version": "0.1.0", "whole": True}),
    ]
    assert {r.device for r in records(server) if r.action == "session.delete"} == {phone["device"]}


def test_what_is_done_to_rooms_by_others_is_remembered_and_messages_are_not(server: RunningServer) -> None:
    ana, bob = server.set_up(), server.invite("bob")
    names = {ana["user"]["id"]: "ana", bob["user"]["id"]: "bob"}
    since = newest(server)
    room = server.post("/rooms", {"name": "secret-name", "kind": "private"}, ana["access_token"])["id"]
    names[room] = "room"
    server.request("PATCH", f"/rooms/{room}", {"topic": "secret-topic"}, ana["access_token"])
    for _ in range(2):
        server.request("PUT", f"/rooms/{room}/members/{bob['user']['id']}", {}, ana["access_token"])
    sent = server.post(f"/rooms/{room}/messages", {"cmid": "1", "body": "secret-body"}, bob["access_token"])
    own = server.post(f"/rooms/{room}/messages", {"cmid": "2", "body": "mine"}, bob["access_token"])
    server.request("DELETE", f"/rooms/{room}/messages/{own['seq']}", token=bob["access_token"])
    other = server.post(f"/rooms/{room}/messages", {"cmid": "3", "body": "mine"}, ana["access_token"])
    server.request("DELETE", f"/rooms/{room}/messages/{other['seq']}", token=bob["access_token"], status=403)
    server.request("DELETE", f"/rooms/{room}/messages/{sent['seq']}", token=ana["access_token"])
    server.request("DELETE", f"/rooms/{room}/members/{ana['user']['id']}", token=bob["access_token"], status=403)
    server.request("DELETE", f"/rooms/{room}/members/{bob['user']['id']}", token=ana["access_token"])
    wait_until(lambda: len(records(server)) >= since + 7, "the refusals are stored")

    assert sorted(story(server, names, since)) == sorted(
        [
            ("room.create", "done", "ana", "", "room", HERE),
            ("room.update", "done", "ana", "", "room", HERE),
            ("member.add", "done", "ana", "bob", "room", HERE),
            ("message.delete", "refused", "bob", "", "room", HERE),
            ("message.delete", "done", "ana", "bob", "room", HERE),
            ("member.remove", "refused", "bob", "ana", "room", HERE),
            ("member.remove", "done", "ana", "bob", "room", HERE),
        ]
    )
    everything = run("export", server=server) + run("export", "--format", "csv", server=server)
    for text in ("secret-name", "secret-topic", "secret-body"):
        assert text not in everything


def test_administration_is_remembered(server: RunningServer) -> None:
    ana, operator = server.set_up(), server.operator()
    bob = server.invite("bob")
    names = {ana["user"]["id"]: "ana", bob["user"]["id"]: "bob", "usr_operator": "operator"}
    since = newest(server)
    invite = server.post("/admin/invites", {"uses": 2}, ana["access_token"])
    server.request("DELETE", f"/admin/invites/{invite['code']}", token=ana["access_token"])
    bot = operator.perform(c.BotCreate(username="deploy"))
    operator.perform(c.BotRotate(user=bot.user.id))
    operator.perform(c.BotRevoke(user=bot.user.id))
    eve = operator.perform(c.UserCreate(username="eve", role="admin", password=Secret(PASSWORD)))
    names |= {bot.user.id: "bot", eve.user.id: "eve"}
    link = server.post(f"/admin/users/{bob['user']['id']}/reset", {}, ana["access_token"])
    server.post("/password-reset", {"token": link["url"].partition("t=")[2], "password": "another good one"})
    operator.perform(c.UserDisable(user=bob["user"]["id"]))
    operator.perform(c.UserEnable(user=bob["user"]["id"]))
    operator.perform(c.BackupCreate(path=str(server.data.parent / "b.tar.gz")))
    settings = json.loads(server.config.read_text())
    server.config.write_text(json.dumps(settings | {"log_level": "DEBUG"}))
    wait_until(lambda: actions(server)[-1] == "config.reload", "the reload is remembered")
    server.config.write_text(json.dumps(settings | {"log_level": "LOUD"}))
    wait_until(lambda: actions(server).count("config.reload") == 2, "the refused reload is remembered")

    assert story(server, names, since) == [
        ("invite.create", "done", "ana", "", "", HERE),
        ("invite.revoke", "done", "ana", "", "", HERE),
        ("bot.create", "done", "operator", "bot", "", "local"),
        ("bot.token", "done", "operator", "bot", "", "local"),
        ("bot.rotate", "done", "operator", "bot", "", "local"),
        ("bot.revoke", "done", "operator", "bot", "", "local"),
        ("user.create", "done", "operator", "eve", "", "local"),
        ("user.reset", "done", "ana", "bob", "", HERE),
        ("password.reset", "done", "bob", "", "", HERE),
        ("user.disable", "done", "operator", "bob", "", "local"),
        ("user.enable", "done", "operator", "bob", "", "local"),
        ("backup.create", "done", "operator", "", "", "local"),
        ("config.reload", "done", "", "", "", "server"),
        ("config.reload", "failed", "", "", "", "server"),
    ]
    assert records(server)[-2].details == {"changed": "log_level"}
    with pytest.raises(Exception, match="not a folder"):
        operator.perform(c.BackupCreate(path="/nowhere/at/all"))
    wait_until(lambda: records(server)[-1].result == "failed", "the failed backup is remembered")
    assert story(server, names, newest(server) - 2) == [
        ("backup.create", "done", "operator", "", "", "local"),
        ("backup.create", "failed", "operator", "", "", "local"),
    ]


def test_a_storm_of_refusals_is_counted_and_does_not_fill_the_disk(server: RunningServer) -> None:
    server.set_up()
    since = newest(server)
    with httpx.Client(trust_env=False, timeout=20) as http:
        for _ in range(60):
            http.get(f"{server.url}/api/v1/invites/WRONG")
    server.stop()
    server.start()

    found = [record for record in records(server) if record.n > since and record.action in {"invite.get", "audit.suppressed"}]
    told = sum(int(record.details.get("suppressed", 0)) for record in found)
    noted = sum(record.action == "invite.get" for record in found)
    assert 20 <= noted <= 30
    assert noted + told == 60


# ── who may read it ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_owners_and_admins_read_the_log_over_rest_and_nobody_else_does(server: RunningServer) -> None:
    ana, bob = server.set_up(), server.invite("bob")
    server.operator().perform(c.UserCreate(username="eve", role="admin", password=Secret(PASSWORD)))
    eve = server.post("/sessions", {"username": "eve", "password": PASSWORD})
    bot = server.bot("deploy")

    for token in (ana["access_token"], eve["access_token"]):
        page = server.request(
            "GET", f"/admin/audit?limit=2&action=session.&subject=&since=1&actor={ana['user']['id']}", token=token
        )
        assert [record["action"] for record in page["records"]] == ["session.create"]
        assert page["names"] == {ana["user"]["id"]: "ana"}
    for token, status in ((bob["access_token"], 403), (bot, 403), ("", 401), ("nonsense", 401)):
        server.request("GET", "/admin/audit", token=token, status=status)
    server.request("GET", "/admin/audit?limit=201", token=ana["access_token"], status=400)
    server.request("GET", "/admin/audit?result=maybe", token=ana["access_token"], status=400)
    wait_until(lambda: actions(server, result="refused").count("audit.list") == 2, "the refusals are remembered")
    assert {record.actor for record in records(server, action="audit.list", result="done")} == {
        ana["user"]["id"],
        eve["user"]["id"],
    }


def test_pages_of_the_log_follow_each_other_without_a_gap(server: RunningServer) -> None:
    token = server.set_up()["access_token"]
    for number in range(10):
        server.post("/rooms", {"name": f"r{number}"}, token)
    found, before = [], ""
    while True:
        page = server.request("GET", f"/admin/audit?limit=3&action=room.{before}", token=token)
        found += [record["n"] for record in page["records"]]
        if "next" not in page or page["next"] is None:
            break
        before = f"&before={page['next']}"

    assert found == sorted(found, reverse=True)
    assert len(found) == len(set(found)) == 10


def test_pruning_is_the_operators(server: RunningServer) -> None:
    ana = server.set_up()

    assert server.operator().perform(c.AuditPrune(keep_days=1)).records == 0
    server.request("DELETE", "/admin/audit", token=ana["access_token"], status=405)


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_command_line_lists_exports_and_verifies_and_finds_a_changed_record(server: RunningServer, tmp_path: Path) -> None:
    ana = server.set_up()
    server.post("/rooms", {"name": "ops"}, ana["access_token"])

    listed = run("list", "--actor", "ana", "--action", "room.", "--since", "1h", server=server)
    assert "room.create" in listed
    assert "@ana" in listed
    assert "setup" not in listed
    assert json.loads(run("list", "--json", "--limit", "1", server=server))["next"]
    lines = [json.loads(line) for line in run("export", server=server).splitlines()]
    assert [line["n"] for line in lines] == list(range(1, len(lines) + 1))
    table = list(csv.DictReader(io.StringIO(run("export", "--format", "csv", "--action", "setup.", server=server))))
    assert [(row["action"], row["actor_name"]) for row in table] == [("setup.link", ""), ("setup.complete", "ana")]
    run("export", str(tmp_path / "log.jsonl"), server=server)
    assert (tmp_path / "log.jsonl").stat().st_mode & 0o777 == 0o600
    run("export", str(tmp_path / "log.jsonl"), server=server, status=2)
    assert "is whole" in run("verify", server=server)
    server.stop()

    with sqlite3.connect(server.data / "securechat.db") as db:
        db.execute("UPDATE audit SET actor = 'usr_eve' WHERE n = 5")
    db.close()
    told = run("verify", server=server, status=2)
    assert told.startswith("record     Record 5 (setup.complete) was changed")
    assert json.loads(run("verify", "--json", server=server, status=2))["findings"][0]["n"] == 5
    doctor = subprocess.run(
        [SECURECHAT, "doctor", "--data", str(server.data)], capture_output=True, text=True, env=clean_environment(), check=False
    )
    assert "Record 5 (setup.complete) was changed" in doctor.stdout


def test_checkpoints_are_also_kept_elsewhere_and_tell_of_a_tail_that_was_cut_off(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    server = RunningServer(tmp_path / "data", settings={"audit_folder": str(elsewhere), "audit_checkpoint_s": 1}).start()
    try:
        server.set_up()
        wait_until(lambda: len(list(elsewhere.glob("*.checkpoint.json"))) >= 2, "a checkpoint while the server runs")
    finally:
        server.stop()
    assert "is whole" in run("verify", "--checkpoints", str(elsewhere), server=server)
    with sqlite3.connect(server.data / "securechat.db") as db:
        db.execute("DELETE FROM audit WHERE n > 3")
    db.close()
    for path in (server.data / "audit").glob("*.json"):
        path.unlink()

    assert "Record 4 is missing" in run("verify", "--checkpoints", str(elsewhere), server=server, status=2)
    assert "Record 4 is missing" in run("verify", "--config", str(server.config), server=server, status=2)


def test_a_backup_carries_the_log_and_a_restored_server_goes_on_with_it(server: RunningServer, tmp_path: Path) -> None:
    server.set_up()
    server.operator().perform(c.BackupCreate(path=str(tmp_path / "b.tar.gz")))
    server.stop()
    words = [SECURECHAT, "backup", "restore", str(tmp_path / "b.tar.gz"), str(tmp_path / "restored")]
    subprocess.run(words, check=True, capture_output=True, env=clean_environment())
    restored = RunningServer(tmp_path / "restored").start()
    try:
        assert "backup.create" in actions(restored)
        assert records(restored)[-1].details["whole"] is True
    finally:
        restored.stop()

    assert verify_folder(DataDir(tmp_path / "restored")).whole


def test_a_backup_of_a_log_that_is_not_whole_is_made_and_says_so(server: RunningServer, tmp_path: Path) -> None:
    server.set_up()
    with sqlite3.connect(server.data / "securechat.db") as db:
        db.execute("UPDATE audit SET actor = 'usr_eve' WHERE n = 5")
    db.close()

    backup = server.operator().perform(c.BackupCreate(path=str(tmp_path / "b.tar.gz")))

    assert backup.audit.startswith("Record 5 (setup.complete) was changed")
    words = [SECURECHAT, "backup", "verify", str(tmp_path / "b.tar.gz")]
    told = subprocess.run(words, capture_output=True, text=True, env=clean_environment(), check=False)
    assert told.returncode == 2
    assert "Record 5 (setup.complete) was changed" in told.stdout


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", '"=1', "'=1", "|cmd", "%0A=1", "=cmd|' /C calc'!A0"]
)
def test_031_a_table_for_spreadsheets_holds_no_formula(text: str) -> None:
    assert cell(text).startswith("'")
    assert cell(text)[1:] == text
    assert cell("user.create") == "user.create"
    assert cell(-5) == "-5"


def test_what_was_acknowledged_is_remembered_after_kill_9_and_the_log_is_whole(server: RunningServer) -> None:
    token = server.set_up()["access_token"]
    acknowledged: list[str] = []
    stopped = threading.Event()

    def make_rooms(worker: int) -> None:
        for number in range(10_000):
            try:
                acknowledged.append(server.post("/rooms", {"name": f"r{worker}-{number}"}, token)["id"])
            except (httpx.TransportError, ValueError):
                return
            if stopped.is_set():
                return

    workers = [threading.Thread(target=make_rooms, args=(worker,)) for worker in range(3)]
    for worker in workers:
        worker.start()
    wait_until(lambda: len(acknowledged) >= 40, "rooms are made")
    server.stop(signal.SIGKILL)
    stopped.set()
    for worker in workers:
        worker.join()
    assert verify_folder(DataDir(server.data)).whole
    server.start()

    remembered = {record.room for record in records(server, action="room.create")}
    assert set(acknowledged) <= remembered
    with sqlite3.connect(server.data / "securechat.db") as db:
        assert remembered == {row[0] for row in db.execute("SELECT id FROM rooms")}
    db.close()
    assert verify_folder(DataDir(server.data)).whole


async def test_a_moderator_on_the_gateway_is_remembered_with_the_address(server: RunningServer) -> None:
    ana, bob = server.set_up(), server.invite("bob")
    room = server.post("/rooms", {"name": "ops", "members": [bob["user"]["id"]]}, ana["access_token"])["id"]
    sent = server.post(f"/rooms/{room}/messages", {"cmid": "1", "body": "x"}, bob["access_token"])
    other = server.post(f"/rooms/{room}/messages", {"cmid": "2", "body": "x"}, ana["access_token"])
    async with ChatClient.connect(server.url, ana["access_token"]) as client:
        await client.call(c.MessageDelete(room=room, seq=sent["seq"]))
    async with ChatClient.connect(server.url, bob["access_token"]) as client:
        with pytest.raises(Forbidden):
            await client.call(c.MessageDelete(room=room, seq=other["seq"]))
    wait_until(lambda: actions(server).count("message.delete") == 2, "the refusal is stored")

    assert [(r.result, r.actor, r.subject, r.address, r.device) for r in records(server, action="message.delete")] == [
        ("done", ana["user"]["id"], bob["user"]["id"], HERE, ana["device"]),
        ("refused", bob["user"]["id"], "", HERE, bob["device"]),
    ]


# ── factors and keys ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_changes_of_second_factors_are_remembered(server: RunningServer) -> None:
    ana = server.set_up()
    token, body = ana["access_token"], {"username": "ana", "password": PASSWORD}
    names = {ana["user"]["id"]: "ana", "usr_operator": "operator"}
    since = newest(server)
    begun = server.post("/factors/totp:begin", {}, token)
    code = earlier_code(pyotp.TOTP(begun["secret"]))
    codes = server.post("/factors/totp", {"ticket": begun["ticket"], "code": code}, token)["recovery_codes"]
    server.post("/sessions", body | {"code": codes[0]})
    server.post("/sessions", body | {"code": codes[0]}, status=401)
    server.post("/factors/recovery-codes", {}, token)
    server.request("PUT", "/password", {"current": PASSWORD, "password": "another good one"}, token=token)
    server.request("DELETE", "/factors/totp", token=token)

    own = [(each[0], each[1], each[2], each[3]) for each in story(server, names, since)]
    assert own == [
        ("totp.add", "done", "ana", "ana"),
        ("recovery.create", "done", "ana", "ana"),
        ("recovery.use", "done", "ana", "ana"),
        ("session.create", "done", "ana", ""),
        ("session.create", "refused", "", ""),
        ("recovery.create", "done", "ana", "ana"),
        ("password.change", "done", "ana", "ana"),
        ("totp.remove", "done", "ana", "ana"),
        ("recovery.forget", "done", "ana", "ana"),
    ]
    text = str(records(server))
    assert not [each for each in (begun["secret"], code, *codes) if each in text]


def another_identity_key(server: RunningServer) -> None:
    """Do what `securechat keys rotate` does, in this process."""
    keys = IdentityKeys(server.data / "keys")
    keys.load()
    keys.add(not_before=2**31)


def test_changes_of_keys_are_remembered_whoever_makes_them(server: RunningServer) -> None:
    server.set_up()
    operator = server.operator()
    since = newest(server)
    operator.perform(c.TokenKeyRotate())
    operator.perform(c.StorageRotate(messages=False))
    another_identity_key(server)
    wait_until(lambda: records(server)[-1].action == "identity.add", "the new identity key is noticed")

    assert [(each[0], each[2]) for each in story(server, {}, since)] == [
        ("token.rotate", "usr_operator"),
        ("storage.rotate", "usr_operator"),
        ("identity.add", ""),
    ]
    server.stop()
    another_identity_key(server)
    server.start()
    wait_until(lambda: [each.action for each in records(server)].count("identity.add") == 3, "the one of meanwhile, too")


async def test_what_is_remembered_of_a_factor_commits_with_it_or_not_at_all(tmp_path: Path) -> None:
    migrate(tmp_path / "test.db")
    database = SqliteDatabase(tmp_path / "test.db")
    event = AuditEvent(action="totp.add", actor="usr_1")
    factors = SqlFactors(database, SqlAudit(database))
    assert await factors.recording(event).set_totp("usr_1", b"sealed", 1, 1)
    assert not await factors.recording(event).set_totp("usr_1", b"sealed", 1, 1)  # Nothing changed: nothing to remember.
    assert database.rows("SELECT count(*) FROM audit") == [(1,)]
    await database.close()
    broken = SqliteDatabase(tmp_path / "test.db")
    async with broken.transaction() as transaction:
        await transaction.execute(
            "CREATE TRIGGER no_more BEFORE INSERT ON audit BEGIN SELECT raise(ABORT, 'the disk is full'); END", ()
        )
    with pytest.raises(apsw.ConstraintError):
        await SqlFactors(broken, SqlAudit(broken)).recording(event).remove_totp("usr_1")
    assert broken.rows("SELECT count(*) FROM totp") == [(1,)]
    await broken.close()
