"""A-WS, attacks 6 and 15 to 18: request bodies, crooked and endless HTTP, proxies. 16 has no object: HTTP/1.1 only is spoken."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import sys
import time
import zlib
from pathlib import Path

import httpx2 as httpx
import pytest

from securechat.auth.addresses import client_address, networks, source_of
from securechat.rest.body import BODY_S
from support.raw_http import cut_after, head, status_of, talk
from support.running import RunningServer, wait_until
from support.usage import cpu_s, forget_most, resident, resident_most

BOMB = b'{"username":"nobody","password":"not the password","device_name":"' + b" " * 10_000_000 + b'"}'
LOGIN = b'{"username":"nobody","password":"not the password"}'


def request(line: str = "POST /api/v1/sessions HTTP/1.1", **headers: str | list[str]) -> bytes:
    found = {"Host": "localhost", "Content-Type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    return head(line, found)


# ── 6: compressed bodies ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["/api/v1/sessions", "/oauth/token"])
@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(LOGIN)), ("deflate", zlib.compress(LOGIN)), ("gzip, gzip", gzip.compress(gzip.compress(LOGIN))),
        ("br", LOGIN), ("zstd", LOGIN), ("x-unknown", LOGIN), ("gzip", LOGIN), ("identity, gzip", gzip.compress(LOGIN)),
    ],
    ids=["gzip", "deflate", "twice", "br", "zstd", "unknown", "a lie", "a list"],
)  # fmt: skip
def test_6_an_encoded_body_is_refused_unread(shared_server: RunningServer, path: str, encoding: str, body: bytes) -> None:
    assert encoded(shared_server, path, encoding, body) == 415


@pytest.mark.parametrize("path", ["/api/v1/sessions", "/oauth/token"])
def test_6_a_bomb_is_not_unpacked(server: RunningServer, path: str) -> None:
    assert encoded(server, path, "gzip", gzip.compress(LOGIN)) == 415
    before = server.settled()
    forget_most(server.pid)

    assert encoded(server, path, "gzip", gzip.compress(BOMB)) == 415
    assert resident_most(server.pid) - before < 2**20  # Unpacked it is ten megabytes.


def encoded(server: RunningServer, path: str, encoding: str, body: bytes) -> int:
    """Send a body that is said to be encoded so; return the status of the answer."""
    kind = "application/json" if "api" in path else "application/x-www-form-urlencoded"
    headers = {"Content-Encoding": encoding, "Content-Type": kind}
    return httpx.post(f"{server.url}{path}", content=body, trust_env=False, headers=headers).status_code


def test_6_a_body_without_an_encoding_is_read(shared_server: RunningServer) -> None:
    headers = {"Content-Encoding": "identity", "Content-Type": "application/json"}

    assert httpx.post(f"{shared_server.url}/api/v1/sessions", content=LOGIN, trust_env=False, headers=headers).status_code == 401


# ── 15, 18: what can be read in two ways, or is no HTTP ──────────────────────────────────────────────────────────────

HIDDEN = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
"""A second request, which somebody in between might take for a part of the first."""


def answers(port: int, data: bytes) -> tuple[list[int], bool]:
    """Return the status of every answer to these bytes, and whether the server ended the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        seen, ended = b"", True
        try:
            connection.sendall(data)
            while more := connection.recv(65_536):
                seen += more
        except TimeoutError:
            ended = False
        except OSError:
            pass  # A reset: it has ended.
    return [int(part[:3]) for part in seen.split(b"HTTP/1.1 ")[1:]], ended


@pytest.mark.parametrize(
    "data",
    [
        request(Transfer_Encoding="chunked", Content_Length="5") + b"0\r\n\r\n",
        request(Content_Length="5", Transfer_Encoding="chunked") + b"0\r\n\r\n",
        request(Transfer_Encoding="xchunked") + b"0\r\n\r\n",
        request(Transfer_Encoding="identity"),
        request(Transfer_Encoding="chunked, identity") + b"0\r\n\r\n",
        request(Transfer_Encoding="gzip, chunked") + b"0\r\n\r\n",
        request(Transfer_Encoding=["chunked", "chunked"]) + b"0\r\n\r\n",
        request(Content_Length=["5", "6"]) + b"hello",
        request(Content_Length=["5", "5"]) + b"hello",
        request(Content_Length="5, 5") + b"hello",
        request(Content_Length="-1"),
        request(Content_Length="+5") + b"hello",
        request(Content_Length="5x") + b"hello",
        request(Transfer_Encoding="chunked") + b"-5\r\nhello\r\n0\r\n\r\n",
        request(Transfer_Encoding="chunked") + b"0x5\r\nhello\r\n0\r\n\r\n",
        request(Transfer_Encoding="chunked") + b"5\nhello\n0\n\n",
        request(Transfer_Encoding="chunked") + b"f" * 18 + b"\r\nhello",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-A: a\r\n folded\r\n\r\n",
        b"GET /healthz HTTP/1.1\nHost: x\n\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\rX: y\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        request("GET /healthz HTTP/1.1", Host=["x", "y"]),
        request("GET /healthz HTTP/1.1", Authorization=["Bearer x", "Bearer y"]),
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"G\x00T / HTTP/1.1\r\nHost: x\r\n\r\n",
        head("GET /healthz HTTP/1.1", {"Host": "x"} | {f"X-{number}": "y" for number in range(200)}),
        head("GET /healthz HTTP/1.1", {"Host": "x", "X-Long": "y" * 65_536}),
        head(f"GET /{'y' * 70_000} HTTP/1.1", {"Host": "x"}),
        b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
        b"PROXY UNKNOWN\r\n",
        b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + b"\x7f\x00\x00\x01" * 3,
        b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff",
    ],
)
def test_15_18_a_request_that_is_ambiguous_or_no_http_is_refused_once_and_ended(shared_server: RunningServer, data: bytes) -> None:
    assert answers(shared_server.http_port, data + HIDDEN) == ([400], True)


