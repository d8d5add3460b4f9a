"""Configuration, logs, health, documents that are made from the code, and what a process loads."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from securechat.domain import commands as c
from securechat.errors import Shutdown
from securechat.ops.health import Health
from securechat.ops.logger import ConsoleFormatter, JsonFormatter, Logger
from securechat.protocol.frames import COMMANDS, name_of
from securechat.rest.routes import FORMS, ROUTES
from securechat.server.config import FIELDS, HELP, ConfigError, ConfigManager, Settings
from securechat.server.datadir import DataDir
from securechat.server.derived import knows_host
from securechat.server.server import IMPATIENT_S, Server

ROOT = Path(__file__).parents[2]


def config(tmp_path: Path, text: str, environ: dict[str, str] | None = None, **flags: Any) -> ConfigManager:
    path = tmp_path / "config.json"
    path.write_text(text)
    return ConfigManager(path, flags, environ or {})


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    manager = config(
        tmp_path, '{"port": 1, "http_port": 2, "log_keep": 3}', {"SECURECHAT_PORT": "4", "SECURECHAT_HTTP_PORT": "5"}, port=6
    )

    assert (manager.settings.port, manager.settings.http_port, manager.settings.log_keep, manager.settings.host) == (
        6,
        5,
        3,
        "127.0.0.1",
    )
    assert (manager.origin["port"], manager.origin["http_port"]) == ("flag", "environment")


def test_all_mistakes_are_told_at_once_with_their_keys(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        config(tmp_path, '{"prot": 1, "port": "x", "registration": "maybe", "tls_cert": "/none"}', {"SECURECHAT_LOG_KEEP": "0"})

    for words in (
        "prot: unknown key",
        "did you mean port",
        "port: must be a whole number, not text",
        "registration:",
        "tls_cert: /none is not a file",
        "log_keep:",
    ):
        assert words in refusal.value.line


def test_all_mistakes_in_what_has_names_are_told_at_once(tmp_path: Path) -> None:
    rates = '{"mesage": {"burst": 1}, "room": {"burst": -1, "per_s": 2}, "command": {"burst": 1}, "login.address": {"burst": "x"}}'
    with pytest.raises(ConfigError) as refusal:
        config(tmp_path, f'{{"rates": {rates}, "database_shards": {{"a": 1, "b": "mysql://b"}}}}')

    for words in (
        "rates.mesage: unknown bucket, did you mean message?",
        "rates.room: burst and per_s are above 0",
        "rates.command.per_s: is missing",
        "rates.login.address.burst: must be a number, not text",
        "database_shards.a: must be text, not a whole number",
        "database_shards: b: postgresql://",
    ):
        assert words in refusal.value.line, refusal.value.line


def test_a_misspelt_variable_is_named_as_it_was_typed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="SECURECHAT_PROT: unknown key in environment, did you mean SECURECHAT_PORT\\?"):
        config(tmp_path, "{}", {"SECURECHAT_PROT": "3"})


def test_several_servers_need_a_database_and_a_key_and_an_address_of_redis(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        config(tmp_path, '{"redis_url": "http://redis", "bus_key": "short"}')
    for words in ("redis_url: redis://HOST:PORT is wanted", "several servers need database_url", "bus_key: at least 32 characters"):
        assert words in refusal.value.line
    database = '"database_url": "postgresql://localhost/chat"'
    with pytest.raises(ConfigError, match="bus_key: redis_url needs it"):
        config(tmp_path, f'{{"redis_url": "redis+cluster://localhost:6379", {database}}}')
    config(tmp_path, f'{{"redis_url": "rediss://me:secret@localhost:6379/0", "bus_key": "{"k" * 32}", {database}}}')


def test_a_public_url_without_a_host_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="public_url: https://\\[x names no host"):
        config(tmp_path, '{"public_url": "https://[x", "tls_domains": ["chat.example.org"]}')


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_file_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        config(tmp_path, text)


def test_reload_takes_what_may_change_and_tells_what_waits(tmp_path: Path) -> None:
    manager = config(tmp_path, "{}")
    told: list[str] = []
    manager.on_change(lambda settings: told.append(settings.log_level))
    (tmp_path / "config.json").write_text('{"log_level": "DEBUG", "port": 9}')

    assert manager.reload() == (["log_level"], ["port"])
    assert told == ["DEBUG"]
    assert manager.settings.port == 8443


def test_a_broken_new_file_is_refused_and_the_old_settings_stay(tmp_path: Path) -> None:
    manager = config(tmp_path, '{"log_level": "WARN"}')
    (tmp_path / "config.json").write_text('{"log_level": "LOUD"}')

    with pytest.raises(ConfigError):
        manager.reload()
    assert manager.settings.log_level == "WARN"


@pytest.mark.parametrize("content", [b'{"public_url": "https://caf\xe9.example"}', b"\xff\xfe{\x00}\x00"])
def test_a_file_that_is_not_utf_8_is_refused_and_the_old_settings_stay(tmp_path: Path, content: bytes) -> None:
    manager = config(tmp_path, '{"log_level": "WARN"}')
    (tmp_path / "config.json").write_bytes(content)

    with pytest.raises(ConfigError, match=r"not (JSON|UTF-8)"):
        manager.reload()
    assert manager.settings.log_level == "WARN"


def test_every_setting_is_explained() -> None:
    assert list(FIELDS) == list(HELP)
    assert all(text for text, _ in HELP.values())


def test_what_is_made_from_the_code_is_fresh() -> None:
    found = subprocess.run([sys.executable, ROOT / "tools/generate", "--check"], capture_output=True, text=True, check=False)

    assert found.returncode == 0, found.stdout


def test_every_command_has_a_reply_and_a_door() -> None:
    operator_only = {
        c.SetupLink, c.BackupCreate, c.ServerStatus, c.CertificateGet, c.CertificateRenew, c.AuditPrune, c.StorageStatus,
        c.StorageRotate, c.StorageShred, c.TokenKeyList, c.TokenKeyRotate, c.SubscriptionOverview,
    }  # fmt: skip

    assert set(COMMANDS) == set(c.REPLIES)
    assert {route.command for route in (*ROUTES, *FORMS)} == set(COMMANDS) - operator_only
    assert len({name_of(route.command) for route in ROUTES}) == len(ROUTES)


def test_the_name_of_a_struct_is_the_name_of_its_command() -> None:
    odd = {"Me": "user.me"}
    for command in COMMANDS:
        name = command.__name__
        words = odd.get(name) or "".join(
            ("." if index and char.isupper() else "") + char.lower() for index, char in enumerate(name)
        )
        assert name_of(command) == words


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("from securechat import Bot", ["securechat.services", "securechat.store", "apsw", "picows", "starlette", "sqlalchemy"]),
        ("import securechat.server.server", ["securechat.sdk", "websockets", "sqlalchemy", "alembic"]),
        ("import securechat.cli.main", ["securechat.server", "securechat.sdk", "apsw"]),
    ],
)
def test_a_process_loads_only_what_it_needs(module: str, absent: list[str]) -> None:
    program = f"import sys; {module}\nprint([name for name in {absent!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"


# ── logs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def record(message: str, **extra: Any) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "securechat.x", "levelno": logging.INFO, "msg": message, **extra})


@pytest.mark.parametrize("evil", ["a\r\nb", '{"x":1}', "\x1b[31mred", "x" * 100_000, "\ud800"])
def test_whatever_is_logged_is_one_valid_line(evil: str) -> None:
    line = JsonFormatter().format(record("event", value=evil.encode("utf-8", "replace").decode()))

    assert "\n" not in line
    assert len(line) < 5_000
    assert json.loads(line)["event"] == "event"
    shown = ConsoleFormatter(colour=False).format(record("event", value=evil.encode("utf-8", "replace").decode()))
    assert shown.isprintable()


def test_levels_are_those_of_the_documentation() -> None:
    levels = [json.loads(JsonFormatter().format(record("x", levelno=level)))["level"] for level in (5, 10, 20, 30, 40, 50, 60)]

    assert levels == ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "ERROR", "FATAL"]


def test_the_log_file_is_rotated_compressed_and_old_ones_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    logger = Logger(style="json", path=path, max_bytes=2_000, keep=3, stream=io.StringIO())
    before = logging.getLogger().handlers
    logger.start()
    log = logging.getLogger("securechat.test")
    for number in range(200):
        log.info("event", extra={"number": number})
    logger.stop()
    logging.getLogger().handlers = before

    packed = sorted(tmp_path.glob("x-*.log.gz"))
    assert len(packed) == 3
    text = b"".join(gzip.decompress(old.read_bytes()) for old in packed) + path.read_bytes()
    lines = [json.loads(line) for line in text.splitlines()]
    numbers = [line["number"] for line in lines]
    assert numbers == list(range(numbers[0], 200))
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_full_log_queue_drops_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("securechat.ops.logger.WAITING_MAX", 5)
    stream = io.StringIO()
    logger = Logger(style="json", stream=stream)
    handler = logger._handler
    for number in range(8):
        handler.emit(record(f"event {number}"))
    logger._listener.start()
    while not handler.queue.empty():  # type: ignore[attr-defined]
        pass
    handler.emit(record("later"))
    logger._listener.stop()

    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == [*(f"event {number}" for number in range(5)), "later"]
    assert lines[-1]["dropped"] == 3


# ── health, folders, certificates ────────────────────────────────────────────────────────────────────────────────────


async def test_however_many_ask_at_once_whether_it_is_ready_the_store_is_asked_once() -> None:
    asked = 0
    answer = asyncio.Event()

    async def check() -> None:
        nonlocal asked
        asked += 1
        await answer.wait()

    health = Health({"store": check})
    health.started = True
    waiting = [asyncio.create_task(health.readiness()) for _ in range(100)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    health.draining = True
    answer.set()
    found = await asyncio.gather(*waiting[1:])
    assert asked == 1
    assert {each.checks["server"] for each in found} == {"draining"}
    await health.readiness()
    assert asked == 2


async def test_readiness_says_which_dependency_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("securechat.ops.health.CHECK_S", 0.05)

    async def fine() -> None:
        pass

    async def broken() -> None:
        raise OSError

    async def hangs() -> None:
        await asyncio.Event().wait()

    health = Health({"a": fine, "b": broken, "c": hangs})
    health.started = True

    assert (await health.readiness()).checks == {"a": "ok", "b": "OSError", "c": "TimeoutError"}
    only = Health({"a": fine})
    assert not (await only.readiness()).ready
    only.started = True
    assert (await only.readiness()).ready
    only.draining = True
    assert not (await only.readiness()).ready


def test_a_data_folder_has_one_owner(tmp_path: Path) -> None:
    first, second = DataDir(tmp_path / "d"), DataDir(tmp_path / "d")
    first.open()

    with pytest.raises(Shutdown, match="Another SecureChat"):
        second.open()
    first.close()
    second.open()
    second.close()


def test_a_sealed_session_takes_the_names_that_the_settings_say() -> None:
    any_name, by_acme = Settings(), Settings(tls_domains=["chat.example.org"])

    assert knows_host(any_name, "whatever.example")
    assert knows_host(by_acme, "chat.example.org:8443")
    assert knows_host(by_acme, "localhost:8443")
    assert not knows_host(by_acme, "evil.example")


@pytest.mark.parametrize("host", ["[x", "[::1", "chat.example.org:port", "chat.example.org:99999", "[fe80::1%]]", "\u2100.example"])
def test_a_host_that_is_none_is_unknown(host: str) -> None:
    assert not knows_host(Settings(tls_domains=["chat.example.org"]), host)


def test_signals_that_come_together_are_one_wish_and_a_later_one_is_impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("securechat.server.server.time.monotonic", lambda: now)
    server = Server(ConfigManager(None, {}, {}), print)
    for _ in range(3):
        server._asked_to_stop()
    now += IMPATIENT_S + 0.1

    with pytest.raises(SystemExit):
        server._asked_to_stop()


def test_structs_of_the_wire_are_plain() -> None:
    assert msgspec.json.encode(c.Sent(room="rm_1", seq=1, at=2)) == b'{"room":"rm_1","seq":1,"at":2}'
