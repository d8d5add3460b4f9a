"""Addresses: which source one belongs to, whose a request has that came through a proxy, and which host it was sent to."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

HOPS_MAX: Final = 32
"""Addresses of a header that are looked at, from the right. More hops than this nobody has."""
HEADERS: Final = {"x-forwarded-for": b"x-forwarded-for", "forwarded": b"forwarded"}
"""The headers that a proxy may write. Exactly one is believed: a proxy that writes one lets the other pass."""
PROXY_PROTOCOL: Final = "proxy-protocol"
"""What stands in the place of a header when the proxy passes TLS on, and sees none."""


@lru_cache(maxsize=8_192)
def source_of(address: str) -> str:
    """Return what limits are counted by: an IPv4 address, or the /64 of an IPv6 address, of which one machine has all."""
    found = _parsed(address)
    if found is None:
        return address[:64]
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))


@lru_cache(maxsize=8)
def networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    """Return networks of addresses and CIDR blocks.

    Raises:
        ValueError: One is neither.
    """
    return tuple(ipaddress.ip_network(text) for text in texts)


def client_address(peer: str, headers: Sequence[tuple[bytes, bytes]], trusted: Sequence[Network], header: str) -> str:
    """Return whose request this is: the peer's, or, from a trusted proxy, that of the right-most address that is not trusted.

    What stands further left was written by whoever sent the request, and is never believed.

    Args:
        peer: Who is connected.
        headers: Name in lower case, value; in order.
        trusted: The proxies of this server.
        header: Key of `HEADERS`: what they write.
    """
    found = _parsed(peer)
    if not trusted or found is None or not _within(found, trusted):
        return peer
    wanted = HEADERS[header]
    given = b",".join(value for name, value in headers if name == wanted).decode("latin-1")
    hops = given.split(",")
    for hop in reversed(hops[-HOPS_MAX:]):
        text = _for_of(hop) if header == "forwarded" else hop.strip()
        address = _parsed(_without_port(text))
        if address is None:
            break  # Not an address: the proxy before it is as far as anybody can see.
        found = address
        if not _within(address, trusted):
            break
    return str(found)


def peer_in(peer: str, network: Network) -> bool:
    """Return whether a peer is in a network."""
    found = _parsed(peer)
    return found is not None and _within(found, (network,))


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a host."""
    found = _parsed(host)
    return host == "localhost" or (found is not None and found.is_loopback)


def host_of(authority: str) -> str | None:
    """Return the name or address in `host[:port]`, in lower case; empty for none, None when it is nothing of the kind."""
    try:
        found = urlsplit(f"//{authority}")
        name, _port = found.hostname or "", found.port  # A port that is none is noticed when it is asked for.
    except ValueError:
        return None
    return name


def _within(address: Address, trusted: Sequence[Network]) -> bool:
    return any(address.version == network.version and address in network for network in trusted)


def _parsed(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _for_of(element: str) -> str:
    """Return the `for` of one element of `Forwarded` (RFC 7239)."""
    for pair in element.split(";"):
        name, _, value = pair.strip().partition("=")
        if name.lower() == "for":
            return value.strip().strip('"')
    return ""


def _without_port(text: str) -> str:
    if text.startswith("["):
        return text[1:].partition("]")[0]
    host, colon, _ = text.partition(":")
    return host if colon and text.count(":") == 1 else text