def test_18_a_proxy_header_that_does_not_end_is_cut_off(shared_server: RunningServer) -> None:
    assert cut_after(shared_server.http_port, b"PROXY TCP4 10.0.0.1", b"", 0.5, 12) < 7.5


def test_15_a_body_that_is_too_large_is_refused_and_what_goes_on_is_cut_off(shared_server: RunningServer) -> None:
    found, ended = answers(shared_server.http_port, request(Content_Length="200000") + b"x" * 200_000)
    assert (found, ended) == ([413], False)

    found, ended = answers(shared_server.http_port, request(Content_Length="50000000") + b"x" * 50_000_000)
    assert ended
    assert found in ([413], [])  # A reset can be faster than the answer.


CHUNK = b"1\r\nx\r\n"


@pytest.mark.alone
@pytest.mark.parametrize(
    ("first", "more"),
    [
        (request(Transfer_Encoding="chunked"), CHUNK * 200_000),
        (request(Transfer_Encoding="chunked") + b"1000\r\n" + b"x" * 4_096 + b"\r\n", CHUNK * 200_000),
        (request(Transfer_Encoding="chunked") + b"0\r\n", b"X-Trailer: yyyyyyyyyyyyyyyy\r\n" * 40_000),
        (request(Transfer_Encoding="chunked") + b"0\r\nX-Trailer: ", b"y" * 1_000_000),
        (request(Transfer_Encoding="chunked") + b"1;", b"y" * 1_000_000),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"X: y\r\n" * 150_000),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"y" * 1_000_000),
        (b"", b"\r\n" * 500_000),
    ],
    ids=["pieces", "pieces behind a large one", "trailers", "a trailer", "a chunk extension", "headers", "a header", "empty lines"],
)
def test_15_a_request_without_end_costs_nothing_and_is_ended(shared_server: RunningServer, first: bytes, more: bytes) -> None:
    assert answers(shared_server.http_port, HIDDEN)[0] == [200]
    without_end(shared_server.http_port, first, more)  # The first one gives the allocator some megabytes, which the next ones use.
    memory, used = shared_server.settled(), cpu_s(shared_server.pid)
    ended = [without_end(shared_server.http_port, first, more) for _ in range(3)]

    assert all(ended)
    assert cpu_s(shared_server.pid) - used <= 0.3
    assert resident(shared_server.pid) - memory < 2**20  # Keeping one of the three is ten megabytes.


