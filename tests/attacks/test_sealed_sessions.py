"""Sealed sessions between real servers and real clients: pins, policy, downgrade, rekey under load, and what a recording is worth."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx2 as httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from securechat import ChatClient
from securechat.crypto.identity import IdentityKey
from securechat.domain import commands as c
from securechat.domain.audit import AuditRecord
from securechat.domain.entries import Entry
from securechat.protocol.codec import Encoding
from securechat.protocol.frames import SUBPROTOCOL, SUBPROTOCOL_CLEAR
from securechat.protocol.handshake import ClientHandshake, ServerHandshake
from securechat.protocol.key_list import KeyList, ListedKey, SignedKeyList, sign_list
from securechat.protocol.session import ClientSession, EpochLimits, pack
from securechat.sdk.errors import Untrusted
from securechat.sdk.pins import Pins, PinStore
from securechat.sdk.sealing import ClientClock, Sealing, host_of
from securechat.sdk.transport import Closed, Transport
from support.ports import free_port
from support.running import RunningServer, clean_environment, command_line, wait_until

CANARY = "canary-7d1f0a"


@pytest.fixture
def store(tmp_path: Path) -> PinStore:
    return PinStore(tmp_path / "servers.json")


@pytest.fixture
def short_keys(tmp_path: Path) -> Iterator[RunningServer]:
    """A server whose keys end after 1,024 records."""
    server = RunningServer(tmp_path / "data", settings={"session_key_records": 1_024}).start()
    yield server
    server.stop()


def restart(server: RunningServer, **settings: Any) -> None:
    server.stop()
    server.config.write_text(json.dumps(json.loads(server.config.read_text()) | settings))
    server.start()


async def test_a_client_is_sealed_by_default_and_keeps_the_key(server: RunningServer, store: PinStore) -> None:
    token = server.bot("one", server.room("ops"))
    async with ChatClient(server.url, token, pins=store) as client:
        assert client.sealing.key_id
    kept = store.of(host_of(server.url))

    assert (kept.keys, kept.sealed) == ([client.sealing.key_id], True)
    assert store.path is not None
    assert store.path.stat().st_mode & 0o077 == 0


async def test_082_another_key_is_refused_before_any_token_is_sent(server: RunningServer, store: PinStore) -> None:
    store.keep(host_of(server.url), Pins(keys=["00" * 32], sealed=True))
    with pytest.raises(Untrusted, match="another key than the one you know") as refused:
        await asyncio.wait_for(ChatClient(server.url, server.bot("one"), pins=store).start(), 10)

    assert "securechat servers forget" in str(refused.value)
    assert "auth" not in server.log


async def test_a_key_given_beforehand_leaves_nothing_to_belief(server: RunningServer, store: PinStore) -> None:
    token = server.bot("one")
    with pytest.raises(Untrusted):
        await asyncio.wait_for(ChatClient(server.url, token, pin="11" * 32, pins=PinStore(None)).start(), 10)
    async with ChatClient(server.url, token, pins=store) as client:
        key = client.sealing.key_id
    async with ChatClient(server.url, token, pin=key, pins=PinStore(None)) as client:
        assert client.sealing.key_id == key


async def test_084_who_was_sealed_once_never_talks_without(server: RunningServer, store: PinStore) -> None:
    token = server.bot("one")
    async with ChatClient(server.url, token, pins=store):
        pass
    restart(server, session_layer="off")
    with pytest.raises(Untrusted, match="it had one before"):
        await asyncio.wait_for(ChatClient(server.url, token, pins=store).start(), 10)
    with pytest.raises(Untrusted, match="this client demands one"):
        await asyncio.wait_for(ChatClient(server.url, token, pins=PinStore(None), seal="required").start(), 10)
    async with ChatClient(server.url, token, pins=PinStore(None)) as client:
        assert client.sealing.key_id == ""


@pytest.mark.parametrize("lie", ["selects clear", "selects nothing", "speaks frames"])
async def test_084_a_proxy_that_strips_the_session_gets_no_token(store: PinStore, lie: str) -> None:
    heard: list[Any] = []

    async def proxy(socket: ServerConnection) -> None:
        await socket.send(json.dumps([{"op": "hello", "protocol": 1}]))
        async for message in socket:
            heard.append(message)  # noqa: PERF401 - what came before the end counts, too

    chosen = {"selects clear": SUBPROTOCOL_CLEAR, "selects nothing": None, "speaks frames": SUBPROTOCOL}[lie]

    def select(_socket: ServerConnection, _offered: Any) -> Any:
        return chosen

    async with serve(proxy, "127.0.0.1", free_port(), select_subprotocol=select) as fake:
        url = f"http://127.0.0.1:{next(iter(fake.sockets)).getsockname()[1]}"
        store.keep(host_of(url), Pins(keys=["22" * 32], sealed=True))
        with pytest.raises(Untrusted):
            await asyncio.wait_for(ChatClient(url, "sc_bot_secret", pins=store).start(), 20)

    assert not any(b"sc_bot_secret" in (each if isinstance(each, bytes) else each.encode()) for each in heard)


async def ended(socket: ServerConnection, code: int) -> None:
    await socket.recv()
    await socket.close(code)


@pytest.mark.parametrize("code", [4400, 4401, 4403, 4404, 4406, 4409])
async def test_084_a_code_that_nobody_proved_is_a_lost_network_and_costs_a_minute(code: int) -> None:
    async with serve(partial(ended, code=code), "127.0.0.1", free_port(), subprotocols=[Subprotocol(SUBPROTOCOL)]) as fake:
        url = f"http://127.0.0.1:{next(iter(fake.sockets)).getsockname()[1]}"
        with pytest.raises(Closed) as closed:
            await Transport.open(url, None, Sealing(url, "preferred", PinStore(None)))

    assert (closed.value.code, closed.value.wait_s) == (1006, 60)


@pytest.mark.parametrize("code", [1001, 1013, 4000, 4429])
async def test_a_server_that_is_busy_before_the_session_costs_no_minute(code: int) -> None:
    async with serve(partial(ended, code=code), "127.0.0.1", free_port(), subprotocols=[Subprotocol(SUBPROTOCOL)]) as fake:
        url = f"http://127.0.0.1:{next(iter(fake.sockets)).getsockname()[1]}"
        with pytest.raises(Closed) as closed:
            await Transport.open(url, None, Sealing(url, "preferred", PinStore(None)))

    assert (closed.value.code, closed.value.wait_s) == (1006, 0)


async def test_084_a_code_between_the_handshake_and_hello_is_a_lost_network(store: PinStore) -> None:
    key = IdentityKey.generate()

    class One:
        def choose(self, _pins: object) -> IdentityKey:
            return key

    async def half(socket: ServerConnection) -> None:
        handshake = ServerHandshake(One(), lambda _host: True, EpochLimits(), ClientClock())
        handshake.take_client_hello(cast("bytes", await socket.recv()))
        for message in handshake.answer():
            await socket.send(message)
        handshake.finish(cast("bytes", await socket.recv()))
        await socket.close(4409)

    async with serve(half, "127.0.0.1", free_port(), subprotocols=[Subprotocol(SUBPROTOCOL)]) as fake:
        url = f"http://127.0.0.1:{next(iter(fake.sockets)).getsockname()[1]}"
        with pytest.raises(Closed) as closed:
            await Transport.open(url, None, Sealing(url, "preferred", store))

    assert (closed.value.code, closed.value.wait_s) == (1006, 0)


async def test_010_a_server_that_demands_sealing_takes_no_clear_connection(server: RunningServer) -> None:
    token = server.bot("one")
    restart(server, session_layer="required")
    for offered in ([SUBPROTOCOL_CLEAR], ["securechat.v9"], None):
        with pytest.raises(InvalidStatus) as refused:
            await connect(
                f"ws://localhost:{server.http_port}/gateway",
                subprotocols=None if offered is None else [Subprotocol(each) for each in offered],
                proxy=None,
            )
        assert refused.value.response.status_code == 400
    async with ChatClient(server.url, token, pins=PinStore(None)) as client:
        assert client.sealing.key_id


async def test_the_policy_changes_while_the_server_runs(server: RunningServer) -> None:
    server.config.write_text(json.dumps(json.loads(server.config.read_text()) | {"session_layer": "required"}))
    wait_until(lambda: '"session_layer"' in server.log, "the configuration is read")
    with pytest.raises(InvalidStatus):
        await connect(f"ws://localhost:{server.http_port}/gateway", subprotocols=[Subprotocol(SUBPROTOCOL_CLEAR)], proxy=None)


async def test_keys_change_under_load_and_nothing_is_lost_or_late(short_keys: RunningServer) -> None:
    server = short_keys
    room = server.room("ops")
    tokens = [server.bot(name, room) for name in ("one", "two")]
    async with ChatClient(server.url, tokens[0]) as one, ChatClient(server.url, tokens[1]) as two:
        seen: list[int] = []

        async def read() -> None:
            async for event in two.events(["message.sent"]):
                assert isinstance(event, Entry)
                seen.append(event.seq)
                if len(seen) == 1_500:
                    return

        reading = asyncio.create_task(read())
        for number in range(1_500):
            await one.rooms[room].send(str(number))
        await asyncio.wait_for(reading, 20)
        transport = one._transport
        assert transport is not None
        assert transport.session is not None
        assert transport.session.epoch >= 2
        assert seen == list(range(seen[0], seen[0] + 1_500))
        assert (one.connects, two.connects) == (1, 1)


_opened: list[ClientConnection] = []


@pytest.fixture(autouse=True)
async def _nothing_stays_open() -> AsyncIterator[None]:
    yield
    while _opened:
        await _opened.pop().close()


class Raw:
    """A sealed connection of which everything is kept."""

    def __init__(self, socket: ClientConnection, host: str) -> None:
        self.socket = socket
        self.handshake = ClientHandshake(host, (), Encoding.JSON, [SUBPROTOCOL], ClientClock())
        self.recording: list[bytes] = []
        self.session: ClientSession
        _opened.append(socket)

    @classmethod
    async def open(cls, server: RunningServer, token: str) -> Raw:
        url = f"ws://localhost:{server.http_port}/gateway"
        raw = cls(
            await connect(url, subprotocols=[Subprotocol(SUBPROTOCOL)], compression=None, proxy=None),
            f"localhost:{server.http_port}",
        )
        await raw.write(raw.handshake.client_hello)
        session = None
        while session is None:
            session = raw.handshake.take(await raw.read())
        raw.session = session
        await raw.write(raw.handshake.client_fin())
        await raw.send({"op": "auth", "id": "a", "token": token})
        while not any(frame["op"] == "ready" for frame in await raw.receive()):
            pass
        return raw

    async def write(self, data: bytes) -> None:
        self.recording.append(data)
        await self.socket.send(data)

    async def read(self) -> bytes:
        data = await asyncio.wait_for(self.socket.recv(), 10)
        assert isinstance(data, bytes)
        self.recording.append(data)
        return data

    async def send(self, *frames: dict[str, Any]) -> None:
        await self.write(self.session.seal(pack([json.dumps(frames).encode()])))

    async def receive(self) -> list[Any]:
        messages = self.session.open(await self.read())
        return [frame for message in messages for frame in json.loads(message)]


async def closed(raw: Raw) -> tuple[int, int]:
    """Return the sealed close code and the WebSocket's."""
    with pytest.raises(ConnectionClosed) as ended:  # noqa: PT012 - how many messages come before is not what is tested
        while True:
            await raw.receive()
    notice = raw.session.peer_close
    return (0 if notice is None else notice.code), code_of(ended.value)


