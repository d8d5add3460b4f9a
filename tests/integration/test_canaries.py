"""Canaries: secrets that were used must not be found in logs, metrics, answers, crash output, or what commands print."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import logging
import re
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from securechat.domain import commands as c
from securechat.domain.accounts import OPERATOR
from securechat.domain.audit import AuditEvent
from securechat.domain.secret import Secret
from securechat.errors import Conflict, Shutdown
from securechat.ops.health import Health
from securechat.ops.logger import Logger
from securechat.rest.app import RestApp
from securechat.rest.static import StaticFiles
from securechat.sdk.client import ChatClient
from securechat.server import server_desk, wiring
from securechat.server.config import Settings
from securechat.server.datadir import DataDir
from securechat.server.listening import WEB
from support.running import SECURECHAT, RunningServer, clean_environment

PASSWORD = "canary-password-7d1f"
WRONG = "canary-wrong-password-22c0"
NEW = "canary-new-password-93ab"


def private_keys(data: Path) -> list[str]:
    """Return a line out of the middle of each private key."""
    found = []
    for path in [*data.glob("keys/*.pem"), *data.glob("tls/*.key")]:
        lines = path.read_text().splitlines()
        found.append(max(lines, key=len)[:40])
    return found


def refuse(canaries: list[str], where: str, text: str) -> None:
    for canary in canaries:
        assert canary not in text, f"{canary[:20]}… is in {where}: …{text[max(0, text.index(canary) - 200) :][:400]}"


# ── a real server, at its most talkative ─────────────────────────────────────────────────────────────────────────────


async def test_114_no_secret_that_was_used_is_in_any_log_metric_answer_or_command(tmp_path: Path) -> None:
    server = RunningServer(tmp_path / "data", "--log-level", "TRACE", settings={"log_style": "json"}).start()
    answers: list[str] = []
    try:
        canaries = await _use_every_secret(server, answers)
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(server.data / "admin.sock"))) as http:
            metrics = http.get("http://admin/metrics").text + http.get("http://admin/readyz").text
        commands = {
            " ".join(words): subprocess.run(
                [SECURECHAT, *words, "--data", str(server.data)] if words[0] != "config" else [SECURECHAT, *words],
                capture_output=True, text=True, env=clean_environment(), check=False,
            )
            for words in (("doctor",), ("doctor", "--json"), ("status",), ("audit", "list", "--limit", "200"), ("audit", "export"),
                          ("user", "list"), ("config", "explain"), ("config", "explain", "--json"))
        }  # fmt: skip
    finally:
        server.stop()

    logs = server.log + (server.data / "logs/securechat.log").read_text()
    logs += "".join(gzip.decompress(path.read_bytes()).decode() for path in server.data.glob("logs/*.gz"))
    assert '"level":"DEBUG"' in logs  # it was talkative
    assert '"path":"/api/v1/invites/***"' in logs
    refuse(canaries, "the logs", logs)
    refuse(canaries, "metrics", metrics)
    for answer in answers:
        refuse(canaries, "the answer to a mistake", answer)
    for words, found in commands.items():
        refuse(canaries, words, found.stdout + found.stderr)
        assert "Traceback" not in found.stderr


async def _use_every_secret(server: RunningServer, answers: list[str]) -> list[str]:
    """Use each kind of secret rightly and wrongly; return them all, and gather the answers to the wrong uses."""

    def mistake(method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> None:
        with httpx.Client(trust_env=False, timeout=20) as http:
            answer = http.request(method, f"{server.url}/api/v1{path}", json=body, headers=headers)
        assert answer.status_code >= 400, answer.text
        answers.append(answer.text + str(answer.headers))

    setup = server.setup_token
    mistake("POST", "/setup", {"token": setup, "username": "-", "password": PASSWORD})
    mistake("POST", "/setup", {"token": setup, "username": "ana", "password": PASSWORD, "surprise": PASSWORD})
    mistake("POST", "/setup", {"token": [setup], "username": "ana", "password": {"x": PASSWORD}})
    ana = server.post("/setup", {"token": setup, "username": "ana", "password": PASSWORD})
    mistake("POST", "/setup", {"token": setup, "username": "ana", "password": PASSWORD})
    invite = server.operator().perform(c.InviteCreate()).code
    server.request("GET", f"/invites/{invite}")
    mistake("POST", "/accounts", {"code": invite, "username": "ana", "password": PASSWORD})
    bob = server.post("/accounts", {"code": invite, "username": "bob", "password": PASSWORD})
    mistake("GET", f"/invites/{invite}")
    mistake("POST", "/sessions", {"username": "bob", "password": WRONG})
    mistake("POST", "/sessions", {"username": WRONG, "password": WRONG})
    second = server.post("/sessions/refresh", {"refresh_token": bob["refresh_token"]})
    third = server.post("/sessions/refresh", {"refresh_token": second["refresh_token"]})
    mistake("POST", "/sessions/refresh", {"refresh_token": bob["refresh_token"]})
    mistake("POST", "/sessions/refresh", {"refresh_token": "x" + third["refresh_token"]})
    cookie = {"X-SecureChat-Session": "cookie", "Cookie": f"securechat-{server.http_port}={third['refresh_token']}"}
    mistake("POST", "/sessions/refresh", {"refresh_token": ""}, cookie)
    for token in (third["access_token"], ana["access_token"] + "x", "sc_bot_" + "y" * 43):
        mistake("GET", "/me", headers={"Authorization": f"Bearer {token}"})
    mistake("GET", f"/me?token={ana['access_token']}")
    bot = server.bot("deploy")
    async with ChatClient.connect(server.url, bot):
        pass
    link = server.operator().perform(c.UserReset(user=bob["user"]["id"])).url.partition("t=")[2]
    mistake("POST", "/password-reset", {"token": link, "password": "short"})
    server.post("/password-reset", {"token": link, "password": NEW})
    mistake("POST", "/password-reset", {"token": link, "password": NEW})
    created = server.operator().perform(c.UserCreate(username="eve", password=Secret(PASSWORD + "-eve")))
    assert not created.url
    sessions = [ana, bob, second, third]
    return [
        PASSWORD, WRONG, NEW, setup, invite, bot, link,
        *(session["access_token"] for session in sessions), *(session["refresh_token"] for session in sessions),
        *private_keys(server.data),
    ]  # fmt: skip


# ── crash output ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Crashes(logging.Handler):
    """Keeps every exception that is logged, as the most talkative crash reporter would: with the locals of all frames."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[0] is not None:
            kind, error, trace = record.exc_info
            assert error is not None
            found = traceback.TracebackException(kind, error, trace, capture_locals=True)
            self.texts.append("".join(found.format()))


