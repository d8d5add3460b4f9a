"""What somebody with bad intentions tries, and what comes of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
import unicodedata
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from securechat import ChatClient
from securechat.domain import commands as c
from securechat.domain.limits import LIMITS
from securechat.domain.secret import Secret
from securechat.errors import Forbidden
from securechat.rest.body import BODY_S
from securechat.sdk.errors import LoginRequired, Stopped
from securechat.sdk.profile import Profile, ProfileToken, save_profile
from support.running import PASSWORD, RunningServer
from support.usage import resident


async def gateway(server: RunningServer, token: str) -> ClientConnection:
    socket_ = await connect(
        f"ws://localhost:{server.http_port}/gateway",
        subprotocols=[Subprotocol("securechat.v1.clear")],
        compression=None,
        proxy=None,
    )
    await socket_.recv()
    await socket_.send(json.dumps([{"op": "auth", "id": "a", "token": token}]))
    (ready,) = json.loads(await socket_.recv())
    assert ready["op"] == "ready"
    return socket_


async def answers(socket_: ClientConnection, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            found += [frame for frame in json.loads(await socket_.recv()) if frame["op"] in {"reply", "error"}]
    return found


async def test_operators_commands_are_not_for_owners(server: RunningServer, tmp_path: Path) -> None:
    session = server.set_up()
    async with ChatClient(server.url, session["access_token"]) as client:
        operators = (c.ServerStatus(), c.SetupLink(), c.CertificateGet(), c.CertificateRenew())
        for command in (c.BackupCreate(path=str(tmp_path / "stolen")), *operators):
            with pytest.raises(Forbidden):
                await client.call(command)

    assert not (tmp_path / "stolen").exists()


def test_an_old_refresh_token_ends_the_session_however_often_it_was_rotated(server: RunningServer) -> None:
    first = server.set_up()["refresh_token"]
    second = server.post("/sessions/refresh", {"refresh_token": first})["refresh_token"]
    third = server.post("/sessions/refresh", {"refresh_token": second})["refresh_token"]

    server.post("/sessions/refresh", {"refresh_token": first}, status=401)
    server.post("/sessions/refresh", {"refresh_token": third}, status=401)


def test_a_made_up_token_ends_nobodys_session(server: RunningServer) -> None:
    session = server.set_up()
    for token in ("sc_ref_x.y", "sc_ref_", "", session["device"], f"sc_ref_{session['device']}.x"):
        server.post("/sessions/refresh", {"refresh_token": token}, status=401)

    server.post("/sessions/refresh", {"refresh_token": session["refresh_token"]})


def test_a_password_is_the_same_in_whatever_form_a_keyboard_gives_it(server: RunningServer) -> None:
    server.set_up()
    code = server.operator().perform(c.InviteCreate()).code
    password = unicodedata.normalize("NFD", "pässwörter")
    server.post("/accounts", {"code": code, "username": "zoe", "password": password})

    for form in ("NFC", "NFD"):
        server.post("/sessions", {"username": "zoe", "password": unicodedata.normalize(form, password)})


def test_an_administrator_does_not_enter_private_rooms_by_way_of_invitations_or_bots(server: RunningServer) -> None:
    server.set_up()
    member = server.invite("bob")
    room = server.post("/rooms", {"name": "secret", "kind": "private"}, member["access_token"])["id"]
    operator = server.operator()
    operator.perform(c.UserCreate(username="chief", role="admin", password=Secret(PASSWORD)))
    chief = server.post("/sessions", {"username": "chief", "password": PASSWORD})["access_token"]

    server.post("/admin/invites", {"rooms": [room]}, chief, status=404)
    server.post("/admin/bots", {"username": "spy", "rooms": [room]}, chief, status=404)


async def test_who_does_not_read_gets_no_pongs_to_fill_the_memory(server: RunningServer) -> None:
    reader, writer = await asyncio.open_connection("localhost", server.http_port)
    writer.write(
        b"GET /gateway HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: securechat.v1.clear\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    before = server.settled()
    ping = bytes([0x89, 0xFD, 0, 0, 0, 0]) + b"x" * 125
    with contextlib.suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(5):
            for _ in range(300):
                writer.write(ping * 2_000)
                await writer.drain()
    grown = after_an_answer(server) - before
    writer.transport.abort()

    assert grown < 60_000_000, "with all pongs it is 94 MB and more; without, 8 to 36, the most while the flood is being ended"


def test_a_request_head_has_a_size(server: RunningServer) -> None:
    before = server.settled()
    with socket.create_connection(("127.0.0.1", server.http_port)) as attacker, contextlib.suppress(ConnectionError):
        attacker.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        for number in range(10_000):
            attacker.sendall(b"X-%d: %s\r\n" % (number, b"x" * 8_000))

    assert after_an_answer(server) - before < 20_000_000
    assert server.request("GET", "/invites/X", status=403)


def test_a_request_body_has_its_time(server: RunningServer) -> None:
    token = server.set_up()["access_token"]
    with socket.create_connection(("127.0.0.1", server.http_port)) as attacker:
        attacker.settimeout(BODY_S + 5)
        attacker.sendall(
            b"POST /api/v1/rooms HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Type: application/json\r\n"
            b'Content-Length: 60\r\n\r\n{"name"' % token.encode()
        )
        began = time.monotonic()
        answer = attacker.recv(4_096)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert BODY_S - 1 < time.monotonic() - began < BODY_S + 4


async def test_asking_to_be_authenticated_again_and_again_is_limited(server: RunningServer) -> None:
    server.stop()
    server.config.write_text("{}")
    server.start()
    session = server.set_up()
    socket_ = await gateway(server, session["access_token"])
    for _ in range(2):
        await socket_.send(json.dumps([{"op": "auth", "id": str(n), "token": session["access_token"]} for n in range(100)]))
    found = await answers(socket_, 200)
    await socket_.close()

    assert {frame.get("code") for frame in found if frame["op"] == "error"} == {"rate_limited"}
    assert sum(frame["op"] == "reply" for frame in found) < 100


async def test_076_a_resume_from_an_impossible_place_is_refused_or_answered_with_the_newest_page(server: RunningServer) -> None:
    room = server.room("ops")
    token = server.bot("one", room)
    socket_ = await gateway(server, token)
    places: list[Any] = [-1, 2**63, "1", None, 1.5, 10**6, 0]
    await socket_.send(json.dumps([{"op": "resume", "id": str(n), "rooms": {room: place}} for n, place in enumerate(places)]))
    found = {frame["id"]: frame for frame in await answers(socket_, len(places))}
    await socket_.send(json.dumps([{"op": "resume", "id": "other", "rooms": {"rm_0000000000000000": 1}}]))
    (other,) = await answers(socket_, 1)
    await socket_.close()

    assert [found[str(n)].get("code") for n in range(5)] == ["invalid_input"] * 5
    assert found["5"]["data"]["rooms"] == {room: False}  # beyond the newest entry: only the newest page
    assert found["6"]["data"]["rooms"] == {room: True}
    assert other["code"] == "not_found"


async def test_logging_out_over_the_gateway_is_answered_before_it_ends(server: RunningServer) -> None:
    session = server.set_up()
    socket_ = await gateway(server, session["access_token"])
    await socket_.send(json.dumps([{"op": "session.delete", "id": "1"}]))
    (answer,) = await answers(socket_, 1)
    await socket_.wait_closed()

    assert (answer["op"], socket_.close_code) == ("reply", 4401)


def test_nobody_is_in_more_rooms_than_hello_says(server: RunningServer) -> None:
    token = server.set_up()["access_token"]
    with httpx.Client(trust_env=False, headers={"Authorization": f"Bearer {token}"}) as http:
        codes = [http.post(f"{server.url}/api/v1/rooms", json={"name": f"room {n}"}).status_code for n in range(LIMITS.rooms + 1)]

    assert codes == [201] * LIMITS.rooms + [409]


def test_the_data_folder_is_for_its_owner_only(server: RunningServer) -> None:
    modes = {path.name: path.stat().st_mode & 0o077 for path in [server.data, *server.data.rglob("*")]}

    assert set(modes.values()) == {0}, modes


async def test_a_sdk_client_whose_token_ends_fails_loudly(server: RunningServer) -> None:
    room = server.room("ops")
    token = server.bot("one", room)
    async with ChatClient(server.url, token) as client:
        await asyncio.to_thread(server.operator().perform, c.BotRotate(user=server.operator().user("one").id))
        with pytest.raises(LoginRequired):
            await asyncio.wait_for(client.rooms[room].send("lost?"), 5)


async def test_a_closed_sdk_client_says_so(server: RunningServer) -> None:
    room = server.room("ops")
    client = ChatClient(server.url, server.bot("one", room))
    await client.start()
    here = client.rooms[room]
    await client.close()

    for work in (client.me(), here.send("x")):
        with pytest.raises(Stopped):
            await asyncio.wait_for(work, 5)


async def test_two_processes_share_a_profile(server: RunningServer, tmp_path: Path) -> None:
    session = server.set_up()
    path = tmp_path / "profile.json"
    profile = Profile(url=server.url, username="ana", device=session["device"], refresh_token=session["refresh_token"])
    save_profile(profile, path)
    found = await asyncio.gather(*(ProfileToken(profile, path).token() for _ in range(4)))

    assert all(found)


def after_an_answer(server: RunningServer) -> int:
    """Return the memory of the server, in bytes, once it has answered somebody else."""
    server.request("GET", "/invites/X", status=403)
    return resident(server.pid)
