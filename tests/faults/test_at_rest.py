"""Encryption at rest under faults: no text on the disk, jobs that go on after any end, promises kept as without it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from securechat.crypto.key_provider import FileKeys
from securechat.domain import commands as c
from securechat.domain.entries import Entry, EntryType
from securechat.domain.ports import LogTransaction
from securechat.server.backup import restore_backup
from securechat.server.clock import SystemClock
from securechat.store.log import SqliteLog
from securechat.store.storage_jobs import StorageJobs
from support.fault_world import World, assert_none
from support.ports import free_port
from support.running import RunningServer
from support.sealed import clear_texts, files_with, opened, sealed_texts
from support.server_process import CONFIG, ServerProcess, eventually_async

CANARY = "CANARY-7f3a"
MESSAGES = 2_500
ROOMS = 450


# ── no text on the disk ──────────────────────────────────────────────────────────────────────────────────────────────


def speak(server: RunningServer, token: str, room: str) -> None:
    """Say, edit, delete, react, repeat, read, and do it wrong, with a canary in every text."""

    def post(cmid: str, body: str, status: int = 0, **more: Any) -> int:
        answer = server.request("POST", f"/rooms/{room}/messages", {"cmid": cmid, "body": body, **more}, token, status)
        return int(answer["seq"]) if not status else 0

    first = post("a", f"{CANARY} stays")
    edited = post("b", f"{CANARY} is edited")
    deleted = post("c", f"{CANARY} is deleted", reply_to=first)
    long = post("d", f"{CANARY} é " * 1_000)
    server.request("PATCH", f"/rooms/{room}/messages/{edited}", {"body": f"{CANARY} was edited"}, token)
    server.request("PATCH", f"/rooms/{room}/messages/{deleted}", {"body": f"{CANARY} will go"}, token)
    server.request("DELETE", f"/rooms/{room}/messages/{deleted}", None, token)
    server.request("PUT", f"/rooms/{room}/messages/{long}/reactions/%F0%9F%91%8D", None, token)
    post("a", f"{CANARY} stays")
    post("a", f"{CANARY} is another text", status=409)
    post("e", CANARY * 5_000, status=400)
    post("f", f"{CANARY}\x00", status=400)
    post("g", CANARY, status=400, unknown=CANARY)


def page(server: RunningServer, token: str, room: str) -> list[tuple[int, str | None, str | None, bool]]:
    entries = server.request("GET", f"/rooms/{room}/entries?limit=100", None, token)["entries"]
    return [(each["seq"], each.get("body"), (each.get("edited") or {}).get("body"), "deleted" in each) for each in entries]


@pytest.mark.parametrize("at_rest", ["on", "off"])
def test_no_text_is_in_any_file_of_the_data_folder_also_after_kill_9(tmp_path: Path, at_rest: str) -> None:
    server = RunningServer(tmp_path / "data", settings={"at_rest": at_rest, "log_level": "DEBUG"}).start()
    try:
        token = server.set_up()["access_token"]
        room = server.room("ops", server.request("GET", "/me", None, token)["user"]["id"])
        speak(server, token, room)
        shown = page(server, token, room)
        assert server.operator().perform(c.BackupCreate(path=str(tmp_path / "data/one.tar.gz"))).key_apart == ""
        limits = Path(f"/proc/{server.process.pid}/limits").read_text() if server.process else ""
        running = files_with(tmp_path, CANARY.encode())
        server.stop(signal.SIGKILL)
        killed = files_with(tmp_path, CANARY.encode())
        server.start()
        assert page(server, token, room) == shown
        restarted = files_with(tmp_path, CANARY.encode())
    finally:
        server.stop()
    if at_rest == "off":  # The search finds what is there: in the files and in the packed backup.
        assert any("securechat.db" in each for each in killed)
        assert any("one.tar.gz" in each for each in killed)
        return
    assert (running, killed, restarted, files_with(tmp_path, CANARY.encode())) == ([], [], [], [])
    assert sum(CANARY in (body or "") for _, body, _, _ in shown) >= 4
    assert [line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core file")] == [["0", "0"]]


def test_a_backup_says_which_key_it_needs_and_opens_with_that_only(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    server = RunningServer(tmp_path / "data", settings={"at_rest": "on", "at_rest_keys": str(keys)}).start()
    FileKeys(server.data / "keys").create()  # A key of the same name that is not the one.
    token = server.set_up()["access_token"]
    room = server.room("ops", server.request("GET", "/me", None, token)["user"]["id"])
    speak(server, token, room)
    shown = page(server, token, room)
    apart = server.operator().perform(c.BackupCreate(path=str(tmp_path / "one.tar.gz"))).key_apart
    server.stop()
    assert apart == "kek-1.key"

    restore_backup(tmp_path / "one.tar.gz", tmp_path / "again")
    (tmp_path / "again/keys/kek-1.key").unlink()
    again = RunningServer(tmp_path / "again", settings={"at_rest": "on", "at_rest_keys": str(keys)}).start()
    try:
        assert page(again, token, room) == shown
    finally:
        again.stop()
    lost = RunningServer(tmp_path / "again", settings={"at_rest": "on"})
    with pytest.raises(AssertionError, match=r"kek-1\.key is missing"):
        lost.start()
    lost.stop()


# ── jobs go on after any end ─────────────────────────────────────────────────────────────────────────────────────────


async def fill(root: Path, *, on: bool) -> None:
    """Put texts into many rooms, as a server would."""
    with opened(root) as (database, sealing):
        await sealing.keys.unlock()
        sealing.on = on
        log = SqliteLog(database, sealing=sealing)
        at = 1_795_380_000_000

        async def work(tx: LogTransaction) -> None:
            for number in range(ROOMS):
                room = f"rm_{number:016d}"
                tx.append(Entry(type=EntryType.ROOM_CREATED, room=room, seq=1, at=at, user="usr_1", kind="private", name="x"))
                for seq in range(2, 2 + MESSAGES // ROOMS):
                    body = f"{CANARY} {number} {seq}"
                    tx.append(
                        Entry(
                            type=EntryType.MESSAGE_SENT,
                            room=room,
                            seq=seq,
                            at=at,
                            user="usr_1",
                            device="d",
                            cmid=f"{seq}",
                            body=body,
                        )
                    )

        await log.commit(work)
        if on:
            database._writer.execute("INSERT INTO settings (key, value) VALUES ('at_rest', 'on')")


async def work_through(server: ServerProcess, ends: int) -> None:
    """Let a server work on its jobs, end it so many times at a point of a commit or at any time, and let it finish."""
    for end in range(ends):
        killed = end % 5 == 4
        point = ("--failpoint", f"{('before_commit', 'after_commit')[end % 2]}:{2 + end % 3}")
        if killed:
            await server.start("--storage-step", "20")
            assert not await finished(server)
            await server.kill()
        else:
            server.launch("--storage-step", "20", *point)
        assert await server.ended(30) == (-signal.SIGKILL if killed else 137)
    await server.start()
    await eventually_async(lambda: finished(server), what="the jobs are done")


async def finished(server: ServerProcess) -> bool:
    return all(job.get("finished_at") is not None for job in (await server.ask("storage.status"))["jobs"])


@pytest.mark.timeout(300)  # Up to 22 starts of a server.
@pytest.mark.parametrize(("kind", "ends"), [("on", 8), ("rotate", 20), ("off", 8)])
async def test_a_job_that_is_ended_again_and_again_loses_no_text(
    world: World, kind: str, ends: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = world.server.root
    before_is_on = kind != "on"
    await fill(root, on=before_is_on)
    before = sealed_texts(root) if before_is_on else clear_texts(root)
    assert len(before) >= MESSAGES - ROOMS
    monkeypatch.setitem(CONFIG, "at_rest", "off" if kind == "off" else "on")
    server = world.server = ServerProcess(root, free_port(), free_port(), world.folder / "server.log")
    if kind == "rotate":
        with opened(root) as (database, sealing):
            jobs = StorageJobs(database, sealing, SystemClock())
            await jobs.load()
            await jobs.rotate(messages=True)

    await work_through(server, ends)
    assert await server.terminate(15) == 0

    assert not server.complaints()
    if kind == "off":
        assert (clear_texts(root), sealed_texts(root)) == (before, {})
        return
    assert (sealed_texts(root), clear_texts(root)) == (before, {})
    assert files_with(root, CANARY.encode()) == []
    if kind == "rotate":
        with opened(root) as (database, _):
            assert database.rows("SELECT count(*) FROM room_keys WHERE org_version = 1 OR retired_at IS NOT NULL")[0][0] == 0
            assert database.rows("SELECT count(*) FROM org_keys WHERE kek = 1")[0][0] == 0
        (root / "keys/kek-1.key").unlink()
        assert sealed_texts(root) == before


# ── the promises of the log ──────────────────────────────────────────────────────────────────────────────────────────


async def test_a_server_that_encrypts_keeps_every_promise_under_kill_9(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONFIG, "at_rest", "on")
    world.server = ServerProcess(world.server.root, free_port(), free_port(), world.folder / "server.log")
    await world.start(talkers=4, listeners=1, readers=1)
    for kill in range(6):
        await world.acknowledges(world.rng.randrange(40, 160))
        if kill % 2:
            await world.server.ask("storage.rotate", messages=True)
        await world.server.kill()
        await world.server.start()
        await eventually_async(lambda: finished(world.server), what="the jobs are done")
    await world.quiet()
    assert_none(await world.verdict())