class World:
    """The parts of a server without sockets."""

    def __init__(self, parts: wiring.Parts, rest: RestApp, stream: io.StringIO, crashes: Crashes) -> None:
        self.parts = parts
        self.rest = rest
        self.stream = stream
        self.crashes = crashes

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        transport = httpx.ASGITransport(app=self.rest.asgi, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return await http.request(method, f"/api/v1{path}", json=body, headers=headers)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    data = DataDir(tmp_path / "data")
    data.open()
    settings = Settings(data_dir=str(data.root))
    parts = await wiring.build(lambda: settings, data, lambda: "http://localhost")
    rest = RestApp(
        parts.dispatcher, parts.auth, parts.limiter, Health({}), parts.counters, StaticFiles(WEB), frozenset, lambda: None
    )
    stream, crashes = io.StringIO(), Crashes()
    before = logging.getLogger().handlers
    logger = Logger(level="TRACE", style="json", stream=stream)
    logger.start()
    logging.getLogger().addHandler(crashes)
    yield World(parts, rest, stream, crashes)
    logger.stop()
    logging.getLogger().handlers = before
    await parts.auditor.settle()
    await parts.database.close()
    parts.passwords.close()
    data.close()


def boom(*_: Any, **__: Any) -> Any:
    raise RuntimeError("a part is broken")


@pytest.mark.parametrize("part", ["_hash", "_check", "create_device", "rotate_refresh", "session", "use_link", "create_user"])
async def test_114_a_crash_in_a_request_shows_no_secret_even_with_all_locals(
    world: World, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    link = (await world.parts.accounts.setup_link(OPERATOR, c.SetupLink())).url.partition("t=")[2]
    ana = (await world.ask("POST", "/setup", {"token": link, "username": "ana", "password": PASSWORD})).json()
    invite = (await world.parts.accounts.create_invite(OPERATOR, c.InviteCreate(uses=9))).code
    again = (await world.parts.accounts.reset_link(OPERATOR, c.UserReset(user=ana["user"]["id"]))).url.partition("t=")[2]
    owner = world.parts.passwords if part in {"_hash", "_check"} else world.parts.auth._accounts
    monkeypatch.setattr(type(owner), part, boom)
    bearer = {"Authorization": f"Bearer {ana['access_token']}", "Cookie": f"x={ana['refresh_token']}"}

    statuses = []
    for path, body in (
        ("/sessions", {"username": "ana", "password": PASSWORD}),
        ("/accounts", {"code": invite, "username": "bob", "password": NEW}),
        ("/sessions/refresh", {"refresh_token": ana["refresh_token"]}),
        ("/password-reset", {"token": again, "password": NEW}),
    ):
        answer = await world.ask("POST", path, body, **bearer)
        statuses.append(answer.status_code)
        if answer.status_code >= 400:
            refuse([PASSWORD, NEW, ana["refresh_token"], ana["access_token"], invite, again], "the answer", answer.text)
    answer = await world.ask("GET", "/me", **bearer)
    statuses.append(answer.status_code)
    assert 500 in statuses
    assert world.crashes.texts
    secrets = [PASSWORD, NEW, link, invite, again, ana["access_token"], ana["refresh_token"], *private_keys(world.parts.data.root)]
    for text in world.crashes.texts:
        assert "a part is broken" in text
        refuse(secrets, "a traceback with locals", text)


async def test_114_a_crash_in_a_background_task_shows_no_secret(world: World) -> None:
    token = Secret("canary-in-a-task")

    async def work(token: Secret) -> None:
        await asyncio.sleep(0)
        raise RuntimeError(f"broken with {token} and sc_bot_{'z' * 43}")

    logged = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hear(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        loop.default_exception_handler(context)
        logged.set()

    loop.set_exception_handler(hear)
    task = asyncio.create_task(work(token))
    await asyncio.wait({task})
    del task
    await logged.wait()
    loop.set_exception_handler(None)

    assert any("broken with ***" in text for text in world.crashes.texts)
    refuse([token.reveal()], "a traceback with locals", "".join(world.crashes.texts))


def test_114_a_crash_of_the_process_shows_no_secret(tmp_path: Path) -> None:
    program = (
        "import sys, traceback\n"
        "from securechat.domain.secret import Secret\n"
        "from securechat.domain import commands as c\n"
        "def crash(password, command):\n"
        "    raise RuntimeError(f'{password} {command!r}')\n"
        "sys.excepthook = lambda *found: print(*traceback.TracebackException(*found, capture_locals=True).format(), file=sys.stderr)\n"
        f"crash(Secret({PASSWORD[:8]!r} + {PASSWORD[8:]!r}), c.SessionCreate(username='ana', password=Secret({WRONG[:8]!r} + {WRONG[8:]!r})))\n"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert found.returncode == 1
    assert "password = ***" in found.stderr
    refuse([PASSWORD, WRONG], "the process's last words", found.stdout + found.stderr)


async def test_the_parts_of_a_server_show_no_key(world: World) -> None:
    parts = world.parts
    shown = "".join(
        repr(vars(each))
        for each in (parts.auth, parts.auth._tokens, parts.auditor, parts.auditor._checkpoints, parts.auditor._checkpoints._key)
    )

    refuse(private_keys(parts.data.root), "a repr", shown)
    key = parts.auth._tokens.keys.signing
    refuse([str(key.pair.as_dict(private=True)["d"])], "a repr", shown + repr(key))


async def test_a_backup_that_fails_is_refused_and_remembered_and_the_server_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def damaged(*_: object) -> None:
        raise Shutdown("the copy is damaged")

    monkeypatch.setattr(server_desk, "create_backup", damaged)

    with pytest.raises(Conflict, match="the copy is damaged"):
        await world.parts.dispatcher.perform(OPERATOR, c.BackupCreate(path=str(tmp_path / "b")), "local")
    await world.parts.auditor.flush()
    page = await world.parts.dispatcher.perform(OPERATOR, c.AuditList(action="backup."), "local")
    assert [(record.result, record.reason) for record in page.records] == [("failed", "Shutdown"), ("done", "")]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_backup_made_while_the_audit_log_is_signed_and_pruned_is_whole(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, when: str
) -> None:
    auditor, copy = world.parts.auditor, world.parts.maintenance.backup
    await auditor.record(AuditEvent(action="server.start"))

    async def busy() -> None:
        await auditor.record(AuditEvent(action="server.start"))
        await auditor.prune(2**50, AuditEvent(action="audit.prune"))
        await auditor.record(AuditEvent(action="server.start"))
        await auditor.checkpoint()

    async def backup(path: str) -> None:
        if when == "before":
            await busy()
        await copy(path)
        if when == "after":
            await busy()

    monkeypatch.setattr(world.parts.maintenance, "backup", backup)
    made = await world.parts.dispatcher.perform(OPERATOR, c.BackupCreate(path=str(tmp_path / "b")), "local")

    assert made.audit == ""


def test_the_canaries_would_be_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="is in the logs"):
        refuse([PASSWORD], "the logs", json.dumps({"value": f"x {PASSWORD} y"}))
    assert re.search("canary", PASSWORD)