def code_of(ended: ConnectionClosed) -> int:
    """Return the WebSocket's close code."""
    return 1006 if ended.rcvd is None else ended.rcvd.code


async def greet(server: RunningServer, host: str) -> int:
    """Say hello to a server; return 0 when it answers, else its close code."""
    url = f"ws://localhost:{server.http_port}/gateway"
    async with connect(url, subprotocols=[Subprotocol(SUBPROTOCOL)], compression=None, proxy=None) as socket:
        await socket.send(ClientHandshake(host, (), Encoding.JSON, [SUBPROTOCOL], ClientClock()).client_hello)
        try:
            await asyncio.wait_for(socket.recv(), 10)
        except ConnectionClosed as ended:
            return code_of(ended)
    return 0


@pytest.mark.parametrize("attack", ["replayed", "flipped", "text", "hello again"])
async def test_072_a_record_that_is_not_the_next_one_ends_the_session_with_a_sealed_close(
    server: RunningServer, attack: str
) -> None:
    raw = await Raw.open(server, server.bot("one", server.room("ops")))
    record = raw.session.seal(pack([b'[{"op":"ping","id":"1"}]']))
    if attack == "replayed":
        await raw.write(record)
        await raw.write(record)
    elif attack == "flipped":
        await raw.write(record[:40] + bytes((record[40] ^ 1,)) + record[41:])
    elif attack == "hello again":
        await raw.write(raw.handshake.client_hello)
    else:
        await raw.socket.send('[{"op":"ping","id":"1"}]')

    assert await closed(raw) == (4400, 4400)
    wait_until(lambda: "session refused" in server.log, "it is logged")
    wait_until(lambda: refusals(server), "it is remembered")
    (noted,) = refusals(server)
    assert (noted.actor, noted.result, noted.details) == (server.operator().user("one").id, "refused", {"code": 4400})
    assert noted.reason


