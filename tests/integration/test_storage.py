"""`securechat storage` against a real server, and who may use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from securechat.domain import commands as c
from securechat.domain.accounts import Role
from securechat.errors import Forbidden
from securechat.server.config import ConfigManager
from securechat.server.datadir import DataDir
from securechat.server.wiring import build
from support.fakes import principal
from support.running import RunningServer, command_line


def command(data: Path, *words: str, status: int = 0) -> str:
    found = command_line("storage", *words, "--data", str(data))
    assert found.returncode == status, found.stderr
    return found.stdout + found.stderr


def say(server: RunningServer, token: str, room: str, body: str) -> int:
    return int(server.post(f"/rooms/{room}/messages", {"cmid": body, "body": body}, token)["seq"])


def page(server: RunningServer, token: str, room: str) -> list[Any]:
    return [(each["type"], each.get("body")) for each in server.request("GET", f"/rooms/{room}/entries", None, token)["entries"]]


def test_an_operator_switches_on_rotates_and_shreds(tmp_path: Path) -> None:
    server = RunningServer(tmp_path / "data").start()
    try:
        token = server.set_up()["access_token"]
        room = server.room("ops", server.request("GET", "/me", None, token)["user"]["id"])
        say(server, token, room, "one")
        assert "0 encrypted, 1 not" in command(server.data, "status")
        server.stop()

        server.config.write_text(json.dumps({"at_rest": "on"}))
        server.start()
        rotated = command(server.data, "rotate", "--messages")
        say(server, token, room, "two")

        status = json.loads(command(server.data, "status", "--json"))
        assert "kek-2 and organisation key 2 are in use" in rotated
        assert (status["at_rest"], status["sealed"], status["clear"], status["kek"]) == ("on", 2, 0, 2)
        assert page(server, token, room)[-2:] == [("message.sent", "one"), ("message.sent", "two")]

        shredded = command(server.data, "shred", "ops", "--yes")
        say(server, token, room, "three")

        assert "Erased in ops: everything before entry 5" in shredded
        assert page(server, token, room)[-4:] == [
            ("message.sent", None),
            ("message.sent", None),
            ("room.erased", None),
            ("message.sent", "three"),
        ]
        assert "1 encrypted, 0 not" in command(server.data, "status")
        assert "not_found" in command(server.data, "shred", "rm_0000000000000000", "--yes", status=2)
    finally:
        server.stop()


def test_a_room_is_erased_at_once_without_a_running_server(tmp_path: Path) -> None:
    server = RunningServer(tmp_path / "data").start()
    try:
        token = server.set_up()["access_token"]
        room = server.room("ops", server.request("GET", "/me", None, token)["user"]["id"])
        for number in range(3):
            server.post(f"/rooms/{room}/messages", {"cmid": str(number), "body": f"CANARY {number}"}, token)
    finally:
        server.stop()
    shredded = command(server.data, "shred", "ops", "--yes")

    assert "Erased in ops" in shredded
    assert "does not run" not in shredded
    assert b"CANARY" not in b"".join(path.read_bytes() for path in server.data.glob("*.db*"))
    assert "0 encrypted, 0 not" in command(server.data, "status")


def test_a_key_file_that_others_can_read_stops_the_start_with_one_line(tmp_path: Path) -> None:
    server = RunningServer(tmp_path / "data").start()
    server.stop()
    (server.data / "keys/kek-1.key").chmod(0o644)

    with pytest.raises(AssertionError) as stopped:
        server.start()
    assert "kek-1.key can be read by others" in str(stopped.value)
    assert "Traceback" not in str(stopped.value)
    server.stop()


@pytest.mark.parametrize("wanted", [c.StorageStatus(), c.StorageRotate(), c.StorageShred(room="rm_0000000000000000")])
async def test_only_the_operator_may(tmp_path: Path, wanted: c.Command) -> None:
    data = DataDir(tmp_path / "data")
    settings = ConfigManager(None, {"data_dir": str(data.root)}, {}).settings
    data.open()
    parts = await build(lambda: settings, data, lambda: "https://localhost")
    try:
        for role in (Role.MEMBER, Role.ADMIN, Role.OWNER, Role.BOT):
            with pytest.raises(Forbidden):
                await parts.dispatcher.perform(principal("ana", role=role), wanted, "127.0.0.1")
    finally:
        await parts.database.close()
        parts.passwords.close()
        data.close()
