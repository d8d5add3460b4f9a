"""Addresses: what a URL of Redis says. Without redis-py, which takes memory, and few need it."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import urlsplit

SINGLE: Final = ("redis", "rediss")
CLUSTER: Final = ("redis+cluster", "rediss+cluster")
PORT: Final = 6379

Address = tuple[str, int]


class Parts(NamedTuple):
    """A URL with one or several hosts.

    Attributes:
        scheme: In small letters.
        user: `USER:PASSWORD`, or empty.
        hosts: Each with its port, if it has one.
        rest: Path and query.
    """

    scheme: str
    user: str
    hosts: list[str]
    rest: str


def parts_of(url: str) -> Parts:
    """Take a URL apart.

    Not by `urlsplit`: of several hosts, newer versions of it take no IPv6 address but for the first one.
    """
    scheme, _, after = url.partition("://")
    end = next((at for at, each in enumerate(after) if each in "/?#"), len(after))
    user, _, hosts = after[:end].rpartition("@")
    return Parts(scheme.lower(), user, hosts.split(","), after[end:])


def mistake_of(url: str) -> str:
    """Return what is wrong with a URL of Redis, or nothing."""
    try:
        addresses = addresses_of(url)
    except ValueError as error:
        return f"{error}"
    scheme = parts_of(url).scheme
    if scheme not in {*SINGLE, *CLUSTER} or not all(host for host, _ in addresses):
        return "redis://HOST:PORT is wanted, or rediss://, redis+cluster://, rediss+cluster://"
    if len(addresses) > 1 and scheme in SINGLE:
        return "several addresses are for a cluster: redis+cluster://, rediss+cluster://"
    return ""


def addresses_of(url: str) -> list[Address]:
    """Return the addresses that a URL names, separated by commas; an empty host where there is none.

    Raises:
        ValueError: A port is no port.
    """
    parts = [urlsplit(f"//{host}") for host in parts_of(url).hosts]
    return [(part.hostname or "", part.port or PORT) for part in parts]