def refusals(server: RunningServer) -> list[AuditRecord]:
    """Return what the audit log has about sessions that were refused."""
    page: c.AuditPage = server.operator().perform(c.AuditList(action="session.refused"))
    return page.records


async def test_a_flood_of_refused_handshakes_does_not_flood_the_audit_log(server: RunningServer) -> None:
    url = f"ws://localhost:{server.http_port}/gateway"
    for _ in range(40):
        async with connect(url, subprotocols=[Subprotocol(SUBPROTOCOL)], compression=None, proxy=None) as socket:
            await socket.send(b"\x01nonsense")
            with pytest.raises(ConnectionClosed):
                await socket.recv()
    wait_until(lambda: refusals(server), "they are remembered")

    assert len(refusals(server)) <= 25
    assert {(each.actor, each.device) for each in refusals(server)} == {("", "")}


async def test_a_session_ends_as_the_client_says_it_does(server: RunningServer) -> None:
    raw = await Raw.open(server, server.bot("one", server.room("ops")))
    await raw.write(raw.session.close(1000))

    assert await closed(raw) == (1000, 1000)


async def test_draining_is_told_in_a_sealed_close(server: RunningServer) -> None:
    raw = await Raw.open(server, server.bot("one", server.room("ops")))
    stopping = asyncio.create_task(asyncio.to_thread(server.stop))
    assert await closed(raw) == (4000, 4000)
    await stopping

    assert raw.session.peer_close is not None
    assert raw.session.peer_close.after_ms > 0


