"""The header that a balancer writes before TLS: read to its last byte and not one further, or the connection ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxyprotocol.result import ProxyResultIPv4, ProxyResultIPv6, ProxyResultLocal
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2

from securechat.auth.addresses import PROXY_PROTOCOL, networks
from securechat.gateway import proxy_protocol
from securechat.gateway.proxies import Proxies
from securechat.gateway.proxy_protocol import HEADER_MAX, NoProxyHeader, announced_peer

V2 = b"\r\n\r\n\x00\r\nQUIT\n"
HELLO = b"\x16\x03\x01\x02\x00\x01"


@pytest.fixture(name="pair")
def _pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    near.settimeout(0)
    with near, far:
        yield near, far


def v4(source: str = "203.0.113.7") -> ProxyResultIPv4:
    """A connection of somebody."""
    return ProxyResultIPv4((IPv4Address(source), 4_711), (IPv4Address("10.0.0.1"), 443))


def v6() -> ProxyResultIPv6:
    """The same by IPv6."""
    return ProxyResultIPv6((IPv6Address("2001:db8::7"), 4_711), (IPv6Address("2001:db8::1"), 443))


@pytest.mark.parametrize(
    ("header", "peer"),
    [
        (ProxyProtocolV1().pack(v4()), "203.0.113.7"),
        (ProxyProtocolV1().pack(v6()), "2001:db8::7"),
        (ProxyProtocolV2().pack(v4()), "203.0.113.7"),
        (ProxyProtocolV2().pack(v6()), "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n", "10.0.0.1"),
        (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", "10.0.0.1"),
        (ProxyProtocolV2().pack(ProxyResultLocal()), "10.0.0.1"),
        (V2 + b"\x21\x00\x00\x00", "10.0.0.1"),
        (V2 + b"\x21\x11\x00\x13" + bytes([203, 0, 113, 9, 10, 0, 0, 1, 0, 1, 1, 187]) + b"\x04\x00\x04\x00\x00\x00\x00", "203.0.113.9"),
    ],
    ids=["v1 TCP4", "v1 TCP6", "v2 TCP4", "v2 TCP6", "v1 unknown", "v1 unknown, long", "v2 local", "v2 unspecified", "v2 with fields"],
)  # fmt: skip
async def test_the_header_says_whose_connection_it_is(pair: tuple[socket.socket, socket.socket], header: bytes, peer: str) -> None:
    near, far = pair
    far.sendall(header + HELLO)

    assert await announced_peer(near, "10.0.0.1") == peer
    assert near.recv(100) == HELLO  # TLS begins here.


@pytest.mark.parametrize("header", [ProxyProtocolV1().pack(v4()), ProxyProtocolV2().pack(v4())], ids=["v1", "v2"])
async def test_a_header_may_come_in_pieces(pair: tuple[socket.socket, socket.socket], header: bytes) -> None:
    near, far = pair
    reading = asyncio.create_task(announced_peer(near, "10.0.0.1"))
    for byte in header:
        far.sendall(bytes([byte]))
        await asyncio.sleep(0)

    assert await reading == "203.0.113.7"


@pytest.mark.parametrize(
    "header",
    [
        HELLO + b"\x00" * 32,
        b"GET / HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 203.0.113.7 10.0.0.1 4711\r\n",
        b"PROXY TCP4 203.0.113.777 10.0.0.1 4711 443\r\n",
        b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 66000\r\n",
        b"PROXY TCP4 2001:db8::7 10.0.0.1 4711 443\r\n",
        b"PROXY " + b"A" * 200 + b"\r\n",
        V2 + b"\x21\x11\x00\x04\x01\x02\x03\x04",
        V2 + b"\x31\x11\x00\x0c" + b"\x01" * 12,
        V2 + b"\x2f\x11\x00\x0c" + b"\x01" * 12,
        V2 + b"\x21\x11" + (HEADER_MAX).to_bytes(2, "big") + b"\x01" * HEADER_MAX,
        b"\r\n\r\n\x00\r\nQUITE" + b"\x01" * 20,
        b"PROXY TCP4 203.",
        b"",
    ],
    ids=[
        "TLS at once", "HTTP", "v1 short", "v1 no address", "v1 no port", "v1 other family", "v1 endless", "v2 short", "v3", "v2 no command",
        "v2 too long", "signature", "v1 cut", "nothing",
    ],
)  # fmt: skip
async def test_what_is_no_header_ends_the_connection(pair: tuple[socket.socket, socket.socket], header: bytes) -> None:
    near, far = pair
    far.sendall(header)
    far.shutdown(socket.SHUT_WR)

    with pytest.raises(NoProxyHeader):
        await announced_peer(near, "10.0.0.1")


async def test_who_says_nothing_is_not_waited_for(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_protocol, "HEADER_S", 0.05)

    with pytest.raises(NoProxyHeader, match="too late"):
        await announced_peer(pair[0], "10.0.0.1")


@given(st.binary(max_size=300), st.sampled_from([b"", V2, V2 + b"\x21\x11\x00\x0c", b"PROXY ", b"PROXY TCP4 "]))
def test_whatever_comes_is_an_address_or_a_refusal(tail: bytes, head: bytes) -> None:
    async def read() -> str:
        near, far = socket.socketpair()
        near.settimeout(0)
        with near, far:
            far.sendall(head + tail)
            far.shutdown(socket.SHUT_WR)
            return await announced_peer(near, "10.0.0.1")

    with contextlib.suppress(NoProxyHeader):
        assert asyncio.run(read())


def test_only_trusted_proxies_announce_and_then_no_header_is_believed() -> None:
    header = [(b"x-forwarded-for", b"6.6.6.6"), (b"forwarded", b"for=6.6.6.6")]
    announced = Proxies(networks(("10.0.0.0/8",)), PROXY_PROTOCOL)
    written = Proxies(networks(("10.0.0.0/8",)))

    assert announced.announces("10.1.2.3")
    assert not announced.announces("203.0.113.7")
    assert not Proxies((), PROXY_PROTOCOL).announces("10.1.2.3")
    assert announced.client("10.1.2.3", header) == "10.1.2.3"
    assert not written.announces("10.1.2.3")
    assert written.client("10.1.2.3", header) == "6.6.6.6"
