"""`securechat doctor`: each problem comes with the command that repairs it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import resource
import shlex
import socket
import stat
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from securechat.cli.certificate import context
from securechat.cli.operator import Operator, data_root, readiness
from securechat.cli.output import counted, say, say_json
from securechat.domain import commands as c
from securechat.errors import ChatError, Shutdown
from securechat.program import program
from securechat.server.audit import verify_folder
from securechat.server.backup import free_space
from securechat.server.config import ConfigError, ConfigManager, Settings
from securechat.server.datadir import DataDir
from securechat.server.identity import INDEX, IdentityKeys
from securechat.server.own_ca import OwnCA
from securechat.store.migrate import HEAD, current

FREE_MIN = 1_000_000_000


class Finding(msgspec.Struct):
    """One check: `ok`, `warn` or `fail`."""

    state: str
    name: str
    text: str
    fix: str = ""


def examine(config: Path | None, data: str | None, *, as_json: bool) -> int:
    """Run every check, print, and return 0, 1 (warnings) or 2 (failures)."""
    findings = list(_findings(config, data))
    if as_json:
        say_json(findings)
    else:
        for each in findings:
            say(f" {each.state:<5} {each.name:<12} {each.text}" + (f"   fix: {each.fix}" if each.fix else ""))
    failed = sum(each.state == "fail" for each in findings)
    warned = sum(each.state == "warn" for each in findings)
    if not as_json:
        say(f"{failed} failed, {counted(warned, 'warning')}, {len(findings) - failed - warned} ok")
    return 2 if failed else 1 if warned else 0


@dataclass(frozen=True, slots=True)
class _Place:
    """What `doctor` was asked to look at: the commands that it names are about the same."""

    config: Path | None
    data: str | None

    def call(self, command: str, *, config: bool = True) -> str:
        """Return how to call a command for this place; `config`: whether it takes a configuration file."""
        given = [("--config", str(self.config))] if config and self.config else []
        given += [("--data", self.data)] if self.data else []
        return " ".join([program(), command, *(f"{flag} {shlex.quote(value)}" for flag, value in given)])


def _findings(config: Path | None, data: str | None) -> Iterator[Finding]:
    place = _Place(config, data)
    try:
        settings = ConfigManager(config, {"data_dir": data}).settings
        yield Finding("ok", "config", f"{config or 'defaults and environment'}, no mistakes")
    except ConfigError as error:
        yield Finding("fail", "config", error.line, place.call("config check"))
        settings = Settings(data_dir=str(data_root(data)))
    folder = DataDir(settings.data_dir)
    yield from _folder(place, folder)
    yield from _database(place, settings, folder)
    yield from _shards(settings)
    yield from _redis(settings)
    yield from _secrets(folder)
    yield from _identity(place, folder)
    yield from _audit(place, settings, folder)
    yield from _storage(place, settings, folder)
    yield from _certificate(place, settings, folder)
    yield _files_limit(settings)
    yield from _server(place, settings, folder)
    yield from _dependencies(folder)


def _folder(place: _Place, folder: DataDir) -> Iterator[Finding]:
    if not folder.root.is_dir():
        yield Finding("fail", "data", f"{folder.root} is missing", place.call("serve"))
        return
    if not os.access(folder.root, os.W_OK):
        yield Finding("fail", "data", f"{folder.root} cannot be written", f"chown -R $USER {folder.root}")
        return
    free = free_space(folder.root)
    state = "ok" if free > FREE_MIN else "warn"
    yield Finding(state, "data", f"{folder.root}, {free / 1e9:.1f} GB free", "" if state == "ok" else "free some space")


def _database(place: _Place, settings: Settings, folder: DataDir) -> Iterator[Finding]:
    if settings.database_url:
        from securechat.store.postgres import current_postgres  # noqa: PLC0415 - the driver takes memory, and few need it

        try:
            there = asyncio.run(current_postgres(settings.database_url.reveal()))
        except Shutdown as error:
            yield Finding("fail", "database", error.line, "start PostgreSQL, or correct database_url")
            return
        if there == HEAD:
            yield Finding("ok", "database", f"postgresql, schema {there} = code {HEAD}")
        else:
            yield Finding("warn", "database", f"postgresql, schema {there}, code {HEAD}", place.call("db migrate"))
        return
    if folder.elsewhere.exists():
        yield Finding("fail", "database", "in PostgreSQL, and database_url is not set", "set SECURECHAT_DATABASE_URL")
        return
    if not folder.database.exists():
        yield Finding("fail", "database", "not there yet", place.call("serve"))
        return
    have = current(folder.database)
    wal = folder.database.with_name(folder.database.name + "-wal")
    size = wal.stat().st_size / 1e6 if wal.exists() else 0.0
    if have == HEAD:
        yield Finding("ok", "database", f"sqlite, schema {have} = code {HEAD}, WAL {size:.1f} MB")
    else:
        yield Finding("warn", "database", f"schema {have}, code {HEAD}", f"{place.call('serve')} (migrates at start)")


def _shards(settings: Settings) -> Iterator[Finding]:
    """Look at each database that rooms may live in, whether or not the others answer."""
    if not settings.database_url:
        return
    from securechat.store.postgres import read_all  # noqa: PLC0415 - the driver takes memory, and few need it
    from securechat.store.shards import Registered, problem_of  # noqa: PLC0415

    fix = "start that PostgreSQL, or correct database_shards; meanwhile its rooms cannot be used, and its users cannot sign in"
    known: Registered | None = None
    try:
        rows = asyncio.run(read_all(settings.database_url.reveal(), "SELECT value FROM settings WHERE key = 'shards'"))
        known = msgspec.json.decode(rows[0][0], type=Registered) if rows else Registered("", [])
    except ValueError:
        pass  # `_database` tells it.
    for name in sorted({*settings.database_shards, *(known.names if known else ())}):
        if name not in settings.database_shards:
            yield Finding(
                "fail", "shard", f"{name}: rooms or users live in it, and database_shards does not say where it is", "add it there"
            )
        elif known is not None and name not in known.names:
            yield Finding("warn", "shard", f"{name}: not in use", f"{program()} shards add {name}")
        else:
            problem = asyncio.run(problem_of(settings.database_shards[name].reveal(), name, known))
            yield Finding("fail", "shard", f"{name}: {problem}", fix) if problem else Finding("ok", "shard", f"{name}: answers")


def _dependencies(folder: DataDir) -> Iterator[Finding]:
    """Tell what the running server says of what it depends on: that need not be what is seen from here."""
    found = readiness(folder.root)
    if found is None:
        return
    down = {name: each for name, each in found.dependencies.items() if each.state == "down"}
    for name, each in down.items():
        state = "warn" if found.ready else "fail"
        yield Finding(state, "dependency", f"the server does without {name} since {each.since}: {each.reason}", _HEALS)
    if found.dependencies and not down:
        yield Finding("ok", "dependency", f"the server has {', '.join(found.dependencies)}")


_HEALS = "see docs/howto/keep-it-running.md; it is used again by itself"


def _redis(settings: Settings) -> Iterator[Finding]:
    if settings.redis_url is None:
        return
    from securechat.bus.nodes import look  # noqa: PLC0415 - the library takes memory, and few need it

    try:
        nodes = asyncio.run(look(settings.redis_url.reveal()))
    except ConnectionError as error:
        text = f"{error}; servers hear each other by way of the database, up to 2 s late"
        yield Finding("warn", "redis", text, "start Redis, or correct redis_url")
        return
    yield Finding("ok", "redis", f"{nodes} node{'s' if nodes > 1 else ''}, all answer")


def _secrets(folder: DataDir) -> Iterator[Finding]:
    for path in [*folder.keys.glob("*"), *folder.tls.glob("*.key"), *folder.tls.glob("acme-*")]:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield Finding("fail", "secrets", f"{path} can be read by others", f"chmod 600 {path}")
            return
    yield Finding("ok", "secrets", "keys can be read by their owner only")


def _identity(place: _Place, folder: DataDir) -> Iterator[Finding]:
    if not (folder.keys / INDEX).exists():
        return
    try:
        IdentityKeys(folder.keys).load()
    except Shutdown as error:
        yield Finding(
            "fail",
            "identity",
            f"{error.line} A running server goes on with those that it has.",
            place.call("keys list", config=False),
        )
        return
    yield Finding("ok", "identity", "the keys by which clients know this server can be used")


def _storage(place: _Place, settings: Settings, folder: DataDir) -> Iterator[Finding]:
    if folder.admin_socket.exists():
        with contextlib.suppress(ChatError, Shutdown):  # `_server` says that it does not answer.
            found: c.Storage = Operator(folder.root).perform(c.StorageStatus())
            if found.problem:
                yield Finding("warn", "storage", found.problem, place.call("storage status"))
    keys = Path(settings.at_rest_keys) if settings.at_rest_keys else folder.keys
    if settings.at_rest == "off":
        yield Finding("ok", "storage", "messages are not encrypted at rest (setting at_rest)")
    elif keys.resolve().is_relative_to(folder.root.resolve()):
        yield Finding("warn", "storage", "encrypted, and the key lies beside the data", "set at_rest_keys to a folder elsewhere")
    else:
        yield Finding("ok", "storage", f"encrypted at rest, keys in {settings.at_rest_keys}")


def _audit(place: _Place, settings: Settings, folder: DataDir) -> Iterator[Finding]:
    if not folder.audit.is_dir():
        return
    try:
        report = verify_folder(folder, Path(settings.audit_folder) if settings.audit_folder else None, url=settings.database_url)
    except ValueError as error:
        yield Finding("fail", "audit", str(error), place.call("audit verify"))
        return
    if report.whole:
        yield Finding("ok", "audit", f"{report.records} records, chain and {report.checkpoints} checkpoints are whole")
    else:
        yield Finding("fail" if report.tampered else "warn", "audit", report.findings[0].text, place.call("audit verify"))


def _certificate(place: _Place, settings: Settings, folder: DataDir) -> Iterator[Finding]:
    problem, state = "", None
    if folder.admin_socket.exists():
        try:
            state = Operator(folder.root).perform(c.CertificateGet())
            problem = state.problem
        except (ChatError, Shutdown) as error:
            problem = str(error)
    if state is None and not settings.tls_cert and not OwnCA(folder.tls).ca_path.exists():
        yield Finding("warn", "tls", "no certificate yet", place.call("serve"))
        return
    if state is None:
        tls = context(settings, folder)
        try:
            tls.load()
        except Shutdown as error:
            yield Finding("fail", "tls", error.line, f"{place.call('cert show')}, then put a good file there")
            return
        problem = problem or tls.problem
        names, ends = tls.certificate.names, tls.certificate.not_after
    else:
        names, ends = state.names, dt.datetime.fromtimestamp(state.not_after, dt.UTC)
    days = (ends - dt.datetime.now(dt.UTC)).days
    if problem:
        yield Finding("warn", "tls", problem, place.call("cert renew") if settings.tls_domains else "renew the certificate's files")
    else:
        yield Finding("ok", "tls", f"certificate for {', '.join(names)}, good for {days} days")
    host = urllib.parse.urlsplit(settings.public_url).hostname
    if host and host not in names and f"*.{host.partition('.')[2]}" not in names:
        yield Finding("warn", "tls", f"the certificate is not for {host}, which public_url says", "set tls_domains or public_url")


def _files_limit(settings: Settings) -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = settings.max_connections + settings.max_http_connections + settings.max_pending + 200
    if soft >= need:
        return Finding("ok", "files", f"{soft} open files allowed")
    return Finding(
        "warn",
        "files",
        f"{soft} open files allowed, {need} wanted for max_connections and max_http_connections",
        f"ulimit -n {need}",
    )


def _server(place: _Place, settings: Settings, folder: DataDir) -> Iterator[Finding]:
    if not folder.admin_socket.exists():
        taken = [port for port in (settings.port, settings.http_port) if port and _taken(settings.host, port)]
        if taken:
            yield Finding(
                "fail", "server", f"not running, and port {taken[0]} is taken", f"{place.call('serve')} --port ... --http-port ..."
            )
        else:
            yield Finding("ok", "server", "not running; its ports are free")
        return
    try:
        status: c.Status = Operator(folder.root).perform(c.ServerStatus())
    except (ChatError, Shutdown) as error:
        yield Finding("fail", "server", str(error), "look into logs/securechat.log")
        return
    yield Finding("ok", "server", f"answers; {status.connections} connections, {status.users} users, {status.entries} entries")
    if not status.users:
        yield Finding("warn", "setup", "there is no account yet", place.call("setup-link", config=False))


def _taken(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False
