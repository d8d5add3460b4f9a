"""Attacks on and by targets of subscriptions. The numbers are those of docs/reference/attacks.md."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import httpx2 as httpx
import pytest
import standardwebhooks

from securechat.crypto.key_provider import FileKeys
from securechat.domain import commands as c
from securechat.domain.secret import Secret
from securechat.domain.subscriptions import PURPOSE
from securechat.server.clock import SystemClock
from securechat.store.keys import KeyStore
from securechat.store.sealing import Secrets
from securechat.store.sqlite import SqliteDatabase
from securechat.webhooks import InvalidSignature, gate, verify
from securechat.webhooks.gate import Gate, Network, Refused, Resolver, Unreachable, is_public, place_of
from securechat.webhooks.post import ANSWER_MAX, Outcome, Result, Target
from securechat.webhooks.signature import headers_of, new_secret, sign
from support.certificates import TestCA, new_key, pem
from support.ports import free_port
from support.receiver import Receiver
from support.running import RunningServer, wait_until

NOW = 1_795_380_000
BODY = b'{"type":"message.sent","timestamp":"2026-11-22T20:40:00.000+00:00","data":{"body":"hi"}}'
PRIVATE = [
    "http://127.0.0.1/", "https://127.0.0.1/", "https://[::1]/", "https://[::ffff:127.0.0.1]/", "https://[::ffff:7f00:1]/",
    "https://0/", "https://0.0.0.0/", "https://0x7f.1/", "https://0x7f000001/", "https://2130706433/", "https://017700000001/",
    "https://127.1/", "https://169.254.169.254/latest/meta-data", "https://[fd00::1]/", "https://[fe80::1]/", "https://[fec0::1]/",
    "https://[2002:7f00:1::]/", "https://[2002:a00:1::]/", "https://[64:ff9b::127.0.0.1]/", "https://[64:ff9b::a9fe:a9fe]/",
    "https://[64:ff9b:1::1]/", "https://[::127.0.0.1]/", "https://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/", "https://localhost/",
    "https://localhost./", "https://LOCALHOST/", "https://10.0.0.1/", "https://172.16.0.1/", "https://192.168.1.1/",
    "https://100.64.0.1/", "https://192.0.2.1/", "https://198.18.0.1/", "https://224.0.0.1/", "https://255.255.255.255/",
    "https://[ff02::1]/", "https://[::]/", "https://①②⑦.0.0.1/", "https://127。0。0。1/", "https://127.0.0.1./",
    "https://[2001:db8::1]/",
]  # fmt: skip
NO_URL = [
    "file:///etc/passwd", "gopher://x.example/", "ftp://x.example/", "unix:/run/x", "javascript:alert(1)", "//x.example/", "x.example",
    "", "https://", "https:///path", "https://user@x.example/", "https://user:password@x.example/", "https://x.example/#fragment",
    "https://x.example:99999/", "https://x.example:port/", "https://[::1/", "https://[fe80::1%25eth0]/", "https://x.example\\@127.0.0.1/",
    "https://x.exa\tmple/", "https://x.example/\r\nHost: y", "https://x .example/", "https://x..example/", "https://-x.example/",
    "https://x.example/ä", "https://" + "x" * 254, "https://x.example/" + "a" * 2_048, "https://x.example%2f@127.0.0.1/",
]  # fmt: skip


def naming(*addresses: str) -> Callable[[str, int], Awaitable[Sequence[str]]]:
    """Return a resolver by which every name leads to these."""

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return addresses

    return resolve


def nets(*texts: str) -> Callable[[], list[Network]]:
    return lambda: [ipaddress.ip_network(each) for each in texts]


LOOPBACK = nets("127.0.0.0/8")


@pytest.mark.parametrize("url", PRIVATE)
async def test_97_targets_inside_are_refused_in_every_spelling(url: str) -> None:
    with pytest.raises((Refused, Unreachable)) as refusal:
        await Gate(nets()).addresses(place_of(url))
    for word in ("127.", "::1", "10.", "169.254"):
        assert word not in str(refusal.value), "a refusal names no address"


@pytest.mark.parametrize(
    "text", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:93.184.215.14", "64:ff9b::5db8:d70e"]
)
async def test_97_public_addresses_are_asked(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))
    assert await Gate(nets(), naming(text)).addresses(place_of("https://x.example/"))


@pytest.mark.parametrize("url", NO_URL)
def test_97_99_what_is_no_url_of_a_target_is_refused(url: str) -> None:
    with pytest.raises(Refused):
        place_of(url)


def test_97_a_name_of_another_script_is_what_the_network_makes_of_it() -> None:
    place = place_of("https://BÜCHER.example./Path?q=1")
    assert (place.host, place.authority, place.path) == ("xn--bcher-kva.example", "xn--bcher-kva.example", "/Path?q=1")


@pytest.mark.parametrize("others", [["10.0.0.1"], ["::1"], ["::ffff:127.0.0.1"], ["93.184.215.14", "169.254.169.254"]])
async def test_98_one_private_address_of_several_is_enough_to_refuse(others: list[str]) -> None:
    for answer in ([*others, "93.184.215.14"], ["93.184.215.14", *others]):
        with pytest.raises(Refused):
            await Gate(nets(), naming(*answer)).addresses(place_of("https://x.example/"))


async def test_98_a_name_that_leads_elsewhere_the_second_time_is_asked_once(receiver: Receiver) -> None:
    answers = [["127.0.0.1"], ["127.0.0.2"]]
    asked = 0

    async def rebinding(_host: str, _port: int) -> Sequence[str]:
        nonlocal asked
        asked += 1
        return answers[min(asked, 2) - 1]

    target = Target(f"http://rebind.example:{receiver.port}/in", Gate(nets("127.0.0.1/32"), rebinding))
    try:
        for number in range(3):
            assert (await target.post({"webhook-id": str(number)}, BODY)).result is Result.OK
    finally:
        await target.close()
    assert asked == 1, "what was looked at is what is connected to"
    assert {each["Host"] for each in receiver.headers} == {f"rebind.example:{receiver.port}"}
    later = Target(f"http://rebind.example:{receiver.port}/in", Gate(nets("127.0.0.1/32"), rebinding))
    outcome = await later.post({}, BODY)
    await later.close()
    assert outcome.result is Result.RETRY
    assert len(receiver.bodies) == 3


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_98_102_no_redirect_is_followed_so_no_header_goes_anywhere_else(receiver: Receiver, status: int) -> None:
    elsewhere = Receiver()
    try:
        receiver.redirect = elsewhere.url
        receiver.answer = lambda _event: status
        target = Target(receiver.url, Gate(LOOPBACK))
        outcome = await target.post({"webhook-id": "1", "webhook-signature": "v1,x"}, BODY)
        await target.close()
        assert (outcome.result, outcome.status) == (Result.DEAD, status)
        assert len(receiver.bodies) == 1
        assert elsewhere.bodies == []
    finally:
        elsewhere.close()


@pytest.mark.parametrize("port", [22, 25, 80, 6379, 5432, 8443])
async def test_99_public_targets_are_asked_on_443_only_and_with_tls(port: int) -> None:
    outside = Gate(nets(), naming("93.184.215.14"))
    with pytest.raises(Refused, match="443"):
        await outside.addresses(place_of(f"https://x.example:{port}/"))
    with pytest.raises(Refused, match="443"):
        await outside.addresses(place_of("http://x.example/"))
    with pytest.raises(Refused, match="443"):
        await outside.addresses(place_of("http://x.example:443/"))
    inside = Gate(nets("10.0.0.0/8"), naming("10.1.1.1"))
    assert await inside.addresses(place_of(f"http://x.example:{port}/")) == ["10.1.1.1"]
    mixed = Gate(nets("10.0.0.0/8"), naming("10.1.1.1", "93.184.215.14"))
    with pytest.raises(Refused, match="443"):
        await mixed.addresses(place_of("http://x.example/"))


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    writers: list[asyncio.StreamWriter] = []
    ended = asyncio.Event()
    ended.set()
    running = 0

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal running
        running += 1
        ended.clear()
        writers.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.transport.abort()
        running -= 1
        if not running:
            ended.set()

    port = free_port()
    server = await asyncio.start_server(keep, "127.0.0.1", port, ssl=tls)
    try:
        yield port
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await ended.wait()
        await server.wait_closed()


async def deliver(port: int, scheme: str = "http", deadline_s: float = 0.4) -> Outcome:
    target = Target(f"{scheme}://127.0.0.1:{port}/", Gate(LOOPBACK), deadline_s=deadline_s)
    try:
        return await target.post({}, BODY)
    finally:
        await target.close()


async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    for byte in b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1_000:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.01)  # slowness is the point


async def endless_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-A: " + b"a" * 1_000 + b"\r\n")
        await writer.drain()


@pytest.mark.parametrize("serve", [silent, dripping, endless_headers])
async def test_100_a_target_that_takes_for_ever_is_left_at_the_deadline(serve: Serve) -> None:
    began = asyncio.get_running_loop().time()
    async with serving(serve) as port:
        assert (await deliver(port)).result is Result.RETRY
    assert asyncio.get_running_loop().time() - began < 2


async def test_100_an_endless_answer_is_not_read() -> None:
    written = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1000\r\n" + b"a" * 4_096 + b"\r\n")
            written += 4_096
            await writer.drain()

    async with serving(endless) as port:
        assert await deliver(port, deadline_s=5) == Outcome(Result.OK, status=200)
    assert written < 1_000 * ANSWER_MAX, "what fits into the buffers of two sockets, and no more"


async def test_100_garbage_and_wrong_tls_are_a_try_in_vain(tmp_path: Path) -> None:
    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"\x16\x03\x01 no HTTP at all\r\n\r\n")

    async with serving(garbage) as port:
        assert (await deliver(port)).result is Result.RETRY
        assert (await deliver(port, "https")).result is Result.RETRY
    assert (await deliver(free_port())).reason == "the target takes no connection"


async def test_100_a_certificate_of_another_name_is_not_believed(tmp_path: Path) -> None:
    authority, key = TestCA(tmp_path), new_key()
    (tmp_path / "chain.pem").write_bytes(authority.issue("right.example", key=key) + pem(key))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "chain.pem")
    ours = ssl.create_default_context(cafile=str(authority.path))
    names: list[str] = []

    def seen(_socket: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        names.append(name or "")

    tls.sni_callback = seen

    async def fine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async with serving(fine, tls) as port:
        for host, result in (("right.example", Result.OK), ("wrong.example", Result.RETRY)):
            target = Target(f"https://{host}:{port}/", Gate(LOOPBACK, naming("127.0.0.1")), ours, deadline_s=5)
            outcome = await target.post({}, BODY)
            await target.close()
            assert outcome.result is result, outcome
        for context in (None, ssl.create_default_context()):
            target = Target(f"https://right.example:{port}/", Gate(LOOPBACK, naming("127.0.0.1")), context, deadline_s=5)
            assert "certificate" in (await target.post({}, BODY)).reason
            await target.close()
    assert names[:2] == ["right.example", "wrong.example"]


async def test_100_a_name_server_that_never_answers_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "RESOLVE_S", 0.2)
    release = threading.Event()
    running = 0

    def hang(*_args: object, **_more: object) -> list[object]:
        nonlocal running
        running += 1
        release.wait(10)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    resolver = Resolver()
    try:
        outcomes = await asyncio.gather(*(resolver.resolve(f"h{n}.example", 443) for n in range(20)), return_exceptions=True)
        assert all(isinstance(each, Unreachable) for each in outcomes), outcomes
        assert running == gate.LOOKUPS, "no more threads than that"
        assert await resolver.resolve("93.184.215.14", 443) == ["93.184.215.14"], "an address needs no name server"
    finally:
        release.set()


# ── signatures ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_78_the_reference_library_takes_our_signature_and_we_take_its() -> None:
    secret = new_secret()
    reference = standardwebhooks.Webhook(secret.reveal())
    now = int(time.time())
    headers = headers_of([secret], "sub_1_7", now, BODY)
    assert reference.verify(BODY.decode(), headers) == {
        "type": "message.sent", "timestamp": "2026-11-22T20:40:00.000+00:00", "data": {"body": "hi"},
    }  # fmt: skip
    theirs = reference.sign("sub_1_7", dt.datetime.fromtimestamp(now, dt.UTC), BODY.decode())
    assert sign(secret, "sub_1_7", now, BODY) == theirs


def test_78_the_vector_of_the_specification() -> None:
    secret = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    assert sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-id": "sub_1_8"}, {"webhook-id": ""}, {"webhook-timestamp": str(NOW + 1)}, {"webhook-timestamp": ""},
        {"webhook-timestamp": "１７９５３８００００"}, {"webhook-timestamp": "9" * 400}, {"webhook-timestamp": "-5"},
        {"webhook-signature": ""}, {"webhook-signature": "v1,"}, {"webhook-signature": "v1,AAAA"}, {"webhook-signature": "v2,x v1a,y"},
        {"webhook-signature": "ä"},
    ],
)  # fmt: skip
def test_78_what_was_changed_is_refused(change: dict[str, str]) -> None:
    secret = new_secret()
    headers = headers_of([secret], "sub_1_7", NOW, BODY)
    assert verify(headers, BODY, secret, now_s=NOW).id == "sub_1_7"
    with pytest.raises(InvalidSignature):
        verify({**headers, **change}, BODY, secret, now_s=NOW)


def test_78_an_old_delivery_another_body_and_another_secret_are_refused() -> None:
    secret, other = new_secret(), new_secret()
    headers = headers_of([secret, other], "sub_1_7", NOW, BODY)
    for good in (secret, other, other.reveal()):
        assert verify({name.title(): value for name, value in headers.items()}, BODY.decode(), good, now_s=NOW + 299).type
    for late in (NOW - 301, NOW + 301):
        with pytest.raises(InvalidSignature, match="too old"):
            verify(headers, BODY, secret, now_s=late)
    for body, wrong in ((BODY + b" ", secret), (BODY, new_secret()), (BODY, "whsec_%%%"), (BODY, "")):
        with pytest.raises(InvalidSignature):
            verify(headers, body, wrong, now_s=NOW)
    for body in (b"[]", b"\xff", b'{"type":1}'):
        with pytest.raises(InvalidSignature, match="not an event"):
            verify(headers_of([secret], "x", NOW, body), body, secret, now_s=NOW)


# ── very many targets that do not answer ─────────────────────────────────────────────────────────────────────────────


def latencies(http: httpx.Client, room: str, count: int, mark: str) -> list[float]:
    """Send messages, and return how long each took, sorted."""
    found = []
    for number in range(count):
        began = time.perf_counter()
        answer = http.post(f"/rooms/{room}/messages", json={"cmid": f"{mark}{number}", "body": f"{mark} {number}"})
        found.append(time.perf_counter() - began)
        assert answer.status_code == 201
    return sorted(found)


async def plant(data: Path, targets: Sequence[tuple[str, str]]) -> None:
    """Put subscriptions into the database of a server that does not run: making each by a command takes its time."""
    database = SqliteDatabase(data / "securechat.db")
    keys = KeyStore(database, FileKeys(data / "keys"), SystemClock())
    await keys.unlock()
    secrets, secret = Secrets(keys), new_secret().reveal().encode()
    rows = [
        (
            f"sub_{n}", room, url, "", "active", "", 1, secrets.seal(secret, purpose=PURPOSE, owner=f"sub_{n}"), None, 0, "", 0, 0, 0,
            0, 0, 0,
        )
        for n, (room, url) in enumerate(targets)
    ]  # fmt: skip
    async with database.transaction() as transaction:
        await transaction.execute_many(f"INSERT INTO subscriptions VALUES ({', '.join('?' * 17)})", rows)
    await database.close()


def tried(server: RunningServer) -> int:
    """Return how many of all subscriptions were tried in vain."""
    return sum(each.attempts > 0 for each in server.operator().perform(c.SubscriptionOverview()).subscriptions)


@pytest.mark.alone
def test_101_a_thousand_targets_that_do_not_answer_are_felt_by_nobody(tmp_path: Path, receiver: Receiver) -> None:
    """Two hundred hosts, half of which take connections and say nothing, half of which refuse them."""
    server = RunningServer(tmp_path / "data", settings={"hooks_allow_networks": ["127.0.0.0/8"]}).start()
    silent_port, refusing_port = free_port(), free_port()
    listener = socket.create_server(("0.0.0.0", silent_port), backlog=1)
    try:
        ana = server.set_up()
        chat, good = server.room("chat", ana["user"]["id"]), server.room("good", ana["user"]["id"])
        server.operator().perform(c.SubscriptionCreate(room=good, url=receiver.url, types=["message.sent"]))
        headers = {"Authorization": f"Bearer {ana['access_token']}"}
        with httpx.Client(trust_env=False, timeout=20, base_url=f"{server.url}/api/v1", headers=headers) as http:
            latencies(http, good, 1, "g")
            receiver.wait(1)
            wait_until(
                lambda: server.operator().perform(c.SubscriptionOverview()).subscriptions[0].delivered_at, "that it is stored"
            )
            before = latencies(http, chat, 80, "b")
            rooms = [server.room(f"room{number}", ana["user"]["id"]) for number in range(10)]
            server.stop()
            ports = (refusing_port, silent_port)
            urls = [f"http://127.0.{1 + n % 2}.{1 + n % 100}:{ports[n % 2]}/" for n in range(1_000)]
            asyncio.run(plant(server.data, [(rooms[n % 10], url) for n, url in enumerate(urls)]))
            server.start()
            for room in rooms:
                latencies(http, room, 1, "x")
            wait_until(lambda: tried(server) > 50, "tries in vain")
            during = latencies(http, chat, 80, "d")
            latencies(http, good, 5, "h")
            receiver.wait(6, within_s=8)
            fds = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir())) if server.process else 0
            found = server.operator().perform(c.SubscriptionOverview()).subscriptions
        began = time.monotonic()
        assert server.stop() == 0
        stopped_s = time.monotonic() - began
    finally:
        listener.close()
        server.stop()
    median = before[40], during[40]
    print(
        f"median {median[0] * 1e3:.1f} → {median[1] * 1e3:.1f} ms, p95 {before[76] * 1e3:.1f} → {during[76] * 1e3:.1f} ms, {fds} fds"
    )
    assert median[1] < max(3 * median[0], 0.03)
    assert during[76] < max(4 * before[76], 0.15)
    assert fds < 200, "connections to targets are few"
    assert sum(each.state == "active" for each in found) == 1_001, "nobody is given up yet"
    assert stopped_s < 5.5, "a drain is not held up"