def without_end(port: int, first: bytes, more: bytes) -> bool:
    """Send a beginning and some ten megabytes more, if the server takes them; return whether it ended that."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        try:
            connection.sendall(first)
            for _ in range(10):
                connection.sendall(more)
            return not connection.recv(65_536).startswith(b"HTTP/1.1 2")
        except TimeoutError:
            return False
        except OSError:
            return True


@pytest.mark.parametrize("path", ["/api/v1/sessions", "/oauth/token"])
def test_11_a_body_that_dribbles_is_cut_off_at_every_door(shared_server: RunningServer, path: str) -> None:
    kind = "application/json" if "api" in path else "application/x-www-form-urlencoded"
    first = request(f"POST {path} HTTP/1.1", Content_Type=kind, Content_Length="1000")
    with socket.create_connection(("127.0.0.1", shared_server.http_port), timeout=0.5) as connection:
        connection.sendall(first)
        began, answer = time.monotonic(), b""
        while not answer and time.monotonic() - began < BODY_S + 4:
            try:
                answer = connection.recv(65_536)
            except TimeoutError:
                connection.sendall(b"a")

    assert status_of(answer) == 400
    assert BODY_S - 1 < time.monotonic() - began < BODY_S + 3


def test_13_who_asks_and_does_not_read_the_answer_makes_way_in_the_end(tmp_path: Path) -> None:
    """Otherwise each held one of the places that all HTTP connections share, for ever."""
    code = (
        "import sys; from securechat.gateway import limited_http; limited_http.ANSWER_S = 2.0;"
        " from securechat.cli.main import main; sys.argv[0] = 'securechat'; main()"
    )
    caps = {"max_http_connections_address": 1}
    server = RunningServer(tmp_path / "data", settings=caps, program=[sys.executable, "-c", code]).start()
    try:
        with socket.socket() as greedy:
            greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            greedy.connect(("127.0.0.1", server.http_port))
            greedy.sendall(request("GET /api/openapi.json HTTP/1.1") * 40)
            greedy.recv(1)
            at_first = status_of(talk(server.http_port, HIDDEN))
            wait_until(lambda: status_of(talk(server.http_port, HIDDEN)) == 200, "a place")
    finally:
        server.stop()

    assert at_first == 0, "the only place of this address was taken"


@pytest.mark.parametrize("host", ["[x", "[::1", "localhost:port", "localhost:99999"])
def test_15_a_host_that_is_none_is_refused_and_leaves_no_traceback(shared_server: RunningServer, host: str) -> None:
    context = ssl.create_default_context(cafile=shared_server.ca)
    with (
        socket.create_connection(("127.0.0.1", shared_server.port), timeout=8) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        tls.sendall(head("GET /api/v1/me HTTP/1.1", {"Host": host}))
        answer = tls.recv(65_536)

    assert status_of(answer) == 400
    assert "Traceback" not in shared_server.log


def test_15_many_small_pieces_of_a_body_are_taken_as_one(shared_server: RunningServer) -> None:
    pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in b'{"username":"nobody","password":"not the password"}')
    answer = talk(
        shared_server.http_port, request(Transfer_Encoding="chunked") + pieces + b"0\r\nX-Trailer: %b\r\n\r\n" % (b"t" * 1_000)
    )

    assert status_of(answer) == 401


TRUSTED = networks(("10.0.0.0/8", "fd00::/8", "127.0.0.1"))


@pytest.mark.parametrize(
    ("peer", "value", "address"),
    [
        ("203.0.113.9", "1.2.3.4", "203.0.113.9"),
        ("10.0.0.1", "1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", "127.0.0.1, 1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", "6.6.6.6, 1.2.3.4, 10.0.0.2", "1.2.3.4"),
        ("10.0.0.1", "10.9.9.9, 10.0.0.2", "10.9.9.9"),
        ("10.0.0.1", "1.2.3.4, garbage", "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4, unknown, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4:5678", "1.2.3.4"),
        ("10.0.0.1", "[2001:db8::1]:5678", "2001:db8::1"),
        ("::ffff:10.0.0.1", "2001:db8::1", "2001:db8::1"),
        ("fd00::1", "1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", ", ".join(["9.9.9.9"] * 30 + ["10.0.0.3"] * 40), "10.0.0.3"),
        ("", "1.2.3.4", ""),
    ],
)
def test_17_the_right_most_address_that_no_proxy_has_is_believed(peer: str, value: str, address: str) -> None:
    headers = [(b"x-forwarded-for", value.encode()), (b"forwarded", b"for=7.7.7.7")]

    assert client_address(peer, headers, TRUSTED, "x-forwarded-for") == address


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("for=1.2.3.4;proto=https", "1.2.3.4"),
        ('for=6.6.6.6, For="[2001:db8::1]:80";by=x, for=10.0.0.2', "2001:db8::1"),
        ("for=_hidden", "10.0.0.1"),
        ("by=1.2.3.4", "10.0.0.1"),
    ],
)
def test_17_forwarded_is_read_as_rfc_7239_says(value: str, address: str) -> None:
    headers = [(b"forwarded", value.encode()), (b"x-forwarded-for", b"7.7.7.7")]

    assert client_address("10.0.0.1", headers, TRUSTED, "forwarded") == address


def test_17_an_ipv6_customer_is_one_source() -> None:
    assert source_of("2001:db8:1:2:aaaa::1") == source_of("2001:db8:1:2:bbbb::9") != source_of("2001:db8:1:3::1")
    assert source_of("::ffff:1.2.3.4") == source_of("1.2.3.4") != source_of("1.2.3.5")


@pytest.mark.parametrize("trusted", [[], ["127.0.0.1"]], ids=["nobody", "the peer"])
def test_17_only_a_proxy_of_ours_says_whose_request_it_is(tmp_path: Path, trusted: list[str]) -> None:
    server = RunningServer(tmp_path / "data", settings={"trusted_proxies": trusted})
    server.config.write_text(json.dumps({"trusted_proxies": trusted, "rates": {"login.address": {"burst": 2, "per_s": 0.01}}}))
    server.start()
    body = {"username": "nobody", "password": "not the password"}
    with httpx.Client(trust_env=False) as http:
        found = [
            http.post(
                f"{server.url}/api/v1/sessions", json=body, headers={"X-Forwarded-For": f"127.0.0.1, 198.51.100.{number}"}
            ).status_code
            for number in range(4)
        ]
    server.stop()

    assert found == ([401] * 4 if trusted else [401, 401, 429, 429])
