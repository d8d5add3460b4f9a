"""A-WS, attacks 1 to 14: the upgrade, the frames of RFC 6455, who takes their time, how many there may be.

3, 4, 5 and 7 frame by frame, with close codes, are `tests/faults/test_garbage.py`; 13 and the memory of 8 are
`tests/faults/test_slow.py` and `tests/integration/test_attacks.py`. 2 in a browser is `tests/e2e/test_browser_attacks.py`, 10 for
the sealed sub-protocol the session layer's; 6 and 15 to 18 are `test_http.py`.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from securechat.domain import commands as c
from support.raw_http import cut_after, head, status_of, talk, upgrade
from support.raw_socket import PING, PONG, RawSocket, frame
from support.running import RunningServer, wait_until
from support.usage import resident


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("null", 403), ("https://evil.example", 403), ("http://localhost.evil.example", 403), ("https://localhost", 403),
        ("http://localhost:1", 403), ("HTTP://LOCALHOST", 403), ("http://localhost/", 403), ("http://localhost.", 403),
        ("http://evil.example, http://localhost", 403), ("http://user@localhost", 403), ("file://", 403), ("", 403), (None, 403),
        ("http://localhost", 101),
    ],
)  # fmt: skip
def test_1_2_a_browser_of_another_origin_gets_no_connection(shared_server: RunningServer, origin: str | None, status: int) -> None:
    with_cookie = upgrade(Origin=origin, Cookie="securechat-1=sc_ref_x")

    assert status_of(talk(shared_server.http_port, with_cookie)) == status


def test_1_a_program_without_origin_and_cookie_is_no_browser_and_comes_in(shared_server: RunningServer) -> None:
    assert status_of(talk(shared_server.http_port, upgrade())) == 101


def test_2_a_cookie_opens_no_connection_and_is_for_this_host_only(shared_server: RunningServer) -> None:
    shared_server.set_up("cookie")
    body = {"username": "cookie", "password": "correct horse battery"}
    context = ssl.create_default_context(cafile=shared_server.ca)
    with httpx.Client(trust_env=False, verify=context, base_url=f"{shared_server.tls_url}/api/v1") as http:
        cookie = http.post("/sessions", json=body, headers={"X-SecureChat-Session": "cookie"}).headers["set-cookie"]
        status = http.get("/me").status_code

    assert status == 401
    assert cookie.startswith("__Host-")
    assert {"HttpOnly", "Secure", "SameSite=strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}


Attach = Callable[[int], Awaitable[RawSocket]]


async def test_3_4_what_a_frame_claims_is_not_reserved(server: RunningServer, attach: Attach) -> None:
    sockets = [await attach(server.http_port) for _ in range(20)]
    before = server.settled()
    for number, each in enumerate(sockets):
        await each.receive()
        each.write([frame(b"", claims=2**62), frame(b"x" * 10, claims=2**32 - 1)][number % 2])
    codes = [await each.closed() for each in sockets]

    assert set(codes) == {1009}
    assert resident(server.pid) - before < 2**20


async def test_3_a_hundred_thousand_empty_pieces_end_the_connection(server: RunningServer, attach: Attach) -> None:
    connection = await attach(server.http_port)
    connection.write(frame(b"[", fin=False) + frame(b"", 0, fin=False) * 100_000)

    assert await connection.closed() == 1002


def test_5_compression_is_never_negotiated(shared_server: RunningServer) -> None:
    answer = talk(shared_server.http_port, upgrade(Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits"))

    assert status_of(answer) == 101
    assert b"extensions" not in answer.lower()


@pytest.fixture
def plain_server(tmp_path: Path) -> Any:
    """A server with the limits that everybody gets."""
    running = RunningServer(tmp_path / "data")
    running.config.write_text("{}")
    yield running.start()
    running.stop()


@pytest.mark.parametrize("opcode", [PING, PONG], ids=["ping", "pong"])
@pytest.mark.parametrize("size", [0, 125])
async def test_8_a_flood_of_control_frames_ends_with_4429(
    plain_server: RunningServer, opcode: int, size: int, attach: Attach
) -> None:
    connection = await attach(plain_server.http_port)
    reading = asyncio.create_task(connection.closed())
    for _ in range(100):
        await connection.flush(frame(b"p" * size, opcode) * 100)

    assert await reading in {4429, 1006}
    wait_until(lambda: "goes on after being told to wait" in plain_server.log, "the reason is in the log")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (upgrade(Sec_WebSocket_Version="7"), 426),
        (upgrade(Sec_WebSocket_Version=None), 426),
        (upgrade(Sec_WebSocket_Version=["13", "13"]), 400),
        (upgrade(Sec_WebSocket_Key=None), 400),
        (upgrade(Sec_WebSocket_Key="short"), 400),
        (upgrade(Sec_WebSocket_Key="A" * 100), 400),
        (upgrade(Sec_WebSocket_Key="!" * 22 + "=="), 400),
        (upgrade(Sec_WebSocket_Key=["AAAAAAAAAAAAAAAAAAAAAA==", "BAAAAAAAAAAAAAAAAAAAAA=="]), 400),
        (upgrade(Upgrade=["websocket", "websocket"]), 400),
        (upgrade(Upgrade=["h2c", "websocket"]), 400),
        (upgrade(Origin=["http://localhost", "https://evil.example"]), 400),
        (upgrade(Host=["localhost", "evil.example"]), 400),
        (upgrade(Host=None), 400),
        (upgrade(line="GET /gateway HTTP/1.0"), 400),
        (upgrade(line="POST /gateway HTTP/1.1"), 400),
        (upgrade(Content_Length="5") + b"hello", 400),
        (upgrade(Transfer_Encoding="chunked") + b"0\r\n\r\n", 400),
        (upgrade(Connection="close"), 404),
        (upgrade(Upgrade="h2c"), 404),
        (upgrade("/other"), 404),
        (upgrade("/gateway/"), 404),
        (upgrade(Sec_WebSocket_Protocol=None), 400),
        (upgrade(Sec_WebSocket_Protocol="securechat.v9"), 400),
        (upgrade(Sec_WebSocket_Protocol="plain, nothing"), 400),
    ],
)
def test_9_10_a_wrong_upgrade_is_refused(shared_server: RunningServer, request_: bytes, status: int) -> None:
    assert status_of(talk(shared_server.http_port, request_)) == status


@pytest.mark.parametrize(
    ("first", "drip", "tls"),
    [
        (b"", b"", False),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"X", False),
        (b"\x16\x03\x01\x02\x00\x01", b"\x00", True),
        (b"", b"", True),
    ],
    ids=["silence", "slowloris", "a ClientHello in drops", "silence before TLS"],
)
def test_11_who_takes_their_time_with_the_handshake_is_cut_off(
    shared_server: RunningServer, first: bytes, drip: bytes, *, tls: bool
) -> None:
    port = shared_server.port if tls else shared_server.http_port

    assert cut_after(port, first, drip, 0.5, 12) < 7.5


async def test_11_a_connection_without_auth_is_cut_off(shared_server: RunningServer, attach: Attach) -> None:
    connection = await attach(shared_server.http_port)

    assert await connection.closed(16) == 4403


def test_11_half_handshakes_have_a_number_and_nobody_else_notices(plain_server: RunningServer) -> None:
    token = plain_server.set_up()["access_token"]
    half = []
    for _ in range(120):
        connection = socket.create_connection(("127.0.0.1", plain_server.http_port), source_address=("127.0.0.9", 0))
        connection.sendall(b"GET /gateway HTTP/1.1\r\n")
        half.append(connection)
    for connection in half:
        connection.settimeout(3)
    ended = 0
    for connection in half[60:]:
        try:
            ended += not connection.recv(1)
        except ConnectionError:
            ended += 1
    assert plain_server.request("GET", "/me", token=token)["user"]["username"] == "ana"
    for connection in half:
        connection.close()

    assert ended == 60


async def test_11_a_thousand_half_handshakes_from_many_places_hold_up_nobody_who_is_here(tmp_path: Path, attach: Attach) -> None:
    server = RunningServer(tmp_path / "data", settings={"max_pending": 100, "max_pending_address": 40}).start()
    half: list[socket.socket] = []
    try:
        here = await attach(server.http_port)
        await here.authenticate(server.bot("here", server.room("ops")))
        for number in range(1_000):
            source = (f"127.0.2.{number % 10 + 1}", 0)
            half.append(
                socket.create_connection(("127.0.0.1", server.port if number % 2 else server.http_port), source_address=source)
            )
            half[-1].settimeout(0)
        alive = 1_000
        async with asyncio.timeout(4):  # Before those that are let wait are cut off, too.
            while alive > 100:
                await asyncio.sleep(0.02)
                alive = sum(not _ended(each) for each in half)
        assert alive == 100
        here.write(frame(b'[{"op":"ping","id":"p"}]'))
        async with asyncio.timeout(1):
            while not any(each["op"] == "pong" for each in await here.receive()):
                pass
        async with asyncio.timeout(12):
            while not all(map(_ended, half)):
                await asyncio.sleep(0.05)
        assert status_of(await asyncio.to_thread(talk, server.http_port, upgrade())) == 101
    finally:
        for each in half:
            each.close()
        server.stop()


def _ended(connection: socket.socket) -> bool:
    try:
        return not connection.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_11_half_tls_handshakes_have_a_number_and_nobody_else_notices(shared_server: RunningServer) -> None:
    context = ssl.create_default_context(cafile=shared_server.ca)

    def shake(source: str) -> str | None:
        with (
            socket.create_connection(("127.0.0.1", shared_server.port), timeout=8, source_address=(source, 0)) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            return tls.version()

    def ended(connection: socket.socket) -> bool:
        connection.settimeout(2)
        try:
            return not connection.recv(1)
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    silent = [
        socket.create_connection(("127.0.0.1", shared_server.port), timeout=8, source_address=("127.0.0.9", 0)) for _ in range(60)
    ]
    try:
        refused = [ended(each) for each in silent[50:]]
        other = shake("127.0.0.8")
        with pytest.raises(OSError):  # Reset, or closed: both are no handshake.
            shake("127.0.0.9")
    finally:
        for each in silent:
            each.close()

    assert (refused, other) == ([True] * 10, "TLSv1.3")
    wait_until(lambda: _shakes(shake), "room for this source again")


def _shakes(shake: Callable[[str], str | None]) -> bool:
    try:
        return shake("127.0.0.9") == "TLSv1.3"
    except OSError:
        return False


def test_12_idle_http_connections_of_one_address_shut_nobody_out(tmp_path: Path) -> None:
    caps = {"max_http_connections": 8, "max_http_connections_address": 5}
    server = RunningServer(tmp_path / "data", settings=caps).start()
    probe = head("GET /healthz HTTP/1.1", {"Host": "localhost"})
    kept: list[socket.socket] = []

    def keep(source: str) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", server.http_port), timeout=8, source_address=(source, 0))
        kept.append(connection)
        return connection

    def answered(connection: socket.socket) -> bool:
        answer = b""
        try:
            connection.sendall(probe)
            while not answer.endswith(b'{"alive":true}'):
                if not (more := connection.recv(65_536)):
                    return False
                answer += more
        except OSError:
            return False
        return answer.startswith(b"HTTP/1.1 200")

    try:
        idle = [answered(keep("127.0.0.9")) for _ in range(7)]
        first, newest = answered(kept[0]), answered(kept[6])
        more = [answered(keep(source)) for source in ("127.0.0.8", "127.0.0.8", "127.0.0.8", "127.0.0.7")]
        half = head("POST /api/v1/sessions HTTP/1.1", {"Host": "x", "Content-Type": "application/json", "Content-Length": "9"})
        for _ in range(5):
            keep("127.0.0.6").sendall(half)
        wait_until(lambda: status_of(talk(server.http_port, upgrade(), source="127.0.0.5")) == 101, "a way in")
        busy = answered(keep("127.0.0.6"))
    finally:
        for each in kept:
            each.close()
        server.stop()

    assert idle == [True] * 7
    assert (first, newest) == (False, True), "the oldest one made way"
    assert more == [True] * 4
    assert not busy, "all of this source are busy"


async def test_12_an_address_and_an_account_have_a_number_of_connections(tmp_path: Path, attach: Attach) -> None:
    caps = {"max_connections_address": 6, "max_connections_account": 3}
    server = RunningServer(tmp_path / "data", settings=caps).start()
    try:
        room = server.room("ops")
        first = server.bot("first", room)
        ana = server.set_up()
        phone = server.post("/sessions", {"username": "ana", "password": "correct horse battery"})["access_token"]
        own = [await attach(server.http_port) for _ in range(4)]
        for each in own:
            await each.authenticate(first)
        replaced = await own[0].closed()
        own[0].end()
        while server.operator().perform(c.ServerStatus()).connections > 3:
            await asyncio.sleep(0.01)
        people = [await attach(server.http_port) for _ in range(3)]
        for each in people:
            await each.authenticate(ana["access_token"])
        refused = status_of(talk(server.http_port, upgrade()))
        own[1].end()
        while server.operator().perform(c.ServerStatus()).connections > 5:
            await asyncio.sleep(0.01)
        fourth = await attach(server.http_port)
        await fourth.receive()
        fourth.write(frame(json.dumps([{"op": "auth", "id": "a", "token": phone}]).encode()))
        (told,) = await fourth.receive()
        code = await fourth.closed()
        for each in [*own, *people]:
            each.end()
    finally:
        server.stop()

    assert (replaced, refused) == (4409, 429)
    assert (told["code"], code) == ("rate_limited", 4429)


def test_14_a_token_in_an_address_is_refused_and_in_no_log(server: RunningServer) -> None:
    token = server.set_up()["access_token"]
    canary = token[-24:]
    for path in (f"/gateway?token={token}", f"/gateway?access_token={token}"):
        assert status_of(talk(server.http_port, upgrade(path))) == 400
    for path in (f"/me?token={token}", f"/me?access_token={token}"):
        with httpx.Client(trust_env=False) as http:
            assert http.get(f"{server.url}/api/v1{path}").status_code == 401
            assert http.get(f"{server.url}/api/v1{path}", headers={"Authorization": f"Bearer {token}"}).status_code == 400
    written = "".join(path.read_text(errors="replace") for path in (server.data / "logs").rglob("*.log"))

    assert canary not in server.log
    assert canary not in written
