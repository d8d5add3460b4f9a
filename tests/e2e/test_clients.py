"""The SDK, the bot, the terminal and the command line against a real server."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from securechat import ChatClient
from securechat.domain import commands as c
from securechat.domain.entries import Entry
from securechat.domain.limits import LIMITS
from securechat.errors import Forbidden
from securechat.sdk.errors import LoginRequired
from securechat.sdk.following import EVENTS_MAX, Event, Gap
from support.ports import free_port
from support.running import PASSWORD, SECURECHAT, RunningServer, clean_environment, command_line, wait_until

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def client(server: RunningServer, token: str, **more: Any) -> AsyncIterator[ChatClient]:
    async with ChatClient(server.url, token, **more) as found:
        yield found


async def next_of(events: AsyncIterator[Event], kind: str) -> Any:
    async with asyncio.timeout(10):
        async for event in events:
            if getattr(event, "type", type(event).__name__) == kind:
                return event
    raise AssertionError(kind)


async def texts(events: AsyncIterator[Event], count: int) -> list[str]:
    found: list[str] = []
    async with asyncio.timeout(20):
        async for event in events:
            if isinstance(event, Entry) and event.body is not None:
                found.append(event.body)
                if len(found) == count:
                    break
    return found


async def test_what_one_sends_all_get_in_the_same_order(server: RunningServer) -> None:
    room = server.room("ops")
    async with client(server, server.bot("one", room)) as one, client(server, server.bot("two", room)) as two:
        mine, others = one.rooms[room], two.rooms[room]
        await asyncio.gather(*(each.send(f"{name} {n}") for n in range(20) for name, each in (("one", mine), ("two", others))))
        seen = await asyncio.gather(texts(one.events(), 40), texts(two.events(), 40))

    assert seen[0] == seen[1]
    assert [text for text in seen[0] if text.startswith("one")] == [f"one {n}" for n in range(20)]


async def test_a_client_that_was_away_gets_everything_once_and_in_order(server: RunningServer) -> None:
    room = server.room("ops")
    async with client(server, server.bot("one", room)) as one, client(server, server.bot("two", room)) as two:
        events = two.events()
        await one.rooms[room].send("before")
        assert await texts(events, 1) == ["before"]
        server.stop(signal.SIGKILL)
        sends = [one.rooms[room].post(f"away {n}") for n in range(30)]
        server.start()
        await asyncio.wait_for(asyncio.gather(*sends), 20)

        assert await texts(events, 30) == [f"away {n}" for n in range(30)]
        assert two.connects >= 2


async def test_who_is_too_far_behind_gets_a_page_and_a_clear_sign(server: RunningServer) -> None:
    room = server.room("ops")
    one_token, two_token = server.bot("one", room), server.bot("two", room)
    async with client(server, one_token) as one:
        start = one.rooms[room].summary.last_seq
        await asyncio.gather(*(one.rooms[room].send(str(n)) for n in range(LIMITS.resume_entries + 5)))
    async with client(server, two_token, resume={room: start}) as two:
        events = two.events()
        gap = await next_of(events, "Gap")
        newest = await texts(events, 50)

    assert gap == Gap(room, start)
    assert newest == [str(n) for n in range(LIMITS.resume_entries - 45, LIMITS.resume_entries + 5)]


async def test_a_client_that_reads_late_misses_nothing(server: RunningServer) -> None:
    room = server.room("ops")
    async with client(server, server.bot("one", room)) as one:
        await asyncio.gather(*(one.rooms[room].send(str(n)) for n in range(EVENTS_MAX + 200)))

        assert await texts(one.events(), EVENTS_MAX + 200) == [str(n) for n in range(EVENTS_MAX + 200)]


async def test_history_goes_back_to_the_first_entry(server: RunningServer) -> None:
    room = server.room("ops")
    async with client(server, server.bot("one", room)) as one:
        for n in range(12):
            await one.rooms[room].send(str(n))
        seqs = [entry.seq async for entry in one.rooms[room].history()]
        some = [entry.body async for entry in one.rooms[room].history(limit=3)]

    assert seqs == list(range(14, 0, -1))
    assert some == ["11", "10", "9"]


async def test_read_markers_agree_on_all_devices(server: RunningServer) -> None:
    ana = server.set_up()
    room = server.room("ops", ana["user"]["id"])
    phone = server.post("/sessions", {"username": "ana", "password": PASSWORD})
    bot = server.bot("one", room)
    async with (
        client(server, ana["access_token"]) as laptop,
        client(server, phone["access_token"]) as other,
        client(server, bot) as one,
    ):
        for n in range(3):
            last = await one.rooms[room].send(str(n))
        laptop_events, other_events = laptop.events(), other.events()
        await texts(other_events, 3)
        state = await laptop.rooms[room].mark_read(last.seq - 1)
        told = [await next_of(events, "read.updated") for events in (laptop_events, other_events)]

    assert (state.read_seq, state.unread) == (last.seq - 1, 1)
    assert [(each.read_seq, each.unread) for each in told] == [(last.seq - 1, 1)] * 2
    async with client(server, ana["access_token"]) as again:
        assert again.rooms[room].summary.unread == 1


async def test_typing_and_presence_are_shown_to_the_others(server: RunningServer) -> None:
    room = server.room("ops")
    async with client(server, server.bot("one", room)) as one:
        events = one.events()
        async with client(server, server.bot("two", room)) as two:
            user = two.user
            assert user is not None
            online = await next_of(events, "presence.changed")
            while user.id not in online.presence:
                online = await next_of(events, "presence.changed")
            await two.rooms[room].typing()
            typing = await next_of(events, "typing.started")
        offline = await next_of(events, "presence.changed")

    assert online.presence[user.id] == "online"
    assert (typing.room, typing.user) == (room, user.id)
    assert offline.presence == {user.id: "offline"}


async def test_being_added_and_removed_opens_and_closes_the_room(server: RunningServer) -> None:
    token = server.bot("two")
    room = server.room("ops")
    operator = server.operator()
    async with client(server, token) as two:
        user = two.user
        assert user is not None
        events = two.events()
        await asyncio.to_thread(operator.perform, c.MemberAdd(room=room, user=user.id))
        opened = await next_of(events, "room.opened")
        joined = await next_of(events, "member.joined")
        await two.rooms[room].send("here")
        await asyncio.to_thread(operator.perform, c.MemberRemove(room=room, user=user.id))
        removed = await next_of(events, "member.removed")
        await next_of(events, "room.closed")

        assert room not in two.rooms
        with pytest.raises(Forbidden):
            await two.call(c.MessageSend(room=room, cmid="x", body="still here?"))
    assert (opened.summary.name, joined.member, removed.member) == ("ops", user.id, user.id)


async def test_signing_a_device_out_closes_its_connection_at_once(server: RunningServer) -> None:
    ana = server.set_up()
    async with client(server, ana["access_token"]) as one:
        events = one.events()
        await asyncio.to_thread(server.request, "DELETE", "/sessions/current", None, ana["access_token"])
        with pytest.raises(LoginRequired):
            await asyncio.wait_for(anext(events), 5)


async def test_a_wrong_token_is_told_and_nothing_is_tried_again(server: RunningServer) -> None:
    with pytest.raises(LoginRequired):
        await asyncio.wait_for(ChatClient(server.url, "sc_bot_wrong").start(), 5)


async def test_draining_sends_clients_away_and_they_come_back(server: RunningServer) -> None:
    room = server.room("ops")
    async with client(server, server.bot("one", room)) as one:
        events = one.events()
        assert await asyncio.to_thread(server.stop) == 0
        server.start()
        sent = asyncio.ensure_future(one.rooms[room].send("after"))

        assert await texts(events, 1) == ["after"]
        await sent
    assert "Traceback" not in server.log


async def test_tls_is_1_3_only_and_the_own_ca_is_enough(server: RunningServer) -> None:
    token = server.bot("one", server.room("ops"))
    async with ChatClient(server.tls_url, token, ca=server.ca) as one:
        assert (await one.me()).user.username == "one"
    for version in ("-tls1_2", "-tls1_3"):
        command = [
            "openssl",
            "s_client",
            "-connect",
            f"localhost:{server.port}",
            version,
            "-CAfile",
            server.ca,
            "-verify_return_error",
        ]
        done = subprocess.run(command, input=b"", capture_output=True, timeout=20, check=False)
        assert (done.returncode == 0) == (version == "-tls1_3"), done.stderr


# ── the bot ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_ten_line_bot_answers_and_is_offered_for_completion(server: RunningServer) -> None:
    room = server.room("ops")
    token, asker = server.bot("roller", room), server.bot("asker", room)
    environment = clean_environment(SECURECHAT_URL=server.url, SECURECHAT_TOKEN=token)
    bot = await asyncio.create_subprocess_exec(
        sys.executable, ROOT / "examples/roll_bot.py", env=environment, stderr=subprocess.PIPE
    )
    try:
        async with client(server, asker) as one:
            events = one.events()
            assert bot.stderr is not None
            line = await asyncio.wait_for(bot.stderr.readline(), 15)
            assert b"is online" in line, line
            question = await one.rooms[room].send("/roll dice:3 sides:1")
            answers = await texts(events, 2)
            await one.rooms[room].send("/roll many")
            usage = await texts(events, 2)
            offered = await one.ask(c.CommandList(room=room), c.BotCommands)
            answer = [entry async for entry in one.rooms[room].history(limit=4) if entry.reply_to == question.seq]
    finally:
        bot.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(bot.wait(), 10) == 0
    assert answers == ["/roll dice:3 sides:1", "3"]
    assert "Usage: /roll" in usage[1]
    assert [(each.name, [option.name for option in each.options]) for each in offered.commands] == [("roll", ["dice", "sides"])]
    assert len(answer) == 1


async def test_a_bot_with_a_state_file_answers_what_was_asked_while_it_was_away(server: RunningServer, tmp_path: Path) -> None:
    room = server.room("ops")
    token, asker = server.bot("echo", room), server.bot("asker", room)
    environment = clean_environment(SECURECHAT_URL=server.url, SECURECHAT_TOKEN=token, ECHO_STATE=str(tmp_path / "state.json"))
    async with client(server, asker) as one:
        events = one.events()
        for text in ("first", "second"):
            if text == "second":
                await one.rooms[room].send("/echo second")
            bot = await asyncio.create_subprocess_exec(
                sys.executable, ROOT / "examples/echo_bot.py", env=environment, stderr=subprocess.PIPE
            )
            if text == "first":
                assert bot.stderr is not None
                await asyncio.wait_for(bot.stderr.readline(), 15)
                await one.rooms[room].send("/echo first")
            assert await texts(events, 2) == [f"/echo {text}", text]
            bot.send_signal(signal.SIGTERM)
            await asyncio.wait_for(bot.wait(), 10)


def test_a_bot_with_a_wrong_token_exits_with_3_and_a_hint(server: RunningServer) -> None:
    environment = clean_environment(SECURECHAT_URL=server.url, SECURECHAT_TOKEN="sc_bot_wrong")
    found = subprocess.run(
        [sys.executable, ROOT / "examples/roll_bot.py"], env=environment, capture_output=True, text=True, timeout=20, check=False
    )

    assert found.returncode == 3
    assert "securechat bot rotate" in found.stderr


# ── the terminal and the command line ────────────────────────────────────────────────────────────────────────────────


def run(*arguments: str, data: Path | None = None, stdin: str = "", code: int = 0, **environment: Any) -> str:
    if data is not None:
        environment["SECURECHAT_DATA_DIR"] = str(data)
    found = command_line(*arguments, stdin=stdin, environment=clean_environment(**environment))
    assert found.returncode == code, (found.stdout, found.stderr)
    return found.stdout + found.stderr


def test_people_chat_line_by_line(server: RunningServer, tmp_path: Path) -> None:
    ana = server.set_up()
    bob = server.invite("bob")
    server.room("ops", ana["user"]["id"], bob["user"]["id"])
    profiles: dict[str, dict[str, Any]] = {name: {"SECURECHAT_PROFILE": str(tmp_path / f"{name}.json")} for name in ("ana", "bob")}
    for name, profile in profiles.items():
        assert f"as @{name}" in run("login", server.url, "-u", name, stdin=PASSWORD + "\n", **profile)
    assert "@ana (Ana, owner)" in run("whoami", **profiles["ana"])
    assert stat.S_IMODE((tmp_path / "ana.json").stat().st_mode) == 0o600

    sent = msgspec.json.decode(run("send", "ops", "hello from a script", "--cmid", "s1", "--json", **profiles["ana"]))
    again = msgspec.json.decode(run("send", "ops", "hello from a script", "--cmid", "s1", "--json", **profiles["ana"]))
    assert sent == again
    lines = f"hi ana\n/reply {sent['seq']} got it\n/react {sent['seq']} 👍\n//not a command\n/who\n/quit\n"
    shown = run("chat", "ops", stdin=lines, **profiles["bob"])
    for words in ("@ana: hello from a script", "@bob  Bob  member"):
        assert words in shown
    history = run("chat", "#ops", stdin="/history 50\n", **profiles["ana"])
    for words in ("@bob: hi ana", f"(to {sent['seq']}): got it", "👍1", "@bob: /not a command"):
        assert words in history
    assert "error: There is no such message to reply to." in run("chat", "ops", stdin="/reply 9999 x\n", **profiles["bob"])
    assert "Signed out" in run("logout", **profiles["bob"])
    assert "Not signed in" in run("whoami", code=3, **profiles["bob"])


def test_rooms_are_made_filled_and_left_from_the_terminal(server: RunningServer, tmp_path: Path) -> None:
    server.set_up()
    server.invite("bob")
    profile: dict[str, Any] = {"SECURECHAT_PROFILE": str(tmp_path / "ana.json")}
    run("login", server.url, "-u", "ana", stdin=PASSWORD + "\n", **profile)
    lines = "/create --public ops\n/add bob\nhello\n/who\n/browse o\n/remove bob\n/block bob\n/unblock bob\n/create quiet\n/leave\n/rooms\n"
    shown = run("chat", stdin=lines, **profile)

    for words in (
        "── #ops",
        "@bob  Bob  member  offline",
        "#ops  2 members",
        "bob is blocked",
        "not blocked any more",
        "you left quiet",
        "#ops  0 unread",
    ):
        assert words in shown, shown
    assert [shown.count(words) for words in ("@ana created the room", "@ana joined")] == [2, 2]  # each room's, once
    history = run("chat", "ops", stdin="", **profile)
    for words in ("@bob joined (brought in by @ana)", "@ana: hello", "@bob was removed by @ana"):
        assert words in history


def test_a_pipe_is_sent_whole(server: RunningServer) -> None:
    room = server.room("ops")
    environment: dict[str, Any] = {"SECURECHAT_URL": server.url, "SECURECHAT_TOKEN": server.bot("one", room)}
    run("send", "ops", stdin="line one\nline two\n", **environment)

    assert "line one\n    line two" in run("chat", "ops", stdin="", **environment)


def test_administration_works_the_same_with_and_without_a_running_server(server: RunningServer) -> None:
    data = server.data
    for _ in range(2):
        run("room", "create", "ops", data=data, code=0) if server.process else None
        assert "#ops" in run("room", "list", data=data)
        run("user", "list", data=data)
        link = run("invite", "create", "--uses", "2", "--expires", "1h", "--rooms", "ops", data=data)
        code = re.search(r"/i/([^\s#]+)", link)
        assert code
        assert code[1] in run("invite", "list", data=data)
        run("invite", "revoke", code[1], data=data)
        assert code[1] not in run("invite", "list", data=data)
        server.stop()
    name = f"helper{os.getpid()}"
    assert "SECURECHAT_TOKEN=sc_bot_" in run("bot", "create", name, "--room", "ops", data=data)
    assert "error: The username" in run("bot", "create", name, data=data, code=2)
    assert "set their password at" in run("user", "create", "carol", data=data)
    assert "locked" in run("user", "disable", "carol", data=data)
    assert "error: No user nobody." in run("user", "reset", "nobody", data=data, code=2)
    assert "unlocked" in run("user", "enable", "carol", data=data)
    assert "is in" in run("room", "add", "ops", "carol", data=data)
    assert "There is no SecureChat data" in run("user", "list", data=data.parent / "empty", code=2)


def test_a_backup_is_made_online_verified_and_restored(server: RunningServer, tmp_path: Path) -> None:
    ana = server.set_up()
    room = server.room("ops", ana["user"]["id"])
    server.post(f"/rooms/{room}/messages", {"cmid": "1", "body": "keep this"}, ana["access_token"])
    archive, restored = tmp_path / "b.tar.gz", tmp_path / "restored"
    assert "counts equal: ok" in run("backup", "create", str(archive), data=server.data)
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    assert "exists" in run("backup", "create", str(archive), data=server.data, code=2)
    run("backup", "verify", str(archive))
    assert "There is no file" in run("backup", "verify", str(tmp_path / "none.tar.gz"), code=2)
    run("backup", "restore", str(archive), str(restored))
    assert "not empty" in run("backup", "restore", str(archive), str(restored), code=2)
    other = RunningServer(restored).start()
    try:
        entries = other.request("GET", f"/rooms/{room}/entries", token=ana["access_token"])["entries"]
    finally:
        other.stop()

    assert entries[-1]["body"] == "keep this"
    damaged = bytearray(archive.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    archive.write_bytes(damaged)
    assert "damaged" in run("backup", "verify", str(archive), code=2)


def test_starting_tells_what_is_wrong_in_one_line(server: RunningServer, tmp_path: Path) -> None:
    def line(*arguments: str, data: Path) -> str:
        shown = run("serve", "--data", str(data), *arguments, code=2)
        assert "Traceback" not in shown
        return next(text for text in shown.splitlines() if text.startswith("error: "))

    assert "Another SecureChat" in line(data=server.data)
    taken = line("--port", str(server.port), "--http-port", "0", data=tmp_path / "other")
    assert f":{server.port}: Address already in use" in taken
    assert "Choose another --port" in taken
    (tmp_path / "file").write_text("")
    assert "cannot be written" in line(data=tmp_path / "file" / "data")
    (tmp_path / "broken.json").write_text('{"prot": 1}')
    assert "mistakes" in line("--config", str(tmp_path / "broken.json"), data=tmp_path / "third")


def test_the_configuration_is_explained_checked_and_reloaded(server: RunningServer) -> None:
    assert "log_level = 'INFO'   [default]" in run("config", "explain")
    assert "fine" in run("config", "check", "--config", str(server.config))
    server.config.write_text('{"log_level": "LOUD"}')
    wait_until(lambda: "configuration refused" in server.log, "the broken file is refused")
    server.config.write_text('{"log_level": "DEBUG", "port": 1}')
    wait_until(lambda: "needs_restart" in server.log, "the good file is taken")
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)
    server.request("GET", "/invites/AAAA-BBBB-CCCC", status=403)
    wait_until(lambda: '"event":"request"' in server.log, "DEBUG lines are written")


def test_the_settings_of_the_running_server_are_told_and_what_differs(server: RunningServer) -> None:
    shown = run("config", "explain", data=server.data)
    assert f"Of the server that runs on {server.data}" in shown
    assert f"port = {server.port}   [flag]" in shown
    assert "    here: 8443   [default]" in shown
    assert "given flags, another environment or another file" in shown
    told = msgspec.json.decode(run("config", "explain", "--json", data=server.data))
    assert (told["running"], told["settings"]["http_port"], told["origin"]["port"]) == (True, server.http_port, "flag")
    assert {"port", "http_port", "rates"} <= set(told["different_here"])
    server.stop()
    shown = run("config", "explain", data=server.data)
    assert "No server runs on" in shown
    assert "port = 8443   [default]" in shown


def test_a_word_that_is_none_of_a_settings_is_answered_with_those_that_are(server: RunningServer, tmp_path: Path) -> None:
    server.set_up()
    (tmp_path / "broken.json").write_text('{"session_layer": "maybe", "second_factor_roles": ["king"]}')
    shown = run("config", "check", "--config", str(tmp_path / "broken.json"), code=2)
    assert "session_layer: must be one of: required, preferred, off; not 'maybe'" in shown
    assert "second_factor_roles[0]: must be one of: owner, admin, member" in shown
    shown = run("user", "role", "ana", "king", data=server.data, code=64)
    assert "must be one of: owner, admin, moderator, member, guest; not 'king'" in shown
    token = server.bot("one")
    answer = server.request("POST", "/rooms", {"name": "x", "kind": "odd"}, token, status=400)
    assert "must be one of: public, private; not 'odd'" in answer["detail"]


def test_a_server_that_listens_for_others_and_does_not_know_its_name_says_so(tmp_path: Path) -> None:
    for settings, warns in (({"host": "0.0.0.0"}, True), ({"host": "0.0.0.0", "public_url": "https://chat.example.org"}, False)):
        running = RunningServer(tmp_path / str(warns), settings=settings).start()
        try:
            assert ("--public-url https://" in running.banner) == warns
            assert f"setup-link --data {running.data}" in running.banner
        finally:
            running.stop()
        assert ("public_url is not set" in running.log) == warns


def test_hints_can_be_typed_as_they_stand(server: RunningServer, tmp_path: Path) -> None:
    shown = run("doctor", "--data", str(server.data), code=1)
    (fix,) = re.findall(r"fix: (\S+ setup-link --data \S+)", shown)
    found = subprocess.run(fix, shell=True, env=clean_environment(), capture_output=True, text=True, check=True)
    assert "/setup#" in found.stdout
    assert "Public rooms" in run("room", "list", data=server.data)
    profile = clean_environment(SECURECHAT_PROFILE=str(tmp_path / "none"), PATH="/usr/bin:/bin")
    told = subprocess.run([SECURECHAT, "whoami"], env=profile, capture_output=True, text=True, check=False)
    assert told.returncode == 3
    assert f"Run: {SECURECHAT} login URL" in told.stderr or "Run: .venv/bin/securechat login URL" in told.stderr


def test_doctor_and_status_look_at_a_running_server(server: RunningServer) -> None:
    assert "0 failed" in run("doctor", "--config", str(server.config), data=server.data, code=1)
    server.set_up()
    assert "0 failed, 0 warnings" in run("doctor", "--config", str(server.config), data=server.data)
    (server.data / "keys" / "access-tokens.json").chmod(0o644)
    shown = run("doctor", "--config", str(server.config), data=server.data, code=2)
    assert "chmod 600" in shown
    assert "connections" in run("status", data=server.data)
    assert "SHA-256" in run("cert", "show", data=server.data)
    assert "update-ca-certificates" in run("cert", "trust", data=server.data)
    assert "is set up" in run("setup-link", data=server.data, code=2)


def test_metrics_are_on_the_admin_listener_only(tmp_path: Path) -> None:
    port = free_port()
    running = RunningServer(tmp_path / "data", settings={"admin_listen": f"127.0.0.1:{port}"}).start()
    try:
        running.set_up()
        with socket.create_connection(("127.0.0.1", port)) as probe:
            probe.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            text = b"".join(iter(lambda: probe.recv(65_536), b"")).decode()
    finally:
        running.stop()

    for name in (
        "securechat_connections ",
        "securechat_deliveries_total ",
        'securechat_build_info{version="',
        "securechat_event_loop_lag_seconds ",
    ):
        assert name in text


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["serve"],
        ["chat"],
        ["send"],
        ["user"],
        ["invite"],
        ["room"],
        ["bot"],
        ["cert"],
        ["doctor"],
        ["bench"],
        ["backup"],
        ["config"],
    ],
)
def test_every_command_has_help(command: list[str]) -> None:
    shown = run(*command, "--help")

    assert "Usage" in shown
    assert "Traceback" not in shown


def test_unknown_words_are_usage_errors() -> None:
    assert "No such command" in run("serv", code=2)