async def test_before_auth_records_are_small_and_after_it_they_may_hold_a_message(server: RunningServer) -> None:
    room = server.room("ops")
    raw = await Raw.open(server, server.bot("one", room))
    await raw.send({"op": "message.send", "id": "1", "room": room, "cmid": "1", "body": "x" * 16_000})
    while not any(frame["op"] == "reply" for frame in await raw.receive()):
        pass


async def test_a_client_with_400_rooms_takes_up_again_what_does_not_fit_into_auth(server: RunningServer) -> None:
    room = server.room("ops")
    token = server.bot("one", room)
    async with ChatClient(server.url, token) as client:
        first = (await client.rooms[room].send("missed 0")).seq
        for number in range(1, 5):
            await client.rooms[room].send(f"missed {number}")
    held = {f"rm_{number:016}": 1 for number in range(400)} | {room: first}
    async with asyncio.timeout(10), ChatClient(server.url, token, resume=held) as client:
        events = client.events(["message.sent"])
        assert [cast("Entry", await anext(events)).body for _ in range(4)] == [f"missed {number}" for number in range(1, 5)]


async def test_087_a_recording_and_everything_on_the_servers_disk_open_nothing(server: RunningServer, tmp_path: Path) -> None:
    """Forward secrecy: the identity key signs, the secret comes from keys that no longer exist."""
    room = server.room("ops")
    raw = await Raw.open(server, server.bot("one", room))
    await raw.send({"op": "message.send", "id": "1", "room": room, "cmid": "1", "body": CANARY})
    while not any(frame["op"] == "reply" for frame in await raw.receive()):
        pass
    await raw.socket.close()
    server.stop(9)
    disk = tmp_path / "stolen"
    shutil.copytree(server.data, disk, ignore=shutil.ignore_patterns("*.sock"))
    recorded = b"".join(raw.recording)
    assert CANARY.encode() not in recorded
    assert b"message.send" not in recorded

    # What the thief has: every message, and the key that signed. It made the signature, and nothing else of the session.
    hello, answer, auth = raw.recording[:3]
    key = IdentityKey.load(next(disk.glob("keys/identity-*.pem")).read_bytes())
    assert key.spki in auth
    assert isinstance(load_der_public_key(key.spki), type(key._private.public_key()))
    session = raw.session
    keys = session._keys
    secrets = [keys.chain, keys.exporter, keys.transcript, keys.client.key, keys.server.key, keys.client.mac, keys.server.mac]
    for path in (each for each in disk.rglob("*") if each.is_file()):
        content = path.read_bytes()
        assert not any(secret in content for secret in secrets), path
    assert hello[0] == 1
    assert answer[0] == 2


