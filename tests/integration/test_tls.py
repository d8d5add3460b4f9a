"""The certificate of a running server is exchanged: nobody is disconnected, and what is broken is not taken."""

from __future__ import annotations

import asyncio
import datetime as dt
import errno
import hashlib
import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from securechat.domain import commands as c
from securechat.gateway.acceptor import Acceptor
from securechat.server.challenges import Challenges
from securechat.server.tls import make_context
from support.certificates import Files, new_key, pem
from support.running import RunningServer, command_line, wait_until, wait_until_async
from support.tls_client import shake


@pytest.fixture
def files(tmp_path: Path) -> Files:
    found = Files(tmp_path / "site")
    found.good()
    return found


@pytest.fixture
def own(tmp_path: Path, files: Files) -> Iterator[RunningServer]:
    """A server with a certificate from files."""
    running = RunningServer(tmp_path / "data", settings=dict(files.settings)).start()
    yield running
    running.stop()


@asynccontextmanager
async def connected(server: RunningServer, files: Files) -> AsyncIterator[ClientConnection]:
    trust = ssl.create_default_context(cafile=str(files.ca.path))
    url = f"wss://localhost:{server.port}/gateway"
    async with connect(url, subprotocols=[Subprotocol("securechat.v1.clear")], proxy=None, ssl=trust) as found:
        await found.recv()
        token = server.bot(f"bot{secrets.token_hex(4)}")
        await found.send(json.dumps([{"op": "auth", "id": "a", "token": token}]))
        assert json.loads(await found.recv())[0]["op"] == "ready"
        yield found


async def answers(connection: ClientConnection) -> None:
    await connection.send(json.dumps([{"op": "ping", "id": "p"}]))
    async with asyncio.timeout(10):
        assert json.loads(await connection.recv())[0]["id"] == "p"


def hang_up(server: RunningServer) -> None:
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGHUP)


def digest(chain: bytes) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(chain.decode())).hexdigest()


@pytest.mark.parametrize(("by", "kind"), [("signal", "p256"), ("file", "rsa2048"), ("signal", "ed25519")])
async def test_a_new_certificate_is_shown_to_new_connections_and_the_old_ones_stay(
    own: RunningServer, files: Files, by: str, kind: str
) -> None:
    old = shake(own.port, ca=str(files.ca.path)).digest
    async with connected(own, files) as before:
        new = files.good(kind=kind)
        if by == "signal":
            hang_up(own)
        await asyncio.to_thread(wait_until, lambda: shake(own.port).digest == digest(new), "the new certificate")
        await answers(before)
        async with connected(own, files) as after:
            await answers(after)

    assert digest(new) != old
    assert shake(own.port, ca=str(files.ca.path)).digest == digest(new)


async def test_no_connection_fails_while_certificates_change_again_and_again(own: RunningServer, files: Files) -> None:
    seen: set[str] = set()
    stop = asyncio.Event()

    async def come_and_go() -> int:
        count = 0
        while not stop.is_set():
            seen.add((await asyncio.to_thread(shake, own.port, ca=str(files.ca.path))).digest)
            count += 1
        return count

    guests = [asyncio.create_task(come_and_go()) for _ in range(4)]
    async with connected(own, files) as lasting:
        for _ in range(5):
            wanted = digest(files.good())
            hang_up(own)
            await asyncio.to_thread(wait_until, lambda wanted=wanted: wanted in seen, "somebody sees the new one")
        await answers(lasting)
    stop.set()
    counts = await asyncio.gather(*guests)  # raises what went wrong for one of them

    assert len(seen) >= 5
    assert sum(counts) >= 20


def _not_pem(files: Files) -> None:
    files.cert.write_text("nothing")


def _other_key(files: Files) -> None:
    files.key.write_bytes(pem(new_key()))


def _expired(files: Files) -> None:
    key = new_key()
    files.write(files.ca.issue("localhost", key=key, begins=dt.timedelta(days=-9), ends=dt.timedelta(days=-1)), pem(key))


def _half(files: Files) -> None:
    chain = files.good()
    files.cert.write_bytes(chain[:-40])


def _gone(files: Files) -> None:
    files.cert.unlink()


def _open(files: Files) -> None:
    files.good()
    files.key.chmod(0o644)