def run(*words: str, stdin: str = "", **environment: str) -> str:
    done = command_line(*words, stdin=stdin, environment=clean_environment(**environment))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def test_a_new_key_that_the_root_signed_is_taken_without_asking(
    server: RunningServer, store: PinStore, tmp_path: Path
) -> None:
    data, root, host = str(server.data), str(tmp_path / "root.pem"), host_of(server.url)
    password = "a long password\n"
    run("keys", "init-root", root, stdin=password)
    run("keys", "publish", root, "--host", host, "--data", data, stdin=password)
    token = server.bot("one")
    async with ChatClient(server.url, token, pins=store) as client:
        first = client.sealing.key_id
    assert store.of(host).root
    run("keys", "rotate", "--now", "--data", data)
    run("keys", "publish", root, "--host", host, "--data", data, stdin=password)
    # The server still takes the old key for those who pinned it, until it ends; the new client is told of both.
    (server.data / "keys" / f"identity-{first[:16]}.pem").rename(tmp_path / "gone.pem")
    records = [each for each in json.loads((server.data / "keys" / "identity.json").read_text()) if each["kid"] != first]
    (server.data / "keys" / "identity.json").write_text(json.dumps(records))
    restart(server)
    async with ChatClient(server.url, token, pins=store) as client:
        assert client.sealing.key_id == records[0]["kid"]
    assert store.of(host).keys == [first, records[0]["kid"]]


def forged_list(host: str, kid: str) -> SignedKeyList:
    """Return what a proxy would show: a list with the right key and its own, signed by a root of its own."""
    now = int(time.time())
    listed = [ListedKey(kid=each, nbf=0, naf=0) for each in (kid, "66" * 32)]
    return sign_list(KeyList(host=host, serial=1, issued=now, expires=now + 86_400, keys=listed), IdentityKey.generate())