SPOILT = [
    (_not_pem, "no whole certificate"),
    (_other_key, "is not the key of"),
    (_expired, "has expired"),
    (_half, "no whole certificate"),
    (_gone, "cannot be read"),
    (_open, "others can get at"),
]


@pytest.mark.parametrize("by", ["signal", "file"])
async def test_a_broken_certificate_is_refused_said_everywhere_and_forgotten_when_it_is_repaired(
    own: RunningServer, files: Files, by: str
) -> None:
    async def change() -> None:
        if by == "signal":
            hang_up(own)

    async with connected(own, files) as lasting:
        for spoil, why in SPOILT if by == "signal" else SPOILT[2:5]:
            old = shake(own.port).digest
            spoil(files)
            await change()
            await asyncio.to_thread(wait_until, lambda why=why: why in _state(own).problem, "the refusal")

            assert shake(own.port, ca=str(files.ca.path)).digest == old
            assert _ready(own) == (200, ["tls"])
            assert "securechat_certificate_problem 1.0" in _metrics(own)
            if spoil in {_expired, _gone}:
                doctor = _command(own, "doctor")
                assert doctor.returncode == (2 if spoil is _gone else 1)  # without the file the configuration is wrong, too
                assert why in doctor.stdout
                assert why in _command(own, "cert", "show").stdout

            new = files.good()
            await change()
            await asyncio.to_thread(wait_until, lambda new=new: shake(own.port).digest == digest(new), "the repaired one")
            await answers(lasting)

            assert _ready(own) == (200, [])
            assert _state(own).problem == ""
            assert "securechat_certificate_problem 0.0" in _metrics(own)
    wait_until(lambda: own.log.count("certificate refused, the old one stays") >= 3, "the log")


async def test_while_a_name_is_checked_only_the_authority_gets_the_challenge(tmp_path: Path, files: Files) -> None:
    """Browsers that come in these seconds see the usual certificate, whatever size their hello has."""

    class Source:
        def __init__(self) -> None:
            self.context = make_context(files.cert.read_bytes(), files.key.read_bytes(), tmp_path)
            self.challenges = Challenges()

        @property
        def challenge(self) -> ssl.SSLContext | None:
            return self.challenges.context

    class Greets(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport.close()

    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    source = Source()
    acceptor = Acceptor([listening], lambda _shaken, _peer: Greets(), source, lambda _peer: lambda: None)
    source.challenges.add_certificate("chat.example.org", "token.thumb", lambda chain, key: make_context(chain, key, tmp_path))
    try:
        usual = await asyncio.to_thread(shake, port, "chat.example.org")
        checked = await asyncio.to_thread(shake, port, "chat.example.org", alpn=("acme-tls/1",))
        many = tuple(f"protocol-{number:03d}-{'x' * 200}" for number in range(40))
        large = await asyncio.to_thread(shake, port, "chat.example.org", alpn=("http/1.1", *many))
        foreign = await asyncio.to_thread(shake, port, "other.example.org", alpn=("acme-tls/1",))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert b"HTTP" not in await reader.read()
        writer.close()
        source.challenges.clear()
        after = await asyncio.to_thread(shake, port, "chat.example.org", alpn=("acme-tls/1",))
    finally:
        acceptor.close()

    assert (usual.alpn, usual.names) == ("http/1.1", ["localhost"])
    assert (checked.alpn, checked.names) == ("acme-tls/1", ["chat.example.org"])
    assert large.names == ["localhost"]
    assert (foreign.alpn, foreign.names) == (None, ["localhost"])
    assert after.names == ["localhost"]


@pytest.mark.parametrize("plain", [False, True], ids=["TLS", "plain"])
async def test_without_open_files_new_connections_wait_and_nothing_breaks(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch, *, plain: bool
) -> None:
    monkeypatch.setattr("securechat.gateway.acceptor._NO_FILES_S", 0.05)
    refused: list[int] = []

    class Exhausted(socket.socket):
        def accept(self) -> tuple[socket.socket, Any]:
            if len(refused) < 3:
                refused.append(1)
                raise OSError(errno.EMFILE, "Too many open files")
            return super().accept()

    class Source:
        context = make_context(files.cert.read_bytes(), files.key.read_bytes(), tmp_path)
        challenge = None

    listening = Exhausted()
    listening.bind(("127.0.0.1", 0))

    class Greets(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            if plain:
                transport.write(b"hello")  # type: ignore[attr-defined]

    source = None if plain else Source()
    acceptor = Acceptor([listening], lambda _shaken, _peer: Greets(), source, lambda _peer: lambda: None)
    try:
        if plain:
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            assert await asyncio.wait_for(reader.read(5), 10) == b"hello"
            writer.close()
        else:
            assert (await asyncio.to_thread(shake, listening.getsockname()[1])).names == ["localhost"]
    finally:
        acceptor.close()

    assert len(refused) == 3


async def test_a_storm_is_taken_a_few_at_a_time() -> None:
    loop = asyncio.get_running_loop()
    turns = [0]
    made: list[int] = []

    def pass_by() -> None:
        turns.append(0)
        if len(made) < len(waiting):
            loop.call_soon(pass_by)

    class Greets(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(1)
            transport.close()

    def opens(_peer: str) -> Callable[[], None]:
        turns[-1] += 1
        return lambda: None

    listening = socket.create_server(("127.0.0.1", 0))
    waiting = [socket.create_connection(listening.getsockname()) for _ in range(50)]
    acceptor = Acceptor([listening], lambda _shaken, _peer: Greets(), None, opens)
    loop.call_soon(pass_by)
    try:
        await wait_until_async(lambda: len(made) == len(waiting), "all are there")
    finally:
        acceptor.close()
        for each in waiting:
            each.close()
    assert (sum(turns), max(turns)) == (50, 4)


def test_the_own_certificate_is_made_anew_on_request_by_the_same_ca(tmp_path: Path) -> None:
    server = RunningServer(tmp_path / "data").start()
    try:
        before = shake(server.port, ca=server.ca).digest
        renewed = _command(server, "cert", "renew")
        assert renewed.returncode == 0, renewed.stderr
        assert shake(server.port, ca=server.ca).digest != before
    finally:
        server.stop()
    offline = shake_file(server)
    assert _command(server, "cert", "renew").returncode == 0
    assert shake_file(server) != offline


def test_a_server_for_a_real_name_of_its_own_files_tells_browsers_to_stay_with_https(tmp_path: Path) -> None:
    files = Files(tmp_path / "site")
    files.good("chat.example.org", "*.team.example.org", "localhost", "127.0.0.1")
    server = RunningServer(tmp_path / "data", settings=dict(files.settings) | {"hsts_days": 2}).start()
    try:
        with httpx.Client(verify=ssl.create_default_context(cafile=str(files.ca.path)), trust_env=False) as http:
            said = {
                host: http.get(f"https://localhost:{server.port}/", headers={"Host": host}).headers.get("strict-transport-security")
                for host in ("chat.example.org", "CHAT.example.org:8443", "a.team.example.org", "a.b.team.example.org", "localhost",
                             "127.0.0.1", "[::1]", "evil.example.net", "")
            }  # fmt: skip
            plain = httpx.get(f"{server.url}/healthz", headers={"Host": "chat.example.org"}, trust_env=False)
    finally:
        server.stop()

    assert [host for host, value in said.items() if value == "max-age=172800"] == [
        "chat.example.org", "CHAT.example.org:8443", "a.team.example.org",
    ]  # fmt: skip
    assert set(said.values()) == {"max-age=172800", None}
    assert "strict-transport-security" not in plain.headers


def shake_file(server: RunningServer) -> bytes:
    return (server.data / "tls/server.crt").read_bytes()


def _state(server: RunningServer) -> c.CertificateState:
    state = server.operator().perform(c.CertificateGet())
    assert isinstance(state, c.CertificateState)
    return state


def _ready(server: RunningServer) -> tuple[int, Any]:
    answer = httpx.get(f"{server.url}/readyz", trust_env=False)
    return answer.status_code, answer.json()["degraded"]


def _metrics(server: RunningServer) -> str:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(server.data / "admin.sock"))) as http:
        return http.get("http://admin/metrics").text


def _command(server: RunningServer, *words: str) -> subprocess.CompletedProcess[str]:
    return command_line(*words, "--data", str(server.data), "--config", str(server.config))