@pytest.mark.parametrize("known_by", ["first contact", "pin", "an earlier contact"])
async def test_082_a_list_that_a_proxy_shows_beside_the_session_adds_no_key_and_no_root(
    server: RunningServer, store: PinStore, monkeypatch: pytest.MonkeyPatch, known_by: str
) -> None:
    host, token = host_of(server.url), server.bot("one")
    kid = json.loads((server.data / "keys" / "identity.json").read_text())[0]["kid"]

    async def fetch(*_: object) -> SignedKeyList:
        return forged_list(host, kid)

    monkeypatch.setattr(Sealing, "_fetch", fetch)
    if known_by == "an earlier contact":
        store.keep(host, Pins(keys=[kid], sealed=True))
    async with ChatClient(server.url, token, pins=store, pin=kid if known_by == "pin" else ""):
        pass

    assert store.of(host) == Pins(keys=[kid], sealed=True)


@pytest.mark.parametrize("known_by", ["pin", "an earlier contact"])
async def test_082_whoever_knew_the_key_before_takes_no_root_from_it(
    server: RunningServer, store: PinStore, tmp_path: Path, known_by: str
) -> None:
    """Otherwise a stolen key could name its successors, which is what the root is there to prevent."""
    host, token = host_of(server.url), server.bot("one")
    kid = json.loads((server.data / "keys" / "identity.json").read_text())[0]["kid"]
    run("keys", "init-root", str(tmp_path / "r.pem"), stdin="a long password\n")
    run("keys", "publish", str(tmp_path / "r.pem"), "--host", host, "--data", str(server.data), stdin="a long password\n")
    if known_by == "an earlier contact":
        store.keep(host, Pins(keys=[kid], sealed=True))
    async with ChatClient(server.url, token, pins=store, pin=kid if known_by == "pin" else ""):
        pass

    assert store.of(host) == Pins(keys=[kid], sealed=True)


async def test_a_list_that_another_root_signed_is_not_taken(server: RunningServer, store: PinStore, tmp_path: Path) -> None:
    host = host_of(server.url)
    store.keep(host, Pins(keys=["33" * 32], root="44" * 32, sealed=True))
    run("keys", "init-root", str(tmp_path / "r.pem"), stdin="a long password\n")
    run("keys", "publish", str(tmp_path / "r.pem"), "--host", host, "--data", str(server.data), stdin="a long password\n")
    with pytest.raises(Untrusted, match="signed by another root"):
        await asyncio.wait_for(ChatClient(server.url, server.bot("one"), pins=store).start(), 10)


def test_the_key_list_is_published_only_when_there_is_one(server: RunningServer, tmp_path: Path) -> None:
    url = f"{server.url}/.well-known/securechat-identity"
    assert httpx.get(url, trust_env=False).status_code == 404
    run("keys", "init-root", str(tmp_path / "r.pem"), stdin="a long password\n")
    run(
        "keys",
        "publish",
        str(tmp_path / "r.pem"),
        "--host",
        "chat.example.org",
        "--data",
        str(server.data),
        stdin="a long password\n",
    )

    assert msgspec.json.decode(httpx.get(url, trust_env=False).content).keys() == {"list", "root_kid", "root_spki", "sig"}
    assert "signs" in run("keys", "list", "--data", str(server.data))


async def test_086_a_flood_of_handshakes_is_told_to_come_back(server: RunningServer) -> None:
    restart(server, rates={"handshake.address": {"burst": 3, "per_s": 0.01}})
    codes = [await greet(server, f"localhost:{server.http_port}") for _ in range(5)]

    assert codes == [0, 0, 0, 4429, 4429]


async def test_another_host_is_refused_before_anything_is_signed(server: RunningServer) -> None:
    restart(server, hosts=["chat.example.org"])

    assert await greet(server, "chat.example.org") == 0
    assert await greet(server, "localhost:1") == 0
    assert await greet(server, "evil.example") == 4404


async def test_011_a_handshake_that_does_not_go_on_is_cut_off(server: RunningServer) -> None:
    url = f"ws://localhost:{server.http_port}/gateway"
    async with connect(url, subprotocols=[Subprotocol(SUBPROTOCOL)], compression=None, proxy=None) as socket:
        with pytest.raises(ConnectionClosed) as ended:
            await asyncio.wait_for(socket.recv(), 9)
    assert code_of(ended.value) == 4400
